//! One upload of a transfer: admitted, received, judged, published.

use std::time::Duration;

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Begin, BeginError, Transfer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::info;
use uuid::Uuid;

use super::attempt::fruitless;
use super::checkpoint::Checkpoints;
use super::effects::run;
use super::life::{Attempted, Ending, Life};
use super::view::{Speed, Stage};
use super::{Answer, Ask, Reply, Upload, refuse};
use crate::receive::{End, Event, Reception};
use crate::registry::Session;

/// The agent hears of its progress at least this often while bytes flow ...
const ACK_EVERY: Duration = Duration::from_secs(1);
/// ... and after this many bytes.
const ACK_LEN: u64 = 4 * 1024 * 1024;

impl Life {
    /// Receives an upload and judges how it ended.
    pub(super) async fn receive(
        &mut self,
        session: &Session,
        upload: Upload,
    ) -> Result<Attempted, Ending> {
        let Upload { offset, source, reception, replies, .. } = upload;
        let ended = match self.admit(offset, source, &replies).await {
            Ok(Admitted::Yes) => self.take(session, reception, &replies).await,
            Ok(Admitted::No(why)) => Ok(fruitless(why)),
            Err(ending) => Err(ending),
        };
        if let Err(Ending::Failed(problem)) = &ended {
            refuse(&replies, problem.clone(), None);
        }
        ended
    }

    /// Takes the pieces of an upload that may begin.
    async fn take(
        &mut self,
        session: &Session,
        mut reception: Reception,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        let before = self.received();
        let end = self.drive(session, &mut reception, replies).await;
        reception.settle(&mut self.held).await;
        let progress = before < self.received();
        match end {
            Drove::Ended(End::Complete { total_size, digest }) => {
                self.complete(total_size, digest, replies).await
            }
            Drove::Ended(End::Abort(problem)) => self.aborted(problem, progress).await,
            Drove::Ended(End::Broken(why)) => Ok(Attempted::Interrupted { why, progress }),
            Drove::Ended(End::Bad(error)) => {
                let why = error.to_string();
                refuse(replies, Problem::new(Code::AgentError, &*why), Some(self.received()));
                Ok(Attempted::Interrupted { why, progress })
            }
            Drove::Ended(End::Disk(error)) => Err(super::store_failed(&error).into()),
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

    /// Lets the upload begin: into the partial that is there, or into a new one.
    async fn admit(
        &mut self,
        offset: u64,
        source: Source,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Admitted, Ending> {
        self.fits(offset, source.size)?;
        let held = self.held.as_ref().map(|held| held.receiver.received());
        let (attempt, size) = (self.transfer.attempt, source.size);
        match self.transfer.begin(attempt, offset, source, held) {
            Ok(Begin::GoOn) => self.reserve(size).await?,
            Ok(Begin::Anew(effects)) => {
                self.held = None;
                self.perform(&effects).await?;
            }
            Err(error) => {
                let expected = match error {
                    BeginError::WrongOffset { expected, .. } => Some(expected),
                    BeginError::StaleAttempt { .. } => None,
                };
                let why = error.to_string();
                refuse(replies, Problem::new(Code::TransferUnknown, &*why), expected);
                return Ok(Admitted::No(why));
            }
        }
        if let Some(held) = &mut self.held
            && let Err(error) = held.receiver.expect(size)
        {
            return Ok(Admitted::No(error.to_string()));
        }
        self.began(offset);
        Ok(Admitted::Yes)
    }

    /// Reserves what an earlier process gave back when it cut the partial to its checkpoint.
    async fn reserve(&mut self, size: u64) -> Result<(), Problem> {
        let Some(held) = self.held.take() else { return Ok(()) };
        let job = move || {
            let reserved = held.partial.reserve(size);
            (held, reserved)
        };
        let (held, reserved) = run(job).await;
        self.held = Some(held);
        reserved.map_err(|error| super::store_failed(&error))
    }

    fn began(&self, offset: u64) {
        let Transfer { id, client, attempt, .. } = &self.transfer;
        let Some(source) = self.transfer.source() else { return };
        let (name, size) = (source.name.as_str(), source.size);
        if *attempt == 1 {
            info!(event = "transfer.started", transfer = %id, %client, name, size, "transfer started");
        } else {
            info!(
                event = "transfer.resumed", transfer = %id, %client, name, size,
                bytes_done = offset, attempt, "transfer resumed"
            );
        }
        self.view.send_modify(|view| view.bytes_done = offset);
        self.show(Stage::Running);
    }

    /// Is there room for a source of `size` bytes?
    pub(super) fn fits(&self, offset: u64, size: u64) -> Result<(), Problem> {
        let limits = &self.shared.limits;
        let client = &self.transfer.client;
        if limits.max_file_size < size {
            let (size, max) = (human::size(size), human::size(limits.max_file_size));
            let detail = format!("{client}'s file has {size}; this server accepts up to {max}.");
            return Err(Problem::new(Code::FileTooLarge, detail));
        }
        let Ok(free) = self.shared.store.free() else { return Ok(()) };
        // A partial that goes on owns its room already; one that begins anew owns nothing.
        let goes_on = self.held.as_ref().filter(|held| held.receiver.received() == offset);
        let owned = goes_on.map_or(0, |held| held.partial.allocated());
        let needed = size.saturating_sub(owned);
        if free < needed.saturating_add(limits.min_free) {
            let (free, min_free) = (human::size(free), human::size(limits.min_free));
            let needed = human::size(needed);
            let detail = format!(
                "The server has {free} free; the file needs {needed}, and {min_free} must stay free."
            );
            return Err(Problem::new(Code::ServerFull, detail));
        }
        Ok(())
    }

    /// Takes the upload's bytes until it ends or is cut: by a cancel, by another machine that took
    /// over the client, by silence, or by the end of the process.
    async fn drive(
        &mut self,
        session: &Session,
        reception: &mut Reception,
        replies: &mpsc::Sender<Reply>,
    ) -> Drove {
        let mut checkpoints = Checkpoints::new(self.shared.limits.checkpoint_every);
        let drove = self.watch(session, reception, &mut checkpoints, replies).await;
        match checkpoints.settle().await {
            Some(Err(problem)) => Drove::Cut(problem.into()),
            Some(Ok(noted)) => {
                self.note(noted);
                drove
            }
            None => drove,
        }
    }

    async fn watch(
        &mut self,
        session: &Session,
        reception: &mut Reception,
        checkpoints: &mut Checkpoints,
        replies: &mpsc::Sender<Reply>,
    ) -> Drove {
        let mut pulse = Pulse::new(self.received());
        let superseded = self.superseded(session.instance);
        tokio::pin!(superseded);
        let stop = self.shared.lifecycle.stop().clone();
        loop {
            let stalled_at = pulse.last_bytes + self.shared.limits.stall_timeout;
            tokio::select! {
                event = reception.next(&mut self.held) => match event {
                    Event::Wrote(received) => {
                        self.wrote(received, &mut pulse, replies);
                        if let Err(problem) = checkpoints.start_if_due(self) {
                            return Drove::Cut(problem.into());
                        }
                    }
                    Event::Ended(end) => return Drove::Ended(end),
                },
                made = checkpoints.made() => match made {
                    Ok(noted) => {
                        self.note(noted);
                        pulse.durable = self.transfer.durable();
                    }
                    Err(problem) => return Drove::Cut(problem.into()),
                },
                Some(ask) = self.asks.recv() => match ask {
                    Ask::Cancel(problem) => return Drove::Cut(self.called_off(session, problem)),
                    Ask::Answer { attempt, answer: Answer::TryAgain(why) }
                        if attempt == self.transfer.attempt =>
                    {
                        return Drove::Ended(End::Broken(why));
                    }
                    stale @ (Ask::Upload(_) | Ask::Answer { .. }) => {
                        let _ = self.heed_idly(stale);
                    }
                },
                () = &mut superseded => {
                    return Drove::Ended(End::Broken("another machine took over the client".into()));
                }
                () = sleep_until(stalled_at) => {
                    let limit = human::span(self.shared.limits.stall_timeout);
                    return Drove::Ended(End::Broken(format!("no byte came for {limit}")));
                }
                () = stop.cancelled() => return Drove::Cut(Ending::Left),
            }
        }
    }

    /// Takes over a checkpoint that is on record.
    fn note(&mut self, noted: Option<Transfer>) {
        if let Some(noted) = noted {
            self.transfer.phase = noted.phase;
        }
    }

    /// Resolves when another instance of the agent has the client's line. A line that is merely
    /// down does not end an upload: that has a connection of its own.
    fn superseded(&self, instance: Uuid) -> impl Future<Output = ()> + use<> {
        let mut line = self.berth.line();
        async move {
            let other =
                |line: &Option<Session>| line.as_ref().is_some_and(|l| l.instance != instance);
            let _ = line.wait_for(other).await;
        }
    }

    /// Shows and acknowledges progress.
    fn wrote(&self, received: u64, pulse: &mut Pulse, replies: &mpsc::Sender<Reply>) {
        let now = Instant::now();
        pulse.last_bytes = now;
        if let Some(speed) = pulse.speed.update(received, now.into_std()) {
            self.view.send_modify(|view| {
                view.bytes_done = received;
                view.bytes_per_second = Some(speed);
            });
        }
        let ack_due = ACK_EVERY <= now - pulse.last_ack || ACK_LEN <= received - pulse.acked;
        if ack_due {
            // A full queue means that the agent has not read the last one yet.
            let _ = replies.try_send(Reply::Ack { received, durable: pulse.durable });
            (pulse.last_ack, pulse.acked) = (now, received);
        }
    }

    async fn checkpoint(&mut self) -> Result<(), Problem> {
        let Some(held) = &self.held else { return Ok(()) };
        let effects = self.transfer.checkpoint(held.receiver.prefix());
        self.perform(&effects).await.map(|_| ())
    }
}

/// Whether an upload may begin.
enum Admitted {
    Yes,
    No(String),
}

/// How an upload that had begun came to its end.
enum Drove {
    Ended(End),
    Cut(Ending),
}

/// When things last happened during an upload.
struct Pulse {
    last_bytes: Instant,
    last_ack: Instant,
    acked: u64,
    durable: u64,
    speed: Speed,
}

impl Pulse {
    fn new(received: u64) -> Self {
        let now = Instant::now();
        Self {
            last_bytes: now,
            last_ack: now,
            acked: received,
            durable: 0,
            speed: Speed::new(received, now.into_std()),
        }
    }
}
