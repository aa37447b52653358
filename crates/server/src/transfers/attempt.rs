//! One attempt of a transfer: an order to a connected client, and its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::pull_mode::PullMode;
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::Transfer;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::base::OfferedBase;
use super::disk::run;
use super::outcome::{Outcome, log_unchanged};
use super::progress::StallTimer;
use super::task::TransferTask;
use super::upload::bytes_to_store;
use super::view::Activity;
use super::{Answer, Command, Upload, now};
use crate::client::DefaultFile;
use crate::registry::{EndReason, Message, SendOrder, SessionHandle};

/// A live agent answers an order within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What follows an order.
enum OrderResponse {
    /// The agent sends the file.
    Upload(Box<Upload>),
    /// The file equals the base.
    Unchanged(Source),
}

impl TransferTask {
    /// Orders the file from a connected client, and receives the upload.
    pub(crate) async fn attempt(&mut self, session: &SessionHandle) -> Result<(), Outcome> {
        self.recover_prefix().await?;
        self.base = self.find_base(session).await?;
        // From now on the source may be open.
        self.ordered.store(true, Ordering::SeqCst);
        let mut next = self.start_change();
        next.epoch = session.epoch;
        if next.next_attempt(now()) == 1 {
            // The only change that is not recorded first: the first order does not wait for the
            // disk. Its token distinguishes it from a first order of the next process.
            self.transfer = next;
        } else {
            self.finish_change(next).await?;
        }
        let order = self.order();
        let token = order.token;
        self.show(Activity::Ordered);
        if let Err(error) = session.send(Message::Start(Box::new(order))) {
            return Err(Outcome::no_progress(error.to_string()));
        }
        match self.wait_for_response(session, token).await? {
            OrderResponse::Upload(upload) => self.receive(session, *upload).await,
            OrderResponse::Unchanged(source) => self.end_unchanged(source).await,
        }
    }

    /// Opens the base that the next order offers.
    async fn find_base(&mut self, session: &SessionHandle) -> Result<Option<OfferedBase>, Outcome> {
        let context = Arc::clone(&self.context);
        let transfer = self.start_change();
        let session = session.clone();
        self.or_cancelled(async move { context.open_base(&transfer, &session).await }).await
    }

    /// Ends the transfer without a file, once the base is proven to have the bytes of the client.
    async fn end_unchanged(&mut self, source: Source) -> Result<(), Outcome> {
        let may_end = self.transfer.mode == PullMode::IfChanged;
        let compared = self.base.clone().filter(|base| may_end && base.offer.len == source.size);
        let Some(base) = compared else {
            let reason = "the agent compared the file with a base that it was not offered";
            return Err(Outcome::no_progress(reason));
        };
        let since = base.download.name.clone();
        let store = self.context.store.clone();
        let checked = self.or_cancelled(run(move || base.check(&store))).await?;
        if let Err(reason) = checked {
            return self.base_failed(reason).await;
        }
        let mut next = self.start_change();
        next.end_unchanged(source, since, now())?;
        self.finish_change(next).await?;
        self.abort().await;
        log_unchanged(&self.transfer);
        self.view.send_modify(|view| {
            view.bytes_done = 0;
            view.bytes_sent = self.transfer.sent;
            view.transfer = self.transfer.clone();
            view.bytes_per_second = None;
        });
        Ok(())
    }

    /// Starts over without a base, because the last download is damaged or gone. The next attempt sends
    /// the complete file.
    pub(crate) async fn base_failed(&mut self, reason: String) -> Result<(), Outcome> {
        self.traffic.base_failed();
        if let Some(base) = self.base.take() {
            self.context.report_base(&base, &reason);
        }
        self.start_over().await?;
        Err(Outcome::Interrupted { reason, progress: true })
    }

    fn order(&self) -> SendOrder {
        let Transfer { id, attempt, path, requested_by, .. } = self.transfer.clone();
        let prefix =
            self.partial.as_ref().map_or_else(Prefix::empty, |partial| partial.receiver().prefix());
        let max_size = self.context.limits.max_file_size;
        let base = self.base.as_ref().map(|base| base.offer);
        let token = Uuid::new_v4();
        SendOrder {
            transfer: id,
            attempt,
            path,
            prefix,
            base,
            if_changed: self.transfer.mode == PullMode::IfChanged && base.is_some(),
            token,
            max_size,
            requested_by,
        }
    }

    /// Waits for the upload that answers the order, or for the answer that makes it unnecessary.
    async fn wait_for_response(
        &mut self,
        session: &SessionHandle,
        token: Uuid,
    ) -> Result<OrderResponse, Outcome> {
        let attempt = self.transfer.attempt;
        let answer_by = Instant::now() + ANSWER_LIMIT;
        // Set once the agent has opened the file. Before its upload begins, the agent hashes the
        // bytes that the server has, and repeats `accepted` meanwhile.
        let mut stall_timer: Option<StallTimer> = None;
        let session_changed = self.session_changed(session.epoch);
        tokio::pin!(session_changed);
        let stop = self.context.lifecycle.stop().clone();
        loop {
            let deadline = stall_timer.map_or(answer_by, |timer| timer.deadline());
            let command = tokio::select! {
                Some(command) = self.commands.recv() => command,
                () = &mut session_changed => return Err(Outcome::no_progress("the session was lost")),
                () = stop.cancelled() => return Err(Outcome::Stopped),
                () = sleep_until(deadline) => return Err(no_answer(session, stall_timer.is_some())),
            };
            match command {
                Command::Upload(upload) if upload.attempt == attempt && upload.token == token => {
                    // The upload has its own connection, so it may arrive before `accepted`.
                    self.source_opened(&upload.source);
                    return Ok(OrderResponse::Upload(upload));
                }
                Command::Answer { attempt: answered, answer } if answered == attempt => {
                    self.renew_timer(&mut stall_timer);
                    if let Some(response) = self.handle_answer(session, answer).await? {
                        return Ok(response);
                    }
                }
                Command::Cancel(problem) => return Err(self.cancel_upload(session, problem)),
                command
                @ (Command::Upload(_) | Command::Answer { .. } | Command::Extend { .. }) => {
                    self.handle_between_attempts(command).await?;
                }
            }
        }
    }

    fn renew_timer(&self, stall_timer: &mut Option<StallTimer>) {
        let now = Instant::now();
        let stall_timeout = self.context.limits.stall_timeout;
        let new = || StallTimer::new(self.received(), stall_timeout, now);
        stall_timer.get_or_insert_with(new).keepalive(now);
    }

    /// Handles the answer to the order. Any answer but `accepted` and `unchanged` ends the attempt.
    async fn handle_answer(
        &mut self,
        session: &SessionHandle,
        answer: Answer,
    ) -> Result<Option<OrderResponse>, Outcome> {
        let (source, stored) = match answer {
            Answer::Accepted { source, stored } => (source, stored),
            Answer::Unchanged(source) => {
                self.source_opened(&source);
                return Ok(Some(OrderResponse::Unchanged(source)));
            }
            Answer::Refused(problem) => {
                if is_about_the_file(problem.code) {
                    self.note_default_file(Err(problem.code));
                }
                return Err(problem.into());
            }
            Answer::TryAgain(reason) => return Err(Outcome::no_progress(reason)),
        };
        self.source_opened(&source);
        let stored = bytes_to_store(session, source.size, stored);
        // Checked while the trigger still waits for its answer. The upload is checked again.
        let checked = self.check_size_and_space(source.size, stored).await;
        if let Err(Outcome::Failed(problem) | Outcome::Deferred(problem)) = &checked {
            self.send_cancel(session, problem);
        }
        checked?;
        self.show(Activity::Running);
        Ok(None)
    }

    /// The client has opened the file.
    fn source_opened(&self, source: &Source) {
        self.view.send_modify(|view| view.source = Some(source.clone()));
        self.note_default_file(Ok(source.clone()));
    }

    /// Updates what the registry shows about the client's default file, if that file was ordered.
    fn note_default_file(&self, found: DefaultFile) {
        if self.transfer.path.is_none() {
            self.context.registry.note_default_file(&self.transfer.client, found);
        }
    }

    /// Ends the transfer with `problem`, and sends the reason to the agent.
    pub(crate) fn cancel_upload(&self, session: &SessionHandle, problem: Problem) -> Outcome {
        self.send_cancel(session, &problem);
        problem.into()
    }

    fn send_cancel(&self, session: &SessionHandle, problem: &Problem) {
        let reason = problem.detail.clone();
        // Without a session the agent has nothing to stop.
        let _ = session.send(Message::Cancel { transfer: self.transfer.id, reason });
    }
}

fn no_answer(session: &SessionHandle, accepted: bool) -> Outcome {
    if accepted {
        return Outcome::no_progress("the agent opened the file and sent nothing");
    }
    let limit = human::span(ANSWER_LIMIT);
    let reason = format!("no answer to an order in {limit}");
    session.end(EndReason::Silent(reason.clone()));
    Outcome::no_progress(reason)
}

/// Returns whether a rejection describes the file itself, and not how it would be sent.
fn is_about_the_file(code: Code) -> bool {
    matches!(code, Code::FileMissing | Code::NotAFile | Code::PathNotShared | Code::FileUnreadable)
}
