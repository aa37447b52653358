//! The durable record of every transfer and client, in one SQLite file.
//!
//! What a method has written when it returns survives a power cut. Times are kept to the
//! millisecond, and cut to it here. Which state may follow which is the rule of `core::transfer`;
//! of it only this is held here too: what is final stays as it is.
//!
//! The SQL is the dialect that PostgreSQL shares, so that a second engine can go behind it.

mod clients;
mod fields;
mod keys;
mod list;
mod lock;
mod old;
mod reader;
mod readers;
mod row_check;
mod schema;
mod statement;
#[cfg(test)]
mod tests;
mod transfers;
mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::digest::Digest;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::transfer::Transfer;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::client::{ClientRecord, Greeting};
pub use keys::RequestKey;
pub use list::{Cursor, Page, StateWord, Total, TransferFilter};
use lock::Lock;
pub use old::OldTransfers;
pub use reader::{ClientTransfers, DownloadTotals, RecordsReader};
use readers::Readers;
use writer::Writer;

/// A key leads to its transfer for so long.
pub const KEEP_KEYS: Duration = Duration::from_hours(24);

/// A handle on the records; cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    writer: Writer,
    readers: Readers,
}

/// Why the records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Another server uses the same data folder.
    #[error("{} is in use by process {pid}", data_folder.display())]
    InUse {
        /// The folder around ours: the one that the operator named.
        data_folder: PathBuf,
        /// The process that holds it, or `unknown`.
        pid: String,
    },
    /// A newer version of this program made the file.
    #[error("{} was made by a newer filepull: its schema is {found}, this one knows {known}",
        file.display())]
    TooNew {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that we know.
        known: usize,
    },
    /// An older version of this program made the file, and nothing but a server may change it.
    #[error("{} was made by an older filepull; a server of this version brings it up to date",
        file.display())]
    TooOld {
        /// The file.
        file: PathBuf,
    },
    /// What the file says of its own tables has changed.
    #[error("{} is damaged: its definition of {name} is not what filepull wrote; put a copy back, or \
         move the file away to begin without records", file.display())]
    Schema {
        /// The file.
        file: PathBuf,
        /// The table or index.
        name: String,
    },
    /// The folder cannot be made, locked or read.
    #[error("cannot use the folder {}", folder.display())]
    Folder {
        /// The folder, as it was given.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database failed. What was being written may be durable or not.
    #[error("the database of the records failed")]
    Database(#[source] Arc<rusqlite::Error>),
    /// A row makes no sense to this version.
    #[error("the record of {record} cannot be read: {column} is {found}")]
    Damaged {
        /// Which transfer or client.
        record: String,
        /// The column.
        column: &'static str,
        /// What it holds.
        found: String,
    },
    /// The records have been closed.
    #[error("the records are closed")]
    Closed,
}

impl RecordsError {
    /// The disk had no room for the records.
    pub fn is_full(&self) -> bool {
        use rusqlite::ErrorCode::DiskFull;
        matches!(self, Self::Database(error) if error.sqlite_error_code() == Some(DiskFull))
    }
}

impl From<rusqlite::Error> for RecordsError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl Records {
    /// Opens the records in `folder`, which lies in the data folder; makes what is missing.
    ///
    /// # Errors
    /// Another server uses them, a newer version made them, or the disk failed.
    pub async fn open(folder: &Path) -> Result<Self, RecordsError> {
        let folder = folder.to_owned();
        let open = move || {
            let lock = Lock::take(&folder)?;
            let file = folder.join("records.db");
            let writing = schema::open_writer(&file)?;
            clients::cut_off(&writing, Utc::now())?;
            let readers = Readers::open(&file)?;
            // The new file's entry is no less worth keeping than what is in it.
            lock.sync_folder()?;
            Ok((writing, readers, lock))
        };
        let opened: Result<_, RecordsError> =
            spawn_blocking(open).await.map_err(|_| RecordsError::Closed)?;
        let (writing, readers, lock) = opened?;
        Ok(Self { writer: Writer::start(writing, lock), readers })
    }

    /// Writes what waits to be written, takes no more, and lets go of the folder.
    ///
    /// # Errors
    /// The file was not closed well. Nothing is lost: the next start reads the log beside it.
    pub async fn close(&self) -> Result<(), RecordsError> {
        // Readers first: the last connection to close takes the log file away.
        self.readers.close().await;
        self.writer.stop().await
    }

    /// Makes a transfer durable as it now stands. One that is final on record stays as it is.
    ///
    /// # Errors
    /// It may not be durable: the database failed, or is closed.
    pub async fn save(&self, transfer: &Transfer) -> Result<(), RecordsError> {
        let saved = self.writer.write(transfers::save(transfer)).await?;
        if saved.is_none() {
            warn!(transfer = %transfer.id, "a final transfer was not overwritten");
        }
        Ok(())
    }

    /// Makes a new transfer durable together with the key of the request that asked for it.
    ///
    /// # Errors
    /// It may not be durable: the database failed, or is closed.
    pub async fn save_keyed(
        &self,
        transfer: &Transfer,
        key: &RequestKey,
    ) -> Result<(), RecordsError> {
        let made_at = transfer.created_at;
        let keep = keys::keep(key, transfer.id, made_at, made_at - KEEP_KEYS);
        self.writer.write_all(vec![transfers::save(transfer), keep]).await.map(drop)
    }

    /// Notes that the request with this key found a transfer under way.
    ///
    /// # Errors
    /// It may not be durable.
    pub async fn keep_key(
        &self,
        key: &RequestKey,
        transfer: TransferId,
        now: DateTime<Utc>,
    ) -> Result<(), RecordsError> {
        self.writer.write(keys::keep(key, transfer, now, now - KEEP_KEYS)).await.map(drop)
    }

    /// The transfer that a key led to within the last day, and the digest of that request.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn keyed(
        &self,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<(TransferId, Digest)>, RecordsError> {
        keys::find(&self.readers, key, now - KEEP_KEYS).await
    }

    /// A transfer by its id.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn transfer(&self, id: TransferId) -> Result<Option<Transfer>, RecordsError> {
        transfers::one(&self.readers, id).await
    }

    /// Every transfer that is not final, oldest first; without those that cannot be read, which the
    /// log names.
    ///
    /// # Errors
    /// The database failed.
    pub async fn unfinished(&self) -> Result<Vec<Transfer>, RecordsError> {
        transfers::unfinished(&self.readers).await
    }

    /// A page of the transfers that match, newest first.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub async fn transfers(&self, filter: &TransferFilter) -> Result<Page, RecordsError> {
        list::page(&self.readers, filter).await
    }

    /// The transfer of a client that became done last.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn newest_download(
        &self,
        client: &ClientId,
    ) -> Result<Option<Transfer>, RecordsError> {
        transfers::newest_download(&self.readers, client).await
    }

    /// The transfer of a client that was asked for last.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn newest(&self, client: &ClientId) -> Result<Option<Transfer>, RecordsError> {
        transfers::newest(&self.readers, client).await
    }

    /// The same for each of these clients that has one.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub async fn newest_of_each(
        &self,
        clients: &[ClientId],
    ) -> Result<HashMap<ClientId, Transfer>, RecordsError> {
        transfers::newest_of_each(&self.readers, clients).await
    }

    /// Notes that a client has a new line, and gives that line its epoch: higher than any before.
    ///
    /// # Errors
    /// The epoch may not be durable, so nobody may act on it.
    pub async fn client_connected(
        &self,
        greeting: &Greeting,
        now: DateTime<Utc>,
    ) -> Result<u64, RecordsError> {
        let returned = self.writer.write(clients::connected(greeting, now)).await?;
        let epoch = returned.and_then(|row| row.integer("epoch")).map(i64::cast_unsigned);
        epoch.ok_or(rusqlite::Error::QueryReturnedNoRows.into())
    }

    /// Notes how a line ended, and what its client had by then, unless a newer line is open.
    ///
    /// # Errors
    /// It may not be durable.
    pub async fn client_left(&self, left: &ClientRecord) -> Result<(), RecordsError> {
        self.writer.write(clients::left(left)).await.map(drop)
    }

    /// Every client that ever connected, by id.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub async fn clients(&self) -> Result<Vec<ClientRecord>, RecordsError> {
        clients::all(&self.readers).await
    }
}
