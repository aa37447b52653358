//! Failures of this server's own: the chain goes to the log, a sentence to the operator. What they
//! mean for a transfer is decided in [`Life::meaning`] and nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use filepull_core::human::chain;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;
use tracing::{error, info};

use super::TaskContext;
use super::task::{Ending, TransferTask};
use crate::records::{RecordsError, RequestKey, SaveError};
use crate::store::StoreError;

/// Why a disk operation failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The process lacks file descriptors or the disk lacks space, and both can come back. Without
    /// space, what was being written must not be used any more: only its checkpoint.
    NotNow(Problem),
    /// The disk failed: what was being written must not be used any more.
    Disk(Problem),
}

impl TransferTask {
    /// Returns the effect on the transfer of a failed disk operation.
    ///
    /// A failed record has no effect: it is retried until it is saved.
    pub(super) fn classify(&self, failed: Failed) -> Ending {
        match failed {
            Failed::NotNow(problem) => Ending::NotNow(problem),
            Failed::Disk(problem) => Ending::Failed(problem),
        }
    }
}

pub(super) fn records_failed(error: &RecordsError) -> Problem {
    error!(event = "records.failed", error = %chain(error), "the records failed");
    in_words(error)
}

fn in_words(error: &RecordsError) -> Problem {
    if error.is_full() {
        return Problem::new(Code::ServerFull, "The server's disk is full.");
    }
    if let RecordsError::Gone { .. } = error {
        let detail = "The files of the server's records were deleted, moved or replaced.";
        return Problem::new(Code::RecordsFailed, detail);
    }
    Problem::new(Code::RecordsFailed, "The server could not read or write its records.")
}

pub(super) fn store_failed(error: &StoreError) -> Failed {
    error!(event = "store.failed", error = %chain(error), "the disk failed");
    if error.is_out_of_descriptors() {
        let detail = "The server has too many files and connections open.";
        Failed::NotNow(Problem::new(Code::ServerBusy, detail))
    } else if error.is_out_of_inodes() {
        let detail = "The server's disk has no inodes left: it can hold no more files.";
        Failed::NotNow(Problem::new(Code::ServerFull, detail))
    } else if error.is_full() {
        Failed::NotNow(Problem::new(Code::ServerFull, "The server's disk is full."))
    } else {
        let detail = format!("The server could not write to its disk: {}.", chain(error));
        Failed::Disk(Problem::new(Code::StorageFailed, detail))
    }
}

/// Why a transfer was not put on record.
#[derive(Debug)]
pub(super) enum NotSaved {
    /// The record no longer belongs to this task.
    Lost,
    /// The records failed. They may work later.
    Failed(Problem),
}

impl NotSaved {
    /// Returns the problem for a caller that waits for the save.
    pub(super) fn into_problem(self) -> Problem {
        match self {
            Self::Failed(problem) => problem,
            Self::Lost => {
                let detail = "The record of the transfer has changed in the database.";
                Problem::new(Code::RecordsFailed, detail)
            }
        }
    }
}

impl From<NotSaved> for Ending {
    fn from(not_saved: NotSaved) -> Self {
        match not_saved {
            NotSaved::Lost => Self::Lost,
            NotSaved::Failed(problem) => Self::Failed(problem),
        }
    }
}

impl TaskContext {
    /// Puts a transfer on record.
    pub(super) async fn save(&self, transfer: &Transfer) -> Result<(), NotSaved> {
        self.noted(self.records.save(transfer).await)
    }

    /// Puts a new transfer on record with the key of its request.
    pub(super) async fn save_keyed(
        &self,
        transfer: &Transfer,
        key: &RequestKey,
    ) -> Result<(), NotSaved> {
        self.noted(self.records.save_keyed(transfer, key).await)
    }

    /// Puts the checkpoint of a transfer on record.
    pub(super) async fn save_checkpoint(&self, transfer: &Transfer) -> Result<(), NotSaved> {
        self.noted(self.records.save_checkpoint(transfer).await)
    }

    /// Logs once when the records begin to fail, and once when they work again, not for each
    /// transfer.
    fn noted(&self, saved: Result<(), SaveError>) -> Result<(), NotSaved> {
        match saved {
            Ok(()) | Err(SaveError::Lost) => {
                if self.records_fail.swap(false, Ordering::Relaxed) {
                    info!(event = "records.recovered", "the records work again");
                }
                saved.map_err(|_| NotSaved::Lost)
            }
            Err(SaveError::Records(error)) => {
                if !self.records_fail.swap(true, Ordering::Relaxed) {
                    error!(event = "records.failed", error = %chain(&error), "the records failed");
                }
                Err(NotSaved::Failed(in_words(&error)))
            }
        }
    }
}

/// A transfer that waits until this server's own disk or records work again; until this is dropped.
#[derive(Debug)]
pub(super) struct Waits(Arc<AtomicUsize>);

impl Waits {
    pub(super) fn begin(shared: &TaskContext) -> Self {
        shared.n_waits.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&shared.n_waits))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
