//! Notices that the files of the records are no longer the ones that are open: a write to a deleted
//! file succeeds, and is lost with the process.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The files as they were when they were opened.
#[derive(Debug)]
pub(super) struct DatabaseGuard {
    database: GuardedDatabase,
    /// The log beside the database: SQLite keeps one as long as a connection is open.
    log: GuardedDatabase,
}

#[derive(Debug)]
struct GuardedDatabase {
    path: PathBuf,
    /// Device and inode, once the file is there.
    identity: Option<(u64, u64)>,
}

impl DatabaseGuard {
    /// Guards a database that is open.
    pub(super) fn new(database: &Path) -> Self {
        let mut log = OsString::from(database);
        log.push("-wal");
        Self {
            database: GuardedDatabase::new(database.to_owned()),
            log: GuardedDatabase::new(log.into()),
        }
    }

    /// Checks that the files are still the ones that are open. Blocks: for the writer only.
    ///
    /// # Errors
    /// The file that was deleted, moved or replaced.
    pub(super) fn check(&mut self) -> Result<(), PathBuf> {
        self.database.check()?;
        self.log.check()
    }
}

impl GuardedDatabase {
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

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
