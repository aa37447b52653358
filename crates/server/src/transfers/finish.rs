//! How a transfer ends, shown and said.

use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{LastProgress, Transfer};
use tracing::{error, info, warn};

use super::failed::NotSaved;
use super::now;
use super::task::TransferTask;
use super::view::Activity;

impl TransferTask {
    pub(super) async fn fail(&mut self, problem: Problem) {
        let on_record = self.view.borrow().stage != Activity::Recording;
        let reached = self.reached();
        if self.transfer.fail(problem, reached, now()).is_err() {
            return; // already final
        }
        // Also if the first record failed: it may be there all the same.
        let saved = self.shared.save(&self.transfer).await;
        if let Err(NotSaved::Lost) = saved {
            return self.log_lost();
        }
        let recorded = saved.is_ok();
        // Also when the records failed, perhaps for want of the room that it takes: a record that
        // speaks of a partial which is gone begins anew.
        self.abort().await;
        // What is not on record is told to nobody.
        if on_record && !recorded && self.record().await.is_err() {
            return;
        }
        if self.transfer.problem().is_some_and(|problem| problem.code == Code::Cancelled) {
            // A cancel that stays on record finds its transfer final.
            let _ = self.shared.records.forget_cancel(self.transfer.id).await;
        }
        self.log_failed();
        self.view.send_modify(|view| {
            view.transfer = self.transfer.clone();
            view.stage = Activity::Starting;
            view.bytes_done = self.transfer.received();
            view.bytes_per_second = None;
        });
    }

    /// How far it has come: what others have seen of it, and what came since they looked.
    fn reached(&self) -> LastProgress {
        let view = self.view.borrow();
        let received = self.held.as_ref().map(|held| held.receiver.received());
        LastProgress { source: view.source.clone(), received: received.unwrap_or(view.bytes_done) }
    }

    pub(super) fn show_done(&self) {
        let Transfer { id, client, attempt, .. } = &self.transfer;
        if let Some(download) = self.transfer.download() {
            let seconds = seconds_taken(&self.transfer);
            info!(
                event = "transfer.done", transfer = %id, %client, size = download.size,
                duration_seconds = seconds, attempt, sha256 = %download.digest,
                file = %download.name, "transfer done"
            );
        }
        self.view.send_modify(|view| {
            view.transfer = self.transfer.clone();
            view.bytes_done = self.transfer.download().map_or(0, |download| download.size);
            view.bytes_per_second = None;
        });
    }

    /// Logs that the transfer is on record: it starts now, or waits for its client.
    pub(super) fn log_created(&self) {
        let Transfer { id, client, path, requested_by, .. } = &self.transfer;
        let (path, request_id) = (path.as_ref().map(|path| path.as_str()), self.request_id);
        info!(
            event = "transfer.created", transfer = %id, %client, path, requested_by, %request_id,
            "transfer created"
        );
        if self.current_line().is_none() {
            info!(
                event = "transfer.queued", transfer = %id, %client, path, requested_by,
                %request_id, "transfer queued until the client is connected"
            );
        }
    }

    /// Logs that the record is final or of a later attempt: the task that wrote it continues the
    /// transfer.
    pub(super) fn log_lost(&self) {
        let Transfer { id, client, attempt, .. } = &self.transfer;
        error!(event = "transfer.lost", transfer = %id, %client, attempt, "the record is not ours");
    }

    fn log_failed(&self) {
        let Transfer { id, client, .. } = &self.transfer;
        let Some(problem) = self.transfer.problem() else { return };
        let (code, detail) = (problem.code, problem.detail.as_str());
        if code == Code::Cancelled {
            info!(event = "transfer.cancelled", transfer = %id, %client, detail, "transfer cancelled");
        } else {
            warn!(
                event = "transfer.failed", transfer = %id, %client, %code, detail,
                "transfer failed"
            );
        }
    }
}

/// How long a transfer took from its first order to its end, in seconds.
fn seconds_taken(transfer: &Transfer) -> f64 {
    let (Some(started), Some(finished)) = (transfer.started_at, transfer.finished_at) else {
        return 0.0;
    };
    (finished - started).to_std().unwrap_or_default().as_secs_f64()
}
