//! Finds old records page by page, and removes records. The caller decides which records to remove.

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;

use super::error::RecordsError;
use super::idempotency::KEEP_KEYS;
use super::statement::Statement;
use super::walk::RowWalk;
use super::{Records, receipts, scrubs, transfer_row};

/// Completed with a time. Newer rows are not read.
const OLDER: &str = "SELECT * FROM transfers WHERE created_at < ";

/// Needs no condition on the state, because a final transfer never changes.
const FORGET: &str = "DELETE FROM transfers WHERE id = $1";

const FORGET_KEYS: &str = "DELETE FROM request_keys WHERE id IN \
     (SELECT id FROM request_keys WHERE made_at < $1 LIMIT $2) RETURNING 1";

/// A scan of the transfers, oldest first. It keeps its position between two calls.
#[derive(Debug)]
pub(crate) struct OldTransfers {
    records: Records,
    walk: RowWalk,
}

impl Records {
    /// Starts a scan at the oldest transfer.
    pub(crate) fn old_transfers(&self) -> OldTransfers {
        OldTransfers { records: self.clone(), walk: RowWalk::default() }
    }

    /// Removes final transfers with their receipts and readings in one commit. Other writes wait for it.
    /// After an error the transfers may be removed or not.
    pub(crate) async fn forget(&self, transfers: &[TransferId]) -> Result<(), RecordsError> {
        let forget = |id: &TransferId| {
            let transfer = Statement::new(FORGET).bind(id.to_string());
            [transfer, receipts::forget(*id), scrubs::forget(*id)]
        };
        self.writer.write_all(transfers.iter().flat_map(forget).collect()).await.map(drop)
    }

    /// Removes up to `limit` expired keys. Returns whether there were any. After an error the keys
    /// may be removed or not.
    pub(crate) async fn forget_keys(
        &self,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<bool, RecordsError> {
        let before = (now - KEEP_KEYS).timestamp_millis();
        let forget = Statement::new(FORGET_KEYS).bind(before).bind(limit);
        self.writer.write(forget).await.map(|removed| removed.is_some())
    }
}

impl OldTransfers {
    /// Reads the next `limit` records from before a time. Returns those that became final before
    /// that time, or `None` after the last record. Skips a record that cannot be read, because its
    /// file name may be wrong.
    pub(crate) async fn next(
        &mut self,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<Option<Vec<Transfer>>, RecordsError> {
        let mut older = Statement::new(OLDER);
        older.push_bind(before.timestamp_millis());
        let Some(page) = self.walk.next(older, limit) else { return Ok(None) };
        let mut rows = self.records.readers.list(page).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        self.walk.advance(&mut rows, limit);
        let is_old = |transfer: &Transfer| {
            transfer.is_final() && transfer.finished_at.is_some_and(|at| at < before)
        };
        let old = rows.iter().filter_map(|row| transfer_row::read(row).ok().filter(is_old));
        Ok(Some(old.collect()))
    }
}
