//! What the transfers of one client share: the current session, and the permit to send.

use std::sync::Arc;

use filepull_core::id::ClientId;
use tokio::sync::{Semaphore, watch};

use super::{Registry, SessionHandle};

/// The state that all [`ClientSlot`]s of one client share.
#[derive(Debug)]
pub(crate) struct SlotState {
    pub(crate) session: watch::Sender<Option<SessionHandle>>,
    /// Changes when the key of the client is revoked.
    pub(crate) revoked: watch::Sender<()>,
    send_permit: Arc<Semaphore>,
    pub(crate) n_slots: usize,
}

impl SlotState {
    pub(crate) fn new() -> Self {
        let send_permit = Arc::new(Semaphore::new(1));
        let session = watch::Sender::new(None);
        Self { session, revoked: watch::Sender::new(()), send_permit, n_slots: 0 }
    }

    /// Adds a slot of this client.
    pub(crate) fn add(&mut self, client: ClientId, registry: Registry) -> ClientSlot {
        self.n_slots += 1;
        ClientSlot {
            session: self.session.subscribe(),
            revoked: self.revoked.subscribe(),
            send_permit: Arc::clone(&self.send_permit),
            client,
            registry,
        }
    }

    pub(crate) fn is_needed(&self) -> bool {
        0 < self.n_slots || self.session.borrow().is_some()
    }
}

/// What a transfer holds of its client, connected or not: the current session, and the permit to
/// send a file over it.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    session: watch::Receiver<Option<SessionHandle>>,
    revoked: watch::Receiver<()>,
    /// One permit: a client sends one file at a time.
    pub(crate) send_permit: Arc<Semaphore>,
    client: ClientId,
    registry: Registry,
}

impl ClientSlot {
    /// Returns the client's current session and every change of it.
    pub(crate) fn session(&self) -> watch::Receiver<Option<SessionHandle>> {
        self.session.clone()
    }

    /// Returns a future that resolves when the key of the client is revoked after this call.
    pub(crate) fn revoked(&self) -> impl Future<Output = ()> + use<> {
        let mut revoked = self.revoked.clone();
        revoked.mark_unchanged();
        async move {
            let _ = revoked.changed().await; // the slot outlives its client's transfers
        }
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if let Some(slot) = inner.slots.get_mut(&self.client) {
            slot.n_slots -= 1;
        }
        inner.remove_unneeded_slot(&self.client);
    }
}
