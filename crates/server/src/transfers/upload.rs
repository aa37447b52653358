//! One upload of a transfer, from its first byte to the last.

use filepull_core::disk::Extent;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Phase, Transfer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::active::ViewSender;
use super::admit::Admitted;
use super::attempt::fruitless;
use super::checkpoint::Checkpoints;
use super::min_rate::MinRate;
use super::progress::Progress;
use super::task::{Attempted, Ending, TransferTask};
use super::{Activity, Answer, Command, Limits, Reply, Upload, WaitingFor, refuse, store_failed};
use crate::receive::{self, BatchWriter, UploadEnd, WriteEvent};
use crate::registry::SessionHandle;

/// Why an upload ends that has nowhere to go. Never seen: it was admitted.
const GONE: &str = "the partial is gone";

impl TransferTask {
    /// Receives an upload and judges how it ended.
    pub(super) async fn receive(
        &mut self,
        session: &SessionHandle,
        upload: Upload,
    ) -> Result<Attempted, Ending> {
        let Upload { offset, source, mut reception, replies, .. } = upload;
        let n_expected = source.size.saturating_sub(offset);
        let view = self.view.clone();
        let admit = self.admit(offset, source, &replies);
        let admitted = reception.while_disk_works(n_expected, admit, || show_disk(&view)).await;
        let ended = match admitted {
            Ok(Admitted::Yes) => self.take(session, reception, &replies).await,
            Ok(Admitted::No(why)) => Ok(fruitless(why)),
            Err(ending) => Err(ending),
        };
        if let Err(Ending::Failed(problem) | Ending::NotNow(problem)) = &ended {
            refuse(&replies, problem.clone(), None);
        }
        ended
    }

    /// Takes the pieces of an upload that may begin.
    async fn take(
        &mut self,
        session: &SessionHandle,
        mut reception: BatchWriter,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        let before = self.received();
        let end = self.drive(session, &mut reception, replies).await;
        let disk_stalled = reception.disk_stalled();
        if let Err(error) = reception.settle(&mut self.held).await {
            return Err(self.classify(store_failed(&error)));
        }
        let progress = before < self.received();
        match end {
            Drove::Ended(UploadEnd::Complete { total_size, digest }) => {
                self.complete(total_size, digest, replies).await
            }
            Drove::Ended(UploadEnd::Abort(problem)) => self.aborted(problem, progress).await,
            // The upload broke while the agent waited for this server, whatever the cause.
            Drove::Ended(UploadEnd::Broken(why)) if disk_stalled => {
                let detail = format!("The server's disk did not answer in time, and then {why}.");
                Err(Ending::NotNow(Problem::new(Code::StorageFailed, detail)))
            }
            Drove::Ended(UploadEnd::Broken(why)) => Ok(Attempted::Interrupted { why, progress }),
            Drove::Ended(UploadEnd::Bad(error)) => {
                let why = error.to_string();
                refuse(replies, Problem::new(Code::AgentError, &*why), Some(self.received()));
                Ok(Attempted::Interrupted { why, progress })
            }
            Drove::Ended(UploadEnd::Disk(error)) => Err(self.classify(store_failed(&error))),
            Drove::Cut(Ending::Left) => {
                // The process stops: what has come survives it, or is sent again.
                let _ = self.checkpoint().await;
                Err(Ending::Left)
            }
            Drove::Cut(ending) => Err(ending),
        }
    }

    /// Bytes received so far, in all attempts.
    pub(super) fn received(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.receiver.received())
    }

    /// Takes the upload's bytes until it ends or is cut: by a cancel, by another machine that took
    /// over the client, by silence, or by the end of the process.
    async fn drive(
        &mut self,
        session: &SessionHandle,
        reception: &mut BatchWriter,
        replies: &mpsc::Sender<Reply>,
    ) -> Drove {
        let mut checkpoints = Checkpoints::new(self.shared.limits.checkpoint_every);
        let drove = self.watch(session, reception, &mut checkpoints, replies).await;
        match checkpoints.settle().await {
            Some(Err(failed)) => Drove::Cut(self.classify(failed)),
            Some(Ok(noted)) => {
                self.note(noted);
                drove
            }
            None => drove,
        }
    }

    async fn watch(
        &mut self,
        session: &SessionHandle,
        reception: &mut BatchWriter,
        checkpoints: &mut Checkpoints,
        replies: &mpsc::Sender<Reply>,
    ) -> Drove {
        let limit = self.shared.limits.stall_timeout;
        let Some(held) = &self.held else { return Drove::Ended(UploadEnd::Broken(GONE.into())) };
        let mut pulse = Progress::new(&held.receiver, limit, Instant::now());
        let Limits { min_rate, min_rate_window, .. } = self.shared.limits;
        let mut min_rate =
            MinRate::new(min_rate, min_rate_window, held.receiver.received(), Instant::now());
        let given_up = self.given_up(session);
        tokio::pin!(given_up);
        let stop = self.shared.lifecycle.stop().clone();
        loop {
            let batch_len = receive::batch_len(self.shared.n_running());
            tokio::select! {
                event = reception.next(&mut self.held, batch_len) => match event {
                    WriteEvent::Wrote => {
                        if matches!(self.view.borrow().stage, Activity::Waiting(_)) {
                            self.show(Activity::Running);
                        }
                        self.on_progress(&mut pulse, replies);
                        checkpoints.start_if_due(self);
                    }
                    WriteEvent::DiskStalled => show_disk(&self.view),
                    WriteEvent::Ended(end) => return Drove::Ended(end),
                },
                made = checkpoints.made() => match made {
                    Ok(noted) => {
                        self.note(noted);
                        pulse.durable = self.transfer.durable();
                    }
                    Err(failed) => return Drove::Cut(self.classify(failed)),
                },
                Some(ask) = self.asks.recv() => match ask {
                    Command::Cancel(problem) => return Drove::Cut(self.called_off(session, problem)),
                    Command::Answer { attempt, answer: Answer::TryAgain(why) }
                        if attempt == self.transfer.attempt =>
                    {
                        return Drove::Ended(UploadEnd::Broken(why));
                    }
                    ask @ Command::Extend { .. } => {
                        // A checkpoint that is still being saved would put the old deadline on
                        // record again.
                        match checkpoints.settle().await {
                            Some(Ok(noted)) => self.note(noted),
                            Some(Err(failed)) => return Drove::Cut(self.classify(failed)),
                            None => {}
                        }
                        let _ = self.handle_between_attempts(ask).await;
                    }
                    stale @ (Command::Upload(_) | Command::Answer { .. }) => {
                        let _ = self.handle_between_attempts(stale).await;
                    }
                },
                why = &mut given_up => return Drove::Ended(UploadEnd::Broken(why.into())),
                () = sleep_until_some(min_rate.next_check()) => {
                    let received = self.received();
                    if reception.is_writing() || pulse.is_complete() {
                        // The agent waits for this server, or reads its file again.
                        min_rate.restart(received, Instant::now());
                    } else if min_rate.is_missed(received, Instant::now())
                        && self.shared.open.others_wait(&self.transfer.client)
                    {
                        return Drove::Ended(UploadEnd::Broken(self.too_slow(replies)));
                    }
                }
                () = sleep_until(pulse.patience.deadline()) => {
                    if reception.is_writing() {
                        // The agent waits for this server.
                        pulse.renew(Instant::now());
                        continue;
                    }
                    let why = format!("no byte came for {}", human::span(limit));
                    return Drove::Ended(UploadEnd::Broken(why));
                }
                () = stop.cancelled() => return Drove::Cut(Ending::Left),
            }
        }
    }

    /// Tells the agent that its upload is stopped in favour of others. The received bytes stay.
    fn too_slow(&self, replies: &mpsc::Sender<Reply>) -> String {
        let Limits { min_rate, min_rate_window, .. } = self.shared.limits;
        let (rate, window) = (human::rate(min_rate), human::span(min_rate_window));
        let why = format!("slower than {rate} for {window} while others wait");
        let detail = format!("The upload was {why}; it continues when it is its turn again.");
        refuse(replies, Problem::new(Code::ServerBusy, detail), Some(self.received()));
        why
    }

    /// Takes over a checkpoint that is on record.
    fn note(&mut self, noted: Option<Transfer>) {
        if let Some(noted) = noted {
            self.transfer.phase = noted.phase;
        }
    }

    /// Resolves when the client's newest line tells that nobody sends this upload any more: it is of
    /// another instance of the agent, or of one that does not count it among its uploads. A line
    /// that is merely down does not end an upload: that has a connection of its own.
    fn given_up(&self, session: &SessionHandle) -> impl Future<Output = &'static str> + use<> {
        let (mut line, id) = (self.berth.session(), self.transfer.id);
        let (epoch, instance) = (session.epoch, session.instance);
        async move {
            let newer = |line: &SessionHandle| epoch < line.epoch && !line.active.contains(&id);
            let given_up = |line: &Option<SessionHandle>| {
                line.as_ref().is_some_and(|line| line.instance != instance || newer(line))
            };
            match line.wait_for(given_up).await {
                Ok(line) if line.as_ref().is_some_and(|line| line.instance == instance) => {
                    "the agent came back without it"
                }
                _ => "another machine took over the client",
            }
        }
    }

    async fn checkpoint(&mut self) -> Result<(), Ending> {
        let Some(prefix) = self.held.as_ref().map(|held| held.receiver.prefix()) else {
            return Ok(());
        };
        if let Some(synced) = self.with_held(|held| held.sync(Extent::Prefix)).await? {
            let receiving = self.transfer.receiving()?.with_checkpoint(prefix, synced);
            self.transfer.phase = Phase::Receiving(receiving);
            self.record().await?;
        }
        Ok(())
    }
}

/// Shows that the transfer waits for a disk that does not answer.
fn show_disk(view: &ViewSender) {
    view.send_modify(|view| {
        view.stage = Activity::Waiting(WaitingFor::Disk);
        view.reason = Some("The server's disk does not answer.".to_owned());
        view.bytes_per_second = None;
    });
}

/// Sleeps until this time; forever for `None`.
async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// How an upload that had begun came to its end.
enum Drove {
    Ended(UploadEnd),
    Cut(Ending),
}
