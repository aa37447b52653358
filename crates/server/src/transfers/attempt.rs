//! One attempt of a transfer: an order to a connected client, and its answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::Transfer;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::outcome::Outcome;
use super::progress::StallTimer;
use super::task::TransferTask;
use super::upload::bytes_to_store;
use super::view::Activity;
use super::{Answer, Command, Upload, now};
use crate::client::DefaultFile;
use crate::registry::{EndReason, Message, SendOrder, SessionHandle};

/// A live agent answers an order within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl TransferTask {
    /// Orders the file from a connected client, and receives the upload.
    pub(crate) async fn attempt(&mut self, session: &SessionHandle) -> Result<(), Outcome> {
        self.recover_prefix().await?;
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
        let upload = self.wait_for_upload(session, token).await?;
        self.receive(session, *upload).await
    }

    fn order(&self) -> SendOrder {
        let Transfer { id, attempt, path, requested_by, .. } = self.transfer.clone();
        let prefix =
            self.partial.as_ref().map_or_else(Prefix::empty, |partial| partial.receiver().prefix());
        let max_size = self.context.limits.max_file_size;
        let token = Uuid::new_v4();
        SendOrder {
            transfer: id,
            attempt,
            path,
            prefix,
            base: None,
            if_changed: false,
            token,
            max_size,
            requested_by,
        }
    }

    /// Waits for the upload that answers the order.
    async fn wait_for_upload(
        &mut self,
        session: &SessionHandle,
        token: Uuid,
    ) -> Result<Box<Upload>, Outcome> {
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
                    return Ok(upload);
                }
                Command::Answer { attempt: answered, answer } if answered == attempt => {
                    self.renew_timer(&mut stall_timer);
                    self.handle_answer(session, answer).await?;
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

    /// Handles the answer to the order. Any answer but `accepted` ends the attempt.
    async fn handle_answer(
        &mut self,
        session: &SessionHandle,
        answer: Answer,
    ) -> Result<(), Outcome> {
        let (source, stored) = match answer {
            Answer::Accepted { source, stored } => (source, stored),
            Answer::Unchanged(_) => {
                let reason = "the agent compared the file with a base that it was not offered";
                return Err(Outcome::no_progress(reason));
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
        Ok(())
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
