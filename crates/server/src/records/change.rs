//! One change of the records: its statements and its audit records become durable together or not at
//! all.

use super::audit::AuditEntry;
use super::error::RecordsError;
use super::statement::{Row, Statement, Value};
use super::transaction::Transaction;

/// The first row that the first statement returned.
pub(crate) type FirstRow = Option<Row>;

/// What the first statement must return. Otherwise the other statements and the audit records are
/// not written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RowCondition {
    /// The result does not matter.
    None,
    /// A row.
    AnyRow,
    /// A row with this value in this column.
    Value(&'static str, Value),
}

/// Statements and audit records that are written in one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    statements: Vec<Statement>,
    condition: RowCondition,
    audit: Vec<AuditEntry>,
}

impl Change {
    /// Returns a change that runs statements in their order.
    pub(crate) fn new(statements: Vec<Statement>) -> Self {
        Self { statements, condition: RowCondition::None, audit: Vec::new() }
    }

    /// Continues behind the first statement only if it returns a row.
    pub(crate) fn if_row(mut self) -> Self {
        self.condition = RowCondition::AnyRow;
        self
    }

    /// Continues behind the first statement only if it returns a row with this value.
    pub(crate) fn if_value(mut self, column: &'static str, value: impl Into<Value>) -> Self {
        self.condition = RowCondition::Value(column, value.into());
        self
    }

    /// Appends records to the audit in the same transaction.
    pub(crate) fn audit(mut self, entries: impl IntoIterator<Item = AuditEntry>) -> Self {
        self.audit.extend(entries);
        self
    }

    /// Runs the change inside a transaction. Returns the first row of the first statement.
    pub(crate) fn run(&self, transaction: &mut Transaction<'_>) -> Result<FirstRow, RecordsError> {
        let mut statements = self.statements.iter();
        let row = match statements.next() {
            Some(first) => transaction.first(first)?,
            None => None,
        };
        let is_met = match &self.condition {
            RowCondition::None => true,
            RowCondition::AnyRow => row.is_some(),
            RowCondition::Value(column, value) => {
                row.as_ref().and_then(|row| row.get(column)) == Some(value)
            }
        };
        if is_met {
            statements.try_for_each(|statement| transaction.run(statement))?;
            self.audit.iter().try_for_each(|entry| transaction.audit(entry))?;
        }
        Ok(row)
    }
}

impl From<Statement> for Change {
    fn from(statement: Statement) -> Self {
        Self::new(vec![statement])
    }
}
