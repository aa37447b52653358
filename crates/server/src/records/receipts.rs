//! The table `receipts`: what agents signed. A receipt becomes durable with the seal of its transfer,
//! because after the seal a server publishes the file without the agent.

use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;

use super::change::Change;
use super::error::{RecordsError, SaveError};
use super::statement::Statement;
use super::{Records, transfer_row};

const KEEP: &str = "INSERT INTO receipts (transfer, jws) VALUES ($1, $2) \
     ON CONFLICT (transfer) DO UPDATE SET jws = excluded.jws";

const ONE: &str = "SELECT jws FROM receipts WHERE transfer = $1";

/// Runs with the removal of the transfer.
const FORGET: &str = "DELETE FROM receipts WHERE transfer = $1";

impl Records {
    /// Saves a sealed transfer and its receipt, both or neither. A transfer that was sealed before
    /// gets the new receipt.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub(crate) async fn save_sealed(
        &self,
        transfer: &Transfer,
        receipt: &str,
    ) -> Result<(), SaveError> {
        let keep = Statement::new(KEEP).bind(transfer.id.to_string()).bind(receipt);
        let change = Change::new(vec![transfer_row::save(transfer), keep]).if_row();
        self.save_unless_lost(change).await
    }

    /// Returns the receipt of a transfer; none if its agent had no key.
    pub(crate) async fn receipt(&self, id: TransferId) -> Result<Option<String>, RecordsError> {
        let row = self.readers.point(Statement::new(ONE).bind(id.to_string())).await?;
        Ok(row.and_then(|row| row.text("jws").map(str::to_owned)))
    }
}

/// Returns the statement that removes the receipt of a transfer.
pub(crate) fn forget(id: TransferId) -> Statement {
    Statement::new(FORGET).bind(id.to_string())
}
