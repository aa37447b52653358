//! Why the work on a transfer stops early, and what the log and the caller get.

use filepull_core::file_digest::FileDigests;
use filepull_core::human::chain;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{BeginError, PhaseError, Transfer, UnchangedFile};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Reply, refuse};
use crate::records::RecordsError;
use crate::store::StoreError;

/// Why the work on a transfer stops before the download is published.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The attempt ended early. The task tries again.
    Interrupted {
        reason: String,
        /// The attempt received bytes.
        progress: bool,
    },
    /// The server lacks a resource, such as space or file descriptors. The task tries again. What
    /// was being written must not be used any more, only its checkpoint.
    Deferred(Problem),
    /// The transfer ends with this problem.
    Failed(Problem),
    /// The transfer is sealed and the disk failed, so the name may exist. The task checks the disk
    /// until it is known.
    Unknown(Problem),
    /// The task ends and the record stays: the process stops, or the record belongs to another
    /// task.
    Stopped,
}

impl Outcome {
    /// The outcome of an attempt that received nothing.
    pub(crate) fn no_progress(reason: impl Into<String>) -> Self {
        Self::Interrupted { reason: reason.into(), progress: false }
    }

    /// Returns the problem for a caller that waits for a record.
    pub(crate) fn into_record_problem(self) -> Problem {
        match self {
            Self::Deferred(problem) | Self::Failed(problem) | Self::Unknown(problem) => problem,
            Self::Interrupted { .. } | Self::Stopped => {
                let detail = "The record of the transfer has changed in the database.";
                Problem::new(Code::RecordsFailed, detail)
            }
        }
    }
}

impl From<Problem> for Outcome {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl From<PhaseError> for Outcome {
    fn from(error: PhaseError) -> Self {
        Self::Failed(Problem::new(Code::Internal, error.to_string()))
    }
}

/// Logs a disk error, and returns its effect on the transfer.
pub(crate) fn classify(error: &StoreError) -> Outcome {
    let problem = store_failed(error);
    if problem.code == Code::StorageFailed {
        Outcome::Failed(problem)
    } else {
        Outcome::Deferred(problem)
    }
}

/// Logs a disk error, and returns its problem. The code is `storage-failed` unless the server lacks
/// a resource that may become available again.
pub(crate) fn store_failed(error: &StoreError) -> Problem {
    error!(event = "store.failed", error = %chain(error), "the disk failed");
    if error.is_out_of_descriptors() {
        let detail = "The server has too many files and connections open.";
        Problem::new(Code::ServerBusy, detail)
    } else if error.is_out_of_inodes() {
        let detail = "The server's disk has no inodes left: it can hold no more files.";
        Problem::new(Code::ServerFull, detail)
    } else if error.is_full() {
        Problem::new(Code::ServerFull, "The server's disk is full.")
    } else {
        let detail = format!("The server could not write to its disk: {}.", chain(error));
        Problem::new(Code::StorageFailed, detail)
    }
}

/// Sends the agent the reason why its upload may not begin.
pub(crate) fn reject(error: BeginError, replies: &mpsc::Sender<Reply>) -> Outcome {
    let expected = match error {
        BeginError::WrongOffset { expected, .. } => Some(expected),
        BeginError::StaleAttempt { .. } => None,
    };
    let reason = error.to_string();
    refuse(replies, Problem::new(Code::TransferUnknown, &*reason), expected);
    Outcome::no_progress(reason)
}

/// Returns the outcome of an upload without a trailer. If the agent waited for this server's disk
/// before, the disk is the reason.
pub(crate) fn broken(reason: String, progress: bool, disk_stalled: bool) -> Outcome {
    if !disk_stalled {
        return Outcome::Interrupted { reason, progress };
    }
    let detail = format!("The server's disk did not answer in time, and then {reason}.");
    Outcome::Deferred(Problem::new(Code::StorageFailed, detail))
}

/// Logs a database error, and returns a problem without its details.
pub(crate) fn records_failed(error: &RecordsError) -> Problem {
    error!(event = "records.failed", error = %chain(error), "the records failed");
    records_problem(error)
}

/// Returns the problem of a database error, without its details.
pub(crate) fn records_problem(error: &RecordsError) -> Problem {
    if error.is_full() {
        return Problem::new(Code::ServerFull, "The server's disk is full.");
    }
    if let RecordsError::Gone { .. } = error {
        let detail = "The files of the server's records were deleted, moved or replaced.";
        return Problem::new(Code::RecordsFailed, detail);
    }
    Problem::new(Code::RecordsFailed, "The server could not read or write its records.")
}

/// Logs that the transfer is on record. It starts at once, or waits for its client.
pub(crate) fn log_created(transfer: &Transfer, request_id: Uuid, is_connected: bool) {
    let Transfer { path, requested_by, .. } = transfer;
    let path = path.as_ref().map(|path| path.as_str());
    info!(event = "transfer.created", path, requested_by, %request_id, "transfer created");
    if !is_connected {
        info!(
            event = "transfer.queued", path, requested_by, %request_id,
            "transfer queued until the client is connected"
        );
    }
}

/// Logs that the record is final or of a later attempt: the task that wrote it continues the
/// transfer.
pub(crate) fn log_lost(attempt: u32) {
    error!(event = "transfer.lost", attempt, "another task has changed the record");
}

/// Logs the download of a transfer that is done.
pub(crate) fn log_done(transfer: &Transfer) {
    let Some(download) = transfer.download() else { return };
    let FileDigests { blake3, sha256 } = download.digests;
    info!(
        event = "transfer.done", size = download.size, sent = transfer.sent,
        base = transfer.base_use.as_str(),
        duration_seconds = seconds_taken(transfer), attempt = transfer.attempt, %sha256, %blake3,
        file = %download.name, "transfer done"
    );
}

/// Logs that the file of a transfer equals an earlier download.
pub(crate) fn log_unchanged(transfer: &Transfer) {
    let Some(UnchangedFile { source, since }) = transfer.phase.unchanged() else { return };
    info!(
        event = "transfer.unchanged", size = source.size,
        duration_seconds = seconds_taken(transfer), attempt = transfer.attempt, since = %since,
        "transfer ended without a file, because nothing has changed"
    );
}

/// Logs the problem of a transfer that failed or was cancelled.
pub(crate) fn log_failed(transfer: &Transfer) {
    let Some(problem) = transfer.problem() else { return };
    let code = problem.code;
    let detail = problem.detail.as_str();
    if code == Code::Cancelled {
        info!(event = "transfer.cancelled", detail, "transfer cancelled");
    } else {
        warn!(event = "transfer.failed", %code, detail, "transfer failed");
    }
}

/// Returns the time from the first order to the end, in seconds.
fn seconds_taken(transfer: &Transfer) -> f64 {
    match (transfer.started_at, transfer.finished_at) {
        (Some(started), Some(finished)) => {
            (finished - started).to_std().unwrap_or_default().as_secs_f64()
        }
        (Some(_) | None, _) => 0.0,
    }
}
