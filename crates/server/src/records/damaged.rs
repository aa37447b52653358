//! Rows of transfers that cannot be read. Each is an item of its own, so that it fails neither a list
//! nor the start of the server.

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{PhaseName, Transfer};

use super::cursor::Cursor;
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};

/// A row of the table of transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedTransfer {
    /// The transfer of a valid row.
    Readable(Box<Transfer>),
    /// A row that is damaged, or that a newer version wrote.
    Damaged(DamagedTransfer),
}

/// A row that cannot be read, with the fields that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedTransfer {
    /// The id as text. Unprintable characters are replaced.
    pub id: String,
    /// The client, if its id can be read.
    pub client: Option<ClientId>,
    /// The creation time, if it can be read.
    pub created_at: Option<DateTime<Utc>>,
    /// Why the row cannot be read.
    pub reason: String,
    /// The id, if it is valid.
    pub transfer: Option<TransferId>,
    /// Whether the state is one of an unfinished transfer.
    is_unfinished: bool,
}

/// Ends a damaged transfer. The checksum stays wrong, because the damaged field is unknown.
const END: &str = "UPDATE transfers SET state = 'failed', finished_at = $2, error_code = $3, \
     error_detail = $4, error_hint = $5 WHERE id = $1 AND state IN ('queued', 'receiving', 'sealed')";

/// Maximum number of characters of a reason that are shown.
const MAX_REASON: usize = 200;

impl RecordedTransfer {
    /// Returns the client, if its id can be read.
    pub(crate) fn client(&self) -> Option<&ClientId> {
        match self {
            Self::Readable(transfer) => Some(&transfer.client),
            Self::Damaged(damaged) => damaged.client.as_ref(),
        }
    }

    /// Returns the item for a row that could not be read because of `error`.
    pub(crate) fn damaged(row: &Row, error: &RecordsError) -> Self {
        let fields = RowFields::new("transfer", row);
        let reason = match damaged_field(error) {
            Some(("row_check", _)) => "the checksum of the row does not match".to_owned(),
            Some((column, found)) => format!("{column} is {found}"),
            None => error.to_string(),
        };
        let id = row.text("id");
        let is_unfinished = matches!(
            fields.parse("state", PhaseName::parse),
            Ok(PhaseName::Queued | PhaseName::Receiving | PhaseName::Sealed)
        );
        Self::Damaged(DamagedTransfer {
            id: human::printable(id.unwrap_or("unreadable"), 36),
            client: fields.parse("client", |text| ClientId::parse(text).ok()).ok(),
            created_at: fields.time("created_at").ok(),
            reason: human::printable(&reason, MAX_REASON),
            transfer: id.and_then(|id| TransferId::parse(id).ok()),
            is_unfinished,
        })
    }
}

fn damaged_field(error: &RecordsError) -> Option<(&'static str, &str)> {
    if let RecordsError::Damaged { column, found, .. } = error {
        Some((column, found))
    } else {
        None
    }
}

impl DamagedTransfer {
    /// Returns the position in a list, if the creation time and the id are valid.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        Some(Cursor::new(self.created_at?, self.transfer?))
    }

    /// Returns the problem for a caller that requests this transfer.
    pub(crate) fn problem(&self) -> Problem {
        let detail = format!("The record of transfer {} is damaged: {}.", self.id, self.reason);
        Problem::new(Code::StorageFailed, detail)
            .hint("Check the server's disk and memory; pull the file again.")
    }

    /// Returns the statement that ends the transfer as failed, or none if it is not unfinished.
    pub(crate) fn end(&self, now: DateTime<Utc>) -> Option<Statement> {
        let id = self.transfer.filter(|_| self.is_unfinished)?;
        let Problem { code, detail, hint } = self.problem();
        let end = Statement::new(END).bind(id.to_string()).bind(now.timestamp_millis());
        Some(end.bind(code.as_str()).bind(detail).bind(hint))
    }
}
