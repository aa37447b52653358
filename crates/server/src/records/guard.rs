//! Detects that the open files of the records were deleted, moved or replaced. A write to a deleted
//! file succeeds, and is lost when the process ends.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The identity of the open files.
#[derive(Debug)]
pub(crate) struct DatabaseGuard {
    database: GuardedFile,
    /// SQLite's log beside the database. It exists as long as a connection is open.
    log: GuardedFile,
}

#[derive(Debug)]
struct GuardedFile {
    path: PathBuf,
    /// Device and inode. None until the file exists.
    identity: Option<(u64, u64)>,
}

impl DatabaseGuard {
    /// Stores the identity of an open database and its log.
    pub(crate) fn new(database: &Path) -> Self {
        let log = log_of(database);
        Self { database: GuardedFile::new(database.to_owned()), log: GuardedFile::new(log) }
    }

    /// Checks that the paths still lead to the open files. Blocks.
    ///
    /// # Errors
    /// The path of a file that was deleted, moved or replaced.
    pub(crate) fn check(&mut self) -> Result<(), PathBuf> {
        self.database.check()?;
        self.log.check()
    }
}

impl GuardedFile {
    fn new(path: PathBuf) -> Self {
        let identity = identity(&path);
        Self { path, identity }
    }

    fn check(&mut self) -> Result<(), PathBuf> {
        let found = identity(&self.path);
        if self.identity.is_none() {
            self.identity = found;
        }
        if self.identity == found { Ok(()) } else { Err(self.path.clone()) }
    }
}

/// Returns the path of SQLite's log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut log = OsString::from(database);
    log.push("-wal");
    log.into()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
