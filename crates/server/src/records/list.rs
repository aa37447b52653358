//! Lists transfers that match a filter, page by page, newest first.

use std::fmt;

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use filepull_core::problem::Code;
use filepull_core::transfer::PhaseName;

use super::Records;
use super::cursor::Cursor;
use super::damaged::RecordedTransfer;
use super::error::RecordsError;
use super::scope::push_in_scope;
use super::statement::Statement;
use crate::scope::Scope;

/// Selects transfers. A field that is not set matches every transfer.
#[derive(Clone, Debug)]
pub struct TransferFilter {
    /// The clients that the caller may see.
    pub scope: Scope,
    /// The client of the transfers.
    pub client: Option<ClientId>,
    /// Transfers in one of these phases; an empty list matches every phase.
    pub states: Vec<PhaseName>,
    /// Transfers created at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Transfers created before this time.
    pub until: Option<DateTime<Utc>>,
    /// Transfers that ended with this problem.
    pub error: Option<Code>,
    /// Only transfers whose download is damaged.
    pub only_damaged: bool,
    /// Maximum number of transfers on the page, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub limit: u32,
    /// The end of the previous page.
    pub cursor: Option<Cursor>,
}

impl TransferFilter {
    /// Maximum number of transfers on a page.
    pub const MAX_LIMIT: u32 = 1000;
    /// Number of transfers on a page without an explicit limit.
    pub const DEFAULT_LIMIT: u32 = 100;
}

impl Default for TransferFilter {
    fn default() -> Self {
        Self {
            scope: Scope::Everything,
            client: None,
            states: Vec::new(),
            since: None,
            until: None,
            error: None,
            only_damaged: false,
            limit: Self::DEFAULT_LIMIT,
            cursor: None,
        }
    }
}

/// A page of the transfers that match a filter.
#[derive(Clone, Debug)]
pub struct TransferPage {
    /// The transfers of this page, newest first.
    pub items: Vec<RecordedTransfer>,
    /// The [`Cursor`] of the next page, if there is one.
    pub next_cursor: Option<String>,
    /// Number of matching transfers on all pages.
    pub total: Total,
}

/// Number of matches. Counting takes time for each match and page, so it stops at 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// The exact number of matches.
    Exactly(u64),
    /// The number at which counting stopped. There are more matches.
    MoreThan(u64),
}

impl Total {
    /// Returns the total for a count that stops one after [`COUNT_UP_TO`].
    fn of(counted: u64) -> Self {
        let max = u64::from(COUNT_UP_TO);
        if counted <= max { Self::Exactly(counted) } else { Self::MoreThan(max) }
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

/// Counting stops here: a hundred full pages, more than any reader opens.
const COUNT_UP_TO: u32 = 10_000;

impl Records {
    /// Returns a page of the transfers that match, newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn transfers(&self, filter: &TransferFilter) -> Result<TransferPage, RecordsError> {
        let limit = filter.limit.clamp(1, TransferFilter::MAX_LIMIT);
        let mut query = matching("SELECT *", filter);
        if let Some(cursor) = filter.cursor {
            cursor.push_before(&mut query);
        }
        // One row more than requested shows whether there is a next page.
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(limit + 1);
        let rows = self.readers.list(query).await?;
        let n_shown = rows.len().min(limit as usize);
        let has_next = n_shown < rows.len();
        let mut items = self.recorded(&rows[..n_shown]);
        let next = if has_next { end(&mut items, filter.cursor) } else { None };
        let next_cursor = next.map(|cursor| cursor.to_string());
        let total = self.count(matching("SELECT COUNT(*) AS n FROM (SELECT 1", filter)).await?;
        Ok(TransferPage { items, next_cursor, total })
    }

    /// Counts the rows of a query that begins with `SELECT COUNT(*) AS n FROM (SELECT`.
    pub(crate) async fn count(&self, mut query: Statement) -> Result<Total, RecordsError> {
        query.push(" LIMIT ").push_bind(COUNT_UP_TO + 1).push(") AS counted");
        let rows = self.readers.list(query).await?;
        let counted = rows.first().and_then(|row| row.integer("n")).unwrap_or_default();
        Ok(Total::of(counted.cast_unsigned()))
    }
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
    // A client has few transfers. A state or an error may match all transfers, so the expression
    // keeps the query planner, which has no statistics, from using their indexes.
    let by_client = if filter.client.is_some() { " || ''" } else { "" };
    if let Some(client) = &filter.client {
        query.push(" AND client = ").push_bind(client.to_string());
    }
    push_in_scope(&mut query, "client", &filter.scope);
    if !filter.states.is_empty() {
        query.push(" AND state").push(by_client).push(" IN (");
        query.push_list(filter.states.iter().map(|state| state.as_str())).push(")");
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
    if filter.only_damaged {
        query.push(" AND id IN (SELECT transfer FROM scrubs WHERE state = 'damaged')");
    }
    query
}
