//! Records that have grown old: found page by page, and let go a few at a time. Which of them may
//! go is for the caller to say.

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;

use super::statement::Statement;
use super::transfers;
use super::walk::RowWalk;
use super::{KEEP_KEYS, Records, RecordsError};

/// Bounded by a time, so younger rows are not read.
const OLDER: &str = "SELECT * FROM transfers WHERE created_at < ";

/// What is final never changes, so that nothing has to be asked again.
const FORGET: &str = "DELETE FROM transfers WHERE id = $1";

const FORGET_KEYS: &str = "DELETE FROM request_keys WHERE id IN \
     (SELECT id FROM request_keys WHERE made_at < $1 LIMIT $2) RETURNING 1";

/// Goes through the transfers, oldest first, and remembers how far it has come.
#[derive(Debug)]
pub struct OldTransfers {
    records: Records,
    walk: RowWalk,
}

impl Records {
    /// Goes through the transfers from the oldest on.
    pub fn old_transfers(&self) -> OldTransfers {
        OldTransfers { records: self.clone(), walk: RowWalk::default() }
    }

    /// Removes final transfers, all in one commit. Whoever saves at the same time waits for it.
    ///
    /// # Errors
    /// They may be gone or not: the database failed, or is closed.
    pub async fn forget(&self, transfers: &[TransferId]) -> Result<(), RecordsError> {
        let forget = |id: &TransferId| Statement::new(FORGET).bind(id.to_string());
        self.writer.write_all(transfers.iter().map(forget).collect()).await.map(drop)
    }

    /// Removes up to `limit` keys that lead nowhere any more. Were there any?
    ///
    /// # Errors
    /// They may be gone or not.
    pub async fn forget_keys(&self, now: DateTime<Utc>, limit: u32) -> Result<bool, RecordsError> {
        let before = (now - KEEP_KEYS).timestamp_millis();
        let forget = Statement::new(FORGET_KEYS).bind(before).bind(limit);
        self.writer.write(forget).await.map(|removed| removed.is_some())
    }
}

impl OldTransfers {
    /// Checks the next `limit` records from before a time, and returns those that became final
    /// before it; `None` if there are no more yet. Skips a record that cannot be read: its file
    /// name may be wrong.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next(
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
        self.walk.moved(&mut rows, limit);
        let is_old = |transfer: &Transfer| {
            transfer.is_final() && transfer.finished_at.is_some_and(|at| at < before)
        };
        let old = rows.iter().filter_map(|row| transfers::read(row).ok().filter(is_old));
        Ok(Some(old.collect()))
    }
}
