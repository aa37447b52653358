//! Which clients are connected: the newest session of each, and how to send to it.
//!
//! Keeps nothing of an offline client once the end of its session is on record; `known_clients`
//! serves those from the records. Does not import wire types or transfers. A transfer watches the
//! session of its client, so a trigger may arrive before or after the client connects.

mod clients;
mod guard;
mod session;
mod slot;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::id::ClientId;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::client::{ClientRecord, DefaultFile, Disconnect, Greeting, OnRecord};
pub(crate) use clients::SessionRejection;
use clients::{Admission, ClientEntry, Clients};
pub(crate) use guard::SessionGuard;
pub(crate) use session::{EndReason, LastHeard, Message, SendOrder, SessionHandle};
pub(crate) use slot::ClientSlot;
use slot::SlotState;

/// How long a session has to answer a probe before a newcomer may replace it.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Maximum number of probes at once. For each, a newcomer with an open stream waits.
const MAX_PROBES: usize = 32;

/// A handle on the connected clients.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    inner: Arc<Mutex<Inner>>,
    probes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    clients: Clients<SessionHandle>,
    /// One for each connected client and for each client with an unfinished transfer. A slot
    /// outlives the sessions of its client.
    slots: HashMap<ClientId, SlotState>,
    /// How many keys were revoked since the start.
    n_revocations: u64,
}

impl Inner {
    fn revoked(&mut self, client: &ClientId) {
        self.n_revocations += 1;
        if let Some(slot) = self.slots.get(client) {
            slot.revoked.send_replace(());
        }
    }

    /// Removes the slot of a client, unless a session or a transfer still needs it.
    fn remove_unneeded_slot(&mut self, client: &ClientId) {
        if self.slots.get(client).is_some_and(|slot| !slot.is_needed()) {
            self.slots.remove(client);
        }
    }
}

/// A client as the API shows it.
#[derive(Clone, Debug)]
pub(crate) struct ClientView {
    pub(crate) record: ClientRecord,
    /// Whether the client has a session now.
    pub(crate) online: bool,
    /// When its last message arrived.
    pub(crate) last_seen_at: DateTime<Utc>,
    /// Time between the last ping and its answer.
    pub(crate) round_trip: Option<Duration>,
}

impl ClientView {
    /// Returns the view of a client that is not connected.
    pub(crate) fn offline(record: ClientRecord) -> Self {
        let last_seen_at = record.last_seen_at;
        Self { record, online: false, last_seen_at, round_trip: None }
    }

    fn of(entry: &ClientEntry<SessionHandle>) -> Self {
        let heard = entry.session.as_ref().map(|session| *session.handle.heard.borrow());
        Self {
            record: entry.record.clone(),
            online: heard.is_some(),
            last_seen_at: heard.map_or(entry.record.last_seen_at, |heard| heard.at),
            round_trip: heard.and_then(|heard| heard.round_trip),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Starts with no client connected.
    pub(crate) fn new() -> Self {
        let inner = Inner { clients: Clients::new(), slots: HashMap::new(), n_revocations: 0 };
        let probes = Arc::new(Semaphore::new(MAX_PROBES));
        Self { inner: Arc::new(Mutex::new(inner)), probes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is complete before it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides whether a newcomer may open a session. Probes the session that it would replace, if
    /// that session belongs to another machine.
    ///
    /// # Errors
    /// Another machine with this id answers the probe, or too many probes run.
    pub(crate) async fn admit(&self, greeting: &Greeting) -> Result<(), SessionRejection> {
        let client = greeting.client.clone();
        let (admission, session) = {
            let inner = self.lock();
            let session = inner.clients.get(&client).and_then(|entry| entry.session.as_ref());
            (inner.clients.judge(greeting), session.map(|session| session.handle.clone()))
        };
        match (admission, session) {
            (Admission::Probe { other, hostname }, Some(session)) => {
                let Ok(_probe) = self.probes.try_acquire() else {
                    return Err(SessionRejection::Crowded(client));
                };
                if !is_alive(&session).await {
                    return Ok(());
                }
                let newcomer = greeting.remote_addr;
                Err(SessionRejection::Duplicate { client, hostname, other, newcomer })
            }
            (Admission::Probe { .. } | Admission::Accept, _) => Ok(()),
        }
    }

    /// Makes `session` the session of its client until the guard is dropped. Ends the session that
    /// it replaces.
    ///
    /// # Errors
    /// A newer session is already open.
    pub(crate) fn enter(
        &self,
        greeting: Greeting,
        session: SessionHandle,
        on_record: OnRecord,
        now: DateTime<Utc>,
    ) -> Result<SessionGuard, SessionRejection> {
        let client = greeting.client.clone();
        let mut inner = self.lock();
        let replaced = inner
            .clients
            .enter(greeting, session.clone(), on_record, now)
            .map_err(|_| SessionRejection::Superseded(client.clone()))?;
        let slot = inner.slots.entry(client.clone()).or_insert_with(SlotState::new);
        slot.session.send_replace(Some(session.clone()));
        drop(inner);
        if let Some(old) = replaced {
            old.end(EndReason::Replaced);
        }
        Ok(SessionGuard::new(self.clone(), client, session))
    }

    fn leave(
        &self,
        client: &ClientId,
        epoch: u64,
        last_seen_at: DateTime<Utc>,
        disconnect: &Disconnect,
    ) -> Option<ClientRecord> {
        let mut inner = self.lock();
        let left = inner.clients.leave(client, epoch, last_seen_at, disconnect);
        if left.is_some() {
            if let Some(slot) = inner.slots.get(client) {
                slot.session.send_replace(None);
            }
            inner.remove_unneeded_slot(client);
        }
        left
    }

    /// Ends the session and the running upload of a client, because its key was removed from the
    /// records.
    pub(crate) fn revoke(&self, client: &ClientId) {
        let mut inner = self.lock();
        let entry = inner.clients.get(client);
        let live = entry.and_then(|entry| entry.session.as_ref());
        let session = live.map(|session| session.handle.clone());
        inner.revoked(client);
        drop(inner);
        if let Some(session) = session {
            session.end(EndReason::Revoked);
        }
    }

    /// Removes a client that was removed from the records, and ends its session and its running
    /// upload.
    pub(crate) fn remove(&self, client: &ClientId) {
        let mut inner = self.lock();
        let session = inner.clients.remove(client);
        if let Some(slot) = inner.slots.get(client) {
            slot.session.send_replace(None);
        }
        inner.revoked(client);
        inner.remove_unneeded_slot(client);
        drop(inner);
        if let Some(session) = session {
            session.end(EndReason::Revoked);
        }
    }

    /// Returns how many keys were revoked since the start. An admission during which the number changes
    /// must check its key again.
    pub(crate) fn n_revocations(&self) -> u64 {
        self.lock().n_revocations
    }

    /// Forgets a disconnected client whose end of session is on record now.
    pub(crate) fn left_on_record(&self, left: &ClientRecord) {
        self.lock().clients.forget(&left.id, left.epoch);
    }

    /// Notes the default file that the client has just found.
    pub(crate) fn note_default_file(&self, client: &ClientId, found: DefaultFile) {
        self.lock().clients.note_default_file(client, found);
    }

    /// Returns the slot of a client. Creates it if the client has none.
    pub(crate) fn slot(&self, client: &ClientId) -> ClientSlot {
        let mut inner = self.lock();
        let slot = inner.slots.entry(client.clone()).or_insert_with(SlotState::new);
        slot.add(client.clone(), self.clone())
    }

    /// Returns a client that is connected, or whose end of session is not on record yet.
    pub(crate) fn client(&self, id: &ClientId) -> Option<ClientView> {
        self.lock().clients.get(id).map(ClientView::of)
    }

    /// Returns the open session of a client.
    pub(crate) fn session(&self, id: &ClientId) -> Option<SessionHandle> {
        let inner = self.lock();
        inner.clients.get(id)?.session.as_ref().map(|session| session.handle.clone())
    }

    /// Returns up to `limit` clients that match, sorted by id, starting after `id`. `is_wanted` gets
    /// the record and whether the client is online.
    pub(crate) fn clients_after(
        &self,
        id: Option<&ClientId>,
        is_wanted: impl Fn(&ClientRecord, bool) -> bool,
        limit: usize,
    ) -> Vec<ClientView> {
        let inner = self.lock();
        let matching = inner.clients.after(id).filter(|entry| matches(entry, &is_wanted));
        matching.take(limit).map(ClientView::of).collect()
    }

    /// Returns the time of the last message of each client that matches.
    pub(crate) fn last_seen(
        &self,
        is_wanted: impl Fn(&ClientRecord, bool) -> bool,
    ) -> Vec<(ClientId, DateTime<Utc>)> {
        let inner = self.lock();
        let matching = inner.clients.after(None).filter(|entry| matches(entry, &is_wanted));
        matching.map(|entry| (entry.record.id.clone(), last_heard(entry))).collect()
    }

    /// Returns which of these clients the registry has.
    pub(crate) fn present<'a>(&self, ids: impl Iterator<Item = &'a ClientId>) -> HashSet<ClientId> {
        let inner = self.lock();
        ids.filter(|id| inner.clients.get(id).is_some()).cloned().collect()
    }

    /// Returns the number of connected clients.
    pub(crate) fn n_online(&self) -> usize {
        self.lock().clients.n_online()
    }

    #[cfg(test)]
    fn has_slot(&self, client: &ClientId) -> bool {
        self.lock().slots.contains_key(client)
    }

    /// Returns the handles of all open sessions.
    pub(crate) fn sessions(&self) -> Vec<SessionHandle> {
        let inner = self.lock();
        let sessions = inner.clients.after(None).filter_map(|entry| entry.session.as_ref());
        sessions.map(|session| session.handle.clone()).collect()
    }
}

fn matches(
    entry: &ClientEntry<SessionHandle>,
    is_wanted: impl Fn(&ClientRecord, bool) -> bool,
) -> bool {
    is_wanted(&entry.record, entry.session.is_some())
}

fn last_heard(entry: &ClientEntry<SessionHandle>) -> DateTime<Utc> {
    let heard = entry.session.as_ref().map(|session| session.handle.heard.borrow().at);
    heard.unwrap_or(entry.record.last_seen_at)
}

/// Returns a sentence such as "Last seen 5 min ago: the connection broke."
pub(crate) fn last_seen(client: &ClientView, now: DateTime<Utc>) -> String {
    let ago = human::span((now - client.last_seen_at).to_std().unwrap_or_default());
    match &client.record.last_disconnect {
        _ if client.record.connected_at.is_none() => {
            format!("It was enrolled {ago} ago and has not connected since.")
        }
        Some(last) => format!("Last seen {ago} ago: {}.", last.reason.as_text()),
        None => format!("Last seen {ago} ago (reason unknown)."),
    }
}

/// Returns whether the agent of this session answers a ping.
async fn is_alive(session: &SessionHandle) -> bool {
    let mut heard = session.heard.clone();
    heard.mark_unchanged();
    session.probe() && timeout(PROBE_LIMIT, heard.changed()).await.is_ok_and(|heard| heard.is_ok())
}
