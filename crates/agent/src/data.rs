//! The connection that files travel on.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use filepull_process::Lifecycle;
use tonic::transport::Channel;

use crate::config::DataConn;
use crate::dial::Dialler;

/// After this long without an upload the connection is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Lends connections to uploads.
#[derive(Debug)]
pub(crate) struct DataLine {
    dialler: Dialler,
    conn: DataConn,
    lifecycle: Lifecycle,
    /// Alive as long as an upload uses it, or one did lately.
    open: Mutex<Weak<Channel>>,
}

impl DataLine {
    pub(crate) fn new(dialler: Dialler, conn: DataConn, lifecycle: Lifecycle) -> Self {
        Self { dialler, conn, lifecycle, open: Mutex::default() }
    }

    /// A connection for an upload that was ordered on `line`.
    pub(crate) fn borrow(&self, line: &Channel) -> Arc<Channel> {
        match self.conn {
            DataConn::Shared => Arc::new(line.clone()),
            DataConn::Separate => {
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.upgrade().unwrap_or_else(|| {
                    let channel = Arc::new(self.dialler.dial_lazily());
                    *open = Arc::downgrade(&channel);
                    channel
                })
            }
        }
    }

    /// Keeps the connection of an upload that is over for the next one. The task ends after
    /// [`IDLE`], or with the process.
    pub(crate) fn give_back(&self, channel: Arc<Channel>) {
        if self.conn == DataConn::Shared {
            return;
        }
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
