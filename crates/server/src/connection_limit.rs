//! Limits the connections of a listener, and chooses which connection is closed at the limit.
//!
//! A connection is *idle* while it carries no request of an operator and no stream of an agent. At the
//! limit a new connection is admitted at once, and the connection without progress for the longest
//! time is closed: an idle one, or a busy one where the listener allows that. So a legitimate caller
//! is not locked out by idle connections or by callers that wait forever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Minimum time between two notes of progress. A fast download makes progress with every write.
const TOUCH_INTERVAL: Duration = Duration::from_millis(250);

/// Minimum time from the last progress of a busy connection until it may be closed, so that a burst of
/// requests does not close each other's connections.
const MIN_BUSY: Duration = Duration::from_millis(500);

/// Minimum time between two log lines about a listener at its limit.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The connection limit of one listener.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit(Arc<LimitState>);

#[derive(Debug)]
struct LimitState {
    /// The callers of the listener, for the log: agents or operators.
    listener: &'static str,
    /// Whether a busy connection may be closed for a newcomer.
    closes_busy: bool,
    permits: Arc<Semaphore>,
    order: Mutex<CloseOrder>,
    /// A new connection waits, because every connection is busy.
    is_waiting: AtomicBool,
    became_idle: Notify,
}

/// The order of closing: the idle connection with the lowest number first, then the busy ones.
#[derive(Debug, Default)]
struct CloseOrder {
    next: u64,
    idle: BTreeMap<u64, CancellationToken>,
    busy: BTreeMap<u64, (Instant, CancellationToken)>,
    logged: Option<Instant>,
}

/// Counts one connection against the limit, until its last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionPermit(Arc<PermitState>);

#[derive(Debug)]
struct PermitState {
    limit: Arc<LimitState>,
    closed: CancellationToken,
    usage: Mutex<ConnectionUsage>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct ConnectionUsage {
    number: u64,
    n_uses: usize,
    was_used: bool,
    /// When a use last began or ended, or progress was last noted.
    progress_at: Instant,
}

/// Marks a connection as busy until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse(ConnectionPermit);

/// The state of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) since: Instant,
    /// Whether the connection was busy before.
    pub(crate) was_used: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change below is complete before it can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConnectionLimit {
    /// Creates a limit of `max_len` connections. For a new connection it closes an idle one; a busy one
    /// only if `closes_busy`.
    pub(crate) fn new(listener: &'static str, max_len: usize, closes_busy: bool) -> Self {
        Self(Arc::new(LimitState {
            listener,
            closes_busy,
            permits: Arc::new(Semaphore::new(max_len)),
            order: Mutex::default(),
            is_waiting: AtomicBool::new(false),
            became_idle: Notify::new(),
        }))
    }

    /// Admits a connection, and closes another one if the limit is exceeded. Waits only if no
    /// connection may be closed. The caller must end the connection when `closed()` of its permit is
    /// cancelled, which a cancelled `stop` does too.
    pub(crate) async fn admit(&self, stop: &CancellationToken) -> ConnectionPermit {
        let limit = Arc::clone(&self.0);
        let permit = match Arc::clone(&limit.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.acquire_by_closing().await,
        };
        let closed = stop.child_token();
        let mut order = lock(&limit.order);
        let number = order.take_number();
        order.idle.insert(number, closed.clone());
        drop(order);
        let now = Instant::now();
        let usage = ConnectionUsage { number, n_uses: 0, was_used: false, progress_at: now };
        let state = PermitState { limit, closed, usage: Mutex::new(usage), _permit: permit };
        ConnectionPermit(Arc::new(state))
    }

    /// Closes a connection and waits for its permit.
    async fn acquire_by_closing(&self) -> OwnedSemaphorePermit {
        let shared = &self.0;
        let acquired = Arc::clone(&shared.permits).acquire_owned();
        tokio::pin!(acquired);
        shared.is_waiting.store(true, Ordering::SeqCst);
        let mut closing = self.close_one();
        let permit = loop {
            let retry_at = if let Closing::At(time) = closing { Some(time) } else { None };
            tokio::select! {
                permit = &mut acquired => break permit,
                () = shared.became_idle.notified(), if closing != Closing::Now => {
                    closing = self.close_one();
                }
                () = reached(retry_at) => closing = self.close_one(),
            }
        };
        shared.is_waiting.store(false, Ordering::SeqCst);
        permit.expect("this semaphore is never closed")
    }

    /// Closes the connection that has made no progress for the longest time.
    fn close_one(&self) -> Closing {
        let mut order = lock(&self.0.order);
        let now = Instant::now();
        let mut closing = Closing::Never;
        let mut victim = order.idle.pop_first().map(|(_, closed)| closed);
        if victim.is_none()
            && self.0.closes_busy
            && let Some(oldest) = order.busy.first_entry()
        {
            let from = oldest.get().0 + MIN_BUSY;
            closing = Closing::At(from);
            victim = (from <= now).then(|| oldest.remove().1);
        }
        if order.logged.is_none_or(|logged| LOG_INTERVAL <= now - logged) {
            order.logged = Some(now);
            let consequence = match closing {
                Closing::Never if victim.is_none() => "all are busy: new connections wait",
                Closing::Now | Closing::At(_) | Closing::Never => {
                    "the connection that was idle for the longest time is closed"
                }
            };
            let listener = self.0.listener;
            warn!(
                event = "connection_limit.reached",
                listener, "connection limit reached: {consequence}"
            );
        }
        drop(order);
        match victim {
            Some(closed) => {
                closed.cancel();
                Closing::Now
            }
            None => closing,
        }
    }
}

/// When a connection is closed for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Now,
    /// At this time or later.
    At(Instant),
    /// Only after one becomes idle or ends.
    Never,
}

/// Waits until `time`, or forever if it is none.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl ConnectionPermit {
    /// Returns the token that is cancelled when the connection must end.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }

    /// Marks the connection as busy until the result is dropped.
    pub(crate) fn begin(&self) -> InUse {
        let mut usage = lock(&self.0.usage);
        usage.n_uses += 1;
        usage.was_used = true;
        if usage.n_uses == 1 {
            self.reorder(&mut usage);
        }
        drop(usage);
        InUse(self.clone())
    }

    /// Notes that bytes were sent or received.
    pub(crate) fn note_progress(&self) {
        let mut usage = lock(&self.0.usage);
        if TOUCH_INTERVAL <= usage.progress_at.elapsed() {
            self.reorder(&mut usage);
        }
    }

    /// Returns since when the connection is idle. None while it is busy.
    pub(crate) fn idle(&self) -> Option<Idle> {
        let usage = lock(&self.0.usage);
        let idle = Idle { since: usage.progress_at, was_used: usage.was_used };
        (usage.n_uses == 0).then_some(idle)
    }

    /// Makes the connection the last one to be closed.
    fn reorder(&self, usage: &mut ConnectionUsage) {
        usage.progress_at = Instant::now();
        let mut order = lock(&self.0.limit.order);
        let is_closed = order.remove(usage.number).is_none();
        // The connection has been chosen to be closed already.
        if is_closed {
            return;
        }
        usage.number = order.take_number();
        let closed = self.0.closed.clone();
        if usage.n_uses == 0 {
            order.idle.insert(usage.number, closed);
        } else {
            order.busy.insert(usage.number, (usage.progress_at, closed));
        }
    }
}

impl CloseOrder {
    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        self.idle.remove(&number).or_else(|| self.busy.remove(&number).map(|(_, closed)| closed))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let permit = &self.0.0;
        let mut usage = lock(&permit.usage);
        usage.n_uses -= 1;
        if usage.n_uses == 0 {
            self.0.reorder(&mut usage);
            if permit.limit.is_waiting.load(Ordering::SeqCst) {
                permit.limit.became_idle.notify_one();
            }
        }
    }
}

impl Drop for PermitState {
    fn drop(&mut self) {
        let number = lock(&self.usage).number;
        lock(&self.limit.order).remove(number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn limit(max_len: usize, closes_busy: bool) -> (ConnectionLimit, CancellationToken) {
        (ConnectionLimit::new("test", max_len, closes_busy), CancellationToken::new())
    }

    #[tokio::test]
    async fn at_the_limit_the_connection_idle_for_the_longest_time_is_closed() {
        let (limit, stop) = limit(2, true);
        let first = limit.admit(&stop).await;
        let second = limit.admit(&stop).await;
        drop(first.begin());
        let mut third = pin!(limit.admit(&stop));
        assert!(futures::poll!(&mut third).is_pending());
        assert!(second.closed().is_cancelled() && !first.closed().is_cancelled());
        drop(second);
        third.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_is_closed_only_if_none_is_idle_and_not_at_once() {
        let (limit, stop) = limit(2, true);
        let busy = limit.admit(&stop).await;
        let in_use = busy.begin();
        let idle = limit.admit(&stop).await;
        assert!(futures::poll!(pin!(limit.admit(&stop))).is_pending());
        assert!(idle.closed().is_cancelled() && !busy.closed().is_cancelled());
        let begun = Instant::now();
        let mut newcomer = pin!(limit.admit(&stop));
        assert!(futures::poll!(&mut newcomer).is_pending());
        assert!(!busy.closed().is_cancelled());
        let closed = busy.closed().clone();
        let end_busy = async {
            closed.cancelled().await;
            drop((in_use, busy));
        };
        futures::join!(newcomer, end_busy);
        assert_eq!(begun.elapsed(), MIN_BUSY);
    }

    #[tokio::test]
    async fn a_session_is_never_closed_and_the_new_connection_waits() {
        let (limit, stop) = limit(1, false);
        let session = limit.admit(&stop).await;
        let in_use = session.begin();
        let mut newcomer = pin!(limit.admit(&stop));
        assert!(futures::poll!(&mut newcomer).is_pending());
        assert!(!session.closed().is_cancelled());
        drop(in_use);
        assert!(futures::poll!(&mut newcomer).is_pending());
        assert!(session.closed().is_cancelled(), "it became idle while another one waits");
        drop(session);
        newcomer.await;
    }
}
