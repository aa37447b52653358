//! The agent: runs on a client, dials the server, keeps a session open, and sends a shared file
//! when the server orders it.
//!
//! Reading order: [`config`], `connect` (dials, and dials again), `session` (one session),
//! `uploads` and `upload` (one file), `read` (the disk), [`share`] (the files that may be opened).
//!
//! Unix only: `share`, `read` and `dial` use Unix system calls.

pub mod config;
pub mod dial;
pub mod report;
pub mod share;

mod chunker;
mod compression_rule;
mod compressor;
mod connect;
mod cpu_limit;
mod credentials;
mod diagnosis;
mod enrol;
mod error_text;
mod extents;
mod holes;
mod invite_show;
mod keeper;
mod key_store;
mod liveness;
mod order;
mod outage;
mod process_id;
mod program;
mod read;
mod receipt;
mod redial;
mod sandbox;
mod server_answers;
mod server_rejection;
mod session;
mod state_dir;
mod status;
mod status_log;
mod transfer_log;
mod trust_messages;
mod upload;
mod upload_call;
mod upload_connections;
mod uploads;

use std::future::Future;
use std::time::Duration;

use filepull_core::invite::Invite;
use filepull_process::Lifecycle;
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::connect::Supervisor;
use crate::credentials::Credentials;
use crate::diagnosis::{Diagnosis, DiagnosisCode};
use crate::keeper::Keeper;
use crate::sandbox::SandboxState;
use crate::status_log::StatusLog;
use crate::transfer_log::{LogWriter, TransferLog};

pub use crate::credentials::CredentialsError;
pub use crate::program::main;
pub use crate::state_dir::StateLockError;

/// One agent. The demo and the tests run several in one process.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    sandbox: Option<SandboxState>,
}

impl Agent {
    /// How long tasks may take to stop. A goodbye takes up to one second.
    const GRACE_PERIOD: Duration = Duration::from_secs(3);

    /// Creates an agent. It starts with [`run_until`](Self::run_until).
    pub fn new(config: Config) -> Self {
        Self { config, sandbox: None }
    }

    /// Creates an agent for a process that has entered its sandbox.
    pub(crate) fn in_sandbox(config: Config, sandbox: SandboxState) -> Self {
        Self { config, sandbox: Some(sandbox) }
    }

    /// Runs until `stop` resolves, then sends a goodbye and ends within five seconds.
    ///
    /// No failure of the network ends it. Running uploads are dropped at the end. The server orders
    /// them again when the agent is connected again.
    ///
    /// # Errors
    /// [`StateLockError`]: another agent uses the same state folder. [`CredentialsError`]: the key or
    /// the identity of this machine cannot be used as the settings say.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let is_program = self.sandbox.is_some();
        let sandbox =
            self.sandbox.clone().unwrap_or_else(|| SandboxState::off("another program runs it"));
        let status_log = StatusLog::new(&self.config, sandbox);
        // Locks the folder before the first message, which would replace the status of another
        // agent.
        let mut keeper = Keeper::open(self.config.state_dir.as_deref(), status_log.clone()).await?;
        let config = self.config;
        let opened = open_credentials(config.clone()).await;
        let (credentials, invite) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let failure = Diagnosis::new(DiagnosisCode::StateDir, error.to_string());
                status_log.set_failure(&failure);
                keeper.finish().await;
                return Err(error.into());
            }
        };
        status_log.log_start(credentials.dialer().protection());
        if is_program {
            status_log.log_sandbox();
        }
        let lifecycle = Lifecycle::new();
        let (transfer_log, mut log_writer) = transfer_log(&config, &status_log);
        let supervisor = Supervisor::new(
            config,
            credentials,
            lifecycle.clone(),
            status_log.clone(),
            transfer_log,
        );
        tokio::select! {
            () = supervisor.run(invite) => {}
            () = keeper.run() => {}
            () = log_writer.run() => {}
            () = stop => {}
        }
        if let Err(error) = lifecycle.shut_down(Self::GRACE_PERIOD).await {
            tracing::debug!(event = "agent.drain_timed_out", %error, "tasks were cancelled");
        }
        log_writer.finish().await;
        status_log.log_stop();
        keeper.finish().await;
        Ok(())
    }
}

fn transfer_log(config: &Config, status_log: &StatusLog) -> (TransferLog, LogWriter) {
    let Config { client, servers, state_dir, .. } = config;
    let dir = state_dir.as_deref();
    TransferLog::new(dir, client.to_string(), servers[0].to_string(), status_log.clone())
}

/// Opens the credentials on another thread, because the disk may be slow.
async fn open_credentials(
    config: Config,
) -> Result<(Credentials, Option<Invite>), CredentialsError> {
    spawn_blocking(move || Credentials::open(&config))
        .await
        .unwrap_or(Err(CredentialsError::Panicked))
}
