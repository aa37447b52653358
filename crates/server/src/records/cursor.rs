//! The position of a transfer in every list.

use std::fmt;

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;

use super::statement::Statement;

/// The position of a transfer in every list: by creation time, then by id. Its text names the end of
/// a page. New transfers do not move it, and the text sorts as the positions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The creation time, in milliseconds since 1970.
    created_at: i64,
    id: TransferId,
}

impl Cursor {
    pub(crate) fn new(created_at: DateTime<Utc>, id: TransferId) -> Self {
        Self { created_at: created_at.timestamp_millis(), id }
    }

    pub(crate) fn of(transfer: &Transfer) -> Self {
        Self::new(transfer.created_at, transfer.id)
    }

    pub(crate) fn created_at_millis(self) -> i64 {
        self.created_at
    }

    pub(crate) fn id(self) -> TransferId {
        self.id
    }

    /// Parses the text of a cursor.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (created_at, id) = text.split_once('~')?;
        Some(Self { created_at: created_at.parse().ok()?, id: TransferId::parse(id).ok()? })
    }

    /// Appends the condition of a page that begins after this position.
    pub(crate) fn push_before(self, query: &mut Statement) {
        query.push(" AND (created_at, id) < (").push_bind(self.created_at);
        query.push(", ").push_bind(self.id.to_string()).push(")");
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}~{}", self.created_at, self.id)
    }
}
