//! A scan through the transfers by (`created_at`, `id`), oldest first. It keeps no transaction open
//! between two pages, because SQLite's log grows while a transaction reads it.

use super::statement::{Row, Statement};
use super::transfer_row;

/// The position of a scan through the transfers.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowWalk {
    /// The creation time and the id of the last row. None at the start.
    last: Option<(i64, String)>,
    /// The previous page was the last one when it was read.
    at_end: bool,
}

impl RowWalk {
    /// Completes a statement that ends with a condition, so that it returns at most `limit` next
    /// rows. Returns none once after the last page. The call after that continues with rows that were
    /// added since.
    pub(crate) fn next(&mut self, mut query: Statement, limit: u32) -> Option<Statement> {
        if std::mem::take(&mut self.at_end) {
            return None;
        }
        if let Some((created_at, id)) = &self.last {
            query.push(" AND (created_at, id) > (").push_bind(*created_at);
            query.push(", ").push_bind(id.as_str()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(limit);
        Some(query)
    }

    /// Moves behind the last readable row of a page. The position of a damaged row is uncertain, so
    /// the next page contains the damaged rows that follow that row.
    pub(crate) fn advance(&mut self, rows: &mut Vec<Row>, limit: u32) {
        self.at_end = rows.len() < limit as usize;
        let readable = rows.iter().rposition(|row| transfer_row::read(row).is_ok());
        if let Some(end) = readable.filter(|_| !self.at_end) {
            rows.truncate(end + 1);
        }
        let row = match readable {
            Some(end) => rows.get(end),
            None => rows.last().filter(|_| !self.at_end),
        };
        let Some(row) = row else { return };
        let position = row.integer("created_at").zip(row.text("id").map(str::to_owned));
        if self.last < position {
            self.last = position;
        } else {
            self.at_end = true; // a page without progress would be repeated forever
        }
    }
}
