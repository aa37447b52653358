//! A scan of the audit in the order of its numbers, for another process than the server's.

use filepull_core::audit::AuditRecord;

use super::audit::read;
use super::error::RecordsError;
use super::reader::RecordsReader;
use super::readers::Pool;
use super::statement::Statement;

/// By number, because a row that was inserted may have the number of another one only with another
/// type.
const NEXT: &str = "SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2";

/// The position of a scan.
#[derive(Debug)]
pub(crate) struct AuditWalk {
    readers: Pool,
    after: i64,
}

impl RecordsReader {
    /// Starts a scan at the first record.
    pub(crate) fn audit(&self) -> AuditWalk {
        AuditWalk { readers: self.pool(), after: i64::MIN }
    }
}

impl AuditWalk {
    /// Reads the next `limit` records, or returns `None` after the last. A record that cannot be read
    /// is an error in the list.
    pub(crate) async fn next(
        &mut self,
        limit: u32,
    ) -> Result<Option<Vec<Result<AuditRecord, RecordsError>>>, RecordsError> {
        let next = Statement::new(NEXT).bind(self.after).bind(limit);
        let rows = self.readers.rows(next).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        // A number that is a text sorts behind all others: it ends the scan.
        self.after = last.integer("seq").unwrap_or(i64::MAX);
        Ok(Some(rows.iter().map(read).collect()))
    }
}
