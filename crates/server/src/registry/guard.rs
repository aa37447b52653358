//! What holds a line in the registry.

use chrono::Utc;
use filepull_core::id::ClientId;
use tracing::error;

use super::{EndReason, Registry, SessionHandle};
use crate::client::{ClientRecord, Disconnect, DisconnectReason};

/// A line's place in the registry. However the task ends that holds it, also by a panic, the line
/// ends with it: nobody is shown as connected whom nobody hears.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    /// Whose line it is.
    pub client: ClientId,
    /// The line.
    pub session: SessionHandle,
    registry: Registry,
}

impl SessionGuard {
    pub(super) fn new(registry: Registry, client: ClientId, session: SessionHandle) -> Self {
        Self { client, session, registry }
    }

    /// Takes the line out, unless a newer one has replaced it; what is then to be put on record.
    /// The half that writes to the agent ends too; if the server had a reason, it is said already.
    pub(crate) fn leave(&self, disconnect: &Disconnect) -> Option<ClientRecord> {
        self.session.end(EndReason::Silent(disconnect.detail.clone()));
        let last_seen_at = self.session.heard.borrow().at;
        self.registry.leave(&self.client, self.session.epoch, last_seen_at, disconnect)
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let detail = "the server lost it by a mistake of its own".to_owned();
        let disconnect = Disconnect { at: Utc::now(), reason: DisconnectReason::Reset, detail };
        // It has left long ago, unless its task has panicked.
        if self.leave(&disconnect).is_some() {
            let Disconnect { reason, detail, .. } = disconnect;
            error!(
                event = "client.disconnected", client = %self.client, %reason, detail,
                session = %self.session.id, "client disconnected"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use filepull_core::problem::Code;
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;
    use crate::client::{AgentInfo, Greeting};
    use crate::registry::LastHeard;

    fn greeting() -> Greeting {
        Greeting {
            client: ClientId::parse("client4").unwrap(),
            instance: Uuid::nil(),
            agent: AgentInfo::default(),
            shares: Vec::new(),
            default_file: Err(Code::FileMissing),
            active_transfers: Vec::new(),
            remote_addr: ([127, 0, 0, 1], 1).into(),
        }
    }

    #[test]
    fn a_line_whose_task_is_gone_is_gone_too() {
        let greeting = greeting();
        let registry = Registry::new();
        let (_pulse, heard) = watch::channel(LastHeard { at: Utc::now(), round_trip: None });
        let (session, _messages) = SessionHandle::new(1, &greeting, heard);
        let seat = registry.enter(greeting, session.clone(), None, Utc::now()).unwrap();
        assert_eq!(registry.n_online(), 1);
        drop(seat);
        assert_eq!(registry.n_online(), 0);
        assert!(session.why_ended().is_some(), "whoever still writes to the agent must hear of it");
    }
    #[test]
    fn nothing_is_kept_of_a_client_that_is_offline_and_on_record() {
        let registry = Registry::new();
        let id = greeting().client;
        let slot = registry.slot(&id);
        let (_pulse, heard) = watch::channel(LastHeard { at: Utc::now(), round_trip: None });
        let (session, _messages) = SessionHandle::new(1, &greeting(), heard);
        let seat = registry.enter(greeting(), session, None, Utc::now()).unwrap();
        assert!(slot.session().borrow().is_some(), "a transfer sees the line that came after it");
        let detail = String::new();
        let lost = Disconnect { at: Utc::now(), reason: DisconnectReason::Reset, detail };
        let left = seat.leave(&lost).unwrap();
        assert!(registry.client(&id).is_some(), "its end is not on record yet");
        registry.left_on_record(&left);
        assert!(registry.client(&id).is_none());
        assert!(registry.has_slot(&id), "a transfer waits for it");
        drop(slot);
        assert!(!registry.has_slot(&id));
    }
}
