//! Lists of transfers: which ones, page by page, newest first.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Code;
use filepull_core::transfer::{Phase, Transfer};

use super::readers::Readers;
use super::statement::Statement;
use super::{RecordsError, transfers};

/// How far a transfer is, in the word that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateWord {
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

impl StateWord {
    const ALL: [Self; 6] =
        [Self::Queued, Self::Receiving, Self::Sealed, Self::Done, Self::Failed, Self::Cancelled];

    /// The word for a phase.
    pub fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Queued => Self::Queued,
            Phase::Receiving { .. } => Self::Receiving,
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
    pub states: Vec<StateWord>,
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

/// Where a page ended: at the transfer with this id. Newer ones do not move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(TransferId);

impl Cursor {
    /// Reads what [`Page::next_cursor`] gave away.
    pub fn parse(text: &str) -> Option<Self> {
        TransferId::parse(text).ok().map(Self)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Some of the transfers that match.
#[derive(Clone, Debug)]
pub struct Page {
    /// The transfers, newest first.
    pub items: Vec<Transfer>,
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

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => count.fmt(f),
            Self::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}

/// Nobody turns a hundred pages.
const COUNT_UP_TO: u32 = 10_000;

pub(super) async fn page(readers: &Readers, filter: &TransferFilter) -> Result<Page, RecordsError> {
    let limit = filter.limit.clamp(1, TransferFilter::MAX_LIMIT);
    let mut query = matching("SELECT *", filter);
    narrow(&mut query, filter);
    if let Some(cursor) = filter.cursor {
        query.push(" AND id < ").push_bind(cursor.to_string());
    }
    // One more than asked for tells whether there is a next page.
    query.push(" ORDER BY id DESC LIMIT ").push_bind(limit + 1);
    let rows = readers.list(query).await?;
    let shown = rows.iter().take(limit as usize);
    let items = shown.map(transfers::read).collect::<Result<Vec<_>, _>>()?;
    let last = items.last().filter(|_| items.len() < rows.len());
    let next_cursor = last.map(|transfer| Cursor(transfer.id).to_string());

    let total = count(readers, filter).await?;
    Ok(Page { items, next_cursor, total })
}

async fn count(readers: &Readers, filter: &TransferFilter) -> Result<Total, RecordsError> {
    let mut query = matching("SELECT COUNT(*) AS n FROM (SELECT 1", filter);
    // By time alone, the index of times has all that it takes.
    if filter.client.is_some() || !filter.states.is_empty() || filter.error.is_some() {
        narrow(&mut query, filter);
    }
    query.push(" LIMIT ").push_bind(COUNT_UP_TO + 1).push(") AS counted");
    let rows = readers.list(query).await?;
    let found = rows.first().and_then(|row| row.integer("n")).unwrap_or(0).cast_unsigned();
    let most = u64::from(COUNT_UP_TO);
    Ok(if found <= most { Total::Exactly(found) } else { Total::MoreThan(most) })
}

/// Lets an index of ids begin and end where the times do: an id tells when it was made.
fn narrow(query: &mut Statement, filter: &TransferFilter) {
    if let Some(since) = filter.since {
        query.push(" AND id >= ").push_bind(TransferId::first_at(since - CLOCK).to_string());
    }
    if let Some(until) = filter.until {
        query.push(" AND id < ").push_bind(TransferId::first_at(until + CLOCK).to_string());
    }
}

/// The time in an id and that beside it were read from the clock one after the other; meanwhile
/// somebody may have set it.
const CLOCK: TimeDelta = TimeDelta::hours(1);

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
