//! The connection that files travel on.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use filepull_core::CHUNK_LEN;
use filepull_process::Lifecycle;
use tonic::transport::Channel;

use crate::config::DataConn;
use crate::dial::Dialer;

/// After this long without an upload the connection is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Lends connections to uploads.
#[derive(Debug)]
pub(crate) struct UploadConnections {
    dialler: Dialer,
    conn: DataConn,
    lifecycle: Lifecycle,
    /// Alive as long as an upload uses it, or one did lately.
    open: Mutex<Weak<Channel>>,
}

/// What an upload travels on.
#[derive(Clone, Debug)]
pub(crate) enum UploadConnection {
    /// The connection of the session.
    Line(Channel),
    /// A connection for uploads.
    Own(Arc<Channel>),
}

impl UploadConnection {
    pub(crate) fn channel(&self) -> Channel {
        match self {
            Self::Line(channel) => channel.clone(),
            Self::Own(channel) => Channel::clone(channel),
        }
    }
}

impl UploadConnections {
    pub(crate) fn new(dialler: Dialer, conn: DataConn, lifecycle: Lifecycle) -> Self {
        Self { dialler, conn, lifecycle, open: Mutex::default() }
    }

    /// A connection for an upload of `len` bytes that was ordered on `line`.
    pub(crate) fn borrow(&self, line: &Channel, len: u64) -> UploadConnection {
        // What fits into one chunk delays an order by no more than that; to dial costs more than
        // to send it.
        if self.conn == DataConn::Shared || len <= CHUNK_LEN as u64 {
            return UploadConnection::Line(line.clone());
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        UploadConnection::Own(open.upgrade().unwrap_or_else(|| {
            let channel = Arc::new(self.dialler.dial_lazily());
            *open = Arc::downgrade(&channel);
            channel
        }))
    }

    /// Keeps the connection of an upload that is over for the next one. The task ends after
    /// [`IDLE`], or with the process.
    pub(crate) fn give_back(&self, lent: UploadConnection) {
        let UploadConnection::Own(channel) = lent else { return };
        let drain = self.lifecycle.drain().clone();
        self.lifecycle.spawn(async move {
            drain.run_until_cancelled(tokio::time::sleep(IDLE)).await;
            drop(channel);
        });
    }

    /// Lends the current connection to nobody else: it did not work.
    pub(crate) fn forget(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Weak::new();
    }
}
