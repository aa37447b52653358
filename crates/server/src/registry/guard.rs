//! Removes a session from the registry when its task ends, however it ends.

use chrono::Utc;
use filepull_core::id::ClientId;
use tracing::error;

use super::{EndReason, Registry, SessionHandle};
use crate::client::{ClientRecord, Disconnect, DisconnectReason};

/// Keeps a session in the registry until it is dropped. A task that panics drops it too, so no client
/// is shown as connected without a task that serves it.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    pub(crate) client: ClientId,
    pub(crate) session: SessionHandle,
    registry: Registry,
}

impl SessionGuard {
    pub(crate) fn new(registry: Registry, client: ClientId, session: SessionHandle) -> Self {
        Self { client, session, registry }
    }

    /// Removes the session and returns the record of its client, to be saved. Returns none if a newer
    /// session has replaced it. The half that writes to the agent ends too; a reason that the server
    /// gave before stays.
    pub(crate) fn leave(&self, disconnect: &Disconnect) -> Option<ClientRecord> {
        self.session.end(EndReason::Silent(disconnect.detail.clone()));
        let last_seen_at = self.session.heard.borrow().at;
        self.registry.leave(&self.client, self.session.epoch, last_seen_at, disconnect)
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let detail = "internal server error (session task panicked)".to_owned();
        let disconnect = Disconnect { at: Utc::now(), reason: DisconnectReason::Reset, detail };
        // A task that did not panic has left before.
        if self.leave(&disconnect).is_some() {
            error!(event = "session.panicked", "session task panicked: the client must reconnect");
        }
    }
}

#[cfg(test)]
mod tests {
    use filepull_core::problem::Code;
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;
    use crate::client::{AgentInfo, Greeting, OnRecord};
    use crate::registry::LastHeard;

    fn greeting() -> Greeting {
        Greeting {
            client: ClientId::parse("client4").unwrap(),
            instance: Uuid::nil(),
            agent: AgentInfo::default(),
            shares: Vec::new(),
            default_file: Err(Code::FileMissing),
            extents: filepull_core::extent::ExtentKinds::default(),
            active_transfers: Vec::new(),
            remote_addr: ([127, 0, 0, 1], 1).into(),
            key: None,
        }
    }

    #[test]
    fn a_session_without_a_task_is_removed() {
        let greeting = greeting();
        let registry = Registry::new();
        let (_heard_sender, heard) = watch::channel(LastHeard { at: Utc::now(), round_trip: None });
        let (session, _messages) = SessionHandle::new(0, &greeting, heard);
        let guard =
            registry.enter(greeting, session.clone(), OnRecord::default(), Utc::now()).unwrap();
        assert_eq!(registry.n_online(), 1);
        drop(guard);
        assert_eq!(registry.n_online(), 0);
        assert!(session.why_ended().is_some(), "the half that writes to the agent must end too");
    }

    #[test]
    fn nothing_is_kept_of_an_offline_client_that_is_on_record() {
        let registry = Registry::new();
        let id = greeting().client;
        let slot = registry.slot(&id);
        let (_heard_sender, heard) = watch::channel(LastHeard { at: Utc::now(), round_trip: None });
        let (session, _messages) = SessionHandle::new(0, &greeting(), heard);
        let guard = registry.enter(greeting(), session, OnRecord::default(), Utc::now()).unwrap();
        assert!(slot.session().borrow().is_some(), "a transfer sees a session that opens later");
        let detail = String::new();
        let lost = Disconnect { at: Utc::now(), reason: DisconnectReason::Reset, detail };
        let left = guard.leave(&lost).unwrap();
        assert!(registry.client(&id).is_some(), "the end of its session is not on record yet");
        registry.left_on_record(&left);
        assert!(registry.client(&id).is_none());
        assert!(registry.has_slot(&id), "a transfer waits for the client");
        drop(slot);
        assert!(!registry.has_slot(&id));
    }
}
