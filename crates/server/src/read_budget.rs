//! Stops reading from a connection while its data is not consumed.
//!
//! HTTP/2 lets an agent send a whole flow-control window ahead, 16 MiB, and what has been read must
//! be kept. Left in the system's socket buffer instead, it slows the agent down by itself. A window
//! belongs to the connection, so a session has the window of an upload: only this bounds what an
//! agent without an order can make the server hold.
//!
//! The reader counts, because it is quicker than whoever would stop it: it reads whatever is there
//! before the upload has its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;

/// The brake of one connection: set by the upload it carries, felt by its reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bytes that may be read.
    wanted: AtomicUsize,
    n_uploads: AtomicUsize,
    /// A session lives on this connection too: its heartbeats must not wait for an upload's disk.
    has_session: AtomicBool,
    reader: AtomicWaker,
}

/// Maximum number of bytes read ahead of the consumer, unless an upload wants more: the longest
/// message of a session, 64 KiB, and its frames.
const UNASKED: usize = 80 * 1024;

/// Maximum number of bytes in flight of an upload that has ended. HTTP/2 drops them on arrival.
const UNDER_WAY: usize = 32 * 1024 * 1024;

impl Default for Inner {
    fn default() -> Self {
        Self {
            wanted: AtomicUsize::new(UNASKED),
            n_uploads: AtomicUsize::new(0),
            has_session: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }
    }
}

impl ReadBudget {
    /// So many bytes are wanted from now on, whatever was wanted before.
    pub(crate) fn want(&self, len: usize) {
        if self.0.wanted.swap(len, Ordering::SeqCst) == 0 {
            self.0.reader.wake();
        }
    }

    /// Reads without a limit.
    pub(crate) fn want_all(&self) {
        self.want(usize::MAX);
    }

    /// An upload begins. Reading stops until the upload requests bytes.
    pub(crate) fn begin_upload(&self) {
        self.0.n_uploads.fetch_add(1, Ordering::SeqCst);
        self.want(0);
    }

    /// An upload has ended.
    pub(crate) fn end_upload(&self) {
        self.0.n_uploads.fetch_sub(1, Ordering::SeqCst);
        self.want(UNDER_WAY);
    }

    /// Returns whether an upload decides how much is read.
    pub(crate) fn has_upload(&self) -> bool {
        0 < self.0.n_uploads.load(Ordering::SeqCst)
    }

    /// A message of a session, or the head of a request, has been consumed.
    pub(crate) fn took(&self) {
        if !self.has_upload() && self.0.wanted.load(Ordering::SeqCst) < UNASKED {
            self.want(UNASKED);
        }
    }

    /// The connection carries a session from now on, so no upload brakes it.
    pub(crate) fn carries_session(&self) {
        self.0.has_session.store(true, Ordering::SeqCst);
        self.0.reader.wake();
    }

    /// Must the reader wait? It is woken when it need not any more.
    pub(crate) fn holds(&self, context: &mut Context<'_>) -> bool {
        let is_shared = || self.0.has_session.load(Ordering::SeqCst) && self.has_upload();
        let holds = || self.0.wanted.load(Ordering::SeqCst) == 0 && !is_shared();
        // Looked at again once registered, or a release in between would be missed.
        holds() && {
            self.0.reader.register(context.waker());
            holds()
        }
    }

    /// So much has been read.
    pub(crate) fn has_read(&self, len: usize) {
        let left = |wanted: usize| Some(wanted.saturating_sub(len));
        let _ = self.0.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    fn read(brake: &ReadBudget) -> impl Future<Output = ()> + use<> {
        let brake = brake.clone();
        poll_fn(move |context| if brake.holds(context) { Poll::Pending } else { Poll::Ready(()) })
    }

    #[tokio::test]
    async fn a_reader_goes_on_when_the_brake_is_released() {
        let brake = ReadBudget::default();
        read(&brake).await;
        brake.begin_upload();
        let release = async { brake.end_upload() };
        futures::join!(read(&brake), release);
    }

    #[tokio::test]
    async fn a_reader_takes_no_more_than_is_wanted() {
        let brake = ReadBudget::default();
        brake.want(10);
        brake.has_read(9);
        read(&brake).await;
        brake.has_read(9);
        assert!(futures::poll!(pin!(read(&brake))).is_pending());
        brake.want(1);
        read(&brake).await;
    }

    #[tokio::test]
    async fn a_session_is_never_braked_by_an_upload() {
        let brake = ReadBudget::default();
        brake.begin_upload();
        let greet = async { brake.carries_session() };
        futures::join!(read(&brake), greet);
        brake.want(0);
        read(&brake).await;
    }

    #[tokio::test]
    async fn a_session_whose_messages_are_not_taken_is_read_no_further() {
        let brake = ReadBudget::default();
        brake.carries_session();
        brake.has_read(UNASKED);
        assert!(futures::poll!(pin!(read(&brake))).is_pending());
        let take = async { brake.took() };
        futures::join!(read(&brake), take);
    }
}
