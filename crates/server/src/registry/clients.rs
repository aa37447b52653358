//! Which clients are connected, and which session may replace which. Data and rules only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use uuid::Uuid;

use crate::client::{ClientRecord, DefaultFile, Disconnect, Greeting};

/// The connected clients, and those whose end of session is not on record yet. `L` is what the
/// registry keeps for a live session.
#[derive(Debug)]
pub(super) struct Clients<L> {
    clients: BTreeMap<ClientId, ClientEntry<L>>,
    n_online: usize,
}

/// A client, and its line while it is connected.
#[derive(Debug)]
pub(super) struct ClientEntry<L> {
    pub(super) record: ClientRecord,
    pub(super) line: Option<LiveSession<L>>,
}

/// A live line and the numbers that fence it.
#[derive(Debug)]
pub(super) struct LiveSession<L> {
    pub(super) epoch: u64,
    pub(super) instance: Uuid,
    pub(super) live: L,
}

/// Whether a newcomer may open a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nobody is in its way, or only an earlier line of its own.
    Welcome,
    /// Another instance has the line: it must be probed first.
    Probe {
        /// Where that one dials from.
        other: SocketAddr,
        /// The name of its machine.
        hostname: String,
    },
}

/// A newer line of this client was accepted meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StaleEpoch;

impl<L> Clients<L> {
    pub(super) fn new() -> Self {
        Self { clients: BTreeMap::new(), n_online: 0 }
    }

    pub(super) fn get(&self, id: &ClientId) -> Option<&ClientEntry<L>> {
        self.clients.get(id)
    }

    /// Those whose ids come after this one, sorted by id.
    pub(super) fn after(&self, id: Option<&ClientId>) -> impl Iterator<Item = &ClientEntry<L>> {
        let start = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.clients.range((start, Bound::Unbounded)).map(|(_, known)| known)
    }

    /// How many are connected.
    pub(super) fn n_online(&self) -> usize {
        self.n_online
    }

    /// May this newcomer open a line?
    pub(super) fn judge(&self, greeting: &Greeting) -> Admission {
        match self.clients.get(&greeting.client) {
            Some(ClientEntry { record, line: Some(line) })
                if line.instance != greeting.instance =>
            {
                let hostname = record.agent.hostname.clone();
                Admission::Probe { other: record.remote_addr, hostname }
            }
            _ => Admission::Welcome,
        }
    }

    /// Makes `live` the session of its client and returns the one it replaces. `last_disconnect` is
    /// the end of the previous session according to the records.
    ///
    /// # Errors
    /// A line with a higher epoch is already there: of two that came at once, the later one wins.
    pub(super) fn enter(
        &mut self,
        greeting: Greeting,
        epoch: u64,
        live: L,
        last_disconnect: Option<Disconnect>,
        now: DateTime<Utc>,
    ) -> Result<Option<L>, StaleEpoch> {
        let id = greeting.client.clone();
        let known = self.clients.get_mut(&id);
        let current = known.as_ref().and_then(|known| known.line.as_ref());
        if current.is_some_and(|line| epoch < line.epoch) {
            return Err(StaleEpoch);
        }
        // The registry's value, if there is one, is newer than the record.
        let held = known.as_ref().and_then(|known| known.record.last_disconnect.clone());
        let replaced = known.and_then(|known| known.line.take());
        let line = Some(LiveSession { epoch, instance: greeting.instance, live });
        let record = ClientRecord {
            id: id.clone(),
            epoch,
            agent: greeting.agent,
            shares: greeting.shares,
            default_file: greeting.default_file,
            remote_addr: greeting.remote_addr,
            connected_at: now,
            last_seen_at: now,
            last_disconnect: held.or(last_disconnect),
            online_before: false,
        };
        self.n_online += usize::from(replaced.is_none());
        self.clients.insert(id, ClientEntry { record, line });
        Ok(replaced.map(|line| line.live))
    }

    /// Removes the line of `epoch`, unless a newer one has replaced it; what is then known of its client.
    pub(super) fn leave(
        &mut self,
        id: &ClientId,
        epoch: u64,
        last_seen_at: DateTime<Utc>,
        disconnect: &Disconnect,
    ) -> Option<ClientRecord> {
        let known = self.clients.get_mut(id)?;
        let superseded = known.line.as_ref().is_none_or(|line| line.epoch != epoch);
        if superseded {
            return None;
        }
        known.line = None;
        self.n_online -= 1;
        known.record.last_seen_at = last_seen_at;
        known.record.last_disconnect = Some(disconnect.clone());
        Some(known.record.clone())
    }

    /// Drops what is known of a client that has left: it is on record up to this epoch. False if the
    /// client is connected again.
    pub(super) fn forget(&mut self, id: &ClientId, epoch: u64) -> bool {
        let is_over = |known: &ClientEntry<L>| known.line.is_none() && known.record.epoch <= epoch;
        let forgotten = self.clients.get(id).is_some_and(is_over);
        if forgotten {
            self.clients.remove(id);
        }
        forgotten
    }

    /// Notes what a trigger without a path would send now.
    pub(super) fn note_default_file(&mut self, id: &ClientId, found: DefaultFile) {
        if let Some(known) = self.clients.get_mut(id) {
            known.record.default_file = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use filepull_core::problem::Code;

    use super::*;
    use crate::client::{AgentInfo, DisconnectReason};

    fn greeting(client: &str, instance: u128) -> Greeting {
        Greeting {
            client: ClientId::parse(client).unwrap(),
            instance: Uuid::from_u128(instance),
            agent: AgentInfo { hostname: format!("host{instance}"), ..AgentInfo::default() },
            shares: Vec::new(),
            default_file: Err(Code::FileMissing),
            active_transfers: Vec::new(),
            remote_addr: SocketAddr::from(([127, 0, 0, 1], 1000)),
        }
    }

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn lost() -> Disconnect {
        Disconnect { at: NOW, reason: DisconnectReason::Reset, detail: String::new() }
    }

    #[test]
    fn cleanup_of_an_old_line_leaves_the_newer_one() {
        let mut state = Clients::new();
        let id = ClientId::parse("client4").unwrap();
        assert_eq!(state.enter(greeting("client4", 1), 1, "old", None, NOW), Ok(None));
        assert_eq!(state.enter(greeting("client4", 1), 2, "new", None, NOW), Ok(Some("old")));
        let late = state.leave(&id, 1, NOW, &lost());
        assert_eq!(late, None, "the old line's cleanup came late");
        assert_eq!(state.get(&id).unwrap().line.as_ref().unwrap().live, "new");
        let left = state.leave(&id, 2, NOW, &lost()).unwrap();
        assert_eq!((left.epoch, left.last_disconnect), (2, Some(lost())));
        assert!(state.get(&id).unwrap().line.is_none());
    }

    #[test]
    fn of_two_lines_accepted_at_once_the_higher_epoch_wins() {
        let mut state = Clients::new();
        assert_eq!(state.enter(greeting("client4", 2), 2, "second", None, NOW), Ok(None));
        assert_eq!(state.enter(greeting("client4", 1), 1, "first", None, NOW), Err(StaleEpoch));
    }

    #[test]
    fn only_another_instance_is_probed() {
        let mut state = Clients::new();
        assert_eq!(state.judge(&greeting("client4", 1)), Admission::Welcome);
        state.enter(greeting("client4", 1), 1, "line", None, NOW).unwrap();
        assert_eq!(state.judge(&greeting("client4", 1)), Admission::Welcome);
        let clone = state.judge(&greeting("client4", 2));
        assert!(matches!(clone, Admission::Probe { hostname, .. } if hostname == "host1"));
    }

    #[test]
    fn what_is_on_record_is_not_kept() {
        let mut state = Clients::new();
        let id = ClientId::parse("client4").unwrap();
        state.enter(greeting("client4", 1), 1, "old", None, NOW).unwrap();
        assert!(!state.forget(&id, 1), "it is connected");
        let left = state.leave(&id, 1, NOW, &lost()).unwrap();
        assert_eq!((state.n_online(), state.after(None).count()), (0, 1), "not on record yet");
        state.enter(greeting("client4", 1), 2, "new", None, NOW).unwrap();
        assert!(!state.forget(&id, left.epoch), "the record came late");
        let last = state.get(&id).unwrap().record.last_disconnect.clone();
        assert_eq!((state.n_online(), last), (1, Some(lost())));
        state.leave(&id, 2, NOW, &lost()).unwrap();
        assert!(state.forget(&id, 2));
        assert_eq!(state.after(None).count(), 0);
    }
}
