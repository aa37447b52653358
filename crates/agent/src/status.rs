//! `status.json`: how the agent is doing, for `filepull-agent status` and for health checks.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process that wrote it.
    pub pid: u32,
    /// Whose machine this is.
    pub client_id: String,
    /// Whom it dials.
    pub server: String,
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why the default file could not be sent when it was last looked at.
    #[serde(default)]
    pub file_problem: Option<FileProblem>,
    /// The last file it sent.
    pub last_transfer: Option<LastTransfer>,
    /// The last ten lines of its log.
    pub lines: VecDeque<String>,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is no line; it dials.
    Connecting,
    /// The line is up.
    Connected,
    /// It has ended.
    Stopped,
}

/// What was wrong with the default file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProblem {
    /// In words.
    pub text: String,
    /// When it was last looked at.
    pub at: DateTime<Utc>,
}

/// A file that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTransfer {
    /// Its name here.
    pub name: String,
    /// Its name in the client's folder on the server.
    pub stored_as: String,
    /// When.
    pub at: DateTime<Utc>,
}

const LINES: usize = 10;

impl Status {
    pub(crate) fn note(&mut self, line: String) {
        self.lines.truncate(LINES - 1);
        self.lines.push_front(line);
    }

    /// Replaces `status.json` in `dir`: a reader finds the old one or the new one, whole.
    ///
    /// It is not synced: after a power cut nobody asks how the agent was doing.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join("status.json.tmp");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        fs::rename(temporary, file_in(dir))
    }

    /// Reads what an agent whose folder is `dir` last wrote.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file_in(dir))?)?)
    }
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("status.json")
}

/// The right to write `status.json` in a folder. The system ends it with this process, at the
/// latest.
#[derive(Debug)]
pub(crate) struct Claim {
    _folder: File,
}

/// Another agent keeps its state in the same folder.
#[derive(Debug, thiserror::Error)]
#[error(
    "an agent already runs here, process {pid}: its state is in {}; \
     give a second one a STATE_DIR of its own", dir.display()
)]
pub struct AlreadyRuns {
    pid: String,
    dir: PathBuf,
}

impl Claim {
    /// Makes `dir` if it is missing and claims it. An error of the disk, or a file system without
    /// locks, makes no claim: it must not keep an agent from its work.
    pub(crate) fn take(dir: &Path) -> Result<Option<Self>, AlreadyRuns> {
        let opened = fs::create_dir_all(dir).and_then(|()| File::open(dir));
        let Ok(folder) = opened else { return Ok(None) };
        match folder.try_lock() {
            Ok(()) => Ok(Some(Self { _folder: folder })),
            Err(TryLockError::Error(_)) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let pid = Status::read(dir).map_or("unknown".to_owned(), |s| s.pid.to_string());
                Err(AlreadyRuns { pid, dir: dir.to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_until_it_ends() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = dir.path().join("state");
        let first = Claim::take(&state).unwrap().expect("nobody else is here");
        let refused = Claim::take(&state).unwrap_err().to_string();
        assert!(refused.starts_with("an agent already runs here, process unknown"), "{refused}");
        drop(first);
        assert!(Claim::take(&state).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_keeps_nobody_from_its_work() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Claim::take(&file.path().join("state")).unwrap().is_none());
    }
}
