//! `STATE_DIR`: `status.json`, and a lock that allows only one owner.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use crate::status::{self, Status};

/// The state folder of a running agent.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
    /// The system releases the lock at the end of this process.
    _lock: Option<File>,
    /// The number of the newest status written: a write that hung must not replace it.
    newest: Mutex<u64>,
}

/// Another agent has locked the same state folder.
#[derive(Debug, thiserror::Error)]
#[error(
    "an agent already runs here, process {pid}: its state is in {}; \
     set another STATE_DIR for a second agent", dir.display()
)]
pub struct StateLockError {
    pid: String,
    dir: PathBuf,
}

const LOCK: &str = "agent.lock";
const TEMPORARY: &str = ".status-";

impl StateDir {
    /// Locks `dir` for this process, and creates it if it is missing. Blocks.
    ///
    /// A disk error, or a file system without locks, does not stop the agent: the error is returned
    /// with the folder, and a second agent is not detected.
    ///
    /// # Errors
    /// Another agent has locked the folder.
    pub(crate) fn open(dir: &Path) -> Result<(Self, io::Result<()>), StateLockError> {
        let opened = fs::create_dir_all(dir).and_then(|()| open_lock(&dir.join(LOCK)));
        let locked = opened.and_then(|lock| match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        });
        let (lock, result) = match locked {
            Ok(Some(lock)) => (Some(lock), Ok(())),
            Ok(None) => {
                let pid =
                    Status::read(dir).map_or("unknown".to_owned(), |s| s.process.pid.to_string());
                return Err(StateLockError { pid, dir: dir.to_owned() });
            }
            Err(error) => (None, Err(error)),
        };
        if lock.is_some() {
            remove_temporary_files(dir);
        }
        Ok((Self { dir: dir.to_owned(), _lock: lock, newest: Mutex::new(0) }, result))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Replaces `status.json` by the `number`th status, unless a newer one is there. A reader
    /// always sees a complete status. Blocks.
    ///
    /// Does not fsync: the status is not needed after a power cut.
    pub(crate) fn write(&self, status: &Status, number: u64) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(status)?;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if number < *newest {
            return Ok(());
        }
        // The name is unpredictable, so that the write replaces no file and follows no link.
        let mut temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&self.dir)?;
        io::Write::write_all(&mut temporary, &text)?;
        temporary.persist(status::file_in(&self.dir)).map_err(|error| error.error)?;
        *newest = number;
        Ok(())
    }
}

/// Opens the lock file. Only its owner may open it, because any user who can open it can lock it.
fn open_lock(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let lock = options.open(path)?;
    let metadata = lock.metadata()?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("{} belongs to user {}: remove it", path.display(), metadata.uid());
        return Err(io::Error::other(text));
    }
    if metadata.mode() & 0o077 != 0 {
        lock.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(lock)
}

/// Removes the temporary file of an agent that was killed while it wrote.
fn remove_temporary_files(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::status::AgentState;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = dir.path().join("state");
        let (first, locked) = StateDir::open(&state).unwrap();
        locked.unwrap();
        let mode = fs::metadata(state.join(LOCK)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "another user could lock it");
        let error = StateDir::open(&state).unwrap_err().to_string();
        assert!(error.starts_with("an agent already runs here, process unknown"), "{error}");
        drop(first);
        StateDir::open(&state).unwrap().1.unwrap();
    }

    #[test]
    fn a_lock_on_the_folder_itself_does_not_stop_an_agent() {
        let dir = tempfile::TempDir::new().unwrap();
        let other = File::open(dir.path()).unwrap();
        other.lock_shared().unwrap();
        StateDir::open(dir.path()).unwrap().1.unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_created_does_not_stop_an_agent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (state, locked) = StateDir::open(&file.path().join("state")).unwrap();
        assert!(locked.is_err());
        assert!(state.write(&Status::example("client4", AgentState::Connected), 1).is_err());
    }

    #[test]
    fn a_link_in_the_folder_is_neither_followed_nor_kept() {
        let dir = tempfile::TempDir::new().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "keep").unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        symlink(&victim, state.join("status.json")).unwrap();
        symlink(&victim, state.join(format!("{TEMPORARY}left"))).unwrap();
        let (dir, _) = StateDir::open(&state).unwrap();
        dir.write(&Status::example("client4", AgentState::Connected), 1).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"keep");
        assert!(!fs::symlink_metadata(state.join("status.json")).unwrap().is_symlink());
        let mut names: Vec<_> =
            fs::read_dir(&state).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [LOCK, "status.json"]);
    }

    #[test]
    fn a_write_that_hung_does_not_replace_a_newer_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let (state, _) = StateDir::open(dir.path()).unwrap();
        state.write(&Status::example("client4", AgentState::Stopped), 2).unwrap();
        state.write(&Status::example("client4", AgentState::Connected), 1).unwrap();
        assert_eq!(Status::read(dir.path()).unwrap().state, AgentState::Stopped);
    }
}
