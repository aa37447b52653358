//! The durable record of every transfer and client, in one SQLite file.
//!
//! What a method has written when it returns survives a power cut. Times are kept to the
//! millisecond, and cut to it here. Which state may follow which is the rule of `core::transfer`;
//! of it only this is held here too: what is final stays as it is.
//!
//! The SQL is the dialect that PostgreSQL shares, so that a second engine can go behind it.

mod cancels;
mod checksum;
mod client_list;
mod clients;
mod damaged;
mod expired;
mod fields;
mod guard;
mod idempotency;
mod list;
mod lock;
mod reader;
mod readers;
mod schema;
mod statement;
#[cfg(test)]
mod tests;
mod transfers;
mod walk;
mod writer;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::transfer::Transfer;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::error;

use crate::client::{ClientRecord, Greeting};
use crate::data_folder::absolute;
pub use client_list::{ClientListItem, ClientOrder, ClientPage};
pub use clients::Enrolment;
pub use damaged::{DamagedTransfer, RecordedTransfer};
pub use expired::OldTransfers;
use guard::DatabaseGuard;
pub use idempotency::{KeyOutcome, RequestKey};
pub use list::{Cursor, PhaseName, Total, TransferFilter, TransferPage};
use lock::Lock;
pub use reader::{ClientTransfers, DownloadTotals, RecordsReader};
use readers::Readers;
use writer::RecordsWriter;

/// A key leads to its transfer for so long.
pub const KEEP_KEYS: Duration = Duration::from_hours(24);

/// How long a page waits for the number of clients. Without it the page shows the last count.
const COUNT_LIMIT: Duration = Duration::from_secs(1);

/// A handle on the records; cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    writer: RecordsWriter,
    readers: Readers,
    /// The number of clients at the last count.
    n_clients: Arc<AtomicU64>,
    /// The damaged records that have been logged.
    logged: Arc<Mutex<HashSet<String>>>,
}

/// Maximum number of damaged records that are logged, so that they fill neither the memory nor the
/// log.
const MAX_LOGGED: usize = 1000;

/// The transfers that are not final.
#[derive(Clone, Debug, Default)]
pub struct UnfinishedRecords {
    /// Oldest first.
    pub transfers: Vec<Transfer>,
    /// Those whose records cannot be read.
    pub damaged: Vec<DamagedTransfer>,
}

/// Why the records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Another server uses the same data folder.
    #[error(
        "{} is in use by process {pid}, another server or demo. End that one, or set another DATA_DIR",
        absolute(data_folder).display()
    )]
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
    #[error("cannot use the folder {}", absolute(folder).display())]
    Folder {
        /// The folder, as it was given.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database failed. What was being written may be durable or not.
    #[error("the database of the records failed")]
    Database(#[source] Arc<rusqlite::Error>),
    /// The files were deleted, moved or replaced while they were in use.
    #[error("{} was deleted, moved or replaced while this server uses it", file.display())]
    Gone {
        /// The file.
        file: PathBuf,
    },
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

/// Why a transfer was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The record is final, belongs to a later attempt, or its key leads to another transfer.
    #[error("the record of the transfer is final, or of a later attempt")]
    Lost,
    /// The transfer may or may not be durable.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl RecordsError {
    /// The damaged record, or none.
    fn record(&self) -> &str {
        match self {
            Self::Damaged { record, .. } => record,
            Self::InUse { .. }
            | Self::TooNew { .. }
            | Self::TooOld { .. }
            | Self::Schema { .. }
            | Self::Folder { .. }
            | Self::Database(_)
            | Self::Gone { .. }
            | Self::Closed => "",
        }
    }

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
            let guard = DatabaseGuard::new(&file);
            let n_clients = clients::count_now(&writing)?;
            let readers = Readers::open(&file)?;
            // The folder entry of a new file must be as durable as its content.
            lock.sync_folder()?;
            Ok((writing, readers, n_clients, lock, guard))
        };
        let opened: Result<_, RecordsError> =
            spawn_blocking(open).await.map_err(|_| RecordsError::Closed)?;
        let (writing, readers, n_clients, lock, guard) = opened?;
        let writer = RecordsWriter::start(writing, lock, guard);
        let n_clients = Arc::new(AtomicU64::new(n_clients));
        Ok(Self { writer, readers, n_clients, logged: Arc::default() })
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

    /// Makes a transfer durable as it now stands.
    ///
    /// # Errors
    /// [`SaveError::Lost`] if the record is final or of a later attempt; then it stays as it is.
    pub async fn save(&self, transfer: &Transfer) -> Result<(), SaveError> {
        let saved = self.writer.write(transfers::save(transfer)).await?;
        saved.map(drop).ok_or(SaveError::Lost)
    }

    /// Makes the checkpoint of a transfer durable, and writes nothing else.
    ///
    /// # Errors
    /// [`SaveError::Lost`] if anything else of the transfer is not what is on record.
    pub async fn save_checkpoint(&self, transfer: &Transfer) -> Result<(), SaveError> {
        let checkpoint = transfers::checkpoint(transfer).ok_or(SaveError::Lost)?;
        let saved = self.writer.write(checkpoint).await?;
        saved.map(drop).ok_or(SaveError::Lost)
    }

    /// Makes a new transfer durable together with the key of the request that asked for it, unless
    /// the key leads to another transfer.
    ///
    /// # Errors
    /// [`SaveError::Lost`] if the key leads to another transfer; then nothing was written.
    pub async fn save_keyed(&self, transfer: &Transfer, key: &RequestKey) -> Result<(), SaveError> {
        let made_at = transfer.created_at;
        let keep = idempotency::keep(key, transfer.id, made_at, made_at - KEEP_KEYS);
        let ours = ("transfer", transfer.id.to_string().into());
        let returned = self.writer.write_if(keep, ours, transfers::save(transfer)).await?;
        let holder = returned.as_ref().map(idempotency::read).transpose()?;
        let is_ours = holder.is_some_and(|holder| holder.transfer == transfer.id);
        if is_ours { Ok(()) } else { Err(SaveError::Lost) }
    }

    /// Makes a key lead to a transfer that is under way, unless it leads to another one. Returns
    /// where it leads.
    ///
    /// # Errors
    /// It may not be durable.
    pub async fn keep_key(
        &self,
        key: &RequestKey,
        transfer: TransferId,
        now: DateTime<Utc>,
    ) -> Result<KeyOutcome, RecordsError> {
        let returned =
            self.writer.write(idempotency::keep(key, transfer, now, now - KEEP_KEYS)).await?;
        let row = returned.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        idempotency::read(&row)
    }

    /// Where a key leads, if a request had it within the last day.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn keyed(
        &self,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<KeyOutcome>, RecordsError> {
        idempotency::find(&self.readers, key, now - KEEP_KEYS).await
    }

    /// Makes the cancel of an unfinished transfer durable: the next process carries it out if this
    /// one does not.
    ///
    /// # Errors
    /// It may not be durable.
    pub async fn keep_cancel(
        &self,
        transfer: TransferId,
        detail: &str,
    ) -> Result<(), RecordsError> {
        self.writer.write(cancels::keep(transfer, detail)).await.map(drop)
    }

    /// Every cancel that was kept, with its detail.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub async fn cancels(&self) -> Result<Vec<(TransferId, String)>, RecordsError> {
        cancels::all(&self.readers).await
    }

    /// Forgets a cancel whose transfer is final.
    ///
    /// # Errors
    /// It may still be there, which changes nothing.
    pub async fn forget_cancel(&self, transfer: TransferId) -> Result<(), RecordsError> {
        self.writer.write(cancels::forget(transfer)).await.map(drop)
    }

    /// A transfer by its id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn transfer(&self, id: TransferId) -> Result<Option<RecordedTransfer>, RecordsError> {
        let found = transfers::one(&self.readers, id).await?;
        self.log_damaged(&found);
        Ok(found)
    }

    /// Every transfer that is not final.
    ///
    /// # Errors
    /// The database failed.
    pub async fn unfinished(&self) -> Result<UnfinishedRecords, RecordsError> {
        let found = transfers::unfinished(&self.readers).await?;
        self.log_damaged(&found);
        let mut unfinished = UnfinishedRecords::default();
        for item in found {
            match item {
                RecordedTransfer::Readable(transfer) => unfinished.transfers.push(*transfer),
                RecordedTransfer::Damaged(damaged) => unfinished.damaged.push(damaged),
            }
        }
        Ok(unfinished)
    }

    /// Ends unfinished transfers whose records are damaged: nothing can continue them.
    ///
    /// # Errors
    /// It may not be durable.
    pub async fn end_damaged(
        &self,
        damaged: &[DamagedTransfer],
        now: DateTime<Utc>,
    ) -> Result<(), RecordsError> {
        let ends: Vec<_> = damaged.iter().filter_map(|damaged| damaged.end(now)).collect();
        if ends.is_empty() { Ok(()) } else { self.writer.write_all(ends).await.map(drop) }
    }

    /// A page of the transfers that match, newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn transfers(&self, filter: &TransferFilter) -> Result<TransferPage, RecordsError> {
        let page = list::page(&self.readers, filter).await?;
        self.log_damaged(&page.items);
        Ok(page)
    }

    /// The transfer of a client that became done last; with `path` the last one of that path.
    ///
    /// # Errors
    /// The database failed.
    pub async fn newest_download(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
    ) -> Result<Option<RecordedTransfer>, RecordsError> {
        let found = transfers::newest_download(&self.readers, client, path).await?;
        self.log_damaged(&found);
        Ok(found)
    }

    /// The names on record for other transfers of the client with the time of `name`, whether or not
    /// their files are still stored.
    ///
    /// # Errors
    /// The database failed.
    pub async fn names_beside(
        &self,
        transfer: &Transfer,
        name: &DownloadName,
    ) -> Result<HashSet<DownloadName>, RecordsError> {
        transfers::names_beside(&self.readers, transfer, name).await
    }

    /// The transfer of a client that was asked for last.
    ///
    /// # Errors
    /// The database failed.
    pub async fn newest(
        &self,
        client: &ClientId,
    ) -> Result<Option<RecordedTransfer>, RecordsError> {
        let found = transfers::newest(&self.readers, client).await?;
        self.log_damaged(&found);
        Ok(found)
    }

    /// The same for each of these clients that has one. A damaged record is left out unless the
    /// name of its client is readable.
    ///
    /// # Errors
    /// The database failed.
    pub async fn newest_of_each(
        &self,
        clients: &[ClientId],
    ) -> Result<HashMap<ClientId, RecordedTransfer>, RecordsError> {
        let found = transfers::newest_of_each(&self.readers, clients).await?;
        self.log_damaged(&found);
        let by_client = |item: RecordedTransfer| Some((item.client()?.clone(), item));
        Ok(found.into_iter().filter_map(by_client).collect())
    }

    /// Logs each damaged record once.
    fn log_damaged<'a>(&self, items: impl IntoIterator<Item = &'a RecordedTransfer>) {
        for item in items {
            if let RecordedTransfer::Damaged(DamagedTransfer { id, reason, .. }) = item {
                self.log_once(&format!("transfer {id}"), reason);
            }
        }
    }

    /// Leaves out a client that cannot be read: it is known again when it connects.
    fn readable<T>(&self, read: Result<T, RecordsError>) -> Option<T> {
        read.inspect_err(|error| self.log_once(error.record(), &error.to_string())).ok()
    }

    fn log_once(&self, record: &str, reason: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED && logged.insert(record.to_owned()) {
            error!(event = "records.damaged", record, reason, "a record cannot be read");
        }
    }

    /// Notes that a client has a new session, and gives that session its epoch: higher than any
    /// before. Writes nothing if the client is new and its id can be confused with a known one.
    ///
    /// # Errors
    /// The epoch may not be durable, so nobody may act on it.
    pub async fn client_connected(
        &self,
        greeting: &Greeting,
        now: DateTime<Utc>,
    ) -> Result<Enrolment, RecordsError> {
        if let Some(row) = self.writer.write(clients::connected(greeting, now)).await? {
            let (epoch, last_disconnect) = clients::enrolled(&row)?;
            let last_disconnect = self.readable(last_disconnect).flatten();
            return Ok(Enrolment::Accepted { epoch, last_disconnect });
        }
        let known = client_list::like_by_case(&self.readers, &greeting.client).await?;
        known.map(Enrolment::Confusable).ok_or(rusqlite::Error::QueryReturnedNoRows.into())
    }

    /// Notes how a line ended, and what its client had by then, unless a newer line is open.
    ///
    /// # Errors
    /// It may not be durable.
    pub async fn client_left(&self, left: &ClientRecord) -> Result<(), RecordsError> {
        self.writer.write(clients::left(left)).await.map(drop)
    }

    /// Finds a client by its id.
    ///
    /// # Errors
    /// The record cannot be read.
    pub async fn client(&self, id: &ClientId) -> Result<Option<ClientRecord>, RecordsError> {
        clients::one(&self.readers, id).await
    }

    /// Returns how many clients are on record, or the last count if the records do not answer.
    pub async fn n_clients(&self) -> u64 {
        // The count walks the smallest index: 100,000 clients take less than a millisecond.
        if let Ok(Ok(counted)) = timeout(COUNT_LIMIT, clients::count(&self.readers)).await {
            self.n_clients.store(counted, Ordering::Relaxed);
        }
        self.n_clients.load(Ordering::Relaxed)
    }

    /// Those of these clients that are on record and can be read, in any order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn clients(&self, ids: &[ClientId]) -> Result<Vec<ClientRecord>, RecordsError> {
        let found = clients::each(&self.readers, ids).await?;
        Ok(found.into_iter().filter_map(|client| self.readable(client)).collect())
    }
}
