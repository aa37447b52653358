//! Accepted cancels that could not be carried out at once. They have their own table, because the
//! task of the transfer, which writes the transfer's row, may be waiting for the disk.

use filepull_core::id::TransferId;
use tracing::error;

use super::RecordsError;
use super::fields::RowFields;
use super::readers::Readers;
use super::statement::{Row, Statement};

const KEEP: &str =
    "INSERT INTO cancels (transfer, detail) VALUES ($1, $2) ON CONFLICT (transfer) DO NOTHING";

const ALL: &str = "SELECT * FROM cancels";

const FORGET: &str = "DELETE FROM cancels WHERE transfer = $1";

/// The statement that keeps a cancel. The first one counts.
pub(super) fn keep(transfer: TransferId, detail: &str) -> Statement {
    Statement::new(KEEP).bind(transfer.to_string()).bind(detail)
}

/// The statement that forgets a cancel, because its transfer is final.
pub(super) fn forget(transfer: TransferId) -> Statement {
    Statement::new(FORGET).bind(transfer.to_string())
}

/// Every cancel, with its detail. One that cannot be read is logged and left out.
pub(super) async fn all(readers: &Readers) -> Result<Vec<(TransferId, String)>, RecordsError> {
    let rows = readers.list(Statement::new(ALL)).await?;
    Ok(rows.iter().filter_map(|row| read(row).inspect_err(log).ok()).collect())
}

fn read(row: &Row) -> Result<(TransferId, String), RecordsError> {
    let fields = RowFields::new("cancel", row);
    let transfer = fields.parse("transfer", |text| TransferId::parse(text).ok())?;
    Ok((transfer, fields.text("detail")?.to_owned()))
}

fn log(error: &RecordsError) {
    error!(event = "records.damaged", %error, "a cancel cannot be read");
}
