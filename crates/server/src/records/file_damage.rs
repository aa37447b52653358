//! Remembers that SQLite has found its file damaged. Other rows may work all the same, so a later
//! success proves nothing: only the next start forgets it.
//!
//! SQLite reports `SQLITE_CORRUPT` also when the disk cannot be read (`SQLITE_IOERR_CORRUPTFS`, an
//! `EIO` of `read`). The content may be intact, so that is no damage.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use filepull_core::human::chain;
use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

use super::error::RecordsError;
use super::guard::log_of;
use crate::data_folder::absolute;

/// The damage that any connection to one database has found; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FileDamage {
    file: PathBuf,
    first: Arc<OnceLock<String>>,
}

impl FileDamage {
    /// No damage is known yet.
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: absolute(file), first: Arc::default() }
    }

    /// Returns the error. Remembers it if it tells of damage. Blocks.
    pub(crate) fn noted(&self, error: RecordsError) -> RecordsError {
        if let RecordsError::Database(cause) = &error
            && matches!(cause.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
            && self.first.get().is_none()
        {
            if let Err(source) = read_whole(&self.file) {
                return RecordsError::Unreadable { file: self.file.clone(), source };
            }
            self.first.get_or_init(|| chain(cause));
        }
        error
    }

    /// Returns the damage and what to do next; none while no damage is known.
    pub(crate) fn finding(&self) -> Option<String> {
        let error = self.first.get()?;
        let file = self.file.display();
        Some(format!(
            "the records are damaged ({error}); stop the server, then repair them with `sqlite3 \
             {file} REINDEX`, restore a backup, or move the file away to start without records"
        ))
    }
}

/// Reads the database and SQLite's log, so that a disk that cannot be read shows.
fn read_whole(database: &Path) -> io::Result<()> {
    io::copy(&mut File::open(database)?, &mut io::sink())?;
    match File::open(log_of(database)) {
        Ok(mut log) => io::copy(&mut log, &mut io::sink()).map(drop),
        // There is none before the first write.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrupt() -> RecordsError {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(11), None).into()
    }

    #[test]
    fn only_a_file_that_can_be_read_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.db");
        // A folder can be opened, and every read of it fails.
        std::fs::create_dir(&file).unwrap();
        let unreadable = FileDamage::new(&file);
        let error = unreadable.noted(corrupt());
        assert!(matches!(error, RecordsError::Unreadable { .. }), "{error:?}");
        assert_eq!(unreadable.finding(), None);

        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "not a database").unwrap();
        std::fs::create_dir(log_of(&file)).unwrap();
        assert!(matches!(unreadable.noted(corrupt()), RecordsError::Unreadable { .. }));
        std::fs::remove_dir(log_of(&file)).unwrap();
        assert!(matches!(unreadable.noted(corrupt()), RecordsError::Database(_)));
        assert!(unreadable.finding().unwrap().contains("the records are damaged"));
    }
}
