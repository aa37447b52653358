//! The running uploads. They outlive the session that ordered them, so the supervisor owns them,
//! and each session has a handle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use filepull_core::human;
use filepull_core::id::TransferId;
use filepull_process::Lifecycle;
use filepull_proto::v1;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error_span};

use crate::order::SendOrder;
use crate::transfer_log::OrderText;
use crate::upload::{SessionHandle, UploadContext, upload};

/// A handle on all uploads of this agent.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    context: Arc<UploadContext>,
    lifecycle: Lifecycle,
    running: Arc<Mutex<HashMap<TransferId, RunningUpload>>>,
}

#[derive(Clone, Debug)]
struct RunningUpload {
    /// The token of the order. Each order has its own.
    token: Bytes,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// The order was not started: the maximum number of uploads is running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooManyUploads;

impl Uploads {
    /// Maximum number of uploads at once. A server orders one file at a time. An upload needs up
    /// to 10 MiB and a thread, so this bounds what a faulty server can use on a small machine.
    const MAX_RUNNING: usize = 8;

    pub(crate) fn new(context: UploadContext, lifecycle: Lifecycle) -> Self {
        Self { context: Arc::new(context), lifecycle, running: Arc::default() }
    }

    /// Starts the upload of an order. It replaces an earlier attempt of the same transfer. A
    /// repeated order changes nothing.
    ///
    /// The task ends with the upload, when the order is cancelled, or when the process drains.
    pub(crate) fn start(
        &self,
        order: SendOrder,
        session: SessionHandle,
    ) -> Result<(), TooManyUploads> {
        let span = error_span!("transfer", id = %order.transfer, client = %self.context.client);
        let mut running = self.lock_running();
        let earlier = running.get(&order.transfer).cloned();
        // Compared by token: a server that crashed may use the number of an attempt twice.
        if earlier.as_ref().is_some_and(|earlier| order.token == earlier.token) {
            let attempt = order.attempt;
            tracing::debug!(parent: &span, event = "order.repeated", attempt, "order ignored");
            return Ok(());
        }
        if earlier.is_none() && Self::MAX_RUNNING <= running.len() {
            return Err(TooManyUploads);
        }
        let stop = self.lifecycle.drain().child_token();
        let ended = CancellationToken::new();
        let token = order.token.clone();
        let upload_state = RunningUpload { token, stop: stop.clone(), ended: ended.clone() };
        running.insert(order.transfer, upload_state);
        let context = Arc::clone(&self.context);
        let task = async move {
            let _ended = ended.drop_guard();
            if let Some(earlier) = earlier {
                // The server has ended that attempt, so its connection may be broken.
                context.connections.discard();
                earlier.stop.cancel();
                earlier.ended.cancelled().await;
            }
            stop.run_until_cancelled(upload(&context, order, session, &stop)).await;
        };
        self.lifecycle.spawn(task.instrument(span));
        Ok(())
    }

    /// Records an order that the agent refused before an upload started.
    pub(crate) fn log_refusal(&self, start: &v1::StartTransfer, reason: &str) {
        let v1::StartTransfer { transfer_id: transfer, attempt, path, requested_by, .. } = start;
        let order = OrderText { transfer, attempt: *attempt, path, requested_by };
        self.context.transfer_log.refuse(order, reason);
    }

    /// Stops the upload of a transfer that the server has cancelled.
    pub(crate) fn cancel(&self, transfer: TransferId, reason: &str) {
        if let Some(upload) = self.lock_running().get(&transfer) {
            upload.stop.cancel();
            let reason = human::printable(reason, 200);
            self.context.status_log.info(&format!("transfer {transfer} was cancelled: {reason}"));
        }
    }

    /// Dials a new connection for the next upload: the new session may lead to another server.
    pub(crate) fn on_new_session(&self) {
        self.context.connections.discard();
    }

    /// Returns the transfers whose upload is running.
    pub(crate) fn active(&self) -> Vec<TransferId> {
        self.lock_running().keys().copied().collect()
    }

    /// Locks the map, and removes the uploads that have ended.
    fn lock_running(&self) -> MutexGuard<'_, HashMap<TransferId, RunningUpload>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, upload| !upload.ended.is_cancelled());
        running
    }
}
