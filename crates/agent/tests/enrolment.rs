//! Enrolment and the keys of an agent, with a server that a test controls: what is durable before what is
//! sent, and which server an agent talks to.

#![allow(clippy::unwrap_used, reason = "the functions of a test fail it")]

mod fake;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use fake::trust::{ClientMachine, SECRET, TlsServer, ca_pins, invite, start, tls_config};
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_core::fingerprint::Fingerprint;
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::{self, ErrorCode};
use filepull_trust::{AgentKey, CertificateAuthority, new_key_message, verify_signature};

/// Returns the key in a state folder.
fn stored_key(machine: &ClientMachine, name: &str) -> Option<AgentKey> {
    let pem = fs::read_to_string(machine.state().join(name)).ok()?;
    Some(AgentKey::from_pem(&pem).unwrap())
}

/// Enrols an agent, and returns its key. The agent is stopped.
async fn enrolled_machine(server: &mut TlsServer) -> (ClientMachine, Fingerprint) {
    let machine = ClientMachine::new();
    let agent = start(machine.invited(server.invite()));
    let key = server.enrol().await;
    server.open_session("first").await.check_alive().await;
    agent.stop().await;
    (machine, key)
}

#[tokio::test]
async fn an_agent_enrols_once_and_then_needs_no_invite() {
    let mut server = TlsServer::start().await;
    let machine = ClientMachine::new();
    let agent = start(machine.invited(server.invite()));
    let enrolment = server.next_enrolment().await;
    assert_eq!(enrolment.request.secret, SECRET.as_slice());
    assert_eq!(enrolment.request.client_id, "client4");
    let key = enrolment.key.unwrap();
    // The key is durable before the server has the secret, and private.
    assert_eq!(stored_key(&machine, "key").unwrap().fingerprint(), key);
    let mode = fs::metadata(machine.state().join("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!machine.state().join("identity.json").exists(), "enrolled before the answer");
    enrolment.accept(&[server.authority.fingerprint()], false);
    assert_eq!(server.open_session("first").await.key, Some(key));
    agent.stop().await;

    // With the invite still set, and without it: the same key, and no second enrolment.
    for config in [machine.invited(server.invite()), machine.enrolled(&server)] {
        let agent = start(config);
        assert_eq!(server.open_session("next").await.key, Some(key));
        server.expect_silence();
        agent.stop().await;
    }
}

#[tokio::test]
async fn after_a_lost_answer_the_same_key_asks_again() {
    let mut server = TlsServer::start().await;
    let machine = ClientMachine::new();
    let agent = start(machine.invited(server.invite()));
    let lost = server.next_enrolment().await;
    let key = lost.key;
    drop(lost);
    let repeated = server.next_enrolment().await;
    assert_eq!(repeated.key, key);
    // The agent is stopped while it waits: the key survives that too.
    agent.stop().await;
    drop(repeated);
    let agent = start(machine.invited(server.invite()));
    let enrolment = server.next_enrolment().await;
    assert_eq!(enrolment.key, key);
    enrolment.accept(&[server.authority.fingerprint()], false);
    assert_eq!(server.open_session("first").await.key, key);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_pinned_gets_no_secret_and_no_session() {
    let mut server = TlsServer::start().await;
    let other_pin = CertificateAuthority::generate("test CA").unwrap().fingerprint();
    let machine = ClientMachine::new();
    let agent = start(machine.invited(invite(server.addr, "client4", &[other_pin], SECRET)));
    let status = machine.wait_for_status("pin-mismatch").await;
    assert!(status.contains("filepull invite ID --replace"), "{status}");
    assert!(status.contains("issued by"), "{status}");
    server.expect_silence();
    agent.stop().await;

    // The same for an enrolled agent whose server was replaced.
    let (machine, _) = enrolled_machine(&mut server).await;
    let authority = CertificateAuthority::generate("Corporate firewall").unwrap();
    let config = tls_config(&authority);
    let mut stranger = TlsServer::start_with(authority, config).await;
    let mut config = machine.enrolled(&server);
    config.servers = vec![ServerAddr::parse(&stranger.addr.to_string()).unwrap()];
    let agent = start(config);
    let status = machine.wait_for_status("pin-mismatch").await;
    assert!(status.contains("Corporate firewall"), "{status}");
    stranger.expect_silence();
    agent.stop().await;
}

#[tokio::test]
async fn an_enrolled_agent_never_uses_plain_text() {
    let mut server = TlsServer::start().await;
    let (machine, _) = enrolled_machine(&mut server).await;
    let mut config = machine.enrolled(&server);
    config.servers = vec![ServerAddr::parse(&format!("http://{}", server.addr)).unwrap()];
    let error = start(config).error().await;
    assert!(error.contains("remove http://"), "{error}");

    // A server with plain text at the same address.
    let plain = fake::FakeServer::start().await;
    let mut config = machine.enrolled(&server);
    config.servers = vec![ServerAddr::parse(&plain.addr.to_string()).unwrap()];
    let agent = start(config);
    machine.wait_for_status("server-without-tls").await;
    agent.stop().await;
}

#[tokio::test]
async fn each_rejection_of_an_invite_has_its_message() {
    let mut server = TlsServer::start().await;
    for (code, name, part) in [
        (ErrorCode::InviteUsed, "invite-used", "another machine has used the invite"),
        (ErrorCode::InviteExpired, "invite-expired", "the invite has expired"),
        (ErrorCode::InviteUnknown, "invite-unknown", "it is for another server"),
        (ErrorCode::IdTaken, "id-taken", "filepull invite client4 --replace"),
    ] {
        let machine = ClientMachine::new();
        let agent = start(machine.invited(server.invite()));
        server.next_enrolment().await.reject(code);
        let status = machine.wait_for_status(name).await;
        assert!(status.contains(part), "{status}");
        assert!(!machine.state().join("identity.json").exists());
        // It tries again: the remedy may be on the server.
        server.next_enrolment().await.accept(&[server.authority.fingerprint()], false);
        server.open_session("first").await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_pending_client_shows_its_key_and_how_to_approve_it() {
    let mut server = TlsServer::start().await;
    let machine = ClientMachine::new();
    let agent = start(machine.invited(server.invite()));
    let enrolment = server.next_enrolment().await;
    let key = enrolment.key.unwrap();
    enrolment.accept(&[server.authority.fingerprint()], true);
    let session = server.next_session().await;
    let code = ErrorCode::Pending.into();
    let error = v1::Error { code, retry_after_ms: 1, ..v1::Error::default() };
    session.send(FromServer::End(v1::SessionEnd { error: Some(error) })).await;
    let status = machine.wait_for_status("\"pending\"").await;
    assert!(status.contains("filepull approve client4"), "{status}");
    assert!(status.contains(&key.to_string()), "{status}");
    assert_eq!(server.open_session("approved").await.key, Some(key));
    agent.stop().await;
}

#[tokio::test]
async fn a_forgotten_client_is_told_so_and_comes_back_with_a_new_invite() {
    let mut server = TlsServer::start().await;
    let (machine, key) = enrolled_machine(&mut server).await;
    let agent = start(machine.enrolled(&server));
    let session = server.next_session().await;
    let code = ErrorCode::Unauthenticated.into();
    let error = v1::Error { code, retry_after_ms: 1, ..v1::Error::default() };
    session.send(FromServer::End(v1::SessionEnd { error: Some(error) })).await;
    let status = machine.wait_for_status("unknown-key").await;
    assert!(status.contains("client4 was forgotten"), "{status}");
    agent.stop().await;

    let pins = [server.authority.fingerprint()];
    let agent = start(machine.invited(invite(server.addr, "client4", &pins, [7; 32])));
    let enrolment = server.next_enrolment().await;
    assert_eq!((enrolment.request.secret.as_ref(), enrolment.key), (&[7; 32][..], Some(key)));
    enrolment.accept(&pins, false);
    server.open_session("again").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_rejected_new_invite_leaves_an_enrolled_agent_as_it_was() {
    let mut server = TlsServer::start().await;
    let (machine, key) = enrolled_machine(&mut server).await;
    let pins = [server.authority.fingerprint()];
    let agent = start(machine.invited(invite(server.addr, "client4", &pins, [7; 32])));
    server.next_enrolment().await.reject(ErrorCode::InviteUsed);
    assert_eq!(server.open_session("as before").await.key, Some(key));
    machine.wait_for_status("INVITE is ignored, this machine stays enrolled").await;
    agent.stop().await;

    let error =
        start(machine.invited(invite(server.addr, "client5", &pins, [7; 32]))).error().await;
    assert!(error.contains("enrolled as client4, but INVITE is for client5"), "{error}");
}

#[tokio::test]
async fn an_invite_is_not_used_if_the_key_cannot_be_kept() {
    let mut server = TlsServer::start().await;
    let machine = ClientMachine::new();
    let file = machine.state();
    fs::write(&file, "a file, not a folder").unwrap();
    let error = start(machine.invited(server.invite())).error().await;
    assert!(error.contains("the invite was not used") && error.contains("STATE_DIR"), "{error}");
    let without = Config { state_dir: None, ..machine.invited(server.invite()) };
    let error = start(without).error().await;
    assert!(error.contains("set STATE_DIR"), "{error}");
    server.expect_silence();
}

#[tokio::test]
async fn new_pins_are_durable_before_they_are_confirmed() {
    let mut server = TlsServer::start().await;
    let (machine, _) = enrolled_machine(&mut server).await;
    let agent = start(machine.enrolled(&server));
    let mut session = server.open_session("pins").await;
    let next = CertificateAuthority::generate("next CA").unwrap();
    let pins = [server.authority.fingerprint(), next.fingerprint()];
    // An invalid list is neither stored nor confirmed.
    session.send(FromServer::CaPins(v1::CaPins { sha256: vec![vec![1; 31].into()] })).await;
    session.send(FromServer::CaPins(v1::CaPins::default())).await;
    session.send(FromServer::CaPins(ca_pins(&pins))).await;
    let Some(ToServer::PinsStored(stored)) = session.receive().await else {
        panic!("expected a confirmation")
    };
    assert_eq!(stored.sha256, ca_pins(&pins).sha256);
    let identity = fs::read_to_string(machine.state().join("identity.json")).unwrap();
    assert!(identity.contains(&next.fingerprint().to_string()), "{identity}");
    agent.stop().await;

    // A server of the next authority is accepted now.
    let config = tls_config(&next);
    let mut successor = TlsServer::start_with(next, config).await;
    let mut config = machine.enrolled(&server);
    config.servers = vec![ServerAddr::parse(&successor.addr.to_string()).unwrap()];
    let agent = start(config);
    successor.open_session("next").await.check_alive().await;
    agent.stop().await;
}

/// Receives messages until the agent presents a new key, checks the proof, and returns the key.
async fn receive_new_key(session: &mut fake::FakeSession, id: &str) -> Fingerprint {
    let Some(ToServer::NewKey(new)) = session.receive().await else { panic!("expected a new key") };
    let message = new_key_message(id, &new.public_key);
    verify_signature(&new.public_key, &message, &new.signature).unwrap();
    Fingerprint::of_public_key(&new.public_key)
}

fn accepted(key: Fingerprint) -> FromServer {
    let public_key_sha256 = key.digest().as_bytes().to_vec().into();
    FromServer::KeyAccepted(v1::KeyAccepted { public_key_sha256 })
}

#[tokio::test]
async fn a_rotated_key_is_used_by_the_next_session() {
    let mut server = TlsServer::start().await;
    let (machine, old) = enrolled_machine(&mut server).await;
    let agent = start(machine.enrolled(&server));
    let mut session = server.open_session("rotation").await;
    session.send(FromServer::RotateKey(v1::RotateKey {})).await;
    let new = receive_new_key(&mut session, "rotation").await;
    assert_eq!(stored_key(&machine, "key.next").unwrap().fingerprint(), new, "sent before durable");
    assert_eq!(stored_key(&machine, "key").unwrap().fingerprint(), old);
    // An answer for another key changes nothing.
    session.send(accepted(old)).await;
    session.send(accepted(new)).await;
    // The agent dials by itself.
    let next = server.open_session("after").await;
    assert_eq!(next.key, Some(new));
    assert_eq!(stored_key(&machine, "key").unwrap().fingerprint(), new);
    assert!(!machine.state().join("key.next").exists());
    agent.stop().await;
}

#[tokio::test]
async fn a_rotation_continues_after_a_stop_at_each_step() {
    let mut server = TlsServer::start().await;
    let (machine, old) = enrolled_machine(&mut server).await;
    // The agent stops after it has sent the new key, and before the answer, twice.
    let mut new = None;
    for id in ["one", "two"] {
        let agent = start(machine.enrolled(&server));
        let mut session = server.open_session(id).await;
        assert_eq!(session.key, Some(old));
        if new.is_none() {
            session.send(FromServer::RotateKey(v1::RotateKey {})).await;
        }
        let sent = receive_new_key(&mut session, id).await;
        assert_eq!(*new.get_or_insert(sent), sent, "another key in each session");
        agent.stop().await;
    }
    let new = new.unwrap();
    // It stops when the answer arrives: the disk has the old keys, or the new one.
    let agent = start(machine.enrolled(&server));
    let mut session = server.open_session("three").await;
    receive_new_key(&mut session, "three").await;
    session.send(accepted(new)).await;
    agent.stop().await;
    let agent = start(machine.enrolled(&server));
    let mut session = server.open_session("four").await;
    if session.key == Some(old) {
        assert_eq!(receive_new_key(&mut session, "four").await, new);
        session.send(accepted(new)).await;
        session = server.open_session("five").await;
    }
    assert_eq!(session.key, Some(new));
    session.check_alive().await;
    agent.stop().await;
}

#[tokio::test]
async fn each_state_of_the_disk_during_a_rotation_is_a_valid_start() {
    let mut server = TlsServer::start().await;
    let (machine, old) = enrolled_machine(&mut server).await;
    let next = AgentKey::generate();
    // Killed while it wrote the next key: a temporary file is left.
    fs::write(machine.state().join(".key-left"), "-----BEGIN").unwrap();
    let agent = start(machine.enrolled(&server));
    assert_eq!(server.open_session("a").await.key, Some(old));
    agent.stop().await;
    // Killed after the next key was written, before the server knew it.
    fs::write(machine.state().join("key.next"), next.to_pem()).unwrap();
    fs::set_permissions(machine.state().join("key.next"), Permissions::from_mode(0o600)).unwrap();
    let agent = start(machine.enrolled(&server));
    let mut session = server.open_session("b").await;
    assert_eq!(session.key, Some(old));
    assert_eq!(receive_new_key(&mut session, "b").await, next.fingerprint());
    agent.stop().await;
    // Killed right after the rename.
    fs::rename(machine.state().join("key.next"), machine.state().join("key")).unwrap();
    let agent = start(machine.enrolled(&server));
    assert_eq!(server.open_session("c").await.key, Some(next.fingerprint()));
    agent.stop().await;
}

#[tokio::test]
async fn the_secret_and_the_key_are_in_no_log_status_or_debug_text() {
    let mut server = TlsServer::start().await;
    let machine = ClientMachine::new();
    let config = machine.invited(server.invite());
    let invite_text = server.invite().encode();
    let debug = format!("{config:?}");
    let agent = start(config);
    server.next_enrolment().await.reject(ErrorCode::InviteUsed);
    let mut texts = vec![debug, machine.wait_for_status("invite-used").await];
    server.enrol().await;
    server.open_session("first").await;
    agent.stop().await;
    for name in machine.state_files() {
        if name != "key" {
            texts.push(fs::read_to_string(machine.state().join(name)).unwrap());
        }
    }
    let key = fs::read_to_string(machine.state().join("key")).unwrap();
    let key_line = key.lines().nth(1).unwrap();
    let decimal = format!("{:?}", &SECRET[..8]);
    for text in texts {
        for secret in
            ["SECRET-0123", &invite_text[4..40], key_line, decimal.trim_matches(['[', ']'])]
        {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}
