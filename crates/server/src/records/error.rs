//! The errors of the records.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::data_folder::absolute;

/// Why the records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Another server uses the same data folder.
    #[error(
        "{} is in use by process {pid}, another server or demo. Stop that process, or set another \
         DATA_DIR",
        absolute(data_folder).display()
    )]
    InUse {
        /// The data folder that the operator named. The folder of the records is inside.
        data_folder: PathBuf,
        /// The process that holds the lock, or `unknown`.
        pid: String,
    },
    /// A newer version of filepull wrote the file.
    #[error("{} was written by a newer filepull: its schema is {found}, this filepull knows {known}",
        file.display())]
    TooNew {
        /// The path of the database file.
        file: PathBuf,
        /// The schema version of the file.
        found: i64,
        /// The newest schema version that this build supports.
        known: usize,
    },
    /// An older version of filepull wrote the file. Only a server may update it.
    #[error("{} was written by an older filepull; start a server of this version to update it",
        file.display())]
    TooOld {
        /// The path of the database file.
        file: PathBuf,
    },
    /// The definitions of the tables in the file have changed.
    #[error("{} is damaged: its definition of {name} is not what filepull wrote; restore a backup, or \
         move the file away to start without records", file.display())]
    Schema {
        /// The path of the database file.
        file: PathBuf,
        /// The name of the table or index.
        name: String,
    },
    /// The folder of the records cannot be created, locked or read.
    #[error("cannot use the folder {}", absolute(folder).display())]
    Folder {
        /// The folder, as it was given.
        folder: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The disk cannot be read. The content may be intact.
    #[error("the disk cannot read {}", file.display())]
    Unreadable {
        /// The path of the database file.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The database failed. A write may be durable or not.
    #[error("the database of the records failed")]
    Database(#[source] Arc<rusqlite::Error>),
    /// The files were deleted, moved or replaced while they were in use.
    #[error("{} was deleted, moved or replaced while this server uses it", file.display())]
    Gone {
        /// The path of the missing file.
        file: PathBuf,
    },
    /// This version cannot interpret a row.
    #[error("the record of {record} cannot be read: {column} is {found}")]
    Damaged {
        /// The kind and id of the record.
        record: String,
        /// The column with the invalid value.
        column: &'static str,
        /// The invalid value, or what is wrong with it.
        found: String,
    },
    /// The records were closed before the call.
    #[error("the records are closed")]
    Closed,
}

/// Why a transfer was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The record is final, belongs to a later attempt, or the key belongs to another transfer.
    #[error("the record of the transfer is final, or of a later attempt")]
    Lost,
    /// The transfer may or may not be durable.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl RecordsError {
    /// Returns the damaged record, or an empty text for other errors.
    pub(crate) fn record(&self) -> &str {
        if let Self::Damaged { record, .. } = self { record } else { "" }
    }

    /// Returns whether the disk had no space for the records.
    pub(crate) fn is_full(&self) -> bool {
        use rusqlite::ErrorCode::DiskFull;
        matches!(self, Self::Database(error) if error.sqlite_error_code() == Some(DiskFull))
    }
}

impl From<rusqlite::Error> for RecordsError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}
