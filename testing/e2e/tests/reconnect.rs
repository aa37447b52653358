//! Sessions that break, hang, return, or belong to another machine.

use std::time::Duration;

use filepull_testkit::{ScriptedAgent, TestServer, test_data};

/// Settings with which a dead connection is detected within seconds.
const FAST_TIMEOUT: [(&str, &str); 2] = [("HEARTBEAT", "500ms"), ("DEAD_AFTER", "2s")];

#[tokio::test]
async fn cleanup_of_an_old_session_leaves_the_client_reachable() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    // The agent reconnects while the old session is still open on the server.
    proxy.strand();
    client.agent()?.says("connected again").await?;
    server.server()?.says("\"reason\":\"replaced\"").await?;
    server.pull("client4").await?;
    // Now the old connection ends on the server.
    proxy.cut();
    client.agent()?.says_times("connected again", 2).await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn a_pull_right_after_a_start_waits_for_a_client_that_was_online_before() -> anyhow::Result<()>
{
    let mut server = TestServer::start().await?;
    let mut client = server.connect("client4", b"data").await?;
    server.connect("client5", b"data").await?.stop().await?;
    server.until_offline("client5").await?;
    server.stop().await?;
    client.stop().await?;
    server.start_server().await?;
    let waiting = server.get("/trigger?id=client4").await?;
    let line = "Waiting: the server has just started, and client4 was online before; \
                the pull starts when it returns, until ";
    assert_eq!(waiting.status, 202, "{}", waiting.text());
    assert!(waiting.first_line().starts_with(line), "{}", waiting.text());
    assert_eq!(server.get("/trigger?id=client5").await?.status, 409);
    let _client = server.connect("client4", b"data").await?;
    server.done(waiting.header("location")).await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_survives_the_restart_of_its_server() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    server.kill().await?;
    client.agent()?.says("connection lost").await?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    client.agent()?.says("connected again").await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_started_before_its_server_waits_for_it() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    server.kill().await?;
    let mut client = server.client("client4", b"data")?.dialling(proxy.addr());
    client.start()?;
    client.agent()?.says("WARN").await?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    client.agent()?.says("connected").await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn a_silent_session_is_detected_on_both_sides() -> anyhow::Result<()> {
    let server = TestServer::process_with(&FAST_TIMEOUT).await?;
    let proxy = server.proxy().await?;
    let client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    proxy.freeze();
    client.agent()?.says("connection lost: no heartbeat for 2 s").await?;
    server.server()?.says("\"reason\":\"silent\"").await?;
    let offline = server.get("/trigger?id=client4").await?;
    assert_eq!(offline.status, 409, "{}", offline.text());
    assert!(offline.text().contains("the connection went silent"), "{}", offline.text());
    proxy.thaw();
    proxy.cut();
    client.agent()?.says("connected again").await?;
    server.pull("client4").await?;
    Ok(())
}

/// A FIN would wait behind the retransmissions of a connection without acknowledgements.
#[tokio::test]
async fn a_connection_without_acknowledgements_is_reset() -> anyhow::Result<()> {
    let server = TestServer::process_with(&FAST_TIMEOUT).await?;
    let proxy = server.proxy().await?;
    let _silent = ScriptedAgent::connect(proxy.addr(), "client4", Duration::from_mins(1)).await?;
    proxy.reset_by_server().await?;
    server.server()?.says("\"reason\":\"silent\"").await?;
    Ok(())
}

#[tokio::test]
async fn an_order_into_a_dead_session_is_not_lost() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let _client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    proxy.freeze();
    let started = server.get("/trigger?id=client4").await?;
    assert_eq!(started.status, 202);
    assert!(started.text().starts_with("Asked client4, no answer yet."), "{}", started.text());
    server.server()?.says("no answer to an order in 10 s").await?;
    proxy.thaw();
    proxy.cut();
    server.done(started.header("location")).await?;
    Ok(())
}

#[tokio::test]
async fn a_clone_is_rejected_and_the_first_machine_stays_connected() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let _first = server.connect("client4", &test_data("first", 1000)).await?;
    let other = TestServer::start_process().await?;
    let mut clone = other.client("client4", &test_data("clone", 1000))?.dialling(server.grpc());
    clone.start()?;
    let line = clone.agent()?.says("is connected right now from another machine").await?;
    assert!(line.contains("ERROR") && line.matches("127.0.0.1:").count() == 2, "{line}");
    server.server()?.says("client.duplicate_id").await?;
    let download = server.pull("client4").await?;
    assert_eq!(std::fs::read(download)?, test_data("first", 1000));
    Ok(())
}

#[tokio::test]
async fn a_rebooted_machine_replaces_its_old_session() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    // As in a power failure, no FIN reaches the server, and the new agent is another instance.
    proxy.freeze();
    client.kill().await?;
    let _rebooted = client.dialling(server.grpc()).connected().await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn an_id_that_differs_only_by_letter_case_is_rejected() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    let mut other = server.client("Client4", b"other")?.as_process();
    other.start()?;
    other.agent()?.says("differs from the known client client4 by letter case only").await?;
    Ok(())
}

/// Both connections of the agent are lost, and the server does not notice. The agent reconnects and
/// reports no upload.
#[tokio::test]
async fn an_upload_that_its_agent_no_longer_knows_is_interrupted() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[("STALL_TIMEOUT", "1h")]).await?;
    let proxy = server.proxy().await?;
    let _client = server
        .client("client4", &test_data("client4", 16 << 20))?
        .setting("MAX_RATE", "8MiB/s")
        .dialling(proxy.addr())
        .connected()
        .await?;
    let started = server.get("/trigger?id=client4").await?;
    proxy.sent_at_least(4 << 20).await?;
    proxy.strand();
    // Earlier than the timeout of the connection.
    let interrupted = server.server()?.says("transfer.interrupted").await?;
    assert!(interrupted.contains("the agent came back without it"), "{interrupted}");
    let done = server.finished(started.header("location")).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &2.into()), "{done}");
    Ok(())
}
