//! A client is its enrolled key: who is admitted, what an invite does, and what `forget` ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::invite::Invite;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{Error, ErrorCode, NewKey};
use filepull_testkit::{
    DEADLINE, ScriptedAgent, TestServer, channel_with, enrol, poll, trusted_channel,
};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use futures::future::try_join_all;
use hyper::Method;
use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::json;
use tokio::time::Instant;

/// The settings of a server whose agents need an invite, and that therefore speaks TLS.
const INVITE: [(&str, &str); 1] = [("AGENT_AUTH", "invite")];

/// Tries to open a session on a new connection with this key.
async fn open(
    invite: &Invite,
    key: Option<&AgentKey>,
    client: &str,
) -> anyhow::Result<Result<ScriptedAgent, Error>> {
    ScriptedAgent::open(trusted_channel(invite, key).await?, client, DEADLINE).await
}

/// Opens a session that the server must admit.
async fn admitted(invite: &Invite, key: &AgentKey, client: &str) -> anyhow::Result<ScriptedAgent> {
    let opened = open(invite, Some(key), client).await?;
    opened.map_err(|error| anyhow::anyhow!("{client} was rejected: {error:?}"))
}

/// Redeems an invite with this key on a new connection.
async fn redeem(
    invite: &Invite,
    key: &AgentKey,
    client: &str,
) -> anyhow::Result<Result<bool, ErrorCode>> {
    let channel = trusted_channel(invite, Some(key)).await?;
    let enrolled = enrol(channel, invite, client).await?;
    Ok(enrolled.map(|enrolled| enrolled.pending).map_err(|error| error.code()))
}

/// Returns the code with which a session is rejected.
fn code(opened: Result<ScriptedAgent, Error>) -> Option<ErrorCode> {
    opened.err().map(|error| error.code())
}

async fn forget(server: &TestServer, client: &str) -> anyhow::Result<u16> {
    let path = format!("/api/v1/clients/{client}");
    Ok(server.send(Method::DELETE, &path, &[], "").await?.status)
}

async fn approve(server: &TestServer, client: &str) -> anyhow::Result<u16> {
    let path = format!("/api/v1/clients/{client}/approve");
    Ok(server.send(Method::POST, &path, &[], "").await?.status)
}

#[tokio::test]
async fn only_the_key_on_record_gets_the_session_of_a_client() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let (invite, key) = server.enrol("client4").await?;
    let (_, other) = server.enrol("client5").await?;
    let unknown = AgentKey::generate();
    let rejected = async |key, client| open(&invite, key, client).await.map(code);
    assert_eq!(rejected(None, "client4").await?, Some(ErrorCode::Unauthenticated));
    assert_eq!(rejected(Some(&unknown), "client4").await?, Some(ErrorCode::Unauthenticated));
    assert_eq!(rejected(Some(&other), "client4").await?, Some(ErrorCode::Forbidden));
    assert_eq!(rejected(Some(&key), "client5").await?, Some(ErrorCode::Forbidden));
    assert_eq!(rejected(Some(&key), "client6").await?, Some(ErrorCode::Forbidden));
    admitted(&invite, &key, "client4").await?;
    let client = server.json("/api/v1/clients/client4").await?;
    assert_eq!(client["fingerprint"], key.fingerprint().to_string());
    assert_eq!(client["pending"], false);
    Ok(())
}

#[tokio::test]
async fn names_and_dates_and_the_issuer_of_a_certificate_decide_nothing() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let invite = server.invite(&json!({ "client": "client4" })).await?;
    let key = AgentKey::generate();
    let certified = strange_certificate(&key)?;
    let trust = ServerTrust::Pins(invite.ca_pins().to_vec());
    let mut config = Arc::unwrap_or_clone(client_config(&trust, None)?);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    let config = Arc::new(config);
    let channel = channel_with(server.grpc(), Arc::clone(&config)).await?;
    enrol(channel, &invite, "client4").await?.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    // The second connection resumes the TLS session of the first one.
    for _ in 0..2 {
        let channel = channel_with(server.grpc(), Arc::clone(&config)).await?;
        let opened = ScriptedAgent::open(channel, "client4", DEADLINE).await?;
        assert!(opened.is_ok(), "{:?}", code(opened));
    }
    let client = server.json("/api/v1/clients/client4").await?;
    assert_eq!(client["fingerprint"], key.fingerprint().to_string());
    Ok(())
}

/// Returns a certificate of another issuer, for other names, that expired in 1970.
fn strange_certificate(key: &AgentKey) -> anyhow::Result<CertifiedKey> {
    let elsewhere = KeyPair::generate()?;
    let issuer = Issuer::new(CertificateParams::new(vec!["elsewhere".to_owned()])?, elsewhere);
    let mut params = CertificateParams::new(vec!["client5".to_owned(), "admin".to_owned()])?;
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(1970, 1, 2);
    let certificate = params.signed_by(&KeyPair::from_pem(&key.to_pem())?, &issuer)?;
    let signer = Arc::clone(&key.certified_key().key);
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}

#[tokio::test]
async fn of_64_redemptions_at_once_one_wins_and_no_other_key_ever_does() -> anyhow::Result<()> {
    let mut server = TestServer::with(&INVITE).await?;
    let invite = server.invite(&json!({ "client": "client4" })).await?;
    let keys: Vec<AgentKey> = (0..64).map(|_| AgentKey::generate()).collect();
    let outcomes = try_join_all(keys.iter().map(|key| redeem(&invite, key, "client4"))).await?;
    let winners: Vec<&AgentKey> =
        keys.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).map(|(k, _)| k).collect();
    let [winner] = winners[..] else { anyhow::bail!("{} keys won", winners.len()) };
    let used = outcomes.iter().filter(|outcome| **outcome == Err(ErrorCode::InviteUsed)).count();
    assert_eq!(used, 63, "{outcomes:?}");
    server.stop().await?;
    server.start_server().await?;
    let invite = at_new_address(&invite, &server)?;
    let replayed = redeem(&invite, &AgentKey::generate(), "client4").await?;
    assert_eq!(replayed, Err(ErrorCode::InviteUsed));
    // A lost answer costs nothing: the same key gets it again.
    assert_eq!(redeem(&invite, winner, "client4").await?, Ok(false));
    admitted(&invite, winner, "client4").await?;
    Ok(())
}

/// Returns the invite with the address of a server that was restarted.
fn at_new_address(invite: &Invite, server: &TestServer) -> anyhow::Result<Invite> {
    let address = filepull_core::invite::ServerAddress::parse(&server.grpc().to_string())?;
    let expires = u64::try_from(invite.expires_at().timestamp())?;
    let pins: Vec<Fingerprint> = invite.ca_pins().to_vec();
    let secret = invite.secret().clone();
    Invite::new(vec![address], invite.invitee().clone(), pins, secret, expires).context("no invite")
}

#[tokio::test]
async fn five_hundred_invites_of_a_list_are_redeemed_at_once() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let ids: Vec<String> = (0..500).map(|number| format!("store-{number}")).collect();
    let invites = server.invites(&json!({ "clients": ids, "labels": { "chain": "x" } })).await?;
    let redeemed = ids.iter().zip(&invites).map(async |(id, invite)| {
        let key = AgentKey::generate();
        anyhow::Ok((redeem(invite, &key, id).await?, key.fingerprint()))
    });
    let redeemed = try_join_all(redeemed).await?;
    assert!(redeemed.iter().all(|(outcome, _)| *outcome == Ok(false)));
    let clients = server.json("/api/v1/clients?limit=1000&sort=id").await?;
    assert_eq!(clients["total"], 500);
    for (id, (_, fingerprint)) in ids.iter().zip(&redeemed) {
        let items = clients["items"].as_array().context("no list")?;
        let client = items.iter().find(|client| client["id"] == *id).context("missing")?;
        assert_eq!(client["fingerprint"], fingerprint.to_string());
        assert_eq!(client["labels"]["chain"], "x");
        assert_eq!(client["connected_at"], json!(null));
    }
    Ok(())
}

#[tokio::test]
async fn an_invite_is_rejected_with_its_own_reason() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let elsewhere = TestServer::with(&INVITE).await?;
    let invite = server.invite(&json!({ "client": "client4" })).await?;
    let key = AgentKey::generate();
    assert_eq!(redeem(&invite, &key, "client5").await?, Err(ErrorCode::Forbidden));
    let foreign = elsewhere.invite(&json!({ "client": "client4" })).await?;
    let foreign = Invite::new(
        invite.addresses().to_vec(),
        foreign.invitee().clone(),
        invite.ca_pins().to_vec(),
        foreign.secret().clone(),
        0,
    );
    let foreign = foreign.context("no invite")?;
    assert_eq!(redeem(&foreign, &key, "client4").await?, Err(ErrorCode::InviteUnknown));
    let no_key = enrol(trusted_channel(&invite, None).await?, &invite, "client4").await?;
    assert_eq!(no_key.map_err(|error| error.code()), Err(ErrorCode::Unauthenticated));
    // None of these used the invite.
    assert_eq!(redeem(&invite, &key, "client4").await?, Ok(false));
    // An id that is taken is not invited again by accident.
    let again = server.post("/api/v1/invites", &json!({ "client": "client4" })).await?;
    assert_eq!((again.status, again.json()?["code"].clone()), (409, json!("client-exists")));
    assert_eq!(again.json()?["client"], "client4");
    let confusable = server.post("/api/v1/invites", &json!({ "client": "Client4" })).await?;
    assert_eq!(confusable.status, 409, "{}", confusable.text());
    Ok(())
}

#[tokio::test]
async fn a_client_of_a_group_may_do_nothing_until_it_is_approved() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let group = json!({ "group": "tills", "uses": 2, "approve": true });
    let invite = server.invite(&group).await?;
    let keys: Vec<AgentKey> = (0..3).map(|_| AgentKey::generate()).collect();
    assert_eq!(redeem(&invite, &keys[0], "till1").await?, Ok(true));
    assert_eq!(redeem(&invite, &keys[1], "till1").await?, Err(ErrorCode::IdTaken));
    assert_eq!(redeem(&invite, &keys[1], "till2").await?, Ok(true));
    assert_eq!(redeem(&invite, &keys[2], "till3").await?, Err(ErrorCode::InviteUsed));
    let rejected = code(open(&invite, Some(&keys[0]), "till1").await?);
    assert_eq!(rejected, Some(ErrorCode::Pending));
    let pull = server.get("/trigger?id=till1&queue=1h").await?;
    assert_eq!(pull.status, 409, "{}", pull.text());
    assert!(pull.text().contains("filepull approve till1"), "{}", pull.text());
    // What an administrator compares.
    let page = server.get("/clients").await?.text();
    let fingerprint = keys[0].fingerprint().to_string();
    assert!(page.contains(&fingerprint) && page.contains("from 127.0.0.1 (pos-till1)"), "{page}");
    let pending = server.json("/api/v1/clients?state=pending").await?;
    assert_eq!((&pending["total"], &pending["items"][0]["pending"]), (&json!(2), &json!(true)));
    assert_eq!(approve(&server, "till1").await?, 200);
    assert_eq!(approve(&server, "till1").await?, 200);
    assert_eq!(approve(&server, "till9").await?, 404);
    admitted(&invite, &keys[0], "till1").await?;
    let pending = server.json("/api/v1/clients?state=pending").await?;
    assert_eq!((&pending["total"], &pending["items"][0]["id"]), (&json!(1), &json!("till2")));
    Ok(())
}

#[tokio::test]
async fn forget_cuts_the_session_and_the_transfer_and_survives_a_restart() -> anyhow::Result<()> {
    let mut server = TestServer::with(&INVITE).await?;
    let (invite, key) = server.enrol("client4").await?;
    let channel = trusted_channel(&invite, Some(&key)).await?;
    let opened = ScriptedAgent::open(channel.clone(), "client4", DEADLINE).await?;
    let mut agent = opened.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let started = server.post("/api/v1/transfers", &json!({ "client": "client4" })).await?;
    let location = started.header("location").to_owned();
    let order = agent.order().await?;
    let mut upload = agent.upload(&order, 0, 100_000).await?;
    upload.chunk(0, vec![7; 50_000].into()).await?;
    poll("the partial", async || Ok(server.leftovers("client4")?.pop())).await?;

    let begun = Instant::now();
    assert_eq!(forget(&server, "client4").await?, 204);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let transfer = server.json(&location).await?;
    assert_eq!(transfer["state"], "cancelled");
    let detail = transfer["error"]["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("client4 was forgotten by "), "{detail}");
    assert!(server.leftovers("client4")?.is_empty());
    let end = loop {
        match agent.next().await? {
            Some(ToAgent::End(end)) => break end.error.context("no reason")?,
            _ => continue,
        }
    };
    assert_eq!(end.code(), ErrorCode::Unauthenticated);
    while let Some(response) = upload.response(DEADLINE).await? {
        assert!(!matches!(response, Response::Stored(_)), "{response:?}");
    }
    // The open connection is worth nothing, for a session and for an upload.
    let again = ScriptedAgent::open(channel, "client4", DEADLINE).await?;
    assert_eq!(code(again), Some(ErrorCode::Unauthenticated));
    let mut late = agent.upload(&order, 0, 100_000).await?;
    let refused = late.response(DEADLINE).await?.context("no answer")?;
    assert!(matches!(&refused, Response::Error(e) if e.code() == ErrorCode::Unauthenticated));
    assert_eq!(server.get("/trigger?id=client4").await?.status, 404);
    assert_eq!(server.get("/clients/client4").await?.status, 404);

    server.stop().await?;
    server.start_server().await?;
    let invite = at_new_address(&invite, &server)?;
    let rejected = code(open(&invite, Some(&key), "client4").await?);
    assert_eq!(rejected, Some(ErrorCode::Unauthenticated));
    assert_eq!(redeem(&invite, &key, "client4").await?, Err(ErrorCode::InviteUnknown));
    assert_eq!(forget(&server, "client4").await?, 404);
    assert_eq!(server.json(&location).await?["state"], "cancelled");
    Ok(())
}

#[tokio::test]
async fn an_upload_needs_the_key_of_the_client_that_got_the_order() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let (invite, key) = server.enrol("client4").await?;
    let (_, other) = server.enrol("client5").await?;
    let mut agent = admitted(&invite, &key, "client4").await?;
    let thief = admitted(&invite, &other, "client5").await?;
    let started = server.post("/api/v1/transfers", &json!({ "client": "client4" })).await?;
    let location = started.header("location").to_owned();
    let order = agent.order().await?;
    // The right token, from another client.
    let mut stolen = thief.upload(&order, 0, 4).await?;
    let refused = stolen.response(DEADLINE).await?.context("no answer")?;
    assert!(matches!(&refused, Response::Error(e) if e.code() == ErrorCode::Forbidden));
    let upload = agent.upload(&order, 0, 100_000).await?;
    upload.chunk(0, vec![7; 50_000].into()).await?;
    poll("the partial", async || Ok(server.leftovers("client4")?.pop())).await?;
    let running = server.json(&location).await?;
    let attempt = (&running["state"], &running["attempt"]);
    assert_eq!(attempt, (&json!("running"), &json!(1)), "the thief cost no attempt: {running}");
    Ok(())
}

#[tokio::test]
async fn a_clone_is_rejected_while_the_original_lives() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let (invite, key) = server.enrol("client4").await?;
    let mut original = admitted(&invite, &key, "client4").await?;
    let answers = async {
        loop {
            if let Some(ToAgent::Ping(ping)) = original.next().await? {
                let pong = filepull_proto::v1::Pong { seq: ping.seq, echo_unix_us: 0 };
                original.send(FromAgent::Pong(pong)).await?;
            }
        }
    };
    let clone = open(&invite, Some(&key), "client4");
    let rejected = tokio::select! {
        rejected = clone => rejected?.err().context("the clone was admitted")?,
        broken = answers => return broken,
    };
    assert_eq!(rejected.code(), ErrorCode::DuplicateId);
    assert_eq!(rejected.message.matches("127.0.0.1:").count(), 2, "{}", rejected.message);
    Ok(())
}

#[tokio::test]
async fn an_invite_that_replaces_ends_the_session_of_the_old_key() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let (invite, old) = server.enrol("client4").await?;
    let mut agent = admitted(&invite, &old, "client4").await?;
    let replacing = json!({ "client": "client4", "replace": true, "expires": "1h" });
    let replacement = server.invite(&replacing).await?;
    let new = AgentKey::generate();
    assert_eq!(redeem(&replacement, &new, "client4").await?, Ok(false));
    let end = loop {
        match agent.next().await? {
            Some(ToAgent::End(end)) => break end.error.context("no reason")?,
            _ => continue,
        }
    };
    assert_eq!(end.code(), ErrorCode::Unauthenticated);
    let rejected = code(open(&invite, Some(&old), "client4").await?);
    assert_eq!(rejected, Some(ErrorCode::Unauthenticated));
    admitted(&replacement, &new, "client4").await?;
    assert_eq!(redeem(&invite, &old, "client4").await?, Err(ErrorCode::InviteUsed));
    Ok(())
}

#[tokio::test]
async fn a_key_rotates_over_the_open_session() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let (invite, old) = server.enrol("client4").await?;
    let offline = server.post("/api/v1/clients/client4/rotate", &json!({})).await?;
    assert_eq!(offline.status, 409, "{}", offline.text());
    let mut agent = admitted(&invite, &old, "client4").await?;
    let requested = server.post("/api/v1/clients/client4/rotate", &json!({})).await?;
    assert_eq!(requested.status, 202, "{}", requested.text());
    while !matches!(agent.next().await?, Some(ToAgent::RotateKey(_))) {}
    let new = AgentKey::generate();
    let message = |session: &str| {
        let context = b"filepull new key\0".as_slice();
        [context, session.as_bytes(), b"\0", new.public_key()].concat()
    };
    let new_key = |signature: Vec<u8>| {
        let public_key = new.public_key().to_vec().into();
        FromAgent::NewKey(NewKey { public_key, signature: signature.into() })
    };
    // Proofs of another session and of another key are ignored.
    agent.send(new_key(new.sign(&message("another session")))).await?;
    agent.send(new_key(AgentKey::generate().sign(&message(agent.session_id())))).await?;
    agent.send(new_key(new.sign(&message(agent.session_id())))).await?;
    let accepted = loop {
        if let Some(ToAgent::KeyAccepted(accepted)) = agent.next().await? {
            break accepted;
        }
    };
    assert_eq!(accepted.public_key_sha256, new.fingerprint().digest().as_bytes().as_slice());
    // Until the first session with the new key, both keys admit the client.
    drop(agent);
    drop(admitted(&invite, &old, "client4").await?);
    let _agent = admitted(&invite, &new, "client4").await?;
    let client = server.json("/api/v1/clients/client4").await?;
    assert_eq!(client["fingerprint"], new.fingerprint().to_string());
    let rejected = code(open(&invite, Some(&old), "client4").await?);
    assert_eq!(rejected, Some(ErrorCode::Unauthenticated));
    Ok(())
}

#[tokio::test]
async fn an_old_key_is_rotated_without_an_operator() -> anyhow::Result<()> {
    let settings = [("KEY_MAX_AGE", "1s"), ("HEARTBEAT", "100ms"), ("DEAD_AFTER", "30s")];
    let server = TestServer::with(&[INVITE.as_slice(), &settings].concat()).await?;
    let (invite, key) = server.enrol("client4").await?;
    let mut agent = admitted(&invite, &key, "client4").await?;
    while !matches!(agent.next().await?, Some(ToAgent::RotateKey(_))) {}
    Ok(())
}

#[tokio::test]
async fn the_number_of_known_clients_is_bounded() -> anyhow::Result<()> {
    let server = TestServer::with(&[INVITE[0], ("MAX_CLIENTS", "2")]).await?;
    let group = server.invite(&json!({ "group": "tills", "uses": 9, "approve": false })).await?;
    for id in ["till1", "till2"] {
        assert_eq!(redeem(&group, &AgentKey::generate(), id).await?, Ok(false));
    }
    let third = AgentKey::generate();
    assert_eq!(redeem(&group, &third, "till3").await?, Err(ErrorCode::Overloaded));
    let invited = server.post("/api/v1/invites", &json!({ "client": "till3" })).await?;
    assert_eq!(invited.status, 507, "{}", invited.text());
    assert_eq!(forget(&server, "till1").await?, 204);
    assert_eq!(redeem(&group, &third, "till3").await?, Ok(false));

    let open = TestServer::with(&[("MAX_CLIENTS", "1")]).await?;
    let _first = ScriptedAgent::connect(open.grpc(), "client1", DEADLINE).await?;
    let second = ScriptedAgent::connect(open.grpc(), "client2", DEADLINE).await;
    let text = format!("{:#}", second.err().context("the second client was admitted")?);
    assert!(text.contains("MAX_CLIENTS"), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_open_server_never_gives_an_enrolled_id_to_an_agent_without_a_key() -> anyhow::Result<()>
{
    let mut server = TestServer::with(&INVITE).await?;
    server.enrol("client4").await?;
    server.stop().await?;
    server.server_setting("AGENT_AUTH", "open");
    server.start_server().await?;
    let taken = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await;
    let text = format!("{:#}", taken.err().context("the agent got the id")?);
    assert!(text.contains("client4 is enrolled"), "{text}");
    ScriptedAgent::connect(server.grpc(), "client5", DEADLINE).await?;
    // Its invites could not be used: agents enrol over TLS only.
    let invited = server.post("/api/v1/invites", &json!({ "client": "client6" })).await?;
    assert_eq!(invited.status, 400, "{}", invited.text());
    assert!(invited.text().contains("AGENT_AUTH=invite"), "{}", invited.text());
    Ok(())
}

#[tokio::test]
async fn each_act_on_a_client_and_each_rejected_agent_is_in_the_audit() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let (invite, key) = server.enrol("client4").await?;
    let group = server.invite(&json!({ "group": "tills", "uses": 1, "approve": true })).await?;
    redeem(&group, &key, "till1").await?.err().context("one key got two ids")?;
    redeem(&group, &AgentKey::generate(), "till1")
        .await?
        .map_err(|code| anyhow::anyhow!("{code:?}"))?;
    approve(&server, "till1").await?;
    code(open(&invite, Some(&AgentKey::generate()), "client4").await?).context("admitted")?;
    forget(&server, "client4").await?;
    let audit = server.json("/api/v1/audit?limit=100").await?;
    let items = audit["items"].as_array().context("no list")?;
    let acts = items.iter().rev().map(|item| {
        let subject = item["subject"].as_str().unwrap_or_default();
        format!("{} {subject}", item["action"].as_str().unwrap_or_default())
    });
    let wanted = [
        "invite.created client4",
        "client.enrolled client4",
        "invite.created tills",
        "agent.rejected till1",
        "client.enrolled till1",
        "client.approved till1",
        "agent.rejected client4",
        "client.forgotten client4",
    ];
    let about_clients = acts.filter(|act| !act.starts_with("settings.") && !act.starts_with("ca."));
    assert_eq!(about_clients.collect::<Vec<_>>(), wanted, "{audit}");
    Ok(())
}
