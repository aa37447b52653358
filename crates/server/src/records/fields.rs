//! Reads the fields of a row. What cannot be read is an error that names the record: a newer
//! version or another hand may have written it.

use chrono::{DateTime, Utc};
use filepull_core::source::Source;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row, Type};

use super::RecordsError;

/// A row, and what to call it when it cannot be read.
pub(super) struct Fields<'r> {
    row: &'r SqliteRow,
    record: String,
}

impl<'r> Fields<'r> {
    /// The row of a `kind` of record that has an `id`.
    pub(super) fn new(kind: &str, row: &'r SqliteRow) -> Self {
        let id = row.try_get("id").ok().flatten().unwrap_or("without a readable id");
        Self { row, record: format!("{kind} {id}") }
    }

    /// A field as it is stored.
    pub(super) fn get<T>(&self, column: &'static str) -> Result<T, RecordsError>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        self.get_if_any(column)?.ok_or_else(|| self.damaged(column, "missing"))
    }

    /// A field that may be missing. Nobody else asks the row: without an `Option`, `sqlx` reads
    /// the number 0 where SQLite has none.
    pub(super) fn get_if_any<T>(&self, column: &'static str) -> Result<Option<T>, RecordsError>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        self.row.try_get(column).map_err(|_| self.damaged(column, "of another type"))
    }

    /// A text that means something.
    pub(super) fn parse<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, RecordsError> {
        let text: &str = self.get(column)?;
        parse(text).ok_or_else(|| self.damaged(column, &format!("{text:?}")))
    }

    /// A count.
    pub(super) fn count(&self, column: &'static str) -> Result<u32, RecordsError> {
        let number: i64 = self.get(column)?;
        u32::try_from(number).map_err(|_| self.damaged(column, &number.to_string()))
    }

    /// A number of bytes, or another one that uses all 64 bits.
    pub(super) fn unsigned(&self, column: &'static str) -> Result<u64, RecordsError> {
        self.get(column).map(i64::cast_unsigned)
    }

    /// A point in time.
    pub(super) fn time(&self, column: &'static str) -> Result<DateTime<Utc>, RecordsError> {
        let millis: i64 = self.get(column)?;
        DateTime::from_timestamp_millis(millis)
            .ok_or_else(|| self.damaged(column, &millis.to_string()))
    }

    /// A point in time that may be missing.
    pub(super) fn time_if_any(
        &self,
        column: &'static str,
    ) -> Result<Option<DateTime<Utc>>, RecordsError> {
        self.get_if_any::<i64>(column)?.map(|_| self.time(column)).transpose()
    }

    /// A source, kept in three columns.
    pub(super) fn source(&self, columns: [&'static str; 3]) -> Result<Source, RecordsError> {
        let [name, size, modified_ns] = columns;
        Ok(Source {
            name: self.get(name)?,
            size: self.unsigned(size)?,
            modified_ns: self.get(modified_ns)?,
        })
    }

    /// The error for a field that is not what it should be.
    pub(super) fn damaged(&self, column: &'static str, found: &str) -> RecordsError {
        RecordsError::Damaged { record: self.record.clone(), column, found: found.to_owned() }
    }
}
