//! A fleet of agents in one process of their own, apart from the server and from whoever looks at
//! both. They are those of the library that this program was built with.

pub(crate) mod agents;
mod limit;

use std::env;
use std::path::Path;

use crate::process::{self, ChildProcess};
use crate::tool::{self, Started};
pub use agents::client;
pub use limit::make_room;

/// The process.
#[derive(Debug)]
pub struct Fleet {
    started: Started,
}

impl Fleet {
    /// Starts `n_clients` agents of the server that listens on `server`, who all share `file`. They
    /// do not dial yet. The log goes to `folder`.
    pub async fn start(
        n_clients: u32,
        server: &str,
        file: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = process::command(env::current_exe()?);
        command.args([tool::NAME, "agents", "--count", &n_clients.to_string(), "--server", server]);
        command.arg("--file").arg(file);
        Ok(Self { started: Started::start("agents", command, agents::READY, folder).await? })
    }

    /// Lets all agents dial.
    pub async fn dial(&mut self) -> anyhow::Result<()> {
        self.started.tell().await
    }

    /// The process.
    pub fn process(&self) -> &ChildProcess {
        &self.started.process
    }

    /// Ends it and waits until it is gone.
    pub async fn end(self) -> anyhow::Result<()> {
        self.started.process.end().await
    }
}
