//! Reads the fields of a row. A field that cannot be read is an error that names the record: the disk
//! may have changed it, or a newer version or another program may have written it.

use chrono::{DateTime, Utc};
use filepull_core::source::Source;

use super::error::RecordsError;
use super::statement::{Row, Value};

/// A row, and its name for error messages.
pub(crate) struct RowFields<'r> {
    row: &'r Row,
    record: String,
}

impl<'r> RowFields<'r> {
    /// Wraps the row of a `kind` of record with the column `id`.
    pub(crate) fn new(kind: &str, row: &'r Row) -> Self {
        let id = row.text("id").unwrap_or("without a readable id");
        Self::named(format!("{kind} {id}"), row)
    }

    /// Wraps a row that has no column `id`.
    pub(crate) fn named(record: String, row: &'r Row) -> Self {
        Self { row, record }
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<&'r str, RecordsError> {
        self.text_if_any(column)?.ok_or_else(|| self.damaged(column, "missing"))
    }

    /// Reads a text that may be NULL.
    pub(crate) fn text_if_any(
        &self,
        column: &'static str,
    ) -> Result<Option<&'r str>, RecordsError> {
        match self.row.get(column) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            Some(Value::Integer(_)) | None => Err(self.damaged(column, "of another type")),
        }
    }

    pub(crate) fn integer(&self, column: &'static str) -> Result<i64, RecordsError> {
        self.integer_if_any(column)?.ok_or_else(|| self.damaged(column, "missing"))
    }

    /// Reads a number that may be NULL.
    pub(crate) fn integer_if_any(&self, column: &'static str) -> Result<Option<i64>, RecordsError> {
        match self.row.get(column) {
            Some(Value::Integer(number)) => Ok(Some(*number)),
            Some(Value::Null) => Ok(None),
            Some(Value::Text(_)) | None => Err(self.damaged(column, "of another type")),
        }
    }

    /// Reads and parses a text.
    pub(crate) fn parse<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, RecordsError> {
        let text = self.text(column)?;
        parse(text).ok_or_else(|| self.damaged(column, &format!("{text:?}")))
    }

    /// Reads a number from 0 to [`u32::MAX`].
    pub(crate) fn count(&self, column: &'static str) -> Result<u32, RecordsError> {
        let number = self.integer(column)?;
        u32::try_from(number).map_err(|_| self.damaged(column, &number.to_string()))
    }

    /// Reads an unsigned number that uses all 64 bits.
    pub(crate) fn unsigned(&self, column: &'static str) -> Result<u64, RecordsError> {
        self.integer(column).map(i64::cast_unsigned)
    }

    /// Reads a time in milliseconds since 1970.
    pub(crate) fn time(&self, column: &'static str) -> Result<DateTime<Utc>, RecordsError> {
        let millis = self.integer(column)?;
        DateTime::from_timestamp_millis(millis)
            .ok_or_else(|| self.damaged(column, &millis.to_string()))
    }

    /// Reads a time that may be NULL.
    pub(crate) fn time_if_any(
        &self,
        column: &'static str,
    ) -> Result<Option<DateTime<Utc>>, RecordsError> {
        self.integer_if_any(column)?.map(|_| self.time(column)).transpose()
    }

    /// Reads a source from three columns.
    pub(crate) fn source(&self, columns: [&'static str; 3]) -> Result<Source, RecordsError> {
        let [name, size, modified_ns] = columns;
        Ok(Source {
            name: self.text(name)?.to_owned(),
            size: self.unsigned(size)?,
            modified_ns: self.integer(modified_ns)?,
        })
    }

    /// Returns the error for an invalid field.
    pub(crate) fn damaged(&self, column: &'static str, found: &str) -> RecordsError {
        RecordsError::Damaged { record: self.record.clone(), column, found: found.to_owned() }
    }
}
