//! A position in the transfers by (`created_at`, `id`), oldest first. Nothing is held between two
//! pages: a log that is read cannot be emptied, and would grow.

use super::statement::{Row, Statement};
use super::transfers;

/// Where a walk through the transfers is.
#[derive(Clone, Debug, Default)]
pub(super) struct RowWalk {
    /// The last row seen: when it was asked for, and its id. None at the start.
    seen: Option<(i64, String)>,
    /// The previous page was the last one at that time.
    at_end: bool,
}

impl RowWalk {
    /// Completes a statement that ends with a condition: the next rows, at most `limit`. Returns
    /// none once after the last page; the call after that continues with the rows added meanwhile.
    pub(super) fn next(&mut self, mut query: Statement, limit: u32) -> Option<Statement> {
        if std::mem::take(&mut self.at_end) {
            return None;
        }
        if let Some((created_at, id)) = &self.seen {
            query.push(" AND (created_at, id) > (").push_bind(*created_at);
            query.push(", ").push_bind(id.as_str()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(limit);
        Some(query)
    }

    /// Moves behind the last readable row of a page. The position of a damaged row is uncertain, so
    /// the next page includes the damaged rows behind that one.
    pub(super) fn moved(&mut self, rows: &mut Vec<Row>, limit: u32) {
        self.at_end = rows.len() < limit as usize;
        let readable = rows.iter().rposition(|row| transfers::read(row).is_ok());
        if let Some(end) = readable.filter(|_| !self.at_end) {
            rows.truncate(end + 1);
        }
        let row = match readable {
            Some(end) => rows.get(end),
            None => rows.last().filter(|_| !self.at_end),
        };
        let Some(row) = row else { return };
        let place = row.integer("created_at").zip(row.text("id").map(str::to_owned));
        if self.seen < place {
            self.seen = place;
        } else {
            self.at_end = true; // a page that does not lead on would come again and again
        }
    }
}
