//! The rules of sessions: which clients are connected, and which session may replace which.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use uuid::Uuid;

use crate::client::{ClientRecord, DefaultFile, Disconnect, Greeting, OnRecord};

/// The connected clients, and those whose end of session is not on record yet. `S` is the registry's
/// handle on a session.
#[derive(Debug)]
pub(crate) struct Clients<S> {
    entries: BTreeMap<ClientId, ClientEntry<S>>,
    n_online: usize,
}

/// A client, and its session while it is connected.
#[derive(Debug)]
pub(crate) struct ClientEntry<S> {
    pub(crate) record: ClientRecord,
    pub(crate) session: Option<LiveSession<S>>,
}

/// An open session, and the numbers that fence it.
#[derive(Debug)]
pub(crate) struct LiveSession<S> {
    pub(crate) epoch: u64,
    pub(crate) instance: Uuid,
    pub(crate) handle: S,
}

/// Whether a newcomer may open a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The client has no session, or a session of the same agent instance.
    Accept,
    /// Another instance has a session, which must be probed first.
    Probe {
        /// The address from which the other instance dialled.
        other: SocketAddr,
        /// The hostname of the other instance.
        hostname: String,
    },
}

/// Why a newcomer gets no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionRejection {
    /// Another machine with this id answered a probe.
    #[error(
        "{client} is connected right now from another machine ({hostname}, {other}); this one dialled from {newcomer}. Give one of them another id"
    )]
    Duplicate { client: ClientId, hostname: String, other: SocketAddr, newcomer: SocketAddr },
    /// The id differs from a known one by letter case only.
    #[error(
        "{client} differs from the known client {known} by letter case only: rename one of them"
    )]
    Confusable { client: ClientId, known: ClientId },
    /// The maximum number of probes is running.
    #[error("too many machines are being checked: {0} is checked later")]
    Crowded(ClientId),
    /// A newer session of the same client was accepted meanwhile.
    #[error("a newer session of {0} was accepted meanwhile")]
    Superseded(ClientId),
    /// The client is new, and the server knows as many clients as it may.
    #[error(
        "this server knows as many clients as it may: forget one that is gone (filepull forget ID), or raise MAX_CLIENTS"
    )]
    TooManyClients,
}

/// A newer session of this client was accepted meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StaleEpoch;

impl<S> Clients<S> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeMap::new(), n_online: 0 }
    }

    pub(crate) fn get(&self, id: &ClientId) -> Option<&ClientEntry<S>> {
        self.entries.get(id)
    }

    /// Returns the clients after `id`, sorted by id.
    pub(crate) fn after(&self, id: Option<&ClientId>) -> impl Iterator<Item = &ClientEntry<S>> {
        let start = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((start, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    pub(crate) fn n_online(&self) -> usize {
        self.n_online
    }

    /// Decides whether a newcomer may open a session.
    pub(crate) fn judge(&self, greeting: &Greeting) -> Admission {
        match self.entries.get(&greeting.client) {
            Some(ClientEntry { record, session: Some(session) })
                if session.instance != greeting.instance =>
            {
                let hostname = record.agent.hostname.clone();
                Admission::Probe { other: record.remote_addr, hostname }
            }
            _ => Admission::Accept,
        }
    }

    /// Makes `handle` the session of its client and returns the one it replaces.
    ///
    /// # Errors
    /// The client has a session with a higher epoch: of two that open at once, the later one wins.
    pub(crate) fn enter(
        &mut self,
        greeting: Greeting,
        handle: S,
        on_record: OnRecord,
        now: DateTime<Utc>,
    ) -> Result<Option<S>, StaleEpoch> {
        let OnRecord { epoch, last_disconnect, key, .. } = on_record;
        let id = greeting.client.clone();
        let entry = self.entries.get_mut(&id);
        let current = entry.as_ref().and_then(|entry| entry.session.as_ref());
        if current.is_some_and(|session| epoch < session.epoch) {
            return Err(StaleEpoch);
        }
        // The registry's value, if there is one, is newer than the record.
        let newer = entry.as_ref().and_then(|entry| entry.record.last_disconnect.clone());
        let replaced = entry.and_then(|entry| entry.session.take());
        let session = Some(LiveSession { epoch, instance: greeting.instance, handle });
        let record = ClientRecord {
            id: id.clone(),
            epoch,
            agent: greeting.agent,
            shares: greeting.shares,
            default_file: greeting.default_file,
            remote_addr: greeting.remote_addr,
            connected_at: Some(now),
            last_seen_at: now,
            last_disconnect: newer.or(last_disconnect),
            online_before: false,
            key,
        };
        self.n_online += usize::from(replaced.is_none());
        self.entries.insert(id, ClientEntry { record, session });
        Ok(replaced.map(|session| session.handle))
    }

    /// Removes the session of `epoch` and returns the record of its client. Returns none if a newer
    /// session has replaced it.
    pub(crate) fn leave(
        &mut self,
        id: &ClientId,
        epoch: u64,
        last_seen_at: DateTime<Utc>,
        disconnect: &Disconnect,
    ) -> Option<ClientRecord> {
        let entry = self.entries.get_mut(id)?;
        let superseded = entry.session.as_ref().is_none_or(|session| session.epoch != epoch);
        if superseded {
            return None;
        }
        entry.session = None;
        self.n_online -= 1;
        entry.record.last_seen_at = last_seen_at;
        entry.record.last_disconnect = Some(disconnect.clone());
        Some(entry.record.clone())
    }

    /// Removes a client that is offline and on record up to `epoch`. Returns whether it did: false if
    /// the client has connected again.
    pub(crate) fn forget(&mut self, id: &ClientId, epoch: u64) -> bool {
        let is_over =
            |entry: &ClientEntry<S>| entry.session.is_none() && entry.record.epoch <= epoch;
        let is_forgotten = self.entries.get(id).is_some_and(is_over);
        if is_forgotten {
            self.entries.remove(id);
        }
        is_forgotten
    }

    /// Removes a client and returns its session, if it is connected.
    pub(crate) fn remove(&mut self, id: &ClientId) -> Option<S> {
        let session = self.entries.remove(id)?.session?;
        self.n_online -= 1;
        Some(session.handle)
    }

    /// Notes the default file that the client has just found.
    pub(crate) fn note_default_file(&mut self, id: &ClientId, found: DefaultFile) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.record.default_file = found;
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
            extents: filepull_core::extent::ExtentKinds::default(),
            active_transfers: Vec::new(),
            remote_addr: SocketAddr::from(([127, 0, 0, 1], 1000)),
            key: None,
        }
    }

    fn epoch(epoch: u64) -> OnRecord {
        OnRecord { epoch, ..OnRecord::default() }
    }

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn lost() -> Disconnect {
        Disconnect { at: NOW, reason: DisconnectReason::Reset, detail: String::new() }
    }

    #[test]
    fn cleanup_of_an_old_session_keeps_the_newer_one() {
        let mut clients = Clients::new();
        let id = ClientId::parse("client4").unwrap();
        assert_eq!(clients.enter(greeting("client4", 1), "old", epoch(1), NOW), Ok(None));
        assert_eq!(clients.enter(greeting("client4", 1), "new", epoch(2), NOW), Ok(Some("old")));
        let removed = clients.leave(&id, 1, NOW, &lost());
        assert_eq!(removed, None, "the cleanup of the old session came late");
        assert_eq!(clients.get(&id).unwrap().session.as_ref().unwrap().handle, "new");
        let left = clients.leave(&id, 2, NOW, &lost()).unwrap();
        assert_eq!((left.epoch, left.last_disconnect), (2, Some(lost())));
        assert!(clients.get(&id).unwrap().session.is_none());
    }

    #[test]
    fn of_two_sessions_opened_at_once_the_higher_epoch_wins() {
        let mut clients = Clients::new();
        assert_eq!(clients.enter(greeting("client4", 2), "second", epoch(2), NOW), Ok(None));
        assert_eq!(clients.enter(greeting("client4", 1), "first", epoch(1), NOW), Err(StaleEpoch));
    }

    #[test]
    fn only_another_instance_is_probed() {
        let mut clients = Clients::new();
        assert_eq!(clients.judge(&greeting("client4", 1)), Admission::Accept);
        clients.enter(greeting("client4", 1), "session", epoch(1), NOW).unwrap();
        assert_eq!(clients.judge(&greeting("client4", 1)), Admission::Accept);
        let clone = clients.judge(&greeting("client4", 2));
        assert!(matches!(clone, Admission::Probe { hostname, .. } if hostname == "host1"));
    }

    #[test]
    fn an_offline_client_that_is_on_record_is_forgotten() {
        let mut clients = Clients::new();
        let id = ClientId::parse("client4").unwrap();
        clients.enter(greeting("client4", 1), "old", epoch(1), NOW).unwrap();
        assert!(!clients.forget(&id, 1), "it is connected");
        let left = clients.leave(&id, 1, NOW, &lost()).unwrap();
        assert_eq!((clients.n_online(), clients.after(None).count()), (0, 1), "not on record yet");
        clients.enter(greeting("client4", 1), "new", epoch(2), NOW).unwrap();
        assert!(!clients.forget(&id, left.epoch), "the record came late");
        let last = clients.get(&id).unwrap().record.last_disconnect.clone();
        assert_eq!((clients.n_online(), last), (1, Some(lost())));
        clients.leave(&id, 2, NOW, &lost()).unwrap();
        assert!(clients.forget(&id, 2));
        assert_eq!(clients.after(None).count(), 0);
    }
}
