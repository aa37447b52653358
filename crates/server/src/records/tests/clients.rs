use std::collections::HashSet;

use chrono::TimeDelta;

use super::*;
use crate::client::{DisconnectReason, OnRecord};

#[tokio::test]
async fn an_epoch_only_increases() {
    let fixture = RecordsFixture::new();
    let mut epochs = HashSet::new();
    for _ in 0..3 {
        let records = fixture.open().await;
        let connects = (0..5).map(|_| async {
            let greeting = greeting();
            epoch(records.client_connected(&greeting, u64::MAX, time(0)).await.unwrap())
        });
        epochs.extend(join_all(connects).await);
        records.close().await.unwrap();
    }
    assert_eq!(epochs, (1..=15).collect());
}

#[tokio::test]
async fn the_record_of_a_client_has_its_greeting_and_its_disconnect() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let hello = greeting();
    let old = epoch(records.client_connected(&hello, u64::MAX, time(1)).await.unwrap());
    let new = epoch(records.client_connected(&hello, u64::MAX, time(2)).await.unwrap());
    let mut expected = ClientRecord {
        id: hello.client.clone(),
        epoch: new,
        agent: hello.agent,
        shares: hello.shares,
        default_file: hello.default_file,
        remote_addr: hello.remote_addr,
        connected_at: Some(time(2)),
        last_seen_at: time(2),
        last_disconnect: None,
        online_before: false,
        key: None,
    };
    let reset =
        Disconnect { at: time(4), reason: DisconnectReason::Reset, detail: "broken".to_owned() };
    let left = ClientRecord {
        default_file: Err(Code::NotAFile),
        last_seen_at: time(3),
        last_disconnect: Some(reset),
        ..expected.clone()
    };
    records.client_left(&ClientRecord { epoch: old, ..left.clone() }).await.unwrap();
    assert_eq!(on_record(&records).await, expected, "the end of an old session changes nothing");

    records.client_left(&left).await.unwrap();
    expected = left;
    assert_eq!(on_record(&records).await, expected.clone());
    records.close().await.unwrap();
    assert_eq!(on_record(&fixture.open().await).await, expected);
}

#[tokio::test]
async fn a_client_that_was_connected_when_the_server_ended_is_marked_disconnected() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let hello = Greeting { default_file: Err(Code::FileMissing), ..greeting() };
    records.client_connected(&hello, u64::MAX, time(1)).await.unwrap();
    records.close().await.unwrap();
    let before = Utc::now() - TimeDelta::milliseconds(1);
    let client = on_record(&fixture.open().await).await;
    let last = client.last_disconnect.unwrap();
    assert_eq!(last.reason, DisconnectReason::ServerRestart);
    assert!(before <= last.at && last.at <= Utc::now(), "{}", last.at);
    assert_eq!(client.last_seen_at, time(1));
}

#[tokio::test]
async fn only_a_client_of_the_server_just_before_was_online_before() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    for (id, reason) in [
        ("killed", None),
        ("sent-away", Some(DisconnectReason::ServerRestart)),
        ("gone", Some(DisconnectReason::Stopped)),
    ] {
        let hello = Greeting { client: client(id), ..greeting() };
        records.client_connected(&hello, u64::MAX, time(1)).await.unwrap();
        let mut left = records.client(&hello.client).await.unwrap().unwrap();
        if let Some(reason) = reason {
            left.last_disconnect = Some(Disconnect { at: time(2), reason, detail: "x".to_owned() });
            records.client_left(&left).await.unwrap();
        }
        let now = records.client(&hello.client).await.unwrap().unwrap();
        assert!(!now.online_before, "{id}: this server still runs");
    }
    records.close().await.unwrap();

    let ids = ["gone", "killed", "sent-away"].map(client);
    let online_before = async |records: &Records| {
        let mut clients = records.clients(&ids).await.unwrap();
        clients.sort_by(|a, b| a.id.cmp(&b.id));
        clients.iter().map(|client| client.online_before).collect::<Vec<_>>()
    };
    let records = fixture.open().await;
    assert_eq!(online_before(&records).await, [false, true, true]);
    let sent_away = records.client(&client("sent-away")).await.unwrap().unwrap();
    assert_eq!(sent_away.last_disconnect.unwrap().at, time(2), "the recorded time is kept");
    let back = Greeting { client: client("killed"), ..greeting() };
    records.client_connected(&back, u64::MAX, time(3)).await.unwrap();
    assert_eq!(online_before(&records).await, [false, false, true]);
    records.close().await.unwrap();
    assert_eq!(online_before(&fixture.open().await).await, [false, true, false]);
}

#[tokio::test]
async fn a_new_id_that_differs_by_letter_case_only_is_not_recorded() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let connect = async |id: &str| {
        let hello = Greeting { client: client(id), ..greeting() };
        records.client_connected(&hello, u64::MAX, time(1)).await.unwrap()
    };
    assert_eq!(epoch(connect("client4").await), 1);
    assert_eq!(connect("Client4").await, ConnectOutcome::Confusable(client("client4")));
    assert_eq!((epoch(connect("client4").await), records.n_clients().await), (2, 1));
    // An id that an older version admitted through a race stays admitted.
    fixture.run("UPDATE clients SET id = 'CLIENT4' WHERE id = 'client4'");
    assert_eq!(epoch(connect("CLIENT4").await), 3);
}

#[tokio::test]
async fn a_new_session_returns_how_the_last_one_ended() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let hello = greeting();
    records.client_connected(&hello, u64::MAX, time(1)).await.unwrap();
    let reset = Disconnect { at: time(4), reason: DisconnectReason::Reset, detail: "x".to_owned() };
    let left = ClientRecord { last_disconnect: Some(reset.clone()), ..on_record(&records).await };
    records.client_left(&left).await.unwrap();
    let outcome = records.client_connected(&hello, u64::MAX, time(5)).await.unwrap();
    let last_disconnect = Some(reset);
    let on_record = OnRecord { epoch: 2, last_disconnect, ..OnRecord::default() };
    assert_eq!(outcome, ConnectOutcome::Accepted(on_record));
}

#[tokio::test]
async fn a_client_that_cannot_be_read_fails_no_list() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    for id in ["a", "b", "c"] {
        let hello = Greeting { client: client(id), ..greeting() };
        records.client_connected(&hello, u64::MAX, time(1)).await.unwrap();
    }
    fixture.run("UPDATE clients SET shares = 'no list' WHERE id = 'b'");
    let ids = ["a", "b", "c"].map(client);
    let mut read = records.clients(&ids).await.unwrap();
    read.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(read.iter().map(|client| client.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert!(records.client(&ids[1]).await.is_err());
}

#[tokio::test]
async fn candidates_for_a_mistyped_id_are_few_and_contain_the_intended_id() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    fixture.run(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4999) \
         INSERT INTO clients (id, epoch, connected, agent_version, agent_os, agent_arch, \
         agent_hostname, shares, default_error, remote_addr, connected_at, last_seen_at) \
         SELECT printf('Store-%06d', i), 1, 0, '1', 'linux', 'x86', 'host', '[]', 'file-missing', \
         '127.0.0.1:1', 0, 0 FROM n",
    );
    let meant = client("Store-002345");
    for typed in ["sotre-002345", "store-02345", "xstore-002345", "store-002x45", "tore-002345"] {
        let like =
            records.clients_like(&client(typed), &crate::scope::Scope::Everything).await.unwrap();
        assert!(like.contains(&meant), "{typed}");
        assert!(like.len() < 300, "{typed}: {}", like.len());
    }
}

/// Without these indexes each query would scan 100,000 clients.
#[tokio::test]
async fn every_query_of_clients_uses_an_index() {
    let fixture = RecordsFixture::new();
    fixture.open().await.close().await.unwrap();
    let connection = rusqlite::Connection::open(fixture.folder().join("records.db")).unwrap();
    for (sql, index) in [
        (
            "SELECT id FROM clients WHERE lower(id) >= 'x' ORDER BY lower(id) LIMIT 9",
            "by_folded_id",
        ),
        ("SELECT id FROM clients WHERE lower(id) IN ('x', 'y')", "by_folded_id"),
        (
            "SELECT id, last_seen_at FROM clients WHERE last_seen_at <= 5 \
             ORDER BY last_seen_at DESC, id LIMIT 9",
            "by_last_seen",
        ),
        ("UPDATE clients SET connected = 0 WHERE connected <> 0", "clients_connected"),
    ] {
        let mut prepared = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = prepared.query_map((), |row| row.get::<_, String>(3)).unwrap();
        let plan = steps.map(Result::unwrap).collect::<Vec<_>>().join("; ");
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

fn epoch(outcome: ConnectOutcome) -> u64 {
    match outcome {
        ConnectOutcome::Accepted(on_record) => on_record.epoch,
        ConnectOutcome::Confusable(_)
        | ConnectOutcome::TooManyClients
        | ConnectOutcome::KeyRejected => panic!("it was not accepted"),
    }
}

/// Returns the record of the one client of these tests.
async fn on_record(records: &Records) -> ClientRecord {
    records.client(&greeting().client).await.unwrap().unwrap()
}
