//! Lines that break, hang, come back, or belong to somebody else.

use std::time::Duration;

use filepull_testkit::{ScriptedAgent, TestServer, test_data};

/// Lines that are noticed to be dead within seconds.
const HURRIED: [(&str, &str); 2] = [("HEARTBEAT", "500ms"), ("DEAD_AFTER", "2s")];

#[tokio::test]
async fn cleanup_of_an_old_line_leaves_the_client_reachable() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    // The agent comes back while the server still believes in the old line.
    proxy.strand();
    client.agent()?.says("connected again").await?;
    server.server()?.says("\"reason\":\"replaced\"").await?;
    server.pull("client4").await?;
    // Only now does the old connection end on the server's side.
    proxy.cut();
    client.agent()?.says_times("connected again", 2).await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn a_pull_right_after_a_start_waits_for_a_client_that_was_online_before() -> anyhow::Result<()>
{
    let mut server = TestServer::start_process().await?;
    let mut client = server.connect("client4", b"data").await?;
    let mut gone = server.connect("client5", b"data").await?;
    gone.kill().await?;
    server.server()?.says("client.disconnected").await?;
    server.stop().await?;
    client.kill().await?;
    server.start_server().await?;
    let waiting = server.get("/trigger?id=client4").await?;
    let said = "Waiting: the server has just started, and client4 was online before; \
                the pull starts when it returns, until ";
    assert_eq!(waiting.status, 202, "{}", waiting.text());
    assert!(waiting.first_line().starts_with(said), "{}", waiting.text());
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
async fn a_silent_line_is_noticed_on_both_sides() -> anyhow::Result<()> {
    let server = TestServer::process_with(&HURRIED).await?;
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

/// Where nothing comes back from the agent, a polite end would wait behind what TCP sends again.
#[tokio::test]
async fn a_line_that_is_not_heard_is_reset() -> anyhow::Result<()> {
    let server = TestServer::process_with(&HURRIED).await?;
    let proxy = server.proxy().await?;
    let _silent = ScriptedAgent::connect(proxy.addr(), "client4", Duration::from_mins(1)).await?;
    proxy.reset_by_server().await?;
    server.server()?.says("\"reason\":\"silent\"").await?;
    Ok(())
}

#[tokio::test]
async fn an_order_into_a_dead_line_is_not_lost() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let _client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    proxy.freeze();
    let asked = server.get("/trigger?id=client4").await?;
    assert_eq!(asked.status, 202);
    assert!(asked.text().starts_with("Asked client4, no answer yet."), "{}", asked.text());
    server.server()?.says("no answer to an order in 10 s").await?;
    proxy.thaw();
    proxy.cut();
    server.done(asked.header("location")).await?;
    Ok(())
}

#[tokio::test]
async fn a_clone_is_refused_and_the_first_machine_is_not_disturbed() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let _first = server.connect("client4", &test_data("first", 1000)).await?;
    let other = TestServer::start_process().await?;
    let mut clone = other.client("client4", &test_data("clone", 1000))?.dialling(server.grpc());
    clone.start()?;
    let said = clone.agent()?.says("is connected right now from another machine").await?;
    assert!(said.contains("ERROR") && said.matches("127.0.0.1:").count() == 2, "{said}");
    server.server()?.says("client.duplicate_id").await?;
    let download = server.pull("client4").await?;
    assert_eq!(std::fs::read(download)?, test_data("first", 1000));
    Ok(())
}

#[tokio::test]
async fn a_machine_that_was_replaced_gets_back_in() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    // The box loses its power: no FIN reaches the server, and the agent is another instance.
    proxy.freeze();
    client.kill().await?;
    let _rebooted = client.dialling(server.grpc()).connected().await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn an_id_that_differs_by_letter_case_only_is_refused() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    let mut other = server.client("Client4", b"other")?;
    other.start()?;
    other.agent()?.says("differs from the known client client4 by letter case only").await?;
    Ok(())
}

/// Both connections of the agent are gone, and the server sees nothing of it: it learns it from the
/// agent, which is back and sends nothing.
#[tokio::test]
async fn an_upload_that_its_agent_no_longer_knows_is_given_up() -> anyhow::Result<()> {
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
    // Before the connection is found dead, which takes longer.
    let interrupted = server.server()?.says("transfer.interrupted").await?;
    assert!(interrupted.contains("the agent came back without it"), "{interrupted}");
    let done = server.finished(started.header("location")).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &2.into()), "{done}");
    Ok(())
}
