//! Statements and rows of the database. They hold only text and integers, so that another engine can
//! replace SQLite.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql};

/// A value that a statement binds or a row holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// A row of a query result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    columns: Arc<[String]>,
    /// The values in the order of the columns. `None` is neither text nor an integer: a damaged field.
    values: Vec<Option<Value>>,
}

impl Row {
    /// Returns the value of a column, or `None` if it is neither text nor an integer.
    pub(crate) fn get(&self, column: &str) -> Option<&Value> {
        let idx = self.columns.iter().position(|name| name == column)?;
        self.values.get(idx)?.as_ref()
    }

    /// Returns the integer in a column.
    pub(crate) fn integer(&self, column: &str) -> Option<i64> {
        match self.get(column) {
            Some(Value::Integer(number)) => Some(*number),
            Some(Value::Null | Value::Text(_)) | None => None,
        }
    }

    /// Returns the text in a column.
    pub(crate) fn text(&self, column: &str) -> Option<&str> {
        match self.get(column) {
            Some(Value::Text(text)) => Some(text),
            Some(Value::Null | Value::Integer(_)) | None => None,
        }
    }
}

/// A statement with its values.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

impl Statement {
    /// Returns a statement without bound values.
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql: Cow::Borrowed(sql), values: Vec::new() }
    }

    /// Binds the next value, which the statement names `$1`, `$2`, and so on.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Appends to the text of the statement.
    pub(crate) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.to_mut().push_str(sql);
        self
    }

    /// Appends the placeholder of a value, and binds the value.
    pub(crate) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        let number = self.values.len();
        let _ = write!(self.sql.to_mut(), "${number}"); // writing to a String cannot fail
        self
    }

    /// Appends the placeholders of values, separated by commas, and binds the values.
    pub(crate) fn push_list<V: Into<Value>>(
        &mut self,
        values: impl Iterator<Item = V>,
    ) -> &mut Self {
        for (idx, value) in values.enumerate() {
            self.push(if idx == 0 { "" } else { ", " }).push_bind(value);
        }
        self
    }

    /// Returns the text of the statement.
    #[cfg(test)]
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    /// Runs the statement to its end and returns every row.
    pub(crate) fn run(&self, connection: &Connection) -> rusqlite::Result<Vec<Row>> {
        let mut prepared = connection.prepare_cached(&self.sql)?;
        for idx in 1..=prepared.parameter_count() {
            let value = prepared.parameter_name(idx).and_then(|name| self.value(name));
            let missing = rusqlite::Error::InvalidParameterCount(self.values.len(), idx);
            prepared.raw_bind_parameter(idx, value.ok_or(missing)?)?;
        }
        let columns: Arc<[String]> = prepared.column_names().map(str::to_owned).collect();
        let mut found = prepared.raw_query();
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let values = (0..columns.len())
                .map(|idx| row.get_ref(idx).map(read))
                .collect::<rusqlite::Result<_>>()?;
            rows.push(Row { columns: Arc::clone(&columns), values });
        }
        Ok(rows)
    }

    /// Returns the value of the parameter `$1`, `$2`, and so on. To SQLite these are names, which it
    /// numbers in the order of their first use.
    fn value(&self, name: &str) -> Option<&Value> {
        let number: usize = name.strip_prefix('$')?.parse().ok()?;
        self.values.get(number.checked_sub(1)?)
    }
}

fn read(value: ValueRef<'_>) -> Option<Value> {
    match value {
        ValueRef::Null => Some(Value::Null),
        ValueRef::Integer(number) => Some(Value::Integer(number)),
        ValueRef::Text(bytes) => str::from_utf8(bytes).ok().map(Value::from),
        ValueRef::Real(_) | ValueRef::Blob(_) => None,
    }
}
