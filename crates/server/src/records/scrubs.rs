//! The table `scrubs`: when each download was last read back, and what was found. A download without
//! a row has not been read yet.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;

use super::Records;
use super::error::RecordsError;
use super::statement::{Row, Statement};

/// Inserts no row for a transfer that was removed from the records meanwhile.
const NOTE: &str = "INSERT INTO scrubs (transfer, read_at, state) \
     SELECT id, $2, $3 FROM transfers WHERE id = $1 \
     ON CONFLICT (transfer) DO UPDATE SET read_at = excluded.read_at, state = excluded.state";

/// Without a condition on the state, for which the query planner would read another index and sort.
const ENDED: &str = "SELECT transfers.id, transfers.finished_at, transfers.state, scrubs.read_at \
     FROM transfers LEFT JOIN scrubs ON scrubs.transfer = transfers.id \
     WHERE transfers.finished_at <= ";

/// Each has the condition of an index.
pub(crate) const READ_BEFORE: [&str; 2] = [
    "SELECT transfer, state FROM scrubs WHERE state = 'damaged' AND read_at <= $1 \
     ORDER BY read_at LIMIT $2",
    "SELECT transfer, state FROM scrubs WHERE read_at <= $1 ORDER BY read_at LIMIT $2",
];

const MARKS: &str = "SELECT transfer, state FROM scrubs WHERE state <> 'stored' AND transfer IN (";

pub(crate) const N_DAMAGED: &str =
    "SELECT COUNT(*) AS n FROM (SELECT 1 FROM scrubs WHERE state = 'damaged'";

/// Runs with the removal of the transfer.
const FORGET: &str = "DELETE FROM scrubs WHERE transfer = $1";

/// What the last reading of a download found on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DownloadState {
    /// The file on record. A download that has not been read yet counts as stored: it was verified
    /// when it arrived.
    #[default]
    Stored,
    /// Other bytes than those on record, or bytes that cannot be read.
    Damaged,
    /// No file.
    Deleted,
}

impl DownloadState {
    /// The name of the state in the API and on record.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Damaged => "damaged",
            Self::Deleted => "deleted",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Stored, Self::Damaged, Self::Deleted]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A scan of the downloads by the end of their transfers, oldest first, for those that have not been
/// read yet. It keeps its position between two calls.
#[derive(Debug)]
pub(crate) struct UnreadDownloads {
    records: Records,
    /// The end and the id of the last transfer.
    last: (i64, String),
}

impl Records {
    /// Starts a scan at the transfers that ended at this time.
    pub(crate) fn unread_downloads(&self, since: DateTime<Utc>) -> UnreadDownloads {
        UnreadDownloads { records: self.clone(), last: (since.timestamp_millis(), String::new()) }
    }

    /// Returns up to `limit` damaged downloads whose last reading ended at this time or earlier, the
    /// oldest reading first.
    pub(crate) async fn damaged_before(
        &self,
        time: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<(TransferId, DownloadState)>, RecordsError> {
        self.read_before(READ_BEFORE[0], time, limit).await
    }

    /// Returns up to `limit` downloads whose last reading ended at this time or earlier, the oldest
    /// reading first.
    pub(crate) async fn scrubbed_before(
        &self,
        time: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<(TransferId, DownloadState)>, RecordsError> {
        self.read_before(READ_BEFORE[1], time, limit).await
    }

    async fn read_before(
        &self,
        query: &'static str,
        time: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<(TransferId, DownloadState)>, RecordsError> {
        let query = Statement::new(query).bind(time.timestamp_millis()).bind(limit);
        let rows = self.readers.list(query).await?;
        // A state that a later version wrote, or that is damaged, is found out by reading the file.
        let due = |row: &Row| Some((id(row, "transfer")?, state(row).unwrap_or_default()));
        Ok(rows.iter().filter_map(due).collect())
    }

    /// Records what readings found that ended at `now`, in one commit.
    pub(crate) async fn note_scrubs(
        &self,
        found: &[(TransferId, DownloadState)],
        now: DateTime<Utc>,
    ) -> Result<(), RecordsError> {
        let note = |(id, state): &(TransferId, DownloadState)| {
            let note = Statement::new(NOTE).bind(id.to_string()).bind(now.timestamp_millis());
            note.bind(state.as_str())
        };
        self.writer.write_all(found.iter().map(note).collect()).await.map(drop)
    }

    /// Removes what is on record about the readings of a download.
    pub(crate) async fn forget_scrub(&self, id: TransferId) -> Result<(), RecordsError> {
        self.writer.write(forget(id)).await.map(drop)
    }

    /// Returns the state of each of these downloads that is not stored any more.
    pub(crate) async fn download_marks(
        &self,
        ids: &[TransferId],
    ) -> Result<HashMap<TransferId, DownloadState>, RecordsError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut marks = Statement::new(MARKS);
        marks.push_list(ids.iter().map(ToString::to_string)).push(")");
        let rows = self.readers.few(marks).await?;
        Ok(rows.iter().filter_map(|row| Some((id(row, "transfer")?, state(row)?))).collect())
    }

    /// Returns the number of damaged downloads, up to `max`.
    pub(crate) async fn n_damaged_downloads(&self, max: u32) -> Result<u64, RecordsError> {
        let mut query = Statement::new(N_DAMAGED);
        query.push(" LIMIT ").push_bind(max).push(") AS counted");
        let row = self.readers.point(query).await?;
        Ok(row.and_then(|row| row.integer("n")).unwrap_or_default().cast_unsigned())
    }
}

impl UnreadDownloads {
    /// Looks at the next `limit` transfers that ended at this time or earlier. Returns those whose
    /// downloads have not been read yet, or `None` after the last transfer. The call after that
    /// continues with transfers that ended since.
    pub(crate) async fn next(
        &mut self,
        ended_until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Option<Vec<TransferId>>, RecordsError> {
        let rows = self.records.readers.list(self.page(ended_until, limit)).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        match last.integer("finished_at").zip(last.text("id").map(str::to_owned)) {
            Some(position) if self.last < position => self.last = position,
            _ => return Ok(None), // a position that cannot be read would be repeated forever
        }
        let is_unread =
            |row: &&Row| row.text("state") == Some("done") && row.integer("read_at").is_none();
        let unread = rows.iter().filter(is_unread);
        Ok(Some(unread.filter_map(|row| id(row, "id")).collect()))
    }

    /// Returns the query of the next page.
    pub(crate) fn page(&self, ended_until: DateTime<Utc>, limit: u32) -> Statement {
        let mut query = Statement::new(ENDED);
        query.push_bind(ended_until.timestamp_millis());
        let (finished_at, id) = &self.last;
        query.push(" AND (transfers.finished_at, transfers.id) > (").push_bind(*finished_at);
        query.push(", ").push_bind(id.as_str()).push(")");
        query.push(" ORDER BY transfers.finished_at, transfers.id LIMIT ").push_bind(limit);
        query
    }
}

/// Returns the statement that removes what is on record about the readings of a download.
pub(crate) fn forget(id: TransferId) -> Statement {
    Statement::new(FORGET).bind(id.to_string())
}

fn id(row: &Row, column: &str) -> Option<TransferId> {
    TransferId::parse(row.text(column)?).ok()
}

fn state(row: &Row) -> Option<DownloadState> {
    DownloadState::parse(row.text("state")?)
}
