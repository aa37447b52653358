//! The line: who speaks first, what is answered, and how the agent comes back.

mod fake;

use std::time::{Duration, Instant};

use fake::{CONTENT_LEN, FakeServer, soon, welcome};
use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::report::StatusReport;
use filepull_agent::share::Shares;
use filepull_core::id::ClientId;
use filepull_proto::v1::agent_message::Kind as Said;
use filepull_proto::v1::server_message::Kind as Say;
use filepull_proto::v1::{self, ErrorCode};

#[tokio::test]
async fn an_agent_introduces_itself_first() {
    let mut bed = FakeServer::start().await;
    let (_line, hello) = bed.greeted().await;
    assert_eq!(hello.client_id, "client4");
    assert_eq!(hello.instance_id.len(), 16);
    assert_eq!((hello.connects, hello.protocol_min, hello.protocol_max), (0, 1, 1));
    assert_eq!(hello.shares, ["data.txt", "logs/*.log"]);
    assert_eq!(hello.default_file.unwrap().size, CONTENT_LEN as u64);
}

#[tokio::test]
async fn a_ping_is_answered_and_what_is_unknown_is_ignored() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    line.say_raw(v1::ServerMessage { kind: None }).await;
    line.say(Say::Cancel(v1::CancelTransfer::default())).await;
    line.check_alive().await;
}

#[tokio::test]
async fn an_agent_that_was_hung_up_on_comes_back() {
    let mut bed = FakeServer::start().await;
    let (line, first) = bed.greeted().await;
    drop(line);
    let (mut line, second) = bed.greeted().await;
    assert_eq!(second.instance_id, first.instance_id);
    assert_eq!(second.connects, 1);
    line.check_alive().await;
}

#[tokio::test]
async fn an_agent_leaves_a_silent_server_and_dials_again() {
    let mut bed = FakeServer::start().await;
    let mut silent = bed.line().await;
    silent.hear().await;
    silent.say(Say::Welcome(v1::Welcome { dead_after_ms: 50, ..welcome() })).await;
    let (mut line, _) = bed.greeted().await;
    assert_eq!(silent.hear().await, None);
    line.check_alive().await;
}

#[tokio::test]
async fn a_refused_agent_comes_back_when_it_was_told_to() {
    let mut bed = FakeServer::start().await;
    let line = bed.line().await;
    let code = ErrorCode::DuplicateId.into();
    let error = v1::Error { code, retry_after_ms: 1, ..v1::Error::default() };
    line.say(Say::End(v1::SessionEnd { error: Some(error) })).await;
    let (mut line, _) = bed.greeted().await;
    line.check_alive().await;
}

#[tokio::test]
async fn an_agent_that_is_drained_dials_before_it_hangs_up() {
    let mut bed = FakeServer::start().await;
    let (mut old, _) = bed.greeted().await;
    old.say(Say::Drain(v1::Drain { reconnect_min_ms: 0, reconnect_max_ms: 1 })).await;
    let (mut new, _) = bed.greeted().await;
    old.check_alive().await;
    new.check_alive().await;
    drop(old);
    new.check_alive().await;
}

#[tokio::test]
async fn an_agent_that_stops_says_goodbye_and_leaves_its_status() {
    let state = tempfile::TempDir::new().unwrap();
    let dir = state.path().to_owned();
    let mut bed = FakeServer::start_with(|config| config.state_dir = Some(dir)).await;
    let (mut line, _) = bed.greeted().await;
    line.check_alive().await;
    // The status is written in the background, separately from the session.
    soon(async {
        while !StatusReport::read(&[state.path().to_owned()], None).is_connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bed.stop.cancel();
    assert!(matches!(line.hear().await, Some(Said::Goodbye(_))));
    assert_eq!(line.hear().await, None);
}

#[tokio::test]
async fn a_line_that_ends_after_a_drain_is_no_connection_however_long_the_next_dial_waits() {
    let state = tempfile::TempDir::new().unwrap();
    let dir = state.path().to_owned();
    let mut bed = FakeServer::start_with(|config| config.state_dir = Some(dir)).await;
    let (line, _) = bed.greeted().await;
    let status_says = async |text: &str| {
        soon(async {
            while !StatusReport::read(&[state.path().to_owned()], None).in_words().starts_with(text)
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    status_says("client4 is connected").await;
    let far = v1::Drain { reconnect_min_ms: u32::MAX, reconnect_max_ms: u32::MAX };
    line.say(Say::Drain(far)).await;
    drop(line);
    status_says("client4 is not connected").await;
}

#[tokio::test]
async fn an_agent_stops_in_time_when_nobody_answers_it() {
    let black_hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = ServerAddr::parse(&black_hole.local_addr().unwrap().to_string()).unwrap();
    let shares = Shares::new(std::path::Path::new("none/data.txt"), []).unwrap();
    let config = Config::new(ClientId::parse("client4").unwrap(), addr, shares);
    let (asked_to_stop, stop) = tokio::sync::oneshot::channel();
    let dialled = async {
        let connection = black_hole.accept().await.unwrap();
        asked_to_stop.send(Instant::now()).unwrap();
        // Held open: a socket that closes would be an answer.
        std::future::pending::<()>().await;
        drop(connection);
    };
    let mut asked_at = None;
    let running = Agent::new(config).run_until(async { asked_at = stop.await.ok() });
    soon(async {
        tokio::select! {
            ended = running => ended.unwrap(),
            () = dialled => {}
        }
    })
    .await;
    assert!(asked_at.unwrap().elapsed() < Duration::from_secs(5));
}
