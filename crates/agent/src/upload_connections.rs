//! The connections that uploads use.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use filepull_core::CHUNK_LEN;
use filepull_process::Lifecycle;
use tonic::transport::Channel;

use crate::config::DataConn;
use crate::dial::Dialer;

/// A connection without an upload is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Gives each upload a connection, and reuses the last one.
#[derive(Debug)]
pub(crate) struct UploadConnections {
    dialer: Dialer,
    data_conn: DataConn,
    lifecycle: Lifecycle,
    /// Open while an upload uses it, and for [`IDLE_TIMEOUT`] after that.
    current: Mutex<Weak<Channel>>,
}

/// The connection of one upload.
#[derive(Clone, Debug)]
pub(crate) enum UploadConnection {
    /// The connection of the session.
    Session(Channel),
    /// A connection for uploads only.
    Separate(Arc<Channel>),
}

impl UploadConnection {
    pub(crate) fn channel(&self) -> Channel {
        match self {
            Self::Session(channel) => channel.clone(),
            Self::Separate(channel) => Channel::clone(channel),
        }
    }
}

impl UploadConnections {
    pub(crate) fn new(dialer: Dialer, data_conn: DataConn, lifecycle: Lifecycle) -> Self {
        Self { dialer, data_conn, lifecycle, current: Mutex::default() }
    }

    /// Returns a connection for an upload of `len_bytes`. `session` is the connection of the
    /// session that received the order.
    pub(crate) fn acquire(&self, session: &Channel, len_bytes: u64) -> UploadConnection {
        // A file that fits into one chunk delays an order by one chunk only, and dialing would take
        // longer than sending it.
        if self.data_conn == DataConn::Shared || len_bytes <= CHUNK_LEN as u64 {
            return UploadConnection::Session(session.clone());
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        UploadConnection::Separate(current.upgrade().unwrap_or_else(|| {
            let channel = Arc::new(self.dialer.dial_lazily());
            *current = Arc::downgrade(&channel);
            channel
        }))
    }

    /// Keeps the connection of a finished upload open for the next one. The task ends after
    /// [`IDLE_TIMEOUT`], or when the process drains.
    pub(crate) fn release(&self, connection: UploadConnection) {
        let UploadConnection::Separate(channel) = connection else { return };
        let drain = self.lifecycle.drain().clone();
        self.lifecycle.spawn(async move {
            drain.run_until_cancelled(tokio::time::sleep(IDLE_TIMEOUT)).await;
            drop(channel);
        });
    }

    /// Gives the current connection to no further upload, because it may be broken.
    pub(crate) fn discard(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Weak::new();
    }
}
