//! The session: the hello, the answers to messages, and how the agent reconnects.

mod fake;

use std::time::{Duration, Instant};

use fake::{CONTENT_LEN, FakeServer, soon, welcome};
use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::report::StatusReport;
use filepull_agent::share::Shares;
use filepull_core::id::ClientId;
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::{self, ErrorCode};

#[tokio::test]
async fn an_agent_sends_hello_first() {
    let mut server = FakeServer::start().await;
    let (_session, hello) = server.open_session().await;
    assert_eq!(hello.client_id, "client4");
    assert_eq!(hello.instance_id.len(), 16);
    assert_eq!((hello.connects, hello.protocol_min, hello.protocol_max), (0, 2, 2));
    assert_eq!(hello.shares, ["data.txt", "logs/*.log"]);
    assert_eq!(hello.default_file.unwrap().size, CONTENT_LEN as u64);
}

#[tokio::test]
async fn a_ping_is_answered_and_an_unknown_message_is_ignored() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    session.send_raw(v1::ServerMessage { kind: None }).await;
    session.send(FromServer::Cancel(v1::CancelTransfer::default())).await;
    session.check_alive().await;
}

#[tokio::test]
async fn an_agent_reconnects_after_the_server_closed_the_session() {
    let mut server = FakeServer::start().await;
    let (session, first) = server.open_session().await;
    drop(session);
    let (mut session, second) = server.open_session().await;
    assert_eq!(second.instance_id, first.instance_id);
    assert_eq!(second.connects, 1);
    session.check_alive().await;
}

#[tokio::test]
async fn an_agent_leaves_a_silent_server_and_dials_again() {
    let mut server = FakeServer::start().await;
    let mut silent = server.next_session().await;
    silent.receive().await;
    // Both times: the silence lasts for at least two heartbeats.
    let welcome = v1::Welcome { heartbeat_ms: 50, dead_after_ms: 100, ..welcome() };
    silent.send(FromServer::Welcome(welcome)).await;
    let (mut session, _) = server.open_session().await;
    assert_eq!(silent.receive().await, None);
    session.check_alive().await;
}

#[tokio::test]
async fn a_rejected_agent_reconnects_after_the_requested_time() {
    let mut server = FakeServer::start().await;
    let session = server.next_session().await;
    let code = ErrorCode::DuplicateId.into();
    let error = v1::Error { code, retry_after_ms: 1, ..v1::Error::default() };
    session.send(FromServer::End(v1::SessionEnd { error: Some(error) })).await;
    let (mut session, _) = server.open_session().await;
    session.check_alive().await;
}

#[tokio::test]
async fn a_drained_agent_dials_before_it_closes_the_session() {
    let mut server = FakeServer::start().await;
    let (mut old, _) = server.open_session().await;
    old.send(FromServer::Drain(v1::Drain { reconnect_min_ms: 0, reconnect_max_ms: 1 })).await;
    let (mut new, _) = server.open_session().await;
    old.check_alive().await;
    new.check_alive().await;
    drop(old);
    new.check_alive().await;
}

#[tokio::test]
async fn a_stopped_agent_sends_goodbye_and_leaves_its_status() {
    let state = tempfile::TempDir::new().unwrap();
    let dir = state.path().to_owned();
    let mut server = FakeServer::start_with(|config| config.state_dir = Some(dir)).await;
    let (mut session, _) = server.open_session().await;
    session.check_alive().await;
    // The status is written in the background, separately from the session.
    soon(async {
        while !StatusReport::read(&[state.path().to_owned()], None).is_connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.stop.cancel();
    assert!(matches!(session.receive().await, Some(ToServer::Goodbye(_))));
    assert_eq!(session.receive().await, None);
}

#[tokio::test]
async fn an_agent_without_a_session_is_not_connected_while_its_next_dial_waits() {
    let state = tempfile::TempDir::new().unwrap();
    let dir = state.path().to_owned();
    let mut server = FakeServer::start_with(|config| config.state_dir = Some(dir)).await;
    let (session, _) = server.open_session().await;
    let wait_for_status = async |text: &str| {
        soon(async {
            while !StatusReport::read(&[state.path().to_owned()], None).as_text().starts_with(text)
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    wait_for_status("client4 is connected").await;
    let drain = v1::Drain { reconnect_min_ms: u32::MAX, reconnect_max_ms: u32::MAX };
    session.send(FromServer::Drain(drain)).await;
    drop(session);
    wait_for_status("client4 is not connected").await;
}

#[tokio::test]
async fn an_agent_stops_in_time_while_its_server_does_not_respond() {
    let unresponsive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = ServerAddr::parse(&unresponsive.local_addr().unwrap().to_string()).unwrap();
    let shares = Shares::new(std::path::Path::new("none/data.txt"), []).unwrap();
    let config = Config::new(ClientId::parse("client4").unwrap(), addr, shares);
    let (stop_sender, stop) = tokio::sync::oneshot::channel();
    let dialed = async {
        let connection = unresponsive.accept().await.unwrap();
        stop_sender.send(Instant::now()).unwrap();
        // The socket stays open: closing it would be a response.
        std::future::pending::<()>().await;
        drop(connection);
    };
    let mut stopped_at = None;
    let running = Agent::new(config).run_until(async { stopped_at = stop.await.ok() });
    soon(async {
        tokio::select! {
            result = running => result.unwrap(),
            () = dialed => {}
        }
    })
    .await;
    assert!(stopped_at.unwrap().elapsed() < Duration::from_secs(5));
}
