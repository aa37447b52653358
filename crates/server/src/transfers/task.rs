//! The life of one transfer: a task that owns it from the record to the end.
//!
//! The record is the truth and a line is only a way to act on it: the task looks at whether the
//! client is there, takes its turn, tries ([`attempt`](super::attempt)), and begins again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};
use filepull_core::backoff::{Backoff, ReconnectPolicy, RetryCause};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Phase, PhaseError, Transfer};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};
use uuid::Uuid;

use super::active::{TaskHandle, ViewSender};
use super::failed::NotSaved;
use super::view::{Activity, View};
use super::wait::DiskWait;
use super::{ASKS_LEN, Command, TaskContext, refuse};
use crate::receive::ReceivedPartial;
use crate::records::RequestKey;
use crate::registry::{ClientSlot, SessionHandle};

/// One unfinished transfer and everything that belongs to it.
pub(super) struct TransferTask {
    pub(super) shared: Arc<TaskContext>,
    pub(super) transfer: Transfer,
    pub(super) held: Option<ReceivedPartial>,
    pub(super) view: ViewSender,
    pub(super) asks: mpsc::Receiver<Command>,
    pub(super) ordered: Arc<AtomicBool>,
    pub(super) berth: ClientSlot,
    /// The key of the request that asked for it, until both are on record.
    pub(super) key: Option<RequestKey>,
    /// The request that created it, for the log.
    pub(super) request_id: Uuid,
    /// The record says "sealed" and the name may be there: only the disk can settle the outcome.
    pub(super) may_be_named: bool,
    /// An accepted cancel that waits until it is known whether the name is there.
    pub(super) cancel: Option<Problem>,
    pub(super) backoff: Backoff,
    /// Attempts in a row that brought nothing because the line was lost.
    lost: u32,
    /// Since when no attempt has brought anything.
    fruitless_since: Option<Instant>,
    /// This process admitted an upload of the transfer.
    pub(super) was_admitted: bool,
    /// The transfer waits for the server's disk, or did so last.
    pub(super) disk_wait: Option<DiskWait>,
}

/// Why the work on a transfer ends without a download.
#[derive(Debug)]
pub(super) enum Ending {
    /// The transfer ends with this problem.
    Failed(Problem),
    /// The process stops. What is on record stays.
    Left,
    /// Only the attempt ends: the server lacks a resource, such as space on its disk.
    NotNow(Problem),
    /// The record is final or of a later attempt, which does not belong to this task.
    Lost,
    /// The key of the request leads to another transfer. This one is not on record.
    Discarded,
}

impl From<PhaseError> for Ending {
    fn from(error: PhaseError) -> Self {
        Self::Failed(Problem::new(Code::Internal, error.to_string()))
    }
}

impl From<Problem> for Ending {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// What an attempt came to, if it did not end the transfer.
pub(super) enum Attempted {
    /// The download is there.
    Done,
    /// Everything was received and is sealed on record; the disk did not name the file at once.
    Sealed,
    /// It was cut short; some bytes may have come.
    Interrupted { why: String, progress: bool },
}

/// How soon a line that is up is asked again after an attempt that was cut short, or a disk that
/// failed.
pub(super) fn retry_backoff() -> Backoff {
    let mut backoff = Backoff::default();
    backoff.follow(ReconnectPolicy {
        base: Duration::from_millis(125),
        cap: Duration::from_secs(30),
        spread: Duration::ZERO,
        stable: Duration::MAX,
    });
    backoff
}

impl Drop for TransferTask {
    fn drop(&mut self) {
        // However it ended: nobody may join a transfer that has no task. Whoever finds it until
        // then still sees how it ended.
        self.shared.open.remove(self.transfer.id);
    }
}

impl TransferTask {
    /// A new transfer, not on record yet.
    pub(super) fn begin(shared: &Arc<TaskContext>, transfer: Transfer) -> (Self, TaskHandle) {
        let (asks_in, asks) = mpsc::channel(ASKS_LEN);
        let (view, seen) = ViewSender::new(shared.open.clone(), View::new(transfer.clone()));
        // An order may be what an earlier process did last.
        let ordered = Arc::new(AtomicBool::new(transfer.started_at.is_some()));
        let berth = shared.registry.slot(&transfer.client);
        let handle = TaskHandle {
            id: transfer.id,
            client: transfer.client.clone(),
            path: transfer.path.clone(),
            created_at: transfer.created_at,
            view: seen,
            asks: asks_in,
            ordered: Arc::clone(&ordered),
        };
        let may_be_named = matches!(transfer.phase, Phase::Sealed(_));
        let shared = Arc::clone(shared);
        (
            Self {
                shared,
                transfer,
                held: None,
                view,
                asks,
                ordered,
                berth,
                key: None,
                request_id: Uuid::nil(),
                may_be_named,
                cancel: None,
                backoff: retry_backoff(),
                lost: 0,
                fruitless_since: None,
                was_admitted: false,
                disk_wait: None,
            },
            handle,
        )
    }

    /// A transfer that an earlier process left unfinished.
    pub(super) fn resume(
        shared: &Arc<TaskContext>,
        transfer: Transfer,
        cancel: Option<Problem>,
    ) -> (Self, TaskHandle) {
        let (mut life, handle) = Self::begin(shared, transfer);
        life.cancel = cancel;
        life.show(Activity::Starting);
        (life, handle)
    }

    /// Ends when the transfer is final, or when the process stops.
    pub(super) async fn run(mut self) {
        match self.live().await {
            Err(Ending::Failed(problem)) => self.fail(problem).await,
            Err(Ending::Lost) => self.log_lost(),
            Ok(()) | Err(Ending::Left | Ending::NotNow(_) | Ending::Discarded) => {}
        }
    }

    async fn live(&mut self) -> Result<(), Ending> {
        if self.view.borrow().stage == Activity::Recording {
            self.record_first().await?;
            self.log_created();
            self.show(Activity::Starting);
        }
        if self.may_be_named && self.publish().await? {
            return Ok(());
        }
        // An earlier process accepted the cancel.
        if let Some(cancel) = self.cancel.take() {
            return Err(cancel.into());
        }
        loop {
            if self.shared.lifecycle.drain().is_cancelled() {
                return Err(Ending::Left);
            }
            let session = self.wait_for_session().await?;
            let turn = self.turn(&session).await?;
            if self.current_line().is_none_or(|line| line.epoch != session.epoch) {
                continue; // it left while this waited for its turn
            }
            let attempted = self.attempt(&session).await;
            drop(turn);
            match attempted {
                Ok(Attempted::Done) => return Ok(()),
                // The permit has been released: a disk that does not name the file delays no other
                // transfer.
                Ok(Attempted::Sealed) => {
                    if self.publish().await? {
                        return Ok(());
                    }
                }
                Err(Ending::NotNow(problem)) => self.hindered(problem).await?,
                Err(ending) => return Err(ending),
                Ok(Attempted::Interrupted { why, progress }) => {
                    self.interrupted(&session, &why, progress).await?;
                }
            }
        }
    }

    /// Makes the transfer durable for the first time, together with the key it was asked for with.
    async fn record_first(&mut self) -> Result<(), Ending> {
        match self.key.take() {
            None => Ok(self.shared.save(&self.transfer).await?),
            Some(key) => match self.shared.save_keyed(&self.transfer, &key).await {
                Err(NotSaved::Lost) => Err(Ending::Discarded),
                saved => Ok(saved?),
            },
        }
    }

    /// Notes that an attempt was cut short, and waits a little before the next: longer each time if
    /// it brought nothing.
    async fn interrupted(
        &mut self,
        session: &SessionHandle,
        why: &str,
        progress: bool,
    ) -> Result<(), Ending> {
        self.log_interrupted(why);
        let line_is_up = self.current_line().is_some_and(|line| line.epoch == session.epoch);
        let stalled = &mut self.transfer.setbacks.stalled;
        match (progress, line_is_up) {
            (true, _) => {
                (*stalled, self.lost, self.backoff) = (0, 0, retry_backoff());
                self.fruitless_since = None;
            }
            (false, true) => *stalled += 1,
            (false, false) => self.lost += 1,
        }
        let too_often = Transfer::MAX_STALLED <= *stalled || Transfer::MAX_LOST <= self.lost;
        // As much time as a client gets that is away: a firewall that blocks only uploads for a
        // minute must not cost more than one that blocks everything.
        let too_long = !progress && {
            let since = *self.fruitless_since.get_or_insert_with(Instant::now);
            self.shared.limits.resume_within <= since.elapsed()
        };
        if too_often && too_long {
            let detail =
                format!("{} was connected, but no bytes came: {why}.", self.transfer.client);
            return Err(Problem::new(Code::TransferStalled, detail).into());
        }
        // What broke the upload has mostly broken the line too: it is given time to be noticed.
        let wait = self.backoff.next(RetryCause::Lost { lived: Duration::ZERO }, fastrand::f64());
        let (again, line_changed) = (Instant::now() + wait, self.line_changed(session.epoch));
        let pause = async {
            tokio::select! {
                () = sleep_until(again) => {}
                () = line_changed => {}
            }
        };
        self.or_cancelled(pause).await
    }

    /// Waits for `work`, unless the transfer is cancelled or the process takes no new work.
    pub(super) async fn or_cancelled<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Ending> {
        tokio::pin!(work);
        let drain = self.shared.lifecycle.drain().clone();
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(ask) = self.asks.recv() => self.handle_between_attempts(ask).await?,
                () = drain.cancelled() => return Err(Ending::Left),
            }
        }
    }

    /// Handles a command between attempts. Any command but a cancel is too late. A cancel waits
    /// while the file may have its name.
    pub(super) async fn handle_between_attempts(&mut self, ask: Command) -> Result<(), Ending> {
        match ask {
            Command::Cancel(_) if self.transfer.is_final() => Ok(()),
            Command::Cancel(problem) if self.may_be_named => {
                self.cancel.get_or_insert(problem);
                Ok(())
            }
            Command::Cancel(problem) => Err(problem.into()),
            Command::Answer { .. } => Ok(()),
            Command::Extend { until, done } => {
                self.extend(until, done).await;
                Ok(())
            }
            Command::Upload(upload) => {
                let detail = format!("attempt {} is over", upload.attempt);
                refuse(&upload.replies, Problem::new(Code::TransferUnknown, detail), None);
                Ok(())
            }
        }
    }

    pub(super) fn show(&self, stage: Activity) {
        self.show_until(stage, None, None);
    }

    /// Shows what the transfer does, until when it waits, and why.
    pub(super) fn show_until(
        &self,
        stage: Activity,
        expires_at: Option<DateTime<Utc>>,
        reason: Option<String>,
    ) {
        self.view.send_modify(|view| {
            view.stage = stage;
            view.expires_at = expires_at;
            view.reason = reason;
            view.transfer = self.transfer.clone();
            if let Some(source) = self.transfer.source() {
                view.source = Some(source.clone());
            }
        });
    }
}
