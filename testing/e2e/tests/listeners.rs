//! Both listeners have limits: no caller and no agent takes capacity that others need.

use filepull_core::PROTOCOL;
use filepull_proto::v1::agent_control_client::AgentControlClient;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{AgentMessage, Error, ErrorCode, Hello, Pong, TransferUpdate};
use filepull_testkit::{DEADLINE, ScriptedAgent, TestServer, soon};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// With this limit of open files a server has 16 connections for operators and 64 for agents.
const FEW_FILES: &[&str] = &["prlimit", "--nofile=128:128"];

/// The first bytes of an HTTP/2 client: the preface, and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn idle_connections_lock_no_operator_out() -> anyhow::Result<()> {
    let server = TestServer::launched_by(FEW_FILES, &[]).await?;
    let _client = server.connect("client4", b"data").await?;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.http()).await?);
    }
    server.pull("client4").await?;
    server.server()?.says("connection_limit.reached").await?;
    Ok(())
}

#[tokio::test]
async fn callers_that_wait_lock_no_operator_out() -> anyhow::Result<()> {
    let server = TestServer::launched_by(FEW_FILES, &[]).await?;
    let _client = server.connect("client4", b"data").await?;
    server.connect("gone", b"data").await?.kill().await?;
    server.until_offline("gone").await?;
    let mut waiting = Vec::new();
    for number in 1..=60 {
        let mut caller = TcpStream::connect(server.http()).await?;
        let query = format!("id=gone&path=file{number}&queue=1h&wait=10m");
        let request = format!("GET /trigger?{query} HTTP/1.1\r\nhost: x\r\n\r\n");
        caller.write_all(request.as_bytes()).await?;
        waiting.push(caller);
        // Up to 15 callers wait, because the server has 16 connections for operators.
        if number < 16 {
            let waits = |server: &Value| server["transfers"]["waiting"] == number;
            server.until("/api/v1/server", waits).await?;
        }
    }
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn connections_without_a_stream_lock_no_agent_out() -> anyhow::Result<()> {
    let server = TestServer::launched_by(FEW_FILES, &[]).await?;
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = TcpStream::connect(server.grpc()).await?;
        connection.write_all(PREFACE).await?;
        connections.push(connection);
    }
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn a_message_before_the_welcome_is_rejected() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    // The old session answers no ping, so the server decides after two seconds.
    let first = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let hello = Hello {
        client_id: "client4".into(),
        instance_id: vec![7; 16].into(),
        protocol_min: *PROTOCOL.start(),
        protocol_max: *PROTOCOL.end(),
        ..Hello::default()
    };
    let kinds = [FromAgent::Hello(hello), FromAgent::Pong(Pong::default())];
    let messages = kinds.map(|kind| AgentMessage { kind: Some(kind) });
    let mut control = AgentControlClient::new(first.channel());
    let messages = futures::stream::iter(messages);
    let mut responses = soon("a response", control.session(messages)).await??.into_inner();
    let response = soon("an end", responses.message()).await??.and_then(|message| message.kind);
    let Some(ToAgent::End(end)) = response else { anyhow::bail!("admitted: {response:?}") };
    assert_eq!(end.error.unwrap_or_default().code(), ErrorCode::Protocol);
    let event = server.server()?.says("session.rejected").await?;
    assert!(event.contains("a message arrived before the welcome"), "{event}");
    Ok(())
}

#[tokio::test]
async fn an_agent_with_another_wire_format_is_told_both_versions() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let other = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let cases = [
        (1, "this server speaks protocol 2, the agent speaks 1: update the agent"),
        (3, "this server speaks protocol 2, the agent speaks 3: update the server"),
    ];
    for (version, text) in cases {
        let hello = Hello {
            client_id: format!("version-{version}"),
            instance_id: vec![version; 16].into(),
            protocol_min: version.into(),
            protocol_max: version.into(),
            ..Hello::default()
        };
        let messages = [AgentMessage { kind: Some(FromAgent::Hello(hello)) }];
        let mut control = AgentControlClient::new(other.channel());
        let messages = futures::stream::iter(messages).chain(futures::stream::pending());
        let mut responses = soon("a response", control.session(messages)).await??.into_inner();
        let response = soon("an end", responses.message()).await??.and_then(|message| message.kind);
        let Some(ToAgent::End(end)) = response else { anyhow::bail!("admitted: {response:?}") };
        let error = end.error.unwrap_or_default();
        assert_eq!((error.code(), &*error.message), (ErrorCode::Unsupported, text));
        let event = server.server()?.says(&format!("version-{version}")).await?;
        assert!(event.contains("session.rejected") && event.contains(text), "{event}");
    }
    Ok(())
}

#[tokio::test]
async fn a_rejected_clone_replaces_a_first_machine_that_fails() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[("HEARTBEAT", "500ms"), ("DEAD_AFTER", "2s")]).await?;
    let proxy = server.proxy().await?;
    let mut first = server.client("client4", b"first")?.dialling(proxy.addr()).connected().await?;
    let other = TestServer::start_process().await?;
    let mut clone = other.client("client4", b"clone")?.dialling(server.grpc());
    clone.start()?;
    clone.agent()?.says("is connected right now from another machine").await?;
    // No FIN reaches the server.
    proxy.freeze();
    first.kill().await?;
    clone.agent()?.says("waiting for pulls").await?;
    let download = server.pull("client4").await?;
    assert_eq!(std::fs::read(download)?, b"clone");
    Ok(())
}

#[tokio::test]
async fn an_agent_cannot_report_an_error_of_the_server() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut agent = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let started = server.get("/trigger?id=client4").await?;
    let order = agent.order().await?;
    let error = Error {
        code: ErrorCode::StorageFull.into(),
        message: "The server is full, honest!".into(),
        ..Error::default()
    };
    let update = TransferUpdate {
        transfer_id: order.transfer_id,
        attempt: order.attempt,
        state: Some(State::Failed(error)),
    };
    agent.send(FromAgent::Transfer(update)).await?;
    let failed = server.finished(started.header("location")).await?;
    assert_eq!(failed["error"]["code"], "agent-error", "{failed}");
    Ok(())
}
