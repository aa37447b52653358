//! The table `cancels`: accepted cancels that could not be completed at once. The task of a transfer,
//! which writes the transfer's row, may be waiting for the disk, so cancels have their own table.

use filepull_core::id::TransferId;
use tracing::error;

use super::Records;
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};

const KEEP: &str =
    "INSERT INTO cancels (transfer, detail) VALUES ($1, $2) ON CONFLICT (transfer) DO NOTHING";

const ALL: &str = "SELECT * FROM cancels";

const FORGET: &str = "DELETE FROM cancels WHERE transfer = $1";

impl Records {
    /// Records the cancel of an unfinished transfer, unless it has one. If this process does not
    /// complete the cancel, the next process does.
    pub(crate) async fn keep_cancel(
        &self,
        transfer: TransferId,
        detail: &str,
    ) -> Result<(), RecordsError> {
        let keep = Statement::new(KEEP).bind(transfer.to_string()).bind(detail);
        self.writer.write(keep).await.map(drop)
    }

    /// Returns every recorded cancel with its detail. A damaged row is logged and left out.
    pub(crate) async fn cancels(&self) -> Result<Vec<(TransferId, String)>, RecordsError> {
        let rows = self.readers.list(Statement::new(ALL)).await?;
        Ok(rows.iter().filter_map(|row| read(row).inspect_err(log).ok()).collect())
    }

    /// Removes the cancel of a final transfer. After an error the row may stay, which has no effect.
    pub(crate) async fn forget_cancel(&self, transfer: TransferId) -> Result<(), RecordsError> {
        self.writer.write(Statement::new(FORGET).bind(transfer.to_string())).await.map(drop)
    }
}

fn read(row: &Row) -> Result<(TransferId, String), RecordsError> {
    let fields = RowFields::new("cancel", row);
    let transfer = fields.parse("transfer", |text| TransferId::parse(text).ok())?;
    Ok((transfer, fields.text("detail")?.to_owned()))
}

fn log(error: &RecordsError) {
    error!(event = "records.damaged", %error, "a cancel cannot be read");
}
