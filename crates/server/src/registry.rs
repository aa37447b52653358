//! Who is connected: the newest line of each client, and how to reach it.
//!
//! Keeps nothing of a client that is offline once the end of its session is on record; for those
//! there is `known_clients`. Knows neither the wire nor transfers. A transfer watches its client's line and acts on what it
//! sees there, so it does not matter whether the trigger or the client came first.

mod clients;
mod guard;
mod session;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::id::ClientId;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::client::{ClientRecord, DefaultFile, Disconnect, Greeting};
use clients::{Admission, Clients};
pub(crate) use guard::SessionGuard;
pub(crate) use session::{EndReason, LastHeard, Message, SendOrder, SessionHandle};

/// How long an old line has to answer before a newcomer may take its place.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Newcomers that wait for a probe at once. Each holds a session that is not admitted yet.
const MAX_PROBES: usize = 32;

/// A handle on who is connected.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    inner: Arc<Mutex<Inner>>,
    probes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    state: Clients<SessionHandle>,
    /// The places of connected clients, and those that transfers hold: they outlive the sessions.
    slots: HashMap<ClientId, SlotState>,
}

/// The state that all berths of one client share.
#[derive(Debug)]
struct SlotState {
    session: watch::Sender<Option<SessionHandle>>,
    send_permit: Arc<Semaphore>,
    n_slots: usize,
}

impl SlotState {
    fn new() -> Self {
        let send_permit = Arc::new(Semaphore::new(1));
        Self { session: watch::Sender::new(None), send_permit, n_slots: 0 }
    }

    fn is_needed(&self) -> bool {
        0 < self.n_slots || self.session.borrow().is_some()
    }
}

/// A client's place: its present line, and the turn to send a file over it.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    session: watch::Receiver<Option<SessionHandle>>,
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
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if let Some(place) = inner.slots.get_mut(&self.client) {
            place.n_slots -= 1;
        }
        inner.clear_place(&self.client);
    }
}

impl Inner {
    /// Removes the place of a client if neither a session nor a transfer needs it.
    fn clear_place(&mut self, client: &ClientId) {
        if self.slots.get(client).is_some_and(|place| !place.is_needed()) {
            self.slots.remove(client);
        }
    }
}

/// A client as others may see it.
#[derive(Clone, Debug)]
pub(crate) struct ClientView {
    /// What is on record.
    pub record: ClientRecord,
    /// Whether it has a line now.
    pub online: bool,
    /// When it was last heard.
    pub last_seen_at: DateTime<Utc>,
    /// How long a message takes there and back.
    pub round_trip: Option<Duration>,
}

impl ClientView {
    /// A client that is not connected.
    pub(crate) fn offline(record: ClientRecord) -> Self {
        let last_seen_at = record.last_seen_at;
        Self { record, online: false, last_seen_at, round_trip: None }
    }
}

/// Why a newcomer gets no line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionRejection {
    /// Another machine with this id is alive.
    #[error(
        "{client} is connected right now from another machine ({hostname}, {other}); this one dialled from {newcomer}. Give one of them another id"
    )]
    Duplicate {
        /// The id of both.
        client: ClientId,
        /// The name of the machine that has the line.
        hostname: String,
        /// Where that one dials from.
        other: std::net::SocketAddr,
        /// Where the refused one dials from.
        newcomer: std::net::SocketAddr,
    },
    /// The id differs from a known one by letter case only.
    #[error(
        "{client} differs from the known client {known} by letter case only: rename one of them"
    )]
    Confusable {
        /// The id that was refused.
        client: ClientId,
        /// The id it can be confused with.
        known: ClientId,
    },
    /// Too many newcomers wait for a probe already.
    #[error("too many machines are being checked: {0} is checked later")]
    Crowded(ClientId),
    /// A newer line of the same client was accepted meanwhile.
    #[error("a newer line of {0} was accepted meanwhile")]
    Outrun(ClientId),
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Starts with no client connected.
    pub(crate) fn new() -> Self {
        let inner = Inner { state: Clients::new(), slots: HashMap::new() };
        let probes = Arc::new(Semaphore::new(MAX_PROBES));
        Self { inner: Arc::new(Mutex::new(inner)), probes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is complete before anything in it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a newcomer, probing the line it would replace if that is another machine's.
    ///
    /// # Errors
    /// Another machine with this id is alive.
    pub(crate) async fn admit(&self, greeting: &Greeting) -> Result<(), SessionRejection> {
        let client = greeting.client.clone();
        let (judgement, session) = {
            let inner = self.lock();
            let known = inner.state.get(&client);
            let session = known.and_then(|known| known.line.as_ref()).map(|l| l.live.clone());
            (inner.state.judge(greeting), session)
        };
        match (judgement, session) {
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
            (Admission::Probe { .. } | Admission::Welcome, _) => Ok(()),
        }
    }

    /// Makes `session` the line of its client, until the seat is dropped. The line it replaces is
    /// told so and ends. `last_disconnect` is what the records say of the line before.
    ///
    /// # Errors
    /// A newer one is already there.
    pub(crate) fn enter(
        &self,
        greeting: Greeting,
        session: SessionHandle,
        last_disconnect: Option<Disconnect>,
        now: DateTime<Utc>,
    ) -> Result<SessionGuard, SessionRejection> {
        let client = greeting.client.clone();
        let mut inner = self.lock();
        let replaced = inner
            .state
            .enter(greeting, session.epoch, session.clone(), last_disconnect, now)
            .map_err(|_| SessionRejection::Outrun(client.clone()))?;
        let place = inner.slots.entry(client.clone()).or_insert_with(SlotState::new);
        place.session.send_replace(Some(session.clone()));
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
        let left = inner.state.leave(client, epoch, last_seen_at, disconnect);
        if left.is_some() {
            if let Some(place) = inner.slots.get(client) {
                place.session.send_replace(None);
            }
            inner.clear_place(client);
        }
        left
    }

    /// Drops what is kept of a client that has left: it is on record now.
    pub(crate) fn left_on_record(&self, left: &ClientRecord) {
        self.lock().state.forget(&left.id, left.epoch);
    }

    /// Notes what a trigger without a path would send now: the client has just looked.
    pub(crate) fn note_default_file(&self, client: &ClientId, found: DefaultFile) {
        self.lock().state.note_default_file(client, found);
    }

    /// The place of a client, made if nobody has needed it yet.
    pub(crate) fn slot(&self, client: &ClientId) -> ClientSlot {
        let mut inner = self.lock();
        let place = inner.slots.entry(client.clone()).or_insert_with(SlotState::new);
        place.n_slots += 1;
        ClientSlot {
            session: place.session.subscribe(),
            send_permit: Arc::clone(&place.send_permit),
            client: client.clone(),
            registry: self.clone(),
        }
    }

    /// Returns a client that is connected, or was until a moment ago.
    pub(crate) fn client(&self, id: &ClientId) -> Option<ClientView> {
        self.lock().state.get(id).map(view)
    }

    /// Up to `limit` clients of this kind whose ids come after this one, sorted by id.
    pub(crate) fn clients_after(
        &self,
        id: Option<&ClientId>,
        is_wanted: impl Fn(&ClientRecord, bool) -> bool,
        limit: usize,
    ) -> Vec<ClientView> {
        let inner = self.lock();
        let is_wanted = |known: &&clients::ClientEntry<SessionHandle>| {
            is_wanted(&known.record, known.line.is_some())
        };
        inner.state.after(id).filter(is_wanted).take(limit).map(view).collect()
    }

    /// When each client of this kind was last heard.
    pub(crate) fn last_seen(
        &self,
        is_wanted: impl Fn(&ClientRecord, bool) -> bool,
    ) -> Vec<(ClientId, DateTime<Utc>)> {
        let inner = self.lock();
        let is_wanted = |known: &&clients::ClientEntry<SessionHandle>| {
            is_wanted(&known.record, known.line.is_some())
        };
        let seen = |known: &clients::ClientEntry<SessionHandle>| {
            (known.record.id.clone(), last_heard(known))
        };
        inner.state.after(None).filter(is_wanted).map(seen).collect()
    }

    /// Those of these clients that are connected, or were until a moment ago.
    pub(crate) fn held<'a>(&self, ids: impl Iterator<Item = &'a ClientId>) -> HashSet<ClientId> {
        let inner = self.lock();
        ids.filter(|id| inner.state.get(id).is_some()).cloned().collect()
    }

    /// How many clients are connected.
    pub(crate) fn n_online(&self) -> usize {
        self.lock().state.n_online()
    }

    #[cfg(test)]
    fn has_slot(&self, client: &ClientId) -> bool {
        self.lock().slots.contains_key(client)
    }

    /// Every live line: to drain and to end them.
    pub(crate) fn sessions(&self) -> Vec<SessionHandle> {
        let inner = self.lock();
        let lines = inner.state.after(None).filter_map(|known| known.line.as_ref());
        lines.map(|line| line.live.clone()).collect()
    }
}

fn last_heard(known: &clients::ClientEntry<SessionHandle>) -> DateTime<Utc> {
    let heard = known.line.as_ref().map(|line| line.live.heard.borrow().at);
    heard.unwrap_or(known.record.last_seen_at)
}

fn view(known: &clients::ClientEntry<SessionHandle>) -> ClientView {
    let heard = known.line.as_ref().map(|line| *line.live.heard.borrow());
    ClientView {
        record: known.record.clone(),
        online: heard.is_some(),
        last_seen_at: heard.map_or(known.record.last_seen_at, |heard| heard.at),
        round_trip: heard.and_then(|heard| heard.round_trip),
    }
}

/// "Last seen 5 min ago: the connection broke."
pub(crate) fn last_seen(client: &ClientView, now: DateTime<Utc>) -> String {
    let ago = (now - client.last_seen_at).to_std().unwrap_or_default();
    let why = client.record.last_disconnect.as_ref().map(|last| last.reason.in_words());
    let why = why.unwrap_or("nobody knows why");
    format!("Last seen {} ago: {why}.", human::span(ago))
}

/// Does the other end of this line still answer?
async fn is_alive(session: &SessionHandle) -> bool {
    let mut heard = session.heard.clone();
    heard.mark_unchanged();
    session.probe() && timeout(PROBE_LIMIT, heard.changed()).await.is_ok_and(|heard| heard.is_ok())
}
