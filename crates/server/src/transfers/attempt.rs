//! One attempt of a transfer: an order to a client that is there, and the wait for its answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::Transfer;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::stall_timer::StallTimer;
use super::task::{Attempted, Ending, TransferTask};
use super::view::Activity;
use super::{Answer, Command, Upload, now};
use crate::client::DefaultFile;
use crate::registry::{EndReason, Message, SendOrder, SessionHandle};

/// An agent that lives answers an order within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An attempt that brought nothing.
pub(super) fn fruitless(why: impl Into<String>) -> Attempted {
    Attempted::Interrupted { why: why.into(), progress: false }
}

impl TransferTask {
    /// Orders the file from a client that is there, and sees the upload through.
    pub(super) async fn attempt(&mut self, session: &SessionHandle) -> Result<Attempted, Ending> {
        self.recover_prefix().await?;
        // From here on the source may be open.
        self.ordered.store(true, Ordering::SeqCst);
        self.transfer.epoch = session.epoch;
        let order = self.next_order();
        let token = order.token;
        if 1 < order.attempt {
            // So that a killed server does not count anew. The first order does not wait for it.
            self.record().await?;
        }
        self.show(Activity::Asked);
        if let Err(error) = session.send(Message::Start(Box::new(order))) {
            return Ok(fruitless(error.to_string()));
        }
        match self.answered(session, token).await? {
            Answered::Upload(upload) => self.receive(session, *upload).await,
            Answered::Nothing(why) => Ok(fruitless(why)),
        }
    }

    fn next_order(&mut self) -> SendOrder {
        let attempt = self.transfer.next_attempt(now());
        let Transfer { id, path, requested_by, .. } = self.transfer.clone();
        let prefix = self.held.as_ref().map_or_else(Prefix::empty, |held| held.receiver.prefix());
        let max_size = self.shared.limits.max_file_size;
        let token = Uuid::new_v4();
        SendOrder { transfer: id, attempt, path, prefix, token, max_size, requested_by }
    }

    /// Waits for the upload that answers the order.
    async fn answered(&mut self, session: &SessionHandle, token: Uuid) -> Result<Answered, Ending> {
        let attempt = self.transfer.attempt;
        let answer_by = Instant::now() + ANSWER_LIMIT;
        // Once the file is open: the agent hashes what the server holds already before its upload
        // begins, and says that it accepts again and again meanwhile.
        let mut patience: Option<StallTimer> = None;
        let line_changed = self.line_changed(session.epoch);
        tokio::pin!(line_changed);
        let stop = self.shared.lifecycle.stop().clone();
        loop {
            let deadline = patience.map_or(answer_by, |patience| patience.deadline());
            let ask = tokio::select! {
                Some(ask) = self.asks.recv() => ask,
                () = &mut line_changed => return Ok(Answered::Nothing("the line was lost".into())),
                () = stop.cancelled() => return Err(Ending::Left),
                () = sleep_until(deadline) => return Ok(no_answer(session, patience.is_some())),
            };
            match ask {
                Command::Upload(upload) if upload.attempt == attempt && upload.token == token => {
                    // It may overtake the acceptance, which came by the other connection.
                    self.opened(&upload.source);
                    return Ok(Answered::Upload(upload));
                }
                Command::Answer { attempt: about, answer } if about == attempt => match answer {
                    Answer::Accepted(source) => {
                        let (now, stall_timeout) =
                            (Instant::now(), self.shared.limits.stall_timeout);
                        let new = || StallTimer::new(self.received(), stall_timeout, now);
                        patience.get_or_insert_with(new).sign(now);
                        let size = source.size;
                        self.opened(&source);
                        // Now, while the trigger still waits for its answer; the upload is judged
                        // again by where it begins.
                        if let Err(ending) = self.fits(size).await {
                            if let Ending::Failed(problem) | Ending::NotNow(problem) = &ending {
                                self.call_off(session, problem);
                            }
                            return Err(ending);
                        }
                        self.show(Activity::Running);
                    }
                    Answer::Refused(problem) => {
                        if is_about_the_file(problem.code) {
                            self.note_default_file(Err(problem.code));
                        }
                        return Err(problem.into());
                    }
                    Answer::TryAgain(why) => return Ok(Answered::Nothing(why)),
                },
                Command::Cancel(problem) => return Err(self.called_off(session, problem)),
                ask @ (Command::Upload(_) | Command::Answer { .. } | Command::Extend { .. }) => {
                    self.handle_between_attempts(ask).await?;
                }
            }
        }
    }

    /// The client has opened this file for the transfer.
    fn opened(&self, source: &Source) {
        self.view.send_modify(|view| view.source = Some(source.clone()));
        self.note_default_file(Ok(source.clone()));
    }

    /// The client has just looked for its default file, if that is what was ordered.
    fn note_default_file(&self, found: DefaultFile) {
        if self.transfer.path.is_none() {
            self.shared.registry.note_default_file(&self.transfer.client, found);
        }
    }

    /// Ends a transfer from this side, and tells the agent.
    pub(super) fn called_off(&self, session: &SessionHandle, problem: Problem) -> Ending {
        self.call_off(session, &problem);
        problem.into()
    }

    fn call_off(&self, session: &SessionHandle, problem: &Problem) {
        let reason = problem.detail.clone();
        // If the line is gone the agent has nothing to stop.
        let _ = session.send(Message::Cancel { transfer: self.transfer.id, reason });
    }
}

enum Answered {
    Upload(Box<Upload>),
    Nothing(String),
}

fn no_answer(session: &SessionHandle, accepted: bool) -> Answered {
    if accepted {
        return Answered::Nothing("the agent opened the file and sent nothing".into());
    }
    let limit = human::span(ANSWER_LIMIT);
    let why = format!("no answer to an order in {limit}");
    session.end(EndReason::Silent(why.clone()));
    Answered::Nothing(why)
}

/// Whether a refusal says how the file is, and not how it would be sent.
fn is_about_the_file(code: Code) -> bool {
    matches!(code, Code::FileMissing | Code::NotAFile | Code::PathNotShared | Code::FileUnreadable)
}
