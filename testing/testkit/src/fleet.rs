//! A fleet of agents in one process, separate from the server and from the program that measures.

pub(crate) mod agents;
mod limit;

use std::env;
use std::path::Path;

use crate::process::{self, Process};
use crate::tool::{self, ToolProcess};
pub use agents::client;
pub use limit::make_room;

/// A process that runs many agents of the library that this program was built with.
#[derive(Debug)]
pub struct Fleet {
    tool: ToolProcess,
}

impl Fleet {
    /// Starts the process of `n_clients` agents of the server at `server`. All share `file`. They
    /// do not dial before [`dial`](Self::dial).
    pub async fn start(n_clients: u32, server: &str, file: &Path) -> anyhow::Result<Self> {
        let mut command = process::command(env::current_exe()?);
        command.args([tool::NAME, "agents", "--count", &n_clients.to_string(), "--server", server]);
        command.arg("--file").arg(file);
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
