use std::net::SocketAddr;

use chrono::TimeDelta;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::invite::{GroupName, Invitee, Secret};

use super::*;
use crate::client::{Labels, OnRecord};

const NO_LIMIT: u64 = u64::MAX;

fn key(name: &str) -> Fingerprint {
    Fingerprint::of_public_key(name.as_bytes())
}

fn secret(number: u8) -> Secret {
    Secret::new([number; 32])
}

fn admin() -> Actor {
    Actor { name: "ops".to_owned(), address: "127.0.0.1".to_owned(), request_id: None }
}

fn invite(number: u8, invitee: Invitee) -> NewInvite {
    NewInvite {
        id: Uuid::now_v7(),
        secret_hash: secret(number).hash(),
        invitee,
        uses: 1,
        approve: false,
        replace: false,
        labels: Labels::from([("region".to_owned(), "south".to_owned())]),
        created_at: time(0),
        expires_at: time(1000),
    }
}

fn for_client(number: u8, id: &str) -> NewInvite {
    invite(number, Invitee::Client(client(id)))
}

fn for_group(number: u8, uses: u32) -> NewInvite {
    let group = Invitee::Group(GroupName::parse("tills").unwrap());
    NewInvite { uses, ..invite(number, group) }
}

fn request(number: u8, id: &str, key_name: &str) -> RedeemRequest {
    RedeemRequest {
        secret_hash: secret(number).hash(),
        key: key(key_name),
        client: client(id),
        agent: AgentInfo { hostname: format!("pos-{id}"), ..AgentInfo::default() },
        remote_addr: SocketAddr::from(([203, 0, 113, 7], 1)),
    }
}

async fn create(records: &Records, invites: Vec<NewInvite>) {
    let created = records.create_invites(invites, NO_LIMIT, &admin(), time(0)).await.unwrap();
    created.unwrap();
}

/// Redeems at a time in milliseconds. Returns whether the client is pending.
async fn redeem_at(
    records: &Records,
    millis: i64,
    request: RedeemRequest,
) -> Result<bool, RedeemRejection> {
    let redeemed = records.redeem(request, NO_LIMIT, time(millis)).await.unwrap();
    redeemed.map(|enrolled| enrolled.pending)
}

async fn redeem(records: &Records, request: RedeemRequest) -> Result<bool, RedeemRejection> {
    redeem_at(records, 1, request).await
}

async fn connect(records: &Records, id: &str, key: Option<Fingerprint>) -> ConnectOutcome {
    let hello = Greeting { client: client(id), key, ..greeting() };
    records.client_connected(&hello, NO_LIMIT, time(5)).await.unwrap()
}

#[tokio::test]
async fn only_a_new_key_is_bound_by_the_expiry() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "a"), for_client(2, "b")]).await;
    assert_eq!(redeem_at(&records, 999, request(1, "a", "first")).await, Ok(false));
    let late = redeem_at(&records, 1000, request(2, "b", "second")).await;
    assert_eq!(late, Err(RedeemRejection::Expired));
    assert_eq!(redeem_at(&records, 99_999, request(1, "a", "first")).await, Ok(false));
    let other = redeem_at(&records, 999, request(1, "a", "second")).await;
    assert_eq!(other, Err(RedeemRejection::Used));
    records.close().await.unwrap();
    let records = fixture.open().await;
    assert_eq!(redeem(&records, request(1, "a", "first")).await, Ok(false));
    assert_eq!(redeem(&records, request(1, "a", "third")).await, Err(RedeemRejection::Used));
    let stored = std::fs::read(fixture.folder().join("records.db")).unwrap();
    let has = |wanted: &[u8]| stored.windows(wanted.len()).any(|bytes| bytes == wanted);
    assert!(!has(&[1; 32]) && !has("01".repeat(32).as_bytes()), "the secret is on the disk");
}

#[tokio::test]
async fn an_enrolled_client_is_known_before_it_connects() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "client4")]).await;
    redeem(&records, request(1, "client4", "first")).await.unwrap();
    let record = records.client(&client("client4")).await.unwrap().unwrap();
    let on_record = record.key.clone().unwrap();
    assert_eq!((record.connected_at, record.last_seen_at), (None, time(1)));
    assert_eq!(on_record.labels["region"], "south");
    assert_eq!((on_record.fingerprint, on_record.enrolled_at), (key("first"), time(1)));
    assert!(matches!(connect(&records, "client4", Some(key("first"))).await,
        ConnectOutcome::Accepted(OnRecord { key: Some(found), .. }) if found == on_record));
    let reject = async |key| connect(&records, "client4", key).await;
    assert_eq!(reject(Some(key("other"))).await, ConnectOutcome::KeyRejected);
    assert_eq!(reject(None).await, ConnectOutcome::KeyRejected);
    let unknown = connect(&records, "client5", Some(key("first"))).await;
    assert_eq!(unknown, ConnectOutcome::KeyRejected);
    assert_eq!(records.n_clients().await, 1, "a rejected agent leaves no trace");
}

#[tokio::test]
async fn a_redemption_is_rejected_for_its_reason_and_uses_nothing() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "client4"), for_client(2, "client5"), for_group(3, 9)])
        .await;
    connect(&records, "keyless", None).await;
    redeem(&records, request(1, "client4", "first")).await.unwrap();
    let check = async |request, rejection| {
        assert_eq!(redeem(&records, request).await, Err(rejection));
    };
    check(request(9, "client4", "x"), RedeemRejection::Unknown).await;
    check(request(2, "client6", "x"), RedeemRejection::OtherId).await;
    check(request(1, "client6", "first"), RedeemRejection::OtherId).await;
    check(request(2, "client5", "first"), RedeemRejection::KeyTaken).await;
    check(request(3, "client4", "x"), RedeemRejection::IdTaken(client("client4"))).await;
    // A group that needs no approval must not take over a client that exists.
    check(request(3, "keyless", "x"), RedeemRejection::IdTaken(client("keyless"))).await;
    let confusable =
        RedeemRejection::Confusable { client: client("CLIENT4"), known: client("client4") };
    check(request(3, "CLIENT4", "x"), confusable).await;
    let full = records.redeem(request(3, "new", "x"), 2, time(1)).await.unwrap();
    assert_eq!(full.unwrap_err(), RedeemRejection::TooMany);
    // A client that is known already does not count again.
    let known = for_client(4, "keyless");
    create(&records, vec![known]).await;
    let known = records.redeem(request(4, "keyless", "y"), 2, time(1)).await.unwrap();
    assert!(known.is_ok(), "{known:?}");
    assert_eq!(redeem(&records, request(2, "client5", "x")).await, Ok(false));
}

#[tokio::test]
async fn of_many_keys_at_once_a_group_enrols_as_many_as_it_has_uses() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![NewInvite { approve: true, ..for_group(1, 7) }]).await;
    let redeem_all = (0..64).map(|number| {
        redeem(&records, request(1, &format!("till{number}"), &format!("key{number}")))
    });
    let outcomes = join_all(redeem_all).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Ok(true)).count(), 7);
    let used = Err(RedeemRejection::Used);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == used).count(), 57);
    assert_eq!(records.n_clients().await, 7);
}

#[tokio::test]
async fn a_pending_client_is_admitted_only_after_its_approval() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![NewInvite { approve: true, ..for_client(1, "client4") }]).await;
    assert_eq!(redeem(&records, request(1, "client4", "first")).await, Ok(true));
    let first = Some(key("first"));
    assert_eq!(connect(&records, "client4", first).await, ConnectOutcome::KeyRejected);
    let record = records.client(&client("client4")).await.unwrap().unwrap();
    assert_eq!((record.is_pending(), record.default_file), (true, Err(Code::ClientPending)));
    assert!(records.approve_client(&client("client4"), &admin()).await.unwrap().is_some());
    assert!(records.approve_client(&client("unknown"), &admin()).await.unwrap().is_none());
    let record = records.client(&client("client4")).await.unwrap().unwrap();
    assert_eq!((record.is_pending(), record.default_file), (false, Err(Code::ClientOffline)));
    assert!(matches!(connect(&records, "client4", first).await, ConnectOutcome::Accepted(_)));
    // The same invite again does not take the approval back.
    assert_eq!(redeem(&records, request(1, "client4", "first")).await, Ok(false));
}

#[tokio::test]
async fn a_list_of_invites_is_recorded_completely_or_not_at_all() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "client4")]).await;
    redeem(&records, request(1, "client4", "first")).await.unwrap();
    let try_to = async |invites, max_clients| {
        records.create_invites(invites, max_clients, &admin(), time(0)).await.unwrap()
    };
    let list = || vec![for_client(2, "a"), for_client(3, "client4")];
    let rejected = try_to(list(), NO_LIMIT).await;
    assert_eq!(rejected, Err(InviteRejection::Exists(client("client4"))));
    assert!(!records.has_invite(&secret(2).hash()).await.unwrap());
    let confusable = try_to(vec![for_client(2, "Client4")], NO_LIMIT).await;
    assert!(matches!(confusable, Err(InviteRejection::Confusable { .. })), "{confusable:?}");
    assert_eq!(try_to(vec![for_client(2, "a")], 1).await, Err(InviteRejection::TooMany));
    let replacing = list().into_iter().map(|invite| NewInvite { replace: true, ..invite });
    assert_eq!(try_to(replacing.collect(), NO_LIMIT).await, Ok(()));
    let replaced = records.redeem(request(3, "client4", "new"), NO_LIMIT, time(1)).await.unwrap();
    assert_eq!(replaced.unwrap().replaced, Some(key("first")));
    assert_eq!(records.client_of_key(&key("first")).await.unwrap(), None);
    assert_eq!(redeem(&records, request(1, "client4", "first")).await, Err(RedeemRejection::Used));
}

#[tokio::test]
async fn the_next_key_replaces_the_current_one_at_its_first_session() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "a"), for_client(2, "b")]).await;
    redeem(&records, request(1, "a", "first")).await.unwrap();
    redeem(&records, request(2, "b", "other")).await.unwrap();
    let set_next = async |with: &str, next: &str| {
        records.set_next_key(&client("a"), &key(with), &key(next)).await.unwrap()
    };
    assert!(!set_next("first", "other").await, "it is the key of another client");
    assert!(!set_next("first", "first").await, "it is the current key");
    assert!(!set_next("unknown", "next").await, "the session has another key");
    assert!(set_next("first", "next").await);
    assert!(set_next("first", "next").await, "a lost answer is asked for again");
    for name in ["first", "next"] {
        let (owner, _) = records.client_of_key(&key(name)).await.unwrap().unwrap();
        assert_eq!(owner, client("a"));
    }
    let taken = request(2, "b", "next");
    assert_eq!(redeem(&records, taken).await, Err(RedeemRejection::Used));
    let outcome = connect(&records, "a", Some(key("first"))).await;
    assert!(matches!(outcome, ConnectOutcome::Accepted(on_record) if !on_record.key_changed));
    let outcome = connect(&records, "a", Some(key("next"))).await;
    assert!(
        matches!(outcome, ConnectOutcome::Accepted(OnRecord { key_changed: true, key: Some(k), .. })
        if k.fingerprint == key("next") && k.next.is_none() && k.rotated_at == time(5))
    );
    assert_eq!(connect(&records, "a", Some(key("first"))).await, ConnectOutcome::KeyRejected);
}

#[tokio::test]
async fn a_forgotten_client_leaves_nothing_but_its_transfers() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_group(1, 2), for_client(2, "client4")]).await;
    redeem(&records, request(1, "client4", "first")).await.unwrap();
    let waiting = queued("client4");
    let finished = done_at(9);
    records.save(&waiting).await.unwrap();
    records.save(&finished).await.unwrap();
    let forget = async |id: &str| {
        records.forget_client(&client(id), "client4 was forgotten.", &admin()).await.unwrap()
    };
    assert!(forget("client4").await);
    assert!(!forget("client4").await);
    assert_eq!(records.client(&client("client4")).await.unwrap(), None);
    assert_eq!(records.client_of_key(&key("first")).await.unwrap(), None);
    assert_eq!(records.n_clients().await, 0);
    assert!(!records.has_invite(&secret(2).hash()).await.unwrap(), "its own invites are withdrawn");
    // A restart ends its transfer, if this process does not.
    let cancels = records.cancels().await.unwrap();
    assert_eq!(cancels, [(waiting.id, "client4 was forgotten.".to_owned())]);
    assert!(saved(&records, finished.id).await.is_some());
    // Its key does not come back with the invite of the group; another machine may take the id.
    assert_eq!(redeem(&records, request(1, "client4", "first")).await, Err(RedeemRejection::Used));
    assert_eq!(redeem(&records, request(1, "client4", "second")).await, Ok(false));
}

#[tokio::test]
async fn the_pins_that_agents_have_stored_are_counted() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_group(1, 3)]).await;
    for name in ["a", "b", "c"] {
        redeem(&records, request(1, name, name)).await.unwrap();
    }
    let pins = [key("old ca"), key("new ca")];
    records.set_pins(&client("a"), &key("a"), &pins).await.unwrap();
    records.set_pins(&client("b"), &key("b"), &pins[..1]).await.unwrap();
    records.set_pins(&client("c"), &key("stranger"), &pins).await.unwrap();
    let holders = records.pin_holders(&pins[1], 1).await.unwrap();
    let expected = PinHolders { n_with: 1, n_without: 2, without: vec![client("b")] };
    assert_eq!(holders, expected);
    assert_eq!(records.key_of_client(&client("a")).await.unwrap().unwrap().pins, pins);
}

#[tokio::test]
async fn the_count_of_pins_and_the_named_clients_are_of_one_moment() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "a")]).await;
    redeem(&records, request(1, "a", "a")).await.unwrap();
    let pins = [key("new ca")];
    let a = client("a");
    let key_of_a = key("a");
    let changes = async {
        for n in 0..500 {
            records.set_pins(&a, &key_of_a, &pins[..n % 2]).await.unwrap();
        }
    };
    tokio::pin!(changes);
    loop {
        tokio::select! {
            biased;
            () = &mut changes => break,
            holders = records.pin_holders(&pins[0], 10) => {
                let holders = holders.unwrap();
                assert_eq!(holders.n_without, holders.without.len() as u64, "{holders:?}");
            }
        }
    }
}

#[tokio::test]
async fn invites_are_removed_a_month_after_they_expired() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    create(&records, vec![for_client(1, "a")]).await;
    let later = time(1000) + TimeDelta::days(30);
    for (after, is_kept) in [(TimeDelta::zero(), true), (TimeDelta::seconds(1), false)] {
        let created = records.create_invites(Vec::new(), NO_LIMIT, &admin(), later + after).await;
        created.unwrap().unwrap();
        assert_eq!(records.has_invite(&secret(1).hash()).await.unwrap(), is_kept);
    }
}
