//! The task of one transfer: it owns the transfer from its first record to its end.
//!
//! The task records the transfer first. Then it waits for the client and for its permits, makes an
//! [attempt](super::attempt), and repeats both until the transfer is final.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{LastProgress, Phase, Transfer};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{Instrument as _, error_span, warn};
use uuid::Uuid;

use super::active::{TaskHandle, ViewSender};
use super::base::OfferedBase;
use super::outcome::{Outcome, log_created, log_failed};
use super::retry::Retry;
use super::traffic::Traffic;
use super::view::{Activity, View};
use super::{COMMANDS_LEN, Command, TaskContext, now, refuse};
use crate::receive::ReceivedPartial;
use crate::records::{AuditEntry, RequestKey};
use crate::registry::ClientSlot;

/// One unfinished transfer and its state.
pub(crate) struct TransferTask {
    pub(crate) context: Arc<TaskContext>,
    /// The transfer as it is on record. [`start_change`](Self::start_change) copies it.
    pub(crate) transfer: Transfer,
    /// The received bytes, between two uploads of this process.
    pub(crate) partial: Option<ReceivedPartial>,
    pub(crate) view: ViewSender,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) ordered: Arc<AtomicBool>,
    pub(crate) slot: ClientSlot,
    /// The permit of the client, from the start until the task waits for its permits.
    pub(crate) client_permit: Option<OwnedSemaphorePermit>,
    /// The key of the request that created the transfer, until both are on record.
    pub(crate) key: Option<RequestKey>,
    /// The audit record of that request, until it is durable.
    pub(crate) audit: Option<AuditEntry>,
    /// The request that created the transfer, for the log.
    pub(crate) request_id: Uuid,
    /// The receipt of the complete upload, which is recorded with the seal.
    pub(crate) receipt: Option<String>,
    /// The record is sealed and the name may exist: only the disk determines the outcome.
    pub(crate) may_be_named: bool,
    /// An accepted cancel that waits until it is known whether the name exists.
    pub(crate) cancel: Option<Problem>,
    pub(crate) retry: Retry,
    pub(crate) traffic: Traffic,
    /// The base of the newest attempt, while it may be used.
    pub(crate) base: Option<OfferedBase>,
    /// This process admitted an upload of the transfer.
    pub(crate) was_admitted: bool,
    /// How many bytes of the disk the file uses; none if its agent has not reported it to this process.
    pub(crate) stored: Option<u64>,
}

impl Drop for TransferTask {
    fn drop(&mut self) {
        // Runs also after a panic: no caller may join a transfer without a task. A caller that still
        // has the handle sees the last view.
        self.context.active.remove(self.transfer.id);
    }
}

impl TransferTask {
    /// Creates the task of a transfer that is not on record yet.
    pub(crate) fn new(context: &Arc<TaskContext>, transfer: Transfer) -> (Self, TaskHandle) {
        let (command_sender, commands) = mpsc::channel(COMMANDS_LEN);
        let (view, receiver) = ViewSender::new(context.active.clone(), View::new(transfer.clone()));
        // An earlier process may have sent an order just before it ended.
        let ordered = Arc::new(AtomicBool::new(transfer.started_at.is_some()));
        let handle = TaskHandle {
            id: transfer.id,
            client: transfer.client.clone(),
            path: transfer.path.clone(),
            mode: transfer.mode,
            created_at: transfer.created_at,
            view: receiver,
            commands: command_sender,
            ordered: Arc::clone(&ordered),
        };
        let task = Self {
            context: Arc::clone(context),
            slot: context.registry.slot(&transfer.client),
            may_be_named: matches!(transfer.phase, Phase::Sealed(_)),
            retry: Retry::new(transfer.setbacks, context.limits.resume_within),
            traffic: Traffic::new(&transfer),
            base: None,
            transfer,
            partial: None,
            view,
            commands,
            ordered,
            client_permit: None,
            key: None,
            audit: None,
            receipt: None,
            request_id: Uuid::nil(),
            cancel: None,
            was_admitted: false,
            stored: None,
        };
        (task, handle)
    }

    /// Creates the task of a transfer that an earlier process left unfinished.
    pub(crate) fn resume(
        context: &Arc<TaskContext>,
        transfer: Transfer,
        cancel: Option<Problem>,
    ) -> (Self, TaskHandle) {
        let (mut task, handle) = Self::new(context, transfer);
        task.cancel = cancel;
        task.show(Activity::Starting);
        (task, handle)
    }

    /// Takes the permit of a client that sends nothing.
    pub(crate) fn try_client_permit(&mut self) {
        self.client_permit = Arc::clone(&self.slot.send_permit).try_acquire_owned().ok();
    }

    /// Spawns the task. It ends when the transfer is final, or when the process stops.
    pub(crate) fn spawn(self) {
        let Transfer { id, client, .. } = &self.transfer;
        // Without a parent: the transfer outlives the request that created it.
        let span = error_span!(parent: None, "transfer", %id, %client);
        let lifecycle = self.context.lifecycle.clone();
        lifecycle.spawn(self.run().instrument(span));
    }

    async fn run(mut self) {
        match self.run_to_end().await {
            Err(Outcome::Failed(problem)) => self.fail(problem).await,
            Ok(())
            | Err(
                Outcome::Stopped
                | Outcome::Interrupted { .. }
                | Outcome::Deferred(_)
                | Outcome::Unknown(_),
            ) => {}
        }
    }

    async fn run_to_end(&mut self) -> Result<(), Outcome> {
        if self.view.borrow().activity == Activity::Recording {
            self.record_first().await?;
            log_created(&self.transfer, self.request_id, self.session().is_some());
            self.show(Activity::Starting);
        }
        if self.may_be_named {
            self.publish().await?;
        }
        while !self.transfer.is_final() {
            // An earlier process may have accepted a cancel.
            self.end_if_cancelled()?;
            if self.context.lifecycle.drain().is_cancelled() {
                return Err(Outcome::Stopped);
            }
            let session = self.wait_for_session().await?;
            let permits = self.wait_for_permits(&session).await?;
            if self.session().is_none_or(|newest| newest.epoch != session.epoch) {
                continue; // the session ended while the task waited for its permits
            }
            let attempted = self.attempt(&session).await;
            self.base = None;
            drop(permits);
            match attempted {
                Ok(()) => return Ok(()),
                // The permits are released: a disk that does not name the file delays no other
                // transfer.
                Err(Outcome::Unknown(_)) => self.publish().await?,
                Err(Outcome::Deferred(problem)) => self.wait_for_resource(problem).await?,
                Err(Outcome::Interrupted { reason, progress }) => {
                    self.wait_to_retry(&session, &reason, progress).await?;
                }
                Err(outcome @ (Outcome::Failed(_) | Outcome::Stopped)) => return Err(outcome),
            }
        }
        Ok(())
    }

    pub(crate) fn end_if_cancelled(&mut self) -> Result<(), Outcome> {
        self.cancel.take().map_or(Ok(()), |cancel| Err(cancel.into()))
    }

    /// Waits for `work`, unless the transfer is cancelled or the server drains.
    pub(crate) async fn or_cancelled<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Outcome> {
        tokio::pin!(work);
        let drain = self.context.lifecycle.drain().clone();
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(command) = self.commands.recv() => {
                    self.handle_between_attempts(command).await?;
                }
                () = drain.cancelled() => return Err(Outcome::Stopped),
            }
        }
    }

    /// Handles a command between attempts. An answer or an upload comes too late. A cancel waits
    /// while the file may have its name.
    pub(crate) async fn handle_between_attempts(
        &mut self,
        command: Command,
    ) -> Result<(), Outcome> {
        match command {
            Command::Cancel(problem) if self.may_be_named => {
                self.cancel.get_or_insert(problem);
                Ok(())
            }
            Command::Cancel(problem) => Err(problem.into()),
            Command::Answer { .. } => Ok(()),
            Command::Extend { until, done } => {
                let mut next = self.start_change();
                self.extend(&mut next, until, done).await;
                Ok(())
            }
            Command::Upload(upload) => {
                let detail = format!("attempt {} is over", upload.attempt);
                refuse(&upload.replies, Problem::new(Code::TransferUnknown, detail), None);
                Ok(())
            }
        }
    }

    /// Moves the deadline of `next`, and of the transfer, to `until` at the earliest. Answers `done`
    /// once the deadline is on record. The caller of a transfer that ends gets no answer.
    pub(crate) async fn extend(
        &mut self,
        next: &mut Transfer,
        until: DateTime<Utc>,
        done: oneshot::Sender<Result<(), Problem>>,
    ) {
        if next.is_final() {
            return;
        }
        let before = next.queue_until;
        // A deadline that a caller has seen must be kept.
        let shown = self.view.borrow().expires_at;
        let later = before.max(shown).max(Some(until));
        let saved = if later == before {
            Ok(())
        } else {
            next.queue_until = later;
            self.context.save(next).await
        };
        if saved.is_err() {
            next.queue_until = before;
        } else {
            self.transfer.queue_until = next.queue_until;
            self.transfer.setbacks = next.setbacks;
            self.view.send_modify(|view| {
                view.transfer.queue_until = later;
                view.expires_at = view.expires_at.and(later);
            });
        }
        // A caller that disconnected needs no answer.
        let _ = done.send(saved.map_err(Outcome::into_record_problem));
    }

    /// Ends the transfer without a download.
    async fn fail(&mut self, problem: Problem) {
        let on_record = self.view.borrow().activity != Activity::Recording;
        let mut failed = self.start_change();
        if failed.fail(problem, self.last_progress(), now()).is_err() {
            return;
        }
        // Also if the first record failed: it may be durable all the same.
        let saved = self.save_change(&failed).await;
        if let Err(Outcome::Stopped) = saved {
            return;
        }
        // Also if the record failed, perhaps because the partial takes the last space: a transfer
        // whose partial is missing starts over.
        self.abort().await;
        // A failure that is not on record is not shown, except to the caller of a new transfer.
        if on_record && saved.is_err() && self.finish_change(failed.clone()).await.is_err() {
            return;
        }
        if failed.problem().is_some_and(|problem| problem.code == Code::Cancelled) {
            // A cancel that stays on record finds a final transfer.
            let _ = self.context.records.forget_cancel(failed.id).await;
        }
        log_failed(&failed);
        self.view.send_modify(|view| {
            view.bytes_done = failed.received();
            view.bytes_sent = failed.sent;
            view.transfer = failed;
            view.activity = Activity::Starting;
            view.bytes_per_second = None;
        });
    }

    /// Returns the progress that callers have seen, with the bytes that arrived since.
    fn last_progress(&self) -> LastProgress {
        let view = self.view.borrow();
        let received = self.partial.as_ref().map(|partial| partial.receiver().received());
        LastProgress { source: view.source.clone(), received: received.unwrap_or(view.bytes_done) }
    }

    /// Returns the bytes received in all attempts.
    pub(crate) fn received(&self) -> u64 {
        self.partial.as_ref().map_or(0, |partial| partial.receiver().received())
    }

    pub(crate) fn log_interrupted(&self, reason: &str) {
        let bytes_done = self.received();
        let attempt = self.transfer.attempt;
        warn!(event = "transfer.interrupted", bytes_done, attempt, reason, "transfer interrupted");
        self.view.send_modify(|view| view.bytes_per_second = None);
    }

    pub(crate) fn show(&self, activity: Activity) {
        self.show_until(activity, None, None);
    }

    /// Shows the activity, and for a wait its deadline and reason.
    pub(crate) fn show_until(
        &self,
        activity: Activity,
        expires_at: Option<DateTime<Utc>>,
        reason: Option<String>,
    ) {
        self.view.send_modify(|view| {
            view.activity = activity;
            view.expires_at = expires_at;
            view.reason = reason;
            view.transfer = self.transfer.clone();
            if view.source.is_none() {
                view.source = self.transfer.source().cloned();
            }
        });
    }
}
