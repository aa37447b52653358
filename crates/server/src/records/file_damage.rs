//! Remembers that SQLite has found its file damaged. Other rows may work all the same, so a later
//! success proves nothing: only the next start forgets it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use filepull_core::human::chain;
use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

use super::error::RecordsError;
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

    /// Returns the error. Remembers it if it tells of damage.
    pub(crate) fn noted(&self, error: RecordsError) -> RecordsError {
        if let RecordsError::Database(cause) = &error
            && matches!(cause.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
        {
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
