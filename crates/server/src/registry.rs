//! Who is connected: the newest line of each client, and how to reach it.
//!
//! Knows neither the wire nor transfers. A transfer watches its client's line and acts on what it
//! sees there, so it does not matter whether the trigger or the client came first.

mod seat;
mod session;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::client::{ClientRecord, DefaultFile, Disconnect, Greeting};
pub use seat::Seat;
pub use session::{Heard, Message, Order, OrderError, Session, SessionEnds};
use state::{Judgement, State};

/// How long an old line has to answer before a newcomer may take its place.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A handle on who is connected.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    state: State<Session>,
    /// What transfers hold on to: it outlives the lines.
    berths: HashMap<ClientId, Berth>,
}

/// A client's place: its present line, and the turn to send a file over it.
#[derive(Clone, Debug)]
pub struct Berth {
    line: watch::Sender<Option<Session>>,
    /// One permit: a client sends one file at a time.
    pub turn: Arc<Semaphore>,
}

impl Berth {
    fn new() -> Self {
        Self { line: watch::Sender::new(None), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Shows the present line, and every change of it.
    pub fn line(&self) -> watch::Receiver<Option<Session>> {
        self.line.subscribe()
    }
}

/// A client as others may see it.
#[derive(Clone, Debug)]
pub struct ClientView {
    /// What is on record.
    pub record: ClientRecord,
    /// Whether it has a line now.
    pub online: bool,
    /// When it was last heard.
    pub last_seen_at: DateTime<Utc>,
    /// How long a message takes there and back.
    pub round_trip: Option<Duration>,
}

/// Why a newcomer gets no line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedLine {
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
    /// A newer line of the same client was accepted meanwhile.
    #[error("a newer line of {0} was accepted meanwhile")]
    Outrun(ClientId),
}

impl Registry {
    /// Starts with the clients on record, all offline.
    pub fn new(records: Vec<ClientRecord>) -> Self {
        let inner = Inner { state: State::new(records), berths: HashMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is complete before anything in it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a newcomer, probing the line it would replace if that is another machine's.
    ///
    /// # Errors
    /// Another machine with this id is alive, or the id can be confused with a known one.
    pub async fn admit(&self, greeting: &Greeting) -> Result<(), RefusedLine> {
        let client = greeting.client.clone();
        let (judgement, session) = {
            let inner = self.lock();
            let known = inner.state.get(&client);
            let session = known.and_then(|known| known.line.as_ref()).map(|l| l.live.clone());
            (inner.state.judge(greeting), session)
        };
        match (judgement, session) {
            (Judgement::Confusable(known), _) => Err(RefusedLine::Confusable { client, known }),
            (Judgement::Probe { other, hostname }, Some(session)) if is_alive(&session).await => {
                let newcomer = greeting.remote_addr;
                Err(RefusedLine::Duplicate { client, hostname, other, newcomer })
            }
            (Judgement::Probe { .. } | Judgement::Welcome, _) => Ok(()),
        }
    }

    /// Makes `session` the line of its client, until the seat is dropped. The line it replaces is
    /// told so and ends.
    ///
    /// # Errors
    /// A newer one is already there.
    pub fn enter(
        &self,
        greeting: Greeting,
        session: Session,
        now: DateTime<Utc>,
    ) -> Result<Seat, RefusedLine> {
        let client = greeting.client.clone();
        let mut inner = self.lock();
        let replaced = inner
            .state
            .enter(greeting, session.epoch, session.clone(), now)
            .map_err(|_| RefusedLine::Outrun(client.clone()))?;
        let berth = inner.berths.entry(client.clone()).or_insert_with(Berth::new);
        berth.line.send_replace(Some(session.clone()));
        drop(inner);
        if let Some(old) = replaced {
            old.end(SessionEnds::Replaced);
        }
        Ok(Seat::new(self.clone(), client, session))
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
        if left.is_some()
            && let Some(berth) = inner.berths.get(client)
        {
            berth.line.send_replace(None);
        }
        left
    }

    /// Notes what a trigger without a path would send now: the client has just looked.
    pub fn note_default_file(&self, client: &ClientId, found: DefaultFile) {
        self.lock().state.note_default_file(client, found);
    }

    /// The place of a client, made if nobody has needed it yet.
    pub fn berth(&self, client: &ClientId) -> Berth {
        self.lock().berths.entry(client.clone()).or_insert_with(Berth::new).clone()
    }

    /// Every client, sorted by id.
    pub fn clients(&self) -> Vec<ClientView> {
        self.lock().state.iter().map(view).collect()
    }

    /// One client.
    pub fn client(&self, id: &ClientId) -> Option<ClientView> {
        self.lock().state.get(id).map(view)
    }

    /// How many clients are online, and how many are known.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        let n_online = inner.state.iter().filter(|known| known.line.is_some()).count();
        (n_online, inner.state.iter().count())
    }

    /// Every live line: to drain and to end them.
    pub fn sessions(&self) -> Vec<Session> {
        let inner = self.lock();
        let lines = inner.state.iter().filter_map(|known| known.line.as_ref());
        lines.map(|line| line.live.clone()).collect()
    }

    /// The client, if it is known.
    ///
    /// # Errors
    /// [`Code::ClientUnknown`], with the id that was probably meant.
    pub fn known(&self, id: &ClientId) -> Result<ClientView, Problem> {
        self.client(id).ok_or_else(|| {
            let meant = self
                .lock()
                .state
                .iter()
                .map(|known| known.record.id.clone())
                .max_by(|a, b| likeness(id, a).total_cmp(&likeness(id, b)));
            let meant = meant.filter(|meant| 0.7 < likeness(id, meant));
            let meant = meant.map(|meant| format!(" Did you mean {meant}?")).unwrap_or_default();
            let detail = format!("No client called {id} has ever connected.{meant}");
            Problem::new(Code::ClientUnknown, detail)
        })
    }
}

fn likeness(a: &ClientId, b: &ClientId) -> f64 {
    strsim::normalized_damerau_levenshtein(&a.folded(), &b.folded())
}

fn view(known: &state::Known<Session>) -> ClientView {
    let heard = known.line.as_ref().map(|line| *line.live.heard.borrow());
    ClientView {
        record: known.record.clone(),
        online: heard.is_some(),
        last_seen_at: heard.map_or(known.record.last_seen_at, |heard| heard.at),
        round_trip: heard.and_then(|heard| heard.round_trip),
    }
}

/// "Last seen 5 min ago: the connection broke."
pub fn last_seen(client: &ClientView, now: DateTime<Utc>) -> String {
    let ago = (now - client.last_seen_at).to_std().unwrap_or_default();
    let why = client.record.last_disconnect.as_ref().map(|last| last.reason.in_words());
    let why = why.unwrap_or("nobody knows why");
    format!("Last seen {} ago: {why}.", human::span(ago))
}

/// Does the other end of this line still answer?
async fn is_alive(session: &Session) -> bool {
    let mut heard = session.heard.clone();
    heard.mark_unchanged();
    session.probe() && timeout(PROBE_LIMIT, heard.changed()).await.is_ok_and(|heard| heard.is_ok())
}
