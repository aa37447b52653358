//! A fleet of agents in one process, separate from the server and from the program that measures.

pub(crate) mod agents;
mod limit;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::HttpClient;
use crate::process::{self, Process};
use crate::tool::{self, ToolProcess};
pub use agents::client;
pub use limit::make_room;

/// A process that runs many agents of the library that this program was built with.
#[derive(Debug)]
pub struct Fleet {
    tool: ToolProcess,
}

/// Who the agents of a fleet are.
#[derive(Clone, Debug)]
pub struct FleetKeys {
    /// A file with one invite in each line, in the order of the agents.
    pub invites: PathBuf,
    /// A folder with the state folder of each agent. Another start of the fleet uses the same keys.
    pub state: PathBuf,
}

impl FleetKeys {
    /// Makes an invite for each client of a fleet, in files beneath `folder`.
    pub async fn create(
        operator: &HttpClient,
        n_clients: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let clients: Result<Vec<Value>, anyhow::Error> =
            (0..n_clients).map(|n| Ok(json!({ "client": client(n)?.as_str() }))).collect();
        let request = json!({ "clients": clients? });
        let answer = operator.post("/api/v1/invites", &request).await?.success_json()?;
        let invites = answer["items"].as_array().context("no items")?;
        let lines: Option<Vec<&str>> = invites.iter().map(|one| one["invite"].as_str()).collect();
        let keys = Self { invites: folder.join("invites"), state: folder.join("fleet-state") };
        fs::write(&keys.invites, lines.context("an item has no invite")?.join("\n"))?;
        fs::create_dir_all(&keys.state)?;
        Ok(keys)
    }
}

impl Fleet {
    /// Starts the process of `n_clients` agents of the server at `server`. All share `file`. They
    /// do not dial before [`dial`](Self::dial).
    pub async fn start(n_clients: u32, server: &str, file: &Path) -> anyhow::Result<Self> {
        Self::start_with(n_clients, server, file, None).await
    }

    /// Starts the process of `n_clients` agents that enrol when they first dial. `server` overrides
    /// the address in their invites.
    pub async fn start_enrolled(
        n_clients: u32,
        server: &str,
        file: &Path,
        keys: &FleetKeys,
    ) -> anyhow::Result<Self> {
        Self::start_with(n_clients, server, file, Some(keys)).await
    }

    async fn start_with(
        n_clients: u32,
        server: &str,
        file: &Path,
        keys: Option<&FleetKeys>,
    ) -> anyhow::Result<Self> {
        let mut command = process::command(env::current_exe()?);
        command.args([tool::NAME, "agents", "--count", &n_clients.to_string(), "--server", server]);
        command.arg("--file").arg(file);
        if let Some(FleetKeys { invites, state }) = keys {
            command.arg("--invites").arg(invites).arg("--state").arg(state);
        }
        Ok(Self { tool: ToolProcess::start(command, agents::READY).await? })
    }

    /// Makes all agents dial at once.
    pub async fn dial(&mut self) -> anyhow::Result<()> {
        self.tool.send_line().await
    }

    /// Returns the process, for its id and its memory.
    pub fn process(&self) -> &Process {
        &self.tool.process
    }

    /// Kills the process and waits for its end.
    pub async fn end(self) -> anyhow::Result<()> {
        self.tool.process.kill().await
    }
}
