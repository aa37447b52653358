//! Stops reading from a connection while the disk is behind.
//!
//! HTTP/2 lets an agent send a whole flow-control window ahead, 16 MiB, and what has been read must
//! be kept. Left in the system's socket buffer instead, it slows the agent down by itself.
//!
//! The reader counts, because it is quicker than whoever would stop it: it reads whatever is there
//! before the upload has its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;

/// The brake of one connection: set by the upload it carries, felt by its reader.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bytes that may be read.
    wanted: AtomicUsize,
    /// A session lives on this connection too: its heartbeats must not wait for a disk.
    has_session: AtomicBool,
    reader: AtomicWaker,
}

/// Nobody counts.
const EVERYTHING: usize = usize::MAX;

impl Default for Inner {
    fn default() -> Self {
        let (wanted, has_session) = (AtomicUsize::new(EVERYTHING), AtomicBool::new(false));
        Self { wanted, has_session, reader: AtomicWaker::new() }
    }
}

impl Brake {
    /// So many bytes are wanted from now on, whatever was wanted before.
    pub(crate) fn want(&self, len: usize) {
        if self.0.wanted.swap(len, Ordering::SeqCst) == 0 {
            self.0.reader.wake();
        }
    }

    /// Nobody minds how much is read.
    pub(crate) fn release(&self) {
        self.want(EVERYTHING);
    }

    /// From now on the connection is never braked.
    pub(crate) fn carries_session(&self) {
        self.0.has_session.store(true, Ordering::SeqCst);
        self.0.reader.wake();
    }

    /// Must the reader wait? It is woken when it need not any more.
    pub(crate) fn holds(&self, context: &mut Context<'_>) -> bool {
        let holds = || {
            self.0.wanted.load(Ordering::SeqCst) == 0 && !self.0.has_session.load(Ordering::SeqCst)
        };
        // Looked at again once registered, or a release in between would be missed.
        holds() && {
            self.0.reader.register(context.waker());
            holds()
        }
    }

    /// So much has been read.
    pub(crate) fn has_read(&self, len: usize) {
        let left = |wanted: usize| (wanted != EVERYTHING).then(|| wanted.saturating_sub(len));
        // An error means that nobody counts.
        let _ = self.0.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    fn read(brake: &Brake) -> impl Future<Output = ()> + use<> {
        let brake = brake.clone();
        poll_fn(move |context| if brake.holds(context) { Poll::Pending } else { Poll::Ready(()) })
    }

    #[tokio::test]
    async fn a_reader_goes_on_when_the_brake_is_released() {
        let brake = Brake::default();
        read(&brake).await;
        brake.want(0);
        let release = async { brake.release() };
        futures::join!(read(&brake), release);
    }

    #[tokio::test]
    async fn a_reader_takes_no_more_than_is_wanted() {
        let brake = Brake::default();
        brake.want(10);
        brake.has_read(9);
        read(&brake).await;
        brake.has_read(9);
        assert!(futures::poll!(pin!(read(&brake))).is_pending());
        brake.want(1);
        read(&brake).await;
    }

    #[tokio::test]
    async fn a_line_is_never_braked() {
        let brake = Brake::default();
        brake.want(0);
        let greet = async { brake.carries_session() };
        futures::join!(read(&brake), greet);
        brake.want(0);
        read(&brake).await;
    }
}
