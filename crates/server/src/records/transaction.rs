//! One transaction of the writer, as a decision sees it.

use rusqlite::Connection;

use super::audit::{AuditEntry, AuditTrail};
use super::error::RecordsError;
use super::statement::{Row, Statement};

/// Reads and writes in one transaction. Sees its own writes; no other write happens meanwhile.
pub(crate) struct Transaction<'a> {
    connection: &'a Connection,
    trail: &'a mut AuditTrail,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(connection: &'a Connection, trail: &'a mut AuditTrail) -> Self {
        Self { connection, trail }
    }

    /// Runs a statement and returns its first row.
    pub(crate) fn first(&mut self, statement: &Statement) -> Result<Option<Row>, RecordsError> {
        Ok(self.rows(statement)?.into_iter().next())
    }

    /// Runs a statement and returns its rows.
    pub(crate) fn rows(&mut self, statement: &Statement) -> Result<Vec<Row>, RecordsError> {
        Ok(statement.run(self.connection)?)
    }

    /// Runs a statement whose rows are not needed.
    pub(crate) fn run(&mut self, statement: &Statement) -> Result<(), RecordsError> {
        self.rows(statement).map(drop)
    }

    /// Appends a record to the audit.
    pub(crate) fn audit(&mut self, entry: &AuditEntry) -> Result<(), RecordsError> {
        Ok(self.trail.append(self.connection, entry)?)
    }
}
