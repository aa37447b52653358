//! Lists and lookups with a real registry and real records.

use chrono::TimeDelta;
use filepull_core::extent::ExtentKinds;
use filepull_core::problem::Code;
use tempfile::TempDir;
use tokio::sync::watch;
use uuid::Uuid;

use super::list::ClientList;
use super::*;
use crate::client::{AgentInfo, ClientRecord, Disconnect, DisconnectReason, Greeting};
use crate::records::{ClientListItem, ConnectOutcome, Total};
use crate::registry::{LastHeard, SessionGuard, SessionHandle};

struct KnownClientsFixture {
    _folder: TempDir,
    records: Records,
    registry: Registry,
    clients: KnownClients,
}

/// Keeps a client connected until it is dropped.
struct ConnectedClient {
    guard: SessionGuard,
    _heard: watch::Sender<LastHeard>,
}

fn id(text: &str) -> ClientId {
    ClientId::parse(text).unwrap()
}

fn time(minutes: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
}

impl KnownClientsFixture {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).await.unwrap();
        let registry = Registry::new();
        let clients = KnownClients::new(registry.clone(), records.clone());
        Self { _folder: folder, records, registry, clients }
    }

    /// Connects a client whose last message arrived at this minute.
    async fn connect(&self, client: &str, minute: i64) -> ConnectedClient {
        let agent = AgentInfo { hostname: format!("POS-{client}"), ..AgentInfo::default() };
        let greeting = Greeting {
            client: id(client),
            instance: Uuid::nil(),
            agent,
            shares: Vec::new(),
            default_file: Err(Code::FileMissing),
            extents: ExtentKinds::default(),
            active_transfers: Vec::new(),
            remote_addr: ([127, 0, 0, 1], 1).into(),
            key: None,
        };
        let outcome =
            self.records.client_connected(&greeting, u64::MAX, time(minute)).await.unwrap();
        let ConnectOutcome::Accepted(on_record) = outcome else { panic!("{client}: {outcome:?}") };
        let (heard_sender, heard) =
            watch::channel(LastHeard { at: time(minute), round_trip: None });
        let (session, _messages) = SessionHandle::new(on_record.epoch, &greeting, heard);
        let guard = self.registry.enter(greeting, session, on_record, time(minute)).unwrap();
        ConnectedClient { guard, _heard: heard_sender }
    }

    /// Ends a session without a record of its end.
    fn leave(&self, connected: &ConnectedClient) -> ClientRecord {
        let reason = DisconnectReason::Reset;
        let reset = Disconnect { at: time(99), reason, detail: String::new() };
        connected.guard.leave(&reset).unwrap()
    }

    async fn record(&self, left: &ClientRecord) {
        self.records.client_left(left).await.unwrap();
        self.registry.left_on_record(left);
    }

    async fn known(&self, client: &str, minute: i64) {
        let connected = self.connect(client, minute).await;
        let left = self.leave(&connected);
        self.record(&left).await;
    }

    fn everything(&self) -> ScopedClients {
        self.clients.everything()
    }

    async fn list(&self, filter: &ClientFilter) -> ClientList {
        self.clients.within(&Scope::Everything).list(filter).await.unwrap()
    }

    /// Returns the ids on all pages of a list.
    async fn ids(&self, filter: &ClientFilter) -> Vec<String> {
        let mut ids = Vec::new();
        let mut after = None::<ClientListItem>;
        loop {
            let page = self.list(&ClientFilter { after, ..filter.clone() }).await;
            assert!(page.clients.len() <= filter.limit);
            ids.extend(page.clients.iter().map(|client| client.record.id.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => return ids,
            }
        }
    }
}

fn all(order: ClientOrder) -> ClientFilter {
    ClientFilter {
        online: None,
        pending: false,
        wanted: String::new(),
        order,
        after: None,
        limit: 100,
    }
}

#[tokio::test]
async fn clients_of_registry_and_records_are_filtered_sorted_and_counted() {
    let server = KnownClientsFixture::start().await;
    server.known("a2", 9).await;
    let _a1 = server.connect("a1", 5).await;
    let _b1 = server.connect("b1", 9).await;
    let by_id = || all(ClientOrder::Id);
    for (filter, expected) in [
        (by_id(), vec!["a1", "a2", "b1"]),
        (ClientFilter { online: Some(true), ..by_id() }, vec!["a1", "b1"]),
        (ClientFilter { online: Some(false), ..by_id() }, vec!["a2"]),
        (ClientFilter { wanted: "pos-a".to_owned(), ..by_id() }, vec!["a1", "a2"]),
        (ClientFilter { wanted: "%".to_owned(), ..by_id() }, vec![]),
        (ClientFilter { wanted: "_".to_owned(), ..by_id() }, vec![]),
        (ClientFilter { wanted: "a".to_owned(), online: Some(false), ..by_id() }, vec!["a2"]),
        (all(ClientOrder::Seen), vec!["a2", "b1", "a1"]),
    ] {
        assert_eq!(server.ids(&filter).await, expected, "{filter:?}");
        let total = server.list(&filter).await.total;
        assert_eq!(total, Total::Exactly(expected.len() as u64), "{filter:?}");
    }
    assert_eq!(server.everything().counts().await, ClientCounts { online: 2, known: 3 });
}

#[tokio::test]
async fn pages_of_any_length_have_no_gap_and_no_overlap() {
    let server = KnownClientsFixture::start().await;
    let mut random = fastrand::Rng::with_seed(8);
    let mut connected = Vec::new();
    for number in 0..40 {
        let client = format!("c{number:02}");
        let minute = random.i64(0..5);
        if random.bool() {
            server.known(&client, minute).await;
            // The record has a later time than the registry: only the time of the registry counts.
            if random.bool() {
                connected.push(server.connect(&client, minute + 1).await);
            }
        } else {
            connected.push(server.connect(&client, minute).await);
        }
    }
    for order in [ClientOrder::Id, ClientOrder::Seen] {
        for online in [None, Some(true), Some(false)] {
            let filter = ClientFilter { online, ..all(order) };
            let whole = server.ids(&filter).await;
            for limit in [1, 2, 7, 39, 40] {
                let pages = server.ids(&ClientFilter { limit, ..filter.clone() }).await;
                assert_eq!(pages, whole, "{order:?} {online:?} {limit}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_stays_in_the_registry_until_the_end_of_its_session_is_on_record() {
    let server = KnownClientsFixture::start().await;
    let connected = server.connect("client4", 1).await;
    let left = server.leave(&connected);
    let found = server.everything().client(&id("client4")).await.unwrap().unwrap();
    assert_eq!(
        (found.online, &found.record),
        (false, &left),
        "the registry is newer than the record"
    );
    assert_eq!(server.ids(&all(ClientOrder::Id)).await, ["client4"]);
    server.record(&left).await;
    assert!(server.registry.client(&id("client4")).is_none(), "the records have it");
    let found = server.everything().client(&id("client4")).await.unwrap().unwrap();
    assert_eq!((found.online, found.record), (false, left));
}

#[tokio::test]
async fn a_mistyped_id_gets_a_suggestion() {
    let server = KnownClientsFixture::start().await;
    server.known("client4", 1).await;
    let failed = |error: &RecordsError| Problem::new(Code::StorageFailed, error.to_string());
    let problem = server.everything().known(&id("cleint4"), failed).await.unwrap_err();
    assert_eq!(problem.code, Code::ClientUnknown);
    let detail = "No client called cleint4 has ever connected. Did you mean client4?";
    assert_eq!(problem.detail, detail);
    let problem = server.everything().known(&id("printer"), failed).await.unwrap_err();
    assert_eq!(problem.detail, "No client called printer has ever connected.");
}
