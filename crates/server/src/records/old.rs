//! Records that have grown old: found page by page, and let go a few at a time. Which of them may
//! go is for the caller to say.

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;

use super::fields::Fields;
use super::statement::{Row, Statement};
use super::transfers;
use super::{KEEP_KEYS, Records, RecordsError};

/// Ids are the order in which transfers were made, nearly the order in which they lie in the file,
/// and bounded by a time: neither another index nor a look at younger rows is needed.
const PAGE: &str = "SELECT * FROM transfers WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3";

/// What is final never changes, so that nothing has to be asked again.
const FORGET: &str = "DELETE FROM transfers WHERE id = $1";

const FORGET_KEYS: &str = "DELETE FROM request_keys WHERE id IN \
     (SELECT id FROM request_keys WHERE made_at < $1 LIMIT $2) RETURNING 1";

/// Goes through the transfers that were made before a time, oldest first.
#[derive(Debug)]
pub struct OldTransfers {
    records: Records,
    before: DateTime<Utc>,
    /// The id of the last row seen. Text, as it is in the row: it may be damaged.
    seen: String,
}

impl Records {
    /// The transfers that became final before this time.
    pub fn old_transfers(&self, before: DateTime<Utc>) -> OldTransfers {
        OldTransfers { records: self.clone(), before, seen: String::new() }
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
    /// Looks at the next `limit` records and returns those that are old; `None` after the last. A
    /// record that cannot be read is passed over: what it says of its file may be wrong.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next(&mut self, limit: u32) -> Result<Option<Vec<Transfer>>, RecordsError> {
        let end = TransferId::first_at(self.before).to_string();
        let page = Statement::new(PAGE).bind(self.seen.clone()).bind(end).bind(limit);
        let rows = self.records.readers.list(page).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        self.seen = Fields::new("transfer", last).text("id")?.to_owned();
        Ok(Some(rows.iter().filter_map(|row| self.read(row)).collect()))
    }

    fn read(&self, row: &Row) -> Option<Transfer> {
        let is_old = |transfer: &Transfer| {
            transfer.is_final() && transfer.finished_at.is_some_and(|at| at < self.before)
        };
        transfers::read(row).ok().filter(is_old)
    }
}
