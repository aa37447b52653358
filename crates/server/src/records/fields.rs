//! Reads the fields of a row. What cannot be read is an error that names the record: a newer
//! version or another hand may have written it.

use chrono::{DateTime, Utc};
use filepull_core::source::Source;

use super::RecordsError;
use super::statement::{Row, Value};

/// A row, and what to call it when it cannot be read.
pub(super) struct RowFields<'r> {
    row: &'r Row,
    record: String,
}

impl<'r> RowFields<'r> {
    /// The row of a `kind` of record that has an `id`.
    pub(super) fn new(kind: &str, row: &'r Row) -> Self {
        let id = row.text("id").unwrap_or("without a readable id");
        Self { row, record: format!("{kind} {id}") }
    }

    /// A text.
    pub(super) fn text(&self, column: &'static str) -> Result<&'r str, RecordsError> {
        self.text_if_any(column)?.ok_or_else(|| self.damaged(column, "missing"))
    }

    /// A text that may be missing.
    pub(super) fn text_if_any(
        &self,
        column: &'static str,
    ) -> Result<Option<&'r str>, RecordsError> {
        match self.row.get(column) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            Some(Value::Integer(_)) | None => Err(self.damaged(column, "of another type")),
        }
    }

    /// A number.
    pub(super) fn integer(&self, column: &'static str) -> Result<i64, RecordsError> {
        self.integer_if_any(column)?.ok_or_else(|| self.damaged(column, "missing"))
    }

    /// A number that may be missing.
    pub(super) fn integer_if_any(&self, column: &'static str) -> Result<Option<i64>, RecordsError> {
        match self.row.get(column) {
            Some(Value::Integer(number)) => Ok(Some(*number)),
            Some(Value::Null) => Ok(None),
            Some(Value::Text(_)) | None => Err(self.damaged(column, "of another type")),
        }
    }

    /// A text that means something.
    pub(super) fn parse<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, RecordsError> {
        let text = self.text(column)?;
        parse(text).ok_or_else(|| self.damaged(column, &format!("{text:?}")))
    }

    /// A count.
    pub(super) fn count(&self, column: &'static str) -> Result<u32, RecordsError> {
        let number = self.integer(column)?;
        u32::try_from(number).map_err(|_| self.damaged(column, &number.to_string()))
    }

    /// A number of bytes, or another one that uses all 64 bits.
    pub(super) fn unsigned(&self, column: &'static str) -> Result<u64, RecordsError> {
        self.integer(column).map(i64::cast_unsigned)
    }

    /// A point in time.
    pub(super) fn time(&self, column: &'static str) -> Result<DateTime<Utc>, RecordsError> {
        let millis = self.integer(column)?;
        DateTime::from_timestamp_millis(millis)
            .ok_or_else(|| self.damaged(column, &millis.to_string()))
    }

    /// A point in time that may be missing.
    pub(super) fn time_if_any(
        &self,
        column: &'static str,
    ) -> Result<Option<DateTime<Utc>>, RecordsError> {
        self.integer_if_any(column)?.map(|_| self.time(column)).transpose()
    }

    /// A source, kept in three columns.
    pub(super) fn source(&self, columns: [&'static str; 3]) -> Result<Source, RecordsError> {
        let [name, size, modified_ns] = columns;
        Ok(Source {
            name: self.text(name)?.to_owned(),
            size: self.unsigned(size)?,
            modified_ns: self.integer(modified_ns)?,
        })
    }

    /// The error for a field that is not what it should be.
    pub(super) fn damaged(&self, column: &'static str, found: &str) -> RecordsError {
        RecordsError::Damaged { record: self.record.clone(), column, found: found.to_owned() }
    }
}
