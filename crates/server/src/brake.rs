//! Stops reading from a connection while the disk is behind.
//!
//! HTTP/2 lets an agent send a whole flow-control window ahead, 16 MiB, and what has been read must
//! be kept. Left in the system's socket buffer instead, it slows the agent down by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;

/// The brake of one connection: pulled by the upload it carries, felt by its reader.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pulled: AtomicBool,
    /// A session lives on this connection too: its heartbeats must not wait for a disk.
    has_session: AtomicBool,
    reader: AtomicWaker,
}

impl Brake {
    /// Nothing more is wanted for now.
    pub(crate) fn pull(&self) {
        self.0.pulled.store(true, Ordering::SeqCst);
    }

    /// More is wanted.
    pub(crate) fn release(&self) {
        if self.0.pulled.swap(false, Ordering::SeqCst) {
            self.0.reader.wake();
        }
    }

    /// From now on the connection is never braked.
    pub(crate) fn carries_session(&self) {
        self.0.has_session.store(true, Ordering::SeqCst);
        self.release();
    }

    /// Must the reader wait? It is woken when it need not any more.
    pub(crate) fn holds(&self, context: &mut Context<'_>) -> bool {
        let holds =
            || self.0.pulled.load(Ordering::SeqCst) && !self.0.has_session.load(Ordering::SeqCst);
        // Looked at again once registered, or a release in between would be missed.
        holds() && {
            self.0.reader.register(context.waker());
            holds()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
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
        brake.pull();
        let release = async { brake.release() };
        futures::join!(read(&brake), release);
    }

    #[tokio::test]
    async fn a_line_is_never_braked() {
        let brake = Brake::default();
        brake.pull();
        let greet = async { brake.carries_session() };
        futures::join!(read(&brake), greet);
        brake.pull();
        read(&brake).await;
    }
}
