//! Failures of this server's own: the chain goes to the log, a sentence to the operator.

use filepull_core::problem::{Code, Problem};
use tracing::error;

use crate::records::RecordsError;
use crate::store::StoreError;

pub(super) fn records_failed(error: &RecordsError) -> Problem {
    error!(event = "records.failed", error = %chain(error), "the records failed");
    if error.is_full() {
        return Problem::new(Code::ServerFull, "The server's disk is full.");
    }
    Problem::new(Code::StorageFailed, "The server could not read or write its records.")
}

pub(super) fn store_failed(error: &StoreError) -> Problem {
    error!(event = "store.failed", error = %chain(error), "the disk failed");
    if error.is_full() {
        Problem::new(Code::ServerFull, "The server's disk is full.")
    } else {
        Problem::new(Code::StorageFailed, "The server could not write the file to its disk.")
    }
}

/// An error and all its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
