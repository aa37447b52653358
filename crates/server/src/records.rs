//! The durable record of every transfer and client, in one SQLite file.
//!
//! When a method that writes returns, the write survives a power cut. Times are stored in whole
//! milliseconds. `core::transfer` has the rules for the phases of a transfer. The records enforce
//! one of them: a final transfer never changes.
//!
//! Each table has one file: `transfers`, `idempotency`, `cancels`, `clients`, `client_keys`, `invites`,
//! `redemptions`, `receipts`, `scrubs` and `audit`. A change and its audit record are one `Change`. The SQL is
//! the dialect that PostgreSQL shares, so that another engine can replace SQLite.

mod audit;
mod audit_list;
mod audit_walk;
mod cancels;
mod change;
mod checksum;
mod client_keys;
mod client_list;
mod clients;
mod cursor;
mod damaged;
mod error;
mod expired;
mod fields;
mod file_damage;
mod guard;
mod idempotency;
mod invites;
mod list;
mod lock;
mod open;
mod pin_waits;
mod reader;
mod readers;
mod receipts;
mod redemptions;
mod schema;
mod scope;
mod scrubs;
mod statement;
#[cfg(test)]
mod tests;
mod token_uses;
mod transaction;
mod transfer_row;
mod transfers;
mod walk;
mod writer;

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::error;

pub(crate) use audit::{Actor, AuditEntry};
pub(crate) use audit_list::{AuditFilter, AuditOrder, ReadAuditRecord};
pub(crate) use client_keys::PinHolders;
pub(crate) use client_list::{ClientListItem, ClientOrder, ClientSearch};
pub use clients::ConnectOutcome;
pub use cursor::Cursor;
pub use damaged::{DamagedTransfer, RecordedTransfer};
pub use error::{RecordsError, SaveError};
pub(crate) use expired::OldTransfers;
use file_damage::FileDamage;
pub(crate) use idempotency::{KEEP_KEYS, KeyOutcome, RequestKey};
pub(crate) use invites::{InviteRejection, NewInvite};
pub use list::{Total, TransferFilter, TransferPage};
pub(crate) use lock::create_folder;
pub(crate) use pin_waits::PinWaits;
pub use reader::DownloadTotals;
pub(crate) use reader::RecordsReader;
use readers::Readers;
pub(crate) use redemptions::{EnrolledKey, RedeemRejection, RedeemRequest};
pub(crate) use scrubs::{DownloadState, UnreadDownloads};
pub use transfers::UnfinishedRecords;
use writer::RecordsWriter;

/// A handle on the records; cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    writer: RecordsWriter,
    readers: Readers,
    damage: FileDamage,
    /// The number of clients at the last count.
    n_clients: Arc<AtomicU64>,
    /// The damaged records that have been logged.
    logged: Arc<Mutex<HashSet<String>>>,
}

/// Maximum number of damaged records that are logged. Bounds the memory and the log.
const MAX_LOGGED: usize = 1000;

impl Records {
    /// Commits the writes that wait, accepts no more, and unlocks the folder.
    ///
    /// # Errors
    /// The file was not closed properly. No record is lost: the next start reads SQLite's log.
    pub async fn close(&self) -> Result<(), RecordsError> {
        // Readers first, because the last connection to close removes SQLite's log.
        self.readers.close().await;
        self.writer.stop().await
    }

    /// Returns the damage that statements have found in the file, and what to do next; none while no
    /// damage is known.
    pub(crate) fn file_damage(&self) -> Option<String> {
        self.damage.finding()
    }

    /// Logs each damaged record once.
    fn log_damaged<'a>(&self, items: impl IntoIterator<Item = &'a RecordedTransfer>) {
        for item in items {
            if let RecordedTransfer::Damaged(DamagedTransfer { id, reason, .. }) = item {
                self.log_once(&format!("transfer {id}"), reason);
            }
        }
    }

    /// Returns a client that can be read. Logs a damaged record once.
    fn readable<T>(&self, read: Result<T, RecordsError>) -> Option<T> {
        read.inspect_err(|error| self.log_once(error.record(), &error.to_string())).ok()
    }

    fn log_once(&self, record: &str, reason: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED && logged.insert(record.to_owned()) {
            error!(event = "records.damaged", record, reason, "a record cannot be read");
        }
    }
}
