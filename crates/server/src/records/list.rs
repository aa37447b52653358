//! Lists of transfers: which ones, page by page, newest first.

use std::fmt;

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Code;
use filepull_core::transfer::{Phase, Transfer};

use super::damaged::RecordedTransfer;
use super::readers::Readers;
use super::statement::Statement;
use super::{RecordsError, transfers};

/// How far a transfer is, in the word that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseName {
    /// Nothing has been received.
    Queued,
    /// A partial exists.
    Receiving,
    /// Whole; the name may or may not be there yet.
    Sealed,
    /// Whole, and named.
    Done,
    /// Ended without a download.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl PhaseName {
    const ALL: [Self; 6] =
        [Self::Queued, Self::Receiving, Self::Sealed, Self::Done, Self::Failed, Self::Cancelled];

    /// The word for a phase.
    pub fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Queued => Self::Queued,
            Phase::Receiving(_) => Self::Receiving,
            Phase::Sealed(_) => Self::Sealed,
            Phase::Done(_) => Self::Done,
            Phase::Failed(_) => Self::Failed,
            Phase::Cancelled(_) => Self::Cancelled,
        }
    }

    /// The word as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Receiving => "receiving",
            Self::Sealed => "sealed",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads that text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.as_str() == text)
    }
}

/// Which transfers to list. What is left open matches every transfer.
#[derive(Clone, Debug)]
pub struct TransferFilter {
    /// Of this client.
    pub client: Option<ClientId>,
    /// In one of these states; none named is any state.
    pub states: Vec<PhaseName>,
    /// Asked for at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Asked for before this time.
    pub until: Option<DateTime<Utc>>,
    /// Ended with this problem.
    pub error: Option<Code>,
    /// How many at most, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub limit: u32,
    /// Where an earlier page ended.
    pub cursor: Option<Cursor>,
}

impl TransferFilter {
    /// The longest page.
    pub const MAX_LIMIT: u32 = 1000;
    /// A page when nobody says how long.
    pub const DEFAULT_LIMIT: u32 = 100;
}

impl Default for TransferFilter {
    fn default() -> Self {
        Self {
            client: None,
            states: Vec::new(),
            since: None,
            until: None,
            error: None,
            limit: Self::DEFAULT_LIMIT,
            cursor: None,
        }
    }
}

/// The position of a transfer in every list: by the time when it was asked for, then by id. As text it
/// says where a page ended: newer transfers do not move it, and it sorts as the positions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Milliseconds since 1970.
    created_at: i64,
    id: TransferId,
}

impl Cursor {
    /// The position of a transfer that was asked for at this time.
    pub fn new(created_at: DateTime<Utc>, id: TransferId) -> Self {
        Self { created_at: created_at.timestamp_millis(), id }
    }

    /// When the transfer was asked for, in milliseconds since 1970.
    pub fn created_at_millis(self) -> i64 {
        self.created_at
    }

    /// The transfer.
    pub fn id(self) -> TransferId {
        self.id
    }

    /// The position of a transfer.
    pub fn of(transfer: &Transfer) -> Self {
        Self::new(transfer.created_at, transfer.id)
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (created_at, id) = text.split_once('~')?;
        Some(Self { created_at: created_at.parse().ok()?, id: TransferId::parse(id).ok()? })
    }

    /// Appends the condition of a page that begins after this position.
    pub(super) fn push_before(self, query: &mut Statement) {
        query.push(" AND (created_at, id) < (").push_bind(self.created_at);
        query.push(", ").push_bind(self.id.to_string()).push(")");
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}~{}", self.created_at, self.id)
    }
}

/// Some of the transfers that match.
#[derive(Clone, Debug)]
pub struct TransferPage {
    /// The transfers, newest first.
    pub items: Vec<RecordedTransfer>,
    /// The [`Cursor`] of the next page, if there is one.
    pub next_cursor: Option<String>,
    /// How many match, on all pages.
    pub total: Total,
}

/// How many match. Counting takes time for each of them, on every page anew: it ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// So many.
    Exactly(u64),
    /// More than so many.
    MoreThan(u64),
}

impl Total {
    /// Returns the total for a count that stops one after [`COUNT_UP_TO`].
    pub(super) fn of(counted: u64) -> Self {
        let most = u64::from(COUNT_UP_TO);
        if counted <= most { Self::Exactly(counted) } else { Self::MoreThan(most) }
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => count.fmt(f),
            Self::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}

/// Nobody turns a hundred pages.
pub(super) const COUNT_UP_TO: u32 = 10_000;

pub(super) async fn page(
    readers: &Readers,
    filter: &TransferFilter,
) -> Result<TransferPage, RecordsError> {
    let limit = filter.limit.clamp(1, TransferFilter::MAX_LIMIT);
    let mut query = matching("SELECT *", filter);
    if let Some(cursor) = filter.cursor {
        cursor.push_before(&mut query);
    }
    // One more than asked for tells whether there is a next page.
    query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(limit + 1);
    let rows = readers.list(query).await?;
    let mut items: Vec<_> = rows.iter().take(limit as usize).map(transfers::recorded).collect();
    let has_next = items.len() < rows.len();
    let next = if has_next { end(&mut items, filter.cursor) } else { None };
    let next_cursor = next.map(|cursor| cursor.to_string());

    let total = count(readers, filter).await?;
    Ok(TransferPage { items, next_cursor, total })
}

async fn count(readers: &Readers, filter: &TransferFilter) -> Result<Total, RecordsError> {
    let mut query = matching("SELECT COUNT(*) AS n FROM (SELECT 1", filter);
    query.push(" LIMIT ").push_bind(COUNT_UP_TO + 1).push(") AS counted");
    let rows = readers.list(query).await?;
    let found = rows.first().and_then(|row| row.integer("n")).unwrap_or(0).cast_unsigned();
    Ok(Total::of(found))
}

/// Returns the end of a page that began at `begin`: the last readable row. The position of a
/// damaged row is uncertain, so the next page shows the damaged rows behind that one.
fn end(items: &mut Vec<RecordedTransfer>, begin: Option<Cursor>) -> Option<Cursor> {
    let is_readable = |item: &RecordedTransfer| matches!(item, RecordedTransfer::Readable(_));
    if let Some(last) = items.iter().rposition(is_readable) {
        items.truncate(last + 1);
    }
    let end = match items.last()? {
        RecordedTransfer::Readable(transfer) => Some(Cursor::of(transfer)),
        RecordedTransfer::Damaged(damaged) => damaged.cursor(),
    };
    // A page without progress would be repeated forever.
    end.filter(|end| begin.is_none_or(|begin| *end < begin))
}

fn matching(select: &'static str, filter: &TransferFilter) -> Statement {
    let mut query = Statement::new(select);
    query.push(" FROM transfers WHERE 1 = 1");
    // A client has few transfers, a state or an error may have all of them: no planner that knows
    // nothing of the figures may take the index of those instead.
    let by_client = if filter.client.is_some() { " || ''" } else { "" };
    if let Some(client) = &filter.client {
        query.push(" AND client = ").push_bind(client.to_string());
    }
    if !filter.states.is_empty() {
        query.push(" AND state").push(by_client).push(" IN (");
        for (idx, word) in filter.states.iter().enumerate() {
            query.push(if idx == 0 { "" } else { ", " }).push_bind(word.as_str());
        }
        query.push(")");
    }
    if let Some(since) = filter.since {
        query.push(" AND created_at >= ").push_bind(since.timestamp_millis());
    }
    if let Some(until) = filter.until {
        query.push(" AND created_at < ").push_bind(until.timestamp_millis());
    }
    if let Some(error) = filter.error {
        query.push(" AND error_code").push(by_client).push(" = ").push_bind(error.as_str());
    }
    query
}
