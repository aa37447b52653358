//! The pins that agents store: the keys of the certificate authorities that they trust for this server.

use std::sync::Arc;

use filepull_core::fingerprint::Fingerprint;
use filepull_proto::v1;
use tokio::sync::watch;

/// The current pins, for invites and for agents. More than one while the authority is rotated; none if
/// the server speaks plain text, or if its certificate is publicly trusted.
#[derive(Clone, Debug)]
pub(crate) struct CaPins(watch::Receiver<Arc<[Fingerprint]>>);

impl CaPins {
    /// Returns pins that follow `pins`.
    pub(crate) fn new(pins: watch::Receiver<Arc<[Fingerprint]>>) -> Self {
        Self(pins)
    }

    /// Returns no pins, for a server whose agents pin nothing.
    pub(crate) fn none() -> Self {
        let (_, pins) = watch::channel(Arc::from([]));
        Self(pins)
    }

    /// Returns a handle for a session, whose `changed` waits for the next change.
    pub(crate) fn follow(&self) -> Self {
        let mut pins = self.0.clone();
        pins.mark_unchanged();
        Self(pins)
    }

    /// Returns the pins, the current authority first. Each is valid from now on until it is retired.
    pub(crate) fn current(&self) -> Arc<[Fingerprint]> {
        self.0.borrow().clone()
    }

    /// Waits until the pins change after the last call of `changed`, or after the creation of this handle. Waits forever when they cannot change any more. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Arc<[Fingerprint]> {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns the message for agents. None if agents pin nothing.
    pub(crate) fn to_wire(&self) -> Option<v1::CaPins> {
        let pins = self.current();
        (!pins.is_empty()).then(|| v1::CaPins { sha256: pins.iter().map(bytes_of).collect() })
    }
}

fn bytes_of(pin: &Fingerprint) -> bytes::Bytes {
    pin.digest().as_bytes().to_vec().into()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_change_of_the_pins_is_seen_once() {
        let first = Fingerprint::of_public_key(b"first");
        let second = Fingerprint::of_public_key(b"second");
        let (sender, receiver) = watch::channel(Arc::from([first]));
        let mut pins = CaPins::new(receiver);
        assert!(futures::poll!(pin!(pins.changed())).is_pending());
        sender.send_replace(Arc::from([first, second]));
        assert_eq!(*pins.changed().await, [first, second]);
        drop(sender);
        assert!(futures::poll!(pin!(pins.changed())).is_pending());
        assert_eq!(pins.to_wire().unwrap().sha256.len(), 2);
    }

    #[tokio::test]
    async fn a_new_session_does_not_see_an_old_change() {
        let (sender, receiver) = watch::channel(Arc::from([]));
        let pins = CaPins::new(receiver);
        sender.send_replace(Arc::from([Fingerprint::of_public_key(b"first")]));
        let mut session = pins.follow();
        assert_eq!(session.current().len(), 1);
        assert!(futures::poll!(pin!(session.changed())).is_pending());
        sender.send_replace(Arc::from([]));
        assert!(session.changed().await.is_empty());
    }

    #[test]
    fn a_server_without_an_authority_sends_no_pins() {
        assert_eq!(CaPins::none().to_wire(), None);
    }
}
