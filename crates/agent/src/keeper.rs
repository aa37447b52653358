//! Keeps `status.json` up to date with the journal. The disk may be slow or hang: writes run on a
//! blocking thread, one at a time, and the agent waits only for the final write.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::error_text::io_error;
use crate::state_dir::{StateDir, StateLockError};
use crate::status::HEARTBEAT_EVERY;
use crate::status_log::StatusLog;

/// How long a hanging disk under the state folder may delay the start and the end of the agent.
const DISK_LIMIT: Duration = Duration::from_secs(2);

/// Writes the status of one agent.
#[derive(Debug)]
pub(crate) struct Keeper {
    journal: StatusLog,
    dir: Option<Arc<StateDir>>,
    n_written: u64,
    /// The last write failed, and the failure was logged.
    failing: bool,
}

impl Keeper {
    /// Locks and opens the state folder, if one is configured.
    pub(crate) async fn open(
        dir: Option<&Path>,
        journal: StatusLog,
    ) -> Result<Self, StateLockError> {
        let mut keeper = Self { journal, dir: None, n_written: 0, failing: false };
        let Some(dir) = dir.map(Path::to_owned) else { return Ok(keeper) };
        let path = dir.clone();
        match timeout(DISK_LIMIT, spawn_blocking(move || StateDir::take(&path))).await {
            Ok(Ok(taken)) => {
                let (state, locked) = taken?;
                if let Err(error) = locked {
                    keeper.warn(&dir, &io_error(&error));
                }
                keeper.dir = Some(Arc::new(state));
            }
            Ok(Err(_)) | Err(_) => keeper.warn(&dir, "the disk does not answer"),
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
                () = self.journal.changed() => {}
                () = sleep(HEARTBEAT_EVERY) => {}
            }
        }
    }

    /// Writes the final status.
    pub(crate) async fn finish(mut self) {
        let _ = timeout(DISK_LIMIT, self.write()).await;
    }

    async fn write(&mut self) {
        let Some(dir) = self.dir.clone() else { return };
        self.n_written += 1;
        let (status, number, path) = (self.journal.status(), self.n_written, dir.path().to_owned());
        match spawn_blocking(move || dir.write(&status, number)).await {
            Ok(Ok(())) => self.failing = false,
            Ok(Err(error)) => self.warn(&path, &io_error(&error)),
            Err(_) => self.warn(&path, "an internal error in the agent"),
        }
    }

    fn warn(&mut self, dir: &Path, why: &str) {
        if std::mem::replace(&mut self.failing, true) {
            return;
        }
        let dir = dir.display();
        self.journal.warn(&format!(
            "STATE_DIR: {dir} cannot be written: {why}. The agent works, but `filepull-agent status` \
             cannot know how it is doing."
        ));
    }
}
