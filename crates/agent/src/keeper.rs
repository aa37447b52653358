//! Keeps `status.json` up to date with the [`StatusLog`]. The disk may be slow or hang, so writes
//! run on a blocking thread, one at a time. The agent waits only for the final write.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::error_text::io_error;
use crate::state_dir::{StateDir, StateLockError};
use crate::status::HEARTBEAT_INTERVAL;
use crate::status_log::StatusLog;

/// How long a disk that hangs may delay the start and the end of the agent.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes the status of one agent.
#[derive(Debug)]
pub(crate) struct Keeper {
    status_log: StatusLog,
    dir: Option<Arc<StateDir>>,
    n_written: u64,
    /// The last write failed, and the failure was logged.
    failing: bool,
}

impl Keeper {
    /// Locks and opens the state folder, if one is configured.
    pub(crate) async fn open(
        dir: Option<&Path>,
        status_log: StatusLog,
    ) -> Result<Self, StateLockError> {
        let mut keeper = Self { status_log, dir: None, n_written: 0, failing: false };
        let Some(dir) = dir.map(Path::to_owned) else { return Ok(keeper) };
        let path = dir.clone();
        match timeout(DISK_TIMEOUT, spawn_blocking(move || StateDir::open(&path))).await {
            Ok(Ok(opened)) => {
                let (state, locked) = opened?;
                if let Err(error) = locked {
                    keeper.warn(&dir, &io_error(&error));
                }
                keeper.dir = Some(Arc::new(state));
            }
            Ok(Err(_)) | Err(_) => keeper.warn(&dir, "the disk does not respond"),
        }
        Ok(keeper)
    }

    /// Writes every change, and a heartbeat. Never returns: the caller drops the future to stop it.
    pub(crate) async fn run(&mut self) {
        if self.dir.is_none() {
            return std::future::pending().await;
        }
        loop {
            self.write().await;
            tokio::select! {
                () = self.status_log.changed() => {}
                () = sleep(HEARTBEAT_INTERVAL) => {}
            }
        }
    }

    /// Writes the final status, within [`DISK_TIMEOUT`].
    pub(crate) async fn finish(mut self) {
        let _ = timeout(DISK_TIMEOUT, self.write()).await;
    }

    async fn write(&mut self) {
        let Some(dir) = self.dir.clone() else { return };
        self.n_written += 1;
        let status = self.status_log.status();
        let number = self.n_written;
        let path = dir.path().to_owned();
        match spawn_blocking(move || dir.write(&status, number)).await {
            Ok(Ok(())) => self.failing = false,
            Ok(Err(error)) => self.warn(&path, &io_error(&error)),
            Err(_) => self.warn(&path, "internal error in the agent"),
        }
    }

    fn warn(&mut self, dir: &Path, reason: &str) {
        if std::mem::replace(&mut self.failing, true) {
            return;
        }
        let dir = dir.display();
        self.status_log.warn(&format!(
            "STATE_DIR: {dir} cannot be written: {reason}. The agent works, but `filepull-agent status` \
             cannot know its state."
        ));
    }
}
