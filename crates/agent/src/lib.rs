//! The agent: it runs on a client, dials the server, keeps the line open, and sends the files that
//! it shares when the server orders one.
//!
//! Reading order: [`config`], `connect` (dial, and dial again), `session` (one live line),
//! `uploads` and `upload` (one file out), `read` (the disk), [`share`] (what may be opened).
//!
//! Unix only for now: `share`, `read` and `dial` use its calls; Windows is to follow.

pub mod config;
pub mod dial;
pub mod report;
pub mod share;
pub mod status;

mod block_sender;
mod connect;
mod error_text;
mod keeper;
mod liveness;
mod order;
mod outage;
mod process_id;
mod program;
mod read;
mod session;
mod state_dir;
mod status_log;
mod upload;
mod upload_connections;
mod uploads;

use std::future::Future;
use std::time::Duration;

use filepull_process::Lifecycle;

use crate::config::Config;
use crate::connect::Supervisor;
use crate::keeper::Keeper;
use crate::status_log::StatusLog;

pub use crate::process_id::ProcessId;
pub use crate::program::main;
pub use crate::state_dir::StateLockError;

/// One agent. A process may run several: the demo and the tests do.
#[derive(Debug)]
pub struct Agent {
    config: Config,
}

impl Agent {
    /// After this long the end is reached, whatever the network does: goodbyes take a second.
    const GRACE: Duration = Duration::from_secs(3);

    /// An agent with these settings. Nothing happens before [`run_until`](Self::run_until).
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Runs until `stop` resolves, then says goodbye and ends within five seconds.
    ///
    /// No fault of the network ends it. Uploads that still run are dropped; the server orders them
    /// again when the agent is back.
    ///
    /// # Errors
    /// [`AlreadyRuns`]: another agent keeps its state in the same folder.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let journal = StatusLog::new(&self.config);
        // Before the first message: it would replace the status of the other agent.
        let mut keeper = Keeper::open(self.config.state_dir.as_deref(), journal.clone()).await?;
        journal.starting(&self.config.server);
        let lifecycle = Lifecycle::new();
        let supervisor = Supervisor::new(self.config, lifecycle.clone(), journal.clone());
        tokio::select! {
            () = supervisor.run() => {}
            () = keeper.run() => {}
            () = stop => {}
        }
        if let Err(cut_short) = lifecycle.shut_down(Self::GRACE).await {
            tracing::debug!(%cut_short, "stopped the hard way");
        }
        journal.stopped();
        keeper.finish().await;
        Ok(())
    }
}
