//! Limits how far a connection is read ahead of the consumer of its data.
//!
//! HTTP/2 lets an agent send a whole flow-control window ahead, 16 MiB, and the server must keep
//! everything that it has read. Data that stays in the system's socket buffer slows the agent down
//! instead. A window belongs to the connection, so a session has the window of an upload: only the
//! read budget limits what an agent without an order can make the server hold.
//!
//! The reader itself counts the bytes. It runs before the upload does, so an upload that counted
//! would stop it too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

/// The budget of one connection. An upload or a session sets it, and the reader consumes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The number of bytes that may be read.
    budget: AtomicUsize,
    n_uploads: AtomicUsize,
    /// The connection also carries a session, whose heartbeats must not wait for an upload's disk.
    has_session: AtomicBool,
    reader: AtomicWaker,
}

/// Maximum number of bytes read ahead of the consumer, unless an upload sets another budget: the
/// longest message of a session, 64 KiB, and its frames.
const READ_AHEAD_LEN: usize = 80 * 1024;

/// Maximum number of bytes in flight of an upload that has ended. HTTP/2 drops them on arrival.
const IN_FLIGHT_LEN: usize = 32 * 1024 * 1024;

impl Default for Inner {
    fn default() -> Self {
        Self {
            budget: AtomicUsize::new(READ_AHEAD_LEN),
            n_uploads: AtomicUsize::new(0),
            has_session: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }
    }
}

impl ReadBudget {
    /// Allows the reader to read `len` bytes from now on. Replaces the previous budget.
    pub(crate) fn set_budget(&self, len: usize) {
        if self.0.budget.swap(len, Ordering::SeqCst) == 0 {
            self.0.reader.wake();
        }
    }

    /// Allows the reader to read without a limit, until the next budget.
    pub(crate) fn set_unlimited(&self) {
        self.set_budget(usize::MAX);
    }

    /// Stops the reader when an upload begins, until the upload sets a budget.
    pub(crate) fn begin_upload(&self) {
        self.0.n_uploads.fetch_add(1, Ordering::SeqCst);
        self.set_budget(0);
    }

    /// Allows the reader to drain what is still in flight of an upload that has ended.
    pub(crate) fn end_upload(&self) {
        self.0.n_uploads.fetch_sub(1, Ordering::SeqCst);
        self.set_budget(IN_FLIGHT_LEN);
    }

    /// Returns whether an upload sets the budget.
    pub(crate) fn has_upload(&self) -> bool {
        0 < self.0.n_uploads.load(Ordering::SeqCst)
    }

    /// Renews the budget after a message of a session, or the head of a request, was consumed.
    pub(crate) fn renew(&self) {
        if !self.has_upload() && self.0.budget.load(Ordering::SeqCst) < READ_AHEAD_LEN {
            self.set_budget(READ_AHEAD_LEN);
        }
    }

    /// Notes that the connection carries a session: from now on no upload stops the reader.
    pub(crate) fn begin_session(&self) {
        self.0.has_session.store(true, Ordering::SeqCst);
        self.0.reader.wake();
    }

    /// Returns whether the reader may read. The task of `context` is woken when it may.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let is_shared = || self.0.has_session.load(Ordering::SeqCst) && self.has_upload();
        let is_used_up = || self.0.budget.load(Ordering::SeqCst) == 0 && !is_shared();
        // Checked again after the registration, because a budget set in between would be missed.
        let must_wait = is_used_up() && {
            self.0.reader.register(context.waker());
            is_used_up()
        };
        if must_wait { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Subtracts `len` bytes that were read.
    pub(crate) fn consume(&self, len: usize) {
        let left = |budget: usize| Some(budget.saturating_sub(len));
        let _ = self.0.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;

    fn ready(budget: &ReadBudget) -> impl Future<Output = ()> + use<> {
        let budget = budget.clone();
        poll_fn(move |context| budget.poll_ready(context))
    }

    #[tokio::test]
    async fn a_reader_resumes_when_the_upload_ends() {
        let budget = ReadBudget::default();
        ready(&budget).await;
        budget.begin_upload();
        let end = async { budget.end_upload() };
        futures::join!(ready(&budget), end);
    }

    #[tokio::test]
    async fn a_reader_stops_when_the_budget_is_used_up() {
        let budget = ReadBudget::default();
        budget.set_budget(10);
        budget.consume(9);
        ready(&budget).await;
        budget.consume(9);
        assert!(futures::poll!(pin!(ready(&budget))).is_pending());
        budget.set_budget(1);
        ready(&budget).await;
    }

    #[tokio::test]
    async fn an_upload_never_stops_the_reader_of_a_session() {
        let budget = ReadBudget::default();
        budget.begin_upload();
        let begin = async { budget.begin_session() };
        futures::join!(ready(&budget), begin);
        budget.set_budget(0);
        ready(&budget).await;
    }

    #[tokio::test]
    async fn a_session_whose_messages_are_not_consumed_is_not_read_further() {
        let budget = ReadBudget::default();
        budget.begin_session();
        budget.consume(READ_AHEAD_LEN);
        assert!(futures::poll!(pin!(ready(&budget))).is_pending());
        let renew = async { budget.renew() };
        futures::join!(ready(&budget), renew);
    }
}
