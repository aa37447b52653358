//! Rows of transfers that cannot be read: each is an item of its own, so that it fails neither a list
//! nor the startup.

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;

use super::RecordsError;
use super::fields::RowFields;
use super::list::{Cursor, PhaseName};
use super::statement::{Row, Statement};

/// A row of the table of transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedTransfer {
    /// The transfer that it holds.
    Readable(Box<Transfer>),
    /// It is damaged, or a newer version wrote it.
    Damaged(DamagedTransfer),
}

/// A row that cannot be read, and what can be read of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedTransfer {
    /// The id as text. Characters that cannot be printed are replaced.
    pub id: String,
    /// Whose file.
    pub client: Option<ClientId>,
    /// When the file was asked for.
    pub created_at: Option<DateTime<Utc>>,
    /// Why the row cannot be read.
    pub reason: String,
    /// The id, unless it is damaged too.
    pub transfer: Option<TransferId>,
    /// The state says that the transfer is unfinished.
    is_unfinished: bool,
}

/// Ends a damaged transfer. The checksum stays as it is: which of the fields is wrong is unknown.
const END: &str = "UPDATE transfers SET state = 'failed', finished_at = $2, error_code = $3, \
     error_detail = $4, error_hint = $5 WHERE id = $1 AND state IN ('queued', 'receiving', 'sealed')";

/// Characters of a reason that are shown.
const MAX_REASON: usize = 200;

impl RecordedTransfer {
    /// The transfer, if the row is readable.
    pub fn readable(self) -> Option<Transfer> {
        match self {
            Self::Readable(transfer) => Some(*transfer),
            Self::Damaged(_) => None,
        }
    }

    /// Whose file.
    pub fn client(&self) -> Option<&ClientId> {
        match self {
            Self::Readable(transfer) => Some(&transfer.client),
            Self::Damaged(damaged) => damaged.client.as_ref(),
        }
    }

    /// Reads what can be read of a row whose reading ended with `error`.
    pub(super) fn damaged(row: &Row, error: &RecordsError) -> Self {
        let fields = RowFields::new("transfer", row);
        let reason = match error {
            RecordsError::Damaged { column: "row_check", .. } => {
                "the checksum of the row does not match".to_owned()
            }
            RecordsError::Damaged { column, found, .. } => format!("{column} is {found}"),
            RecordsError::InUse { .. }
            | RecordsError::TooNew { .. }
            | RecordsError::TooOld { .. }
            | RecordsError::Schema { .. }
            | RecordsError::Folder { .. }
            | RecordsError::Database(_)
            | RecordsError::Gone { .. }
            | RecordsError::Closed => error.to_string(),
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

impl DamagedTransfer {
    /// The position in a list, as far as it is known.
    pub fn cursor(&self) -> Option<Cursor> {
        Some(Cursor::new(self.created_at?, self.transfer?))
    }

    /// Returns the problem for a caller that requests this transfer.
    pub fn problem(&self) -> Problem {
        let detail = format!("The record of transfer {} is damaged: {}.", self.id, self.reason);
        Problem::new(Code::StorageFailed, detail)
            .hint("Check the server's disk and memory; pull the file again.")
    }

    /// The statement that ends the transfer as failed, if it is unfinished.
    pub(super) fn end(&self, now: DateTime<Utc>) -> Option<Statement> {
        let id = self.transfer.filter(|_| self.is_unfinished)?;
        let Problem { code, detail, hint } = self.problem();
        let end = Statement::new(END).bind(id.to_string()).bind(now.timestamp_millis());
        Some(end.bind(code.as_str()).bind(detail).bind(hint))
    }
}
