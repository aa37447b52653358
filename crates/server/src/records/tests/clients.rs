use std::collections::HashSet;

use chrono::TimeDelta;

use super::*;
use crate::client::DisconnectReason;

#[tokio::test]
async fn an_epoch_only_rises() {
    let room = Room::new();
    let mut epochs = HashSet::new();
    for _ in 0..3 {
        let records = room.open().await;
        let connects = (0..5).map(|_| async {
            let greeting = greeting();
            records.client_connected(&greeting, time(0)).await.unwrap()
        });
        epochs.extend(join_all(connects).await);
        records.close().await.unwrap();
    }
    assert_eq!(epochs, (1..=15).collect());
}

#[tokio::test]
async fn a_client_is_on_record_as_it_greeted_and_left() {
    let room = Room::new();
    let records = room.open().await;
    let hello = greeting();
    let old = records.client_connected(&hello, time(1)).await.unwrap();
    let epoch = records.client_connected(&hello, time(2)).await.unwrap();
    let mut expected = ClientRecord {
        id: hello.client.clone(),
        epoch,
        agent: hello.agent,
        shares: hello.shares,
        default_file: hello.default_file,
        remote_addr: hello.remote_addr,
        connected_at: time(2),
        last_seen_at: time(2),
        last_disconnect: None,
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
    assert_eq!(records.clients().await.unwrap(), [expected], "the old line is no news");

    records.client_left(&left).await.unwrap();
    expected = left;
    assert_eq!(records.clients().await.unwrap(), [expected.clone()]);
    records.close().await.unwrap();
    assert_eq!(room.open().await.clients().await.unwrap(), [expected]);
}

#[tokio::test]
async fn a_client_that_was_connected_when_the_server_ended_is_noted() {
    let room = Room::new();
    let records = room.open().await;
    let hello = Greeting { default_file: Err(Code::FileMissing), ..greeting() };
    records.client_connected(&hello, time(1)).await.unwrap();
    records.close().await.unwrap();
    let before = Utc::now() - TimeDelta::milliseconds(1);
    let clients = room.open().await.clients().await.unwrap();
    let last = clients[0].last_disconnect.as_ref().unwrap();
    assert_eq!(last.reason, DisconnectReason::ServerRestart);
    assert!(before <= last.at && last.at <= Utc::now(), "{}", last.at);
    assert_eq!(clients[0].last_seen_at, time(1));
}
