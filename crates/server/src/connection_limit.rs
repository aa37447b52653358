//! How many connections a listener holds at once, and which one is closed when there are more.
//!
//! A connection is *idle* while nothing runs on it: no request of an operator, no stream of an agent.
//! At the limit a newcomer is admitted at once, and the connection without progress for the longest
//! time is closed in its place: an idle one, or where the listener allows it a busy one. So neither
//! idle connections nor callers that wait forever lock a legitimate caller out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Progress is noted at most this often: a fast download makes some with every write.
const TOUCH_INTERVAL: Duration = Duration::from_millis(250);

/// A busy connection keeps its permit for this long after its last progress: a request that is
/// answered at once is not cut off by a burst of others.
const MIN_BUSY: Duration = Duration::from_millis(500);

/// A listener at its limit is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The limit of one listener.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit(Arc<LimitState>);

#[derive(Debug)]
struct LimitState {
    /// For the log.
    whose: &'static str,
    /// Whether a busy connection may be closed for a newcomer.
    closes_busy: bool,
    permits: Arc<Semaphore>,
    order: Mutex<CloseOrder>,
    /// A newcomer waits, because every connection is busy.
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

/// A connection's share of the limit, returned when its last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionPermit(Arc<PermitState>);

#[derive(Debug)]
struct PermitState {
    limit: Arc<LimitState>,
    closed: CancellationToken,
    state: Mutex<LimitCounts>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct LimitCounts {
    number: u64,
    n_uses: usize,
    was_used: bool,
    /// When the last use ended, or the last progress was noted.
    progress_at: Instant,
}

/// Keeps a connection busy until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse(ConnectionPermit);

/// A connection on which nothing runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    /// Since when.
    pub(crate) since: Instant,
    /// Something ran on it before.
    pub(crate) was_used: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change below is complete before anything in it can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConnectionLimit {
    /// A limit of `max_len` connections. Only idle ones are closed for a newcomer, unless
    /// `closes_busy`.
    pub(crate) fn new(whose: &'static str, max_len: usize, closes_busy: bool) -> Self {
        Self(Arc::new(LimitState {
            whose,
            closes_busy,
            permits: Arc::new(Semaphore::new(max_len)),
            order: Mutex::default(),
            is_waiting: AtomicBool::new(false),
            became_idle: Notify::new(),
        }))
    }

    /// Admits a connection, and closes another one if the limit is exceeded. Waits only if no
    /// connection may be closed. The caller must end the connection when its permit is closed or
    /// `stop` is.
    pub(crate) async fn admit(&self, stop: &CancellationToken) -> ConnectionPermit {
        let shared = &self.0;
        let permit = match Arc::clone(&shared.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make_room().await,
        };
        let closed = stop.child_token();
        let mut order = lock(&shared.order);
        let number = order.take_number();
        order.idle.insert(number, closed.clone());
        drop(order);
        let now = Instant::now();
        let state = LimitCounts { number, n_uses: 0, was_used: false, progress_at: now };
        let (limit, state) = (Arc::clone(shared), Mutex::new(state));
        ConnectionPermit(Arc::new(PermitState { limit, closed, state, _permit: permit }))
    }

    async fn make_room(&self) -> OwnedSemaphorePermit {
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
            let what = match closing {
                Closing::Never if victim.is_none() => {
                    "at the limit of connections, and all are in use: others wait"
                }
                Closing::Now | Closing::At(_) | Closing::Never => {
                    "at the limit of connections: the one idle for the longest time is closed"
                }
            };
            warn!(event = "connection_limit.reached", whose = self.0.whose, "{what}");
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

/// When a connection is closed for a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Now,
    /// Not before this time.
    At(Instant),
    /// Not before one becomes idle or ends.
    Never,
}

/// Waits until `time`; forever without one.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl CloseOrder {
    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl ConnectionPermit {
    /// Cancelled when the connection must end.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }

    /// Notes that something runs on the connection, until the result is dropped.
    pub(crate) fn begin(&self) -> InUse {
        let mut state = lock(&self.0.state);
        state.n_uses += 1;
        state.was_used = true;
        if state.n_uses == 1 {
            self.reorder(&mut state);
        }
        drop(state);
        InUse(self.clone())
    }

    /// Notes that bytes have passed.
    pub(crate) fn note_progress(&self) {
        let mut state = lock(&self.0.state);
        if TOUCH_INTERVAL <= state.progress_at.elapsed() {
            self.reorder(&mut state);
        }
    }

    /// Since when nothing runs on the connection; none while something does.
    pub(crate) fn idle(&self) -> Option<Idle> {
        let state = lock(&self.0.state);
        let idle = Idle { since: state.progress_at, was_used: state.was_used };
        (state.n_uses == 0).then_some(idle)
    }

    /// Makes the connection the last one to be closed.
    fn reorder(&self, state: &mut LimitCounts) {
        state.progress_at = Instant::now();
        let mut order = lock(&self.0.limit.order);
        let is_closed = order.remove(state.number).is_none();
        // The connection has already been chosen to be closed.
        if is_closed {
            return;
        }
        state.number = order.take_number();
        let closed = self.0.closed.clone();
        if state.n_uses == 0 {
            order.idle.insert(state.number, closed);
        } else {
            order.busy.insert(state.number, (state.progress_at, closed));
        }
    }
}

impl CloseOrder {
    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        self.idle.remove(&number).or_else(|| self.busy.remove(&number).map(|(_, closed)| closed))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let held = &self.0.0;
        let mut state = lock(&held.state);
        state.n_uses -= 1;
        if state.n_uses == 0 {
            self.0.reorder(&mut state);
            if held.limit.is_waiting.load(Ordering::SeqCst) {
                held.limit.became_idle.notify_one();
            }
        }
    }
}

impl Drop for PermitState {
    fn drop(&mut self) {
        let number = lock(&self.state).number;
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
    async fn at_the_limit_the_one_that_is_idle_for_the_longest_time_gives_way() {
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
    async fn a_busy_connection_gives_way_only_where_none_is_idle_and_not_at_once() {
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
        let gives_way = async {
            closed.cancelled().await;
            drop((in_use, busy));
        };
        futures::join!(newcomer, gives_way);
        assert_eq!(begun.elapsed(), MIN_BUSY);
    }

    #[tokio::test]
    async fn a_session_is_never_closed_for_a_newcomer_which_waits() {
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
