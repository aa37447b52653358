//! The uploads that run. They outlive the line that ordered them, so the supervisor owns them and
//! every line holds a handle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use filepull_core::human;
use filepull_core::id::TransferId;
use filepull_process::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::order::SendOrder;
use crate::upload::{UploadContext, UploadStream, upload};

/// A handle on all uploads of this agent.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    context: Arc<UploadContext>,
    lifecycle: Lifecycle,
    running: Arc<Mutex<HashMap<TransferId, RunningUpload>>>,
}

#[derive(Clone, Debug)]
struct RunningUpload {
    /// Of its order: no two orders share one.
    token: Bytes,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// The agent is asked for more than it can do at once; the order was not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany;

impl Uploads {
    /// A server asks for one file at a time. Each upload takes 3 MiB and a thread: what a wrong
    /// server can make a till spend has a bound.
    const MAX_RUNNING: usize = 8;

    pub(crate) fn new(context: UploadContext, lifecycle: Lifecycle) -> Self {
        Self { context: Arc::new(context), lifecycle, running: Arc::default() }
    }

    /// Starts what was ordered, in the place of an earlier attempt of the same transfer.
    ///
    /// The task ends with the upload, when it is cancelled, or when the process drains.
    pub(crate) fn start(&self, order: SendOrder, line: UploadStream) -> Result<(), TooMany> {
        let mut running = self.running();
        let earlier = running.get(&order.transfer).cloned();
        // Not told by the number of the attempt: a server that crashed may count one twice.
        if earlier.as_ref().is_some_and(|earlier| order.token == earlier.token) {
            tracing::debug!(transfer = %order.transfer, attempt = order.attempt, "order repeated");
            return Ok(());
        }
        if earlier.is_none() && Self::MAX_RUNNING <= running.len() {
            return Err(TooMany);
        }
        let stop = self.lifecycle.drain().child_token();
        let ended = CancellationToken::new();
        let token = order.token.clone();
        let now = RunningUpload { token, stop: stop.clone(), ended: ended.clone() };
        running.insert(order.transfer, now);
        let context = Arc::clone(&self.context);
        self.lifecycle.spawn(async move {
            let _ended = ended.drop_guard();
            if let Some(earlier) = earlier {
                // The server gave up on that attempt, so its connection may be dead.
                context.data.forget();
                earlier.stop.cancel();
                earlier.ended.cancelled().await;
            }
            stop.run_until_cancelled(upload(&context, order, line, &stop)).await;
        });
        Ok(())
    }

    /// Stops an upload: its order was taken back.
    pub(crate) fn cancel(&self, transfer: TransferId, reason: &str) {
        if let Some(running) = self.running().get(&transfer) {
            running.stop.cancel();
            let reason = human::printable(reason, 200);
            self.context.journal.info(&format!("transfer {transfer} was cancelled: {reason}"));
        }
    }

    /// A new line has come about, perhaps to another server: uploads get a new connection as well.
    pub(crate) fn new_line(&self) {
        self.context.data.forget();
    }

    /// What is still on its way.
    pub(crate) fn active(&self) -> Vec<TransferId> {
        self.running().keys().copied().collect()
    }

    /// Those that have not ended: the others are forgotten here.
    fn running(&self) -> MutexGuard<'_, HashMap<TransferId, RunningUpload>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, upload| !upload.ended.is_cancelled());
        running
    }
}
