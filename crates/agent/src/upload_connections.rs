//! The connections that uploads use.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use filepull_core::CHUNK_LEN;
use filepull_process::Lifecycle;
use filepull_trust::AgentKey;
use tonic::transport::Channel;

use crate::config::DataConn;
use crate::credentials::Credentials;

/// A connection without an upload is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Gives each upload a connection, and reuses the last one.
#[derive(Debug)]
pub(crate) struct UploadConnections {
    credentials: Credentials,
    data_conn: DataConn,
    lifecycle: Lifecycle,
    /// Open while an upload uses it, and for [`IDLE_TIMEOUT`] after that.
    current: Mutex<Weak<AgentChannel>>,
}

/// A connection, and the key of this machine when it was dialed: the server knows it by that key.
#[derive(Clone, Debug)]
pub(crate) struct AgentChannel {
    pub(crate) channel: Channel,
    pub(crate) key: Option<Arc<AgentKey>>,
}

/// The connection of one upload.
#[derive(Clone, Debug)]
pub(crate) enum UploadConnection {
    /// The connection of the session.
    Session(AgentChannel),
    /// A connection for uploads only.
    Separate(Arc<AgentChannel>),
}

impl UploadConnection {
    pub(crate) fn channel(&self) -> &AgentChannel {
        match self {
            Self::Session(channel) => channel,
            Self::Separate(channel) => channel,
        }
    }
}

impl UploadConnections {
    pub(crate) fn new(credentials: Credentials, data_conn: DataConn, lifecycle: Lifecycle) -> Self {
        Self { credentials, data_conn, lifecycle, current: Mutex::default() }
    }

    /// Returns a connection for an upload of `len_bytes`. `session` is the connection of the
    /// session that received the order.
    pub(crate) fn acquire(&self, session: &AgentChannel, len_bytes: u64) -> UploadConnection {
        // A file that fits into one chunk delays an order by one chunk only, and dialing would take
        // longer than sending it.
        if self.data_conn == DataConn::Shared || len_bytes <= CHUNK_LEN as u64 {
            return UploadConnection::Session(session.clone());
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        UploadConnection::Separate(current.upgrade().unwrap_or_else(|| {
            let key = self.credentials.key();
            let channel = self.credentials.dialer().dial_lazily();
            let opened = Arc::new(AgentChannel { channel, key });
            *current = Arc::downgrade(&opened);
            opened
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
