//! The life of one transfer: a task that owns it from the record to the end.
//!
//! The record is the truth and a line is only a way to act on it: the task looks at whether the
//! client is there, takes its turn, tries ([`attempt`](super::attempt)), and begins again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};
use filepull_core::backoff::{Backoff, Ended, ReconnectPolicy};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Effect, Phase, Transfer};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};
use tracing::{error, info, warn};

use super::effects::perform;
use super::open::Handle;
use super::view::{Stage, View, WaitingFor};
use super::{ASKS_LEN, Ask, Shared, now, refuse};
use crate::receive::Held;
use crate::registry::{Berth, Session};
use crate::store::Published;

/// One unfinished transfer and everything that belongs to it.
pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) transfer: Transfer,
    pub(super) held: Option<Held>,
    pub(super) view: watch::Sender<View>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) ordered: Arc<AtomicBool>,
    pub(super) berth: Berth,
    backoff: Backoff,
}

/// Why the task of a transfer ends without a download.
pub(super) enum Ending {
    /// The transfer ends with this problem.
    Failed(Problem),
    /// The process stops, or the disk failed so that only the next start can tell what is true.
    /// What is on record stays.
    Left,
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
    /// It was cut short; some bytes may have come.
    Interrupted { why: String, progress: bool },
}

/// How soon a line that is up is asked again after an attempt that was cut short.
fn again() -> Backoff {
    let mut backoff = Backoff::default();
    backoff.follow(ReconnectPolicy {
        base: Duration::from_millis(125),
        cap: Duration::from_secs(30),
        spread: Duration::ZERO,
        stable: Duration::MAX,
    });
    backoff
}

impl Life {
    /// A new transfer, not on record yet.
    pub(super) fn begin(shared: &Arc<Shared>, transfer: Transfer) -> (Self, Handle) {
        let (asks_in, asks) = mpsc::channel(ASKS_LEN);
        let (view, seen) = watch::channel(View::new(transfer.clone()));
        // An order may be what an earlier process did last.
        let ordered = Arc::new(AtomicBool::new(transfer.started_at.is_some()));
        let berth = shared.registry.berth(&transfer.client);
        let handle = Handle {
            id: transfer.id,
            client: transfer.client.clone(),
            path: transfer.path.clone(),
            view: seen,
            asks: asks_in,
            ordered: Arc::clone(&ordered),
        };
        let shared = Arc::clone(shared);
        (
            Self { shared, transfer, held: None, view, asks, ordered, berth, backoff: again() },
            handle,
        )
    }

    /// A transfer that an earlier process left unfinished.
    pub(super) fn resume(shared: &Arc<Shared>, transfer: Transfer) -> (Self, Handle) {
        let (life, handle) = Self::begin(shared, transfer);
        life.show(Stage::Starting);
        (life, handle)
    }

    /// Ends when the transfer is final, or when the process stops.
    pub(super) async fn run(mut self) {
        let ending = self.live().await;
        // In this order: whoever finds it in the list still sees how it ended.
        if let Err(Ending::Failed(problem)) = ending {
            self.fail(problem).await;
        }
        self.shared.open.remove(self.transfer.id);
    }

    async fn live(&mut self) -> Result<(), Ending> {
        if self.view.borrow().stage == Stage::Recording {
            self.perform(&[Effect::Record]).await?;
            self.log_created();
            self.show(Stage::Starting);
        }
        if self.recover_sealed().await? {
            return Ok(());
        }
        loop {
            let session = self.online().await?;
            let _turn = self.turn(&session).await?;
            if self.current_line().is_none_or(|line| line.epoch != session.epoch) {
                continue; // it left while this waited for its turn
            }
            let began = self.transfer.attempt;
            match self.attempt(&session).await? {
                Attempted::Done => return Ok(()),
                Attempted::Interrupted { why, progress } => {
                    self.interrupted(&session, &why, progress, began).await?;
                }
            }
        }
    }

    /// Waits until the client has a line.
    async fn online(&mut self) -> Result<Session, Ending> {
        let mut line = self.berth.line();
        if let Some(session) = line.borrow_and_update().clone() {
            return Ok(session);
        }
        let deadline = self.away_until();
        self.view.send_modify(|view| view.expires_at = Some(deadline));
        self.show(Stage::Waiting(WaitingFor::Client));
        let left = (deadline - Utc::now()).to_std().unwrap_or_default();
        let back = async move {
            match line.wait_for(Option::is_some).await {
                Ok(session) => session.clone(),
                Err(_) => None, // the registry outlives every transfer
            }
        };
        let back = self.unless_ended(tokio::time::timeout(left, back)).await?;
        self.view.send_modify(|view| view.expires_at = None);
        match back {
            Ok(Some(session)) => Ok(session),
            Ok(None) => Err(Ending::Left),
            Err(_) => Err(self.client_gone().into()),
        }
    }

    /// A pull that never began waits as long as it was told to; one that did waits for the client
    /// to come back.
    fn away_until(&self) -> DateTime<Utc> {
        let resume_until = now() + self.shared.limits.resume_within;
        match (self.transfer.started_at, self.transfer.queue_until) {
            (None, Some(queue_until)) => queue_until,
            (Some(_), Some(queue_until)) => queue_until.max(resume_until),
            (_, None) => resume_until,
        }
    }

    fn client_gone(&self) -> Problem {
        let client = &self.transfer.client;
        let seen = self.shared.registry.client(client);
        let seen = seen.map(|seen| crate::registry::last_seen(&seen, Utc::now()));
        let seen = seen.unwrap_or_default();
        Problem::new(Code::ClientGone, format!("{client} did not return in time. {seen}"))
    }

    /// Takes the client's turn, then one of the server's.
    async fn turn(&mut self, session: &Session) -> Result<Turn, Ending> {
        let (mine, all) = (Arc::clone(&self.berth.turn), Arc::clone(&self.shared.turns));
        if let Ok(client) = Arc::clone(&mine).try_acquire_owned()
            && let Ok(server) = Arc::clone(&all).try_acquire_owned()
        {
            return Ok(Turn { _client: Some(client), _server: Some(server) });
        }
        self.show(Stage::Waiting(WaitingFor::Turn));
        let left = self.line_changed(session.epoch);
        let turn = async move {
            let client = mine.acquire_owned().await.ok();
            let server = all.acquire_owned().await.ok();
            Turn { _client: client, _server: server }
        };
        let turn = async move {
            tokio::select! {
                turn = turn => turn,
                () = left => Turn { _client: None, _server: None },
            }
        };
        self.unless_ended(turn).await
    }

    /// Resolves when the client's line is no longer the one of `epoch`.
    pub(super) fn line_changed(&self, epoch: u64) -> impl Future<Output = ()> + use<> {
        let mut line = self.berth.line();
        async move {
            let changed =
                |line: &Option<Session>| line.as_ref().is_none_or(|line| line.epoch != epoch);
            let _ = line.wait_for(changed).await;
        }
    }

    pub(super) fn current_line(&self) -> Option<Session> {
        self.berth.line().borrow().clone()
    }

    /// Notes that an attempt was cut short, and waits a little if it brought nothing.
    async fn interrupted(
        &mut self,
        session: &Session,
        why: &str,
        progress: bool,
        began: u32,
    ) -> Result<(), Ending> {
        let Transfer { id, client, .. } = &self.transfer;
        let bytes_done = self.held.as_ref().map_or(0, |held| held.receiver.received());
        warn!(
            event = "transfer.interrupted", transfer = %id, %client, bytes_done,
            attempt = self.transfer.attempt, reason = why, "transfer interrupted"
        );
        debug_assert!(began < self.transfer.attempt, "an attempt that ended had begun");
        self.view.send_modify(|view| view.bytes_per_second = None);
        let line_is_up = self.current_line().is_some_and(|line| line.epoch == session.epoch);
        if progress || !line_is_up {
            self.transfer.setbacks.stalled = 0;
            self.backoff = again();
        } else {
            self.transfer.setbacks.stalled += 1;
        }
        if Transfer::MAX_STALLED <= self.transfer.setbacks.stalled {
            let detail =
                format!("{} is connected, but no bytes come: {why}.", self.transfer.client);
            return Err(Problem::new(Code::TransferStalled, detail).into());
        }
        // What broke the upload has mostly broken the line too: it is given time to be noticed.
        let wait = self.backoff.next(Ended::Lost { lived: Duration::ZERO }, fastrand::f64());
        let (again, line_changed) = (Instant::now() + wait, self.line_changed(session.epoch));
        let pause = async {
            tokio::select! {
                () = sleep_until(again) => {}
                () = line_changed => {}
            }
        };
        self.unless_ended(pause).await
    }

    /// Waits for `work`, unless the transfer is cancelled or the process takes no new work.
    pub(super) async fn unless_ended<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Ending> {
        tokio::pin!(work);
        let drain = self.shared.lifecycle.drain().clone();
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(ask) = self.asks.recv() => self.heed_idly(ask)?,
                () = drain.cancelled() => return Err(Ending::Left),
            }
        }
    }

    /// Heeds an ask while no order is out: what is not a cancel comes too late.
    pub(super) fn heed_idly(&self, ask: Ask) -> Result<(), Ending> {
        match ask {
            Ask::Cancel(problem) => Err(problem.into()),
            Ask::Answer { .. } => Ok(()),
            Ask::Upload(upload) => {
                let detail = format!("attempt {} is over", upload.attempt);
                refuse(&upload.replies, Problem::new(Code::TransferUnknown, detail), None);
                Ok(())
            }
        }
    }

    /// From the first try of a name to the download.
    pub(super) async fn finish_publishing(
        &mut self,
        mut published: Published,
    ) -> Result<(), Ending> {
        while published == Published::Taken {
            let effects = self.transfer.name_taken();
            published = self.perform(&effects).await?;
        }
        self.held = None;
        let effects = self.transfer.published(now());
        if let Err(problem) = self.perform(&effects).await {
            // The name may or may not survive a power cut. The record still says "sealed", and the
            // next start finds out; until then nobody is told that the file is safe.
            error!(event = "transfer.unknown", transfer = %self.transfer.id, "{problem}");
            self.transfer.phase = Phase::Failed(problem);
            self.view.send_modify(|view| view.transfer = self.transfer.clone());
            return Err(Ending::Left);
        }
        self.show_done();
        Ok(())
    }

    pub(super) async fn perform(&mut self, effects: &[Effect]) -> Result<Published, Problem> {
        perform(&self.shared, &self.transfer, &mut self.held, effects).await
    }

    pub(super) fn show(&self, stage: Stage) {
        self.view.send_modify(|view| {
            view.stage = stage;
            view.transfer = self.transfer.clone();
            if let Some(source) = self.transfer.source() {
                view.source = Some(source.clone());
            }
        });
    }

    async fn fail(&mut self, problem: Problem) {
        let effects = self.transfer.fail(problem, now());
        self.held = None;
        if self.perform(&effects).await.is_err() {
            // Said in the log already. The next start finds it unfinished and tries again.
        }
        self.log_failed();
        self.view.send_modify(|view| {
            view.transfer = self.transfer.clone();
            view.stage = Stage::Starting;
            view.bytes_per_second = None;
        });
    }

    pub(super) fn show_done(&self) {
        let Transfer { id, client, attempt, .. } = &self.transfer;
        if let Some(download) = self.transfer.download() {
            let seconds = super::seconds_taken(&self.transfer);
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

    fn log_created(&self) {
        let Transfer { id, client, path, requested_by, .. } = &self.transfer;
        let path = path.as_ref().map(|path| path.as_str());
        tracing::debug!(
            event = "transfer.created", transfer = %id, %client, path, requested_by,
            "transfer created"
        );
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

/// The right to send one file, given back when dropped.
pub(super) struct Turn {
    _client: Option<OwnedSemaphorePermit>,
    _server: Option<OwnedSemaphorePermit>,
}
