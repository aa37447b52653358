//! One upload of a transfer: admitted, received, judged, published.

use std::time::Duration;

use filepull_core::human;
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::{ReceiveError, Verified};
use filepull_core::source::Source;
use filepull_core::transfer::{Begin, BeginError, Transfer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::info;
use uuid::Uuid;

use super::attempt::fruitless;
use super::life::{Attempted, Ending, Life};
use super::view::{Speed, Stage};
use super::{Ask, Reply, Upload, now, refuse};
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
        let Upload { offset, source, pieces, replies, .. } = upload;
        if let Err(problem) = self.admit(offset, source, &replies).await? {
            return Ok(fruitless(problem.detail));
        }
        let before = self.received();
        let end = {
            let mut reception = Reception::new(pieces);
            let end = self.drive(session, &mut reception, &replies).await;
            reception.settle(&mut self.held).await;
            end
        };
        let progress = before < self.received();
        match end {
            Drove::Ended(End::Complete { total_size, digest }) => {
                match self.held.as_ref().map(|held| held.receiver.finish(total_size, digest)) {
                    Some(Ok(proof)) => self.publish(proof, &replies).await,
                    Some(Err(error)) => self.damaged(error, &replies).await,
                    None => Ok(fruitless("the partial is gone")),
                }
            }
            Drove::Ended(End::Abort(problem)) => self.aborted(problem, progress).await,
            Drove::Ended(End::Broken(why)) => Ok(Attempted::Interrupted { why, progress }),
            Drove::Ended(End::Bad(error)) => {
                let expected = Some(self.received());
                refuse(&replies, Problem::new(Code::AgentError, error.to_string()), expected);
                Ok(Attempted::Interrupted { why: error.to_string(), progress })
            }
            Drove::Ended(End::Disk(error)) => {
                let problem = super::store_failed(&error);
                refuse(&replies, problem.clone(), None);
                Err(problem.into())
            }
            Drove::Cut(Ending::Left) => {
                // The process stops: what has come survives it.
                self.checkpoint().await?;
                Err(Ending::Left)
            }
            Drove::Cut(Ending::Failed(problem)) => {
                refuse(&replies, problem.clone(), None);
                Err(problem.into())
            }
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
    ) -> Result<Result<(), Problem>, Ending> {
        if let Err(problem) = self.fits(source.size) {
            refuse(replies, problem.clone(), None);
            return Err(problem.into());
        }
        let held = self.held.as_ref().map(|held| held.receiver.received());
        let (attempt, size) = (self.transfer.attempt, source.size);
        match self.transfer.begin(attempt, offset, source, held) {
            Ok(Begin::GoOn) => {}
            Ok(Begin::Anew(effects)) => {
                self.held = None;
                if let Err(problem) = self.perform(&effects).await {
                    refuse(replies, problem.clone(), None);
                    return Err(problem.into());
                }
            }
            Err(error) => {
                let expected = match error {
                    BeginError::WrongOffset { expected, .. } => Some(expected),
                    BeginError::StaleAttempt { .. } => None,
                };
                let problem = Problem::new(Code::TransferUnknown, error.to_string());
                refuse(replies, problem.clone(), expected);
                return Ok(Err(problem));
            }
        }
        if let Some(held) = &mut self.held
            && let Err(error) = held.receiver.expect(size)
        {
            let problem = Problem::new(Code::AgentError, error.to_string());
            refuse(replies, problem.clone(), None);
            return Ok(Err(problem));
        }
        self.began(offset);
        Ok(Ok(()))
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
    fn fits(&self, size: u64) -> Result<(), Problem> {
        let limits = &self.shared.limits;
        let client = &self.transfer.client;
        if limits.max_file_size < size {
            let (size, max) = (human::size(size), human::size(limits.max_file_size));
            let detail = format!("{client}'s file has {size}; this server accepts up to {max}.");
            return Err(Problem::new(Code::FileTooLarge, detail));
        }
        let Ok(free) = self.shared.store.free() else { return Ok(()) };
        let needed = size.saturating_sub(self.received());
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
        let mut pulse = Pulse::new(self.received());
        let superseded = self.superseded(session.instance);
        tokio::pin!(superseded);
        let stop = self.shared.lifecycle.stop().clone();
        loop {
            let stalled_at = pulse.last_bytes + self.shared.limits.stall_timeout;
            tokio::select! {
                event = reception.next(&mut self.held) => match event {
                    Event::Wrote(received) => {
                        if let Err(problem) = self.wrote(received, &mut pulse, replies).await {
                            return Drove::Cut(problem.into());
                        }
                    }
                    Event::Ended(end) => return Drove::Ended(end),
                },
                Some(ask) = self.asks.recv() => match ask {
                    Ask::Cancel(problem) => return Drove::Cut(self.cancelled(session, problem)),
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

    /// Shows and acknowledges progress, and makes it durable when that is due.
    async fn wrote(
        &mut self,
        received: u64,
        pulse: &mut Pulse,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<(), Problem> {
        let now = Instant::now();
        pulse.last_bytes = now;
        if let Some(speed) = pulse.speed.update(received, now.into_std()) {
            self.view.send_modify(|view| {
                view.bytes_done = received;
                view.bytes_per_second = Some(speed);
            });
        }
        if self.shared.limits.checkpoint_every <= now - pulse.last_checkpoint {
            self.checkpoint().await?;
            pulse.durable = received;
            pulse.last_checkpoint = Instant::now();
        }
        let ack_due = ACK_EVERY <= now - pulse.last_ack || ACK_LEN <= received - pulse.acked;
        if ack_due {
            // A full queue means that the agent has not read the last one yet.
            let _ = replies.try_send(Reply::Ack { received, durable: pulse.durable });
            (pulse.last_ack, pulse.acked) = (now, received);
        }
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<(), Problem> {
        let Some(held) = &self.held else { return Ok(()) };
        let effects = self.transfer.checkpoint(held.receiver.prefix());
        self.perform(&effects).await.map(|_| ())
    }

    async fn publish(
        &mut self,
        proof: Verified,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        let Some(held) = &self.held else { return Ok(fruitless("the partial is gone")) };
        let inode = held.partial.inode().map_err(|error| super::store_failed(&error))?;
        let source_name = self.transfer.source().map_or("", |source| source.name.as_str());
        let name = DownloadName::new(now(), source_name);
        let effects = self.transfer.seal(proof, name, inode);
        let published = self.perform(&effects).await?;
        self.finish_publishing(published).await?;
        if let Some(download) = self.transfer.download() {
            let name = download.name.to_string();
            // The agent may have hung up: the file is published all the same.
            let _ = replies.try_send(Reply::Stored { name, proof });
        }
        Ok(Attempted::Done)
    }

    /// The agent says that it has sent everything, and that is not what is here.
    async fn damaged(
        &mut self,
        error: ReceiveError,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        let problem =
            Problem::new(Code::ChecksumMismatch, format!("The bytes were damaged: {error}."));
        refuse(replies, problem.clone(), None);
        self.transfer.setbacks.damaged += 1;
        if Transfer::MAX_DAMAGED <= self.transfer.setbacks.damaged {
            return Err(problem.into());
        }
        self.start_over().await?;
        Ok(Attempted::Interrupted { why: error.to_string(), progress: true })
    }

    /// The agent could not send the file as it is.
    async fn aborted(&mut self, problem: Problem, progress: bool) -> Result<Attempted, Ending> {
        let why = problem.detail.clone();
        if problem.code == Code::Cancelled {
            // The agent stops: what came stays.
            return Ok(Attempted::Interrupted { why, progress });
        }
        if problem.code == Code::FileChanged {
            self.transfer.setbacks.changed += 1;
            if self.transfer.setbacks.changed < Transfer::MAX_CHANGED {
                self.start_over().await?;
                return Ok(Attempted::Interrupted { why, progress: true });
            }
        }
        Err(problem.into())
    }

    async fn start_over(&mut self) -> Result<(), Problem> {
        self.held = None;
        let effects = self.transfer.start_over();
        self.view.send_modify(|view| view.bytes_done = 0);
        self.perform(&effects).await.map(|_| ())
    }
}

/// How an upload that had begun came to its end.
enum Drove {
    Ended(End),
    Cut(Ending),
}

/// When things last happened during an upload.
struct Pulse {
    last_bytes: Instant,
    last_checkpoint: Instant,
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
            last_checkpoint: now,
            last_ack: now,
            acked: received,
            durable: 0,
            speed: Speed::new(received, now.into_std()),
        }
    }
}
