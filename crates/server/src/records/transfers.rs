//! The table `transfers`: one row per transfer, from its trigger on.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::transfer::Transfer;

use super::audit::AuditEntry;
use super::change::Change;
use super::damaged::{DamagedTransfer, RecordedTransfer};
use super::error::{RecordsError, SaveError};
use super::statement::{Row, Statement};
use super::{Records, transfer_row};

const ONE: &str = "SELECT * FROM transfers WHERE id = $1";

/// Has the same condition as the index of unfinished transfers. An unknown state counts as
/// unfinished.
pub(crate) const UNFINISHED: &str = "SELECT * FROM transfers \
     WHERE state NOT IN ('done', 'unchanged', 'failed', 'cancelled') ORDER BY created_at, id";

const NEWEST: &str = "SELECT * FROM transfers WHERE client = $1 \
     ORDER BY created_at DESC, id DESC LIMIT 1";

pub(crate) const NEWEST_DOWNLOAD: &str = "SELECT * FROM transfers WHERE client = $1 AND state = 'done' \
     ORDER BY finished_at DESC, id DESC LIMIT 1";

pub(crate) const NEWEST_DOWNLOAD_OF_PATH: &str = "SELECT * FROM transfers WHERE client = $1 AND path = $2 AND state = 'done' \
     ORDER BY finished_at DESC, id DESC LIMIT 1";

/// The last good download of a path; NULL is the default file. At most 32 downloads are checked, so that a
/// path whose files were all removed costs no more.
pub(crate) const BASE: &str = "SELECT * FROM ( \
         SELECT * FROM transfers \
         WHERE client = $1 AND path IS NOT DISTINCT FROM $2 AND state = 'done' \
         ORDER BY finished_at DESC, id DESC LIMIT 32 \
     ) AS newest \
     WHERE download_size > 0 AND NOT EXISTS ( \
         SELECT 1 FROM scrubs WHERE transfer = newest.id AND state <> 'stored' \
     ) ORDER BY finished_at DESC, id DESC LIMIT 1";

const NAMES_BETWEEN: &str = "SELECT download_name FROM transfers \
     WHERE client = $1 AND download_name >= $2 AND download_name < $3 AND id <> $4";

/// The transfers that are not final.
#[derive(Clone, Debug, Default)]
pub struct UnfinishedRecords {
    /// The readable transfers, oldest first.
    pub transfers: Vec<Transfer>,
    /// The transfers whose records cannot be read.
    pub damaged: Vec<DamagedTransfer>,
}

impl Records {
    /// Saves a transfer durably.
    ///
    /// # Errors
    /// [`SaveError::Lost`] if the record is final or of a later attempt. Then it stays unchanged.
    pub async fn save(&self, transfer: &Transfer) -> Result<(), SaveError> {
        self.save_unless_lost(transfer_row::save(transfer).into()).await
    }

    /// Saves a transfer and an audit record durably, both or neither.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub(crate) async fn save_audited(
        &self,
        transfer: &Transfer,
        audit: AuditEntry,
    ) -> Result<(), SaveError> {
        let change = Change::from(transfer_row::save(transfer)).if_row().audit([audit]);
        self.save_unless_lost(change).await
    }

    /// Saves the checkpoint of a transfer durably, and no other field.
    ///
    /// # Errors
    /// [`SaveError::Lost`] if another field of the transfer differs from the record.
    pub(crate) async fn save_checkpoint(&self, transfer: &Transfer) -> Result<(), SaveError> {
        let checkpoint = transfer_row::checkpoint(transfer).ok_or(SaveError::Lost)?;
        self.save_unless_lost(checkpoint.into()).await
    }

    pub(crate) async fn save_unless_lost(&self, save: Change) -> Result<(), SaveError> {
        self.writer.apply(save).await?.map(drop).ok_or(SaveError::Lost)
    }

    /// Returns a transfer by its id.
    pub(crate) async fn transfer(
        &self,
        id: TransferId,
    ) -> Result<Option<RecordedTransfer>, RecordsError> {
        self.one(Statement::new(ONE).bind(id.to_string())).await
    }

    /// Returns every transfer that is not final.
    ///
    /// # Errors
    /// The database failed.
    pub async fn unfinished(&self) -> Result<UnfinishedRecords, RecordsError> {
        let rows = self.readers.list(Statement::new(UNFINISHED)).await?;
        let mut unfinished = UnfinishedRecords::default();
        for item in self.recorded(&rows) {
            match item {
                RecordedTransfer::Readable(transfer) => unfinished.transfers.push(*transfer),
                RecordedTransfer::Damaged(damaged) => unfinished.damaged.push(damaged),
            }
        }
        Ok(unfinished)
    }

    /// Ends unfinished transfers with damaged records, which cannot continue. After an error this
    /// may be durable or not.
    pub(crate) async fn end_damaged(
        &self,
        damaged: &[DamagedTransfer],
        now: DateTime<Utc>,
    ) -> Result<(), RecordsError> {
        let ends: Vec<_> = damaged.iter().filter_map(|damaged| damaged.end(now)).collect();
        if ends.is_empty() { Ok(()) } else { self.writer.write_all(ends).await.map(drop) }
    }

    /// Returns the transfer of a client that became done last, of one path or of any path.
    pub(crate) async fn newest_download(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
    ) -> Result<Option<RecordedTransfer>, RecordsError> {
        let statement = match path {
            None => Statement::new(NEWEST_DOWNLOAD).bind(client.as_str()),
            Some(path) => {
                Statement::new(NEWEST_DOWNLOAD_OF_PATH).bind(client.as_str()).bind(path.as_str())
            }
        };
        self.one(statement).await
    }

    /// Returns the transfer of the last download of exactly this path that is not empty, and neither
    /// damaged nor deleted as far as it is known.
    pub(crate) async fn base(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
    ) -> Result<Option<RecordedTransfer>, RecordsError> {
        let path = path.map(|path| path.as_str().to_owned());
        self.one(Statement::new(BASE).bind(client.as_str()).bind(path)).await
    }

    /// Returns the recorded names of the client's other downloads with the time of `name`, also of
    /// deleted files.
    pub(crate) async fn names_beside(
        &self,
        transfer: &Transfer,
        name: &DownloadName,
    ) -> Result<HashSet<DownloadName>, RecordsError> {
        let Transfer { id, client, .. } = transfer;
        // `-2` and `.txt` follow the time, and both sort before `/`.
        let end = format!("{}/", name.stem());
        let statement = Statement::new(NAMES_BETWEEN).bind(client.as_str()).bind(name.stem());
        let rows = self.readers.few(statement.bind(end).bind(id.to_string())).await?;
        Ok(rows.iter().filter_map(|row| DownloadName::parse(row.text("download_name")?)).collect())
    }

    /// Returns the newest transfer of a client.
    pub(crate) async fn newest(
        &self,
        client: &ClientId,
    ) -> Result<Option<RecordedTransfer>, RecordsError> {
        self.one(Statement::new(NEWEST).bind(client.as_str())).await
    }

    /// Returns the newest transfer of each of these clients. Leaves out a damaged record whose client
    /// is unknown.
    pub(crate) async fn newest_of_each(
        &self,
        clients: &[ClientId],
    ) -> Result<HashMap<ClientId, RecordedTransfer>, RecordsError> {
        // One index lookup per client, because grouping would read the whole index.
        let newest = |client: &ClientId| Statement::new(NEWEST).bind(client.as_str());
        let rows = self.readers.each(clients.iter().map(newest).collect()).await?;
        let by_client = |item: RecordedTransfer| Some((item.client()?.clone(), item));
        Ok(self.recorded(&rows).into_iter().filter_map(by_client).collect())
    }

    async fn one(&self, statement: Statement) -> Result<Option<RecordedTransfer>, RecordsError> {
        let row = self.readers.point(statement).await?;
        Ok(self.recorded(row.as_slice()).pop())
    }

    /// Reads rows, and logs the damaged ones.
    pub(crate) fn recorded(&self, rows: &[Row]) -> Vec<RecordedTransfer> {
        let items: Vec<_> = rows.iter().map(transfer_row::recorded).collect();
        self.log_damaged(&items);
        items
    }
}
