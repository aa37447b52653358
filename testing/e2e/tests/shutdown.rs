//! Both programs stop when told to; running transfers are completed or kept.

use filepull_testkit::{Strace, TestServer, poll, same_bytes, test_data};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;

/// A grace period longer than the deadline of a test.
const LONG_GRACE: [(&str, &str); 1] = [("SHUTDOWN_GRACE", "1h")];

#[tokio::test]
async fn an_idle_server_stops_at_once() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&LONG_GRACE).await?;
    let client = server.connect("client4", b"data").await?;
    let mut process = server.take_server()?;
    process.terminate()?;
    assert!(process.ended().await?.success());
    process.says("server.stopped").await?;
    // The drained agent dials again, or receives the end of its session.
    client.agent()?.says("WARN").await?;
    Ok(())
}

#[tokio::test]
async fn silent_connections_do_not_delay_the_shutdown() -> anyhow::Result<()> {
    let mut server = TestServer::with(&LONG_GRACE).await?;
    let _silent =
        [TcpStream::connect(server.grpc()).await?, TcpStream::connect(server.http()).await?];
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_running_transfer_may_finish_before_the_server_ends() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&LONG_GRACE).await?;
    let client = server.connect_at("client4", &test_data("client4", 4 << 20), "2MiB/s").await?;
    server.get("/trigger?id=client4").await?;
    let mut process = server.take_server()?;
    process.says("transfer.started").await?;
    process.terminate()?;
    assert!(process.ended().await?.success());
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_unfinished_transfer_resumes_after_the_restart() -> anyhow::Result<()> {
    let mut server = TestServer::with(&[("SHUTDOWN_GRACE", "0s")]).await?;
    let proxy = server.proxy().await?;
    let size = 16 << 20;
    let stopped = server.client("client4", &test_data("client4", size))?.dialling(proxy.addr());
    let client = stopped.setting("MAX_RATE", "8MiB/s").connected().await?;
    let started = server.get("/trigger?id=client4").await?;
    proxy.sent_at_least(10 << 20).await?;
    server.stop().await?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    let done = server.finished(started.header("location")).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &2.into()), "{done}");
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    // The server synced the received bytes when it stopped, after the last checkpoint.
    let sent_again = proxy.sent() - size as u64;
    assert!(sent_again < 6 << 20, "{sent_again} bytes were sent again");
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_server_at_once() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&LONG_GRACE).await?;
    let _client = server.connect_at("client4", &test_data("client4", 1 << 20), "1KiB").await?;
    server.get("/trigger?id=client4").await?;
    let mut process = server.take_server()?;
    process.terminate()?;
    process.says("a second SIGINT or SIGTERM ends the process at once").await?;
    process.says("server.stopping").await?;
    process.terminate()?;
    assert_eq!(process.ended().await?.code(), Some(143));
    Ok(())
}

/// Starts a program that does not ignore SIGHUP, even if the tests run under `nohup`.
const WITH_SIGHUP: [&str; 2] = ["env", "--default-signal=HUP"];

/// A terminal that closes sends SIGHUP twice: from the kernel, and from the shell.
#[tokio::test]
async fn both_programs_shut_down_cleanly_after_one_or_two_hangups() -> anyhow::Result<()> {
    let mut server = TestServer::launched_by(&WITH_SIGHUP, &LONG_GRACE).await?;
    let mut client = server
        .client("client4", &test_data("client4", 4 << 20))?
        .launched_by(&WITH_SIGHUP)
        .setting("MAX_RATE", "2MiB/s")
        .connected()
        .await?;
    server.get("/trigger?id=client4").await?;
    let mut process = server.take_server()?;
    process.says("transfer.started").await?;
    process.signal(Signal::HUP)?;
    process.says("stopping after SIGHUP").await?;
    process.signal(Signal::HUP)?;
    assert!(process.ended().await?.success());
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    let mut agent = client.take_agent()?;
    agent.signal(Signal::HUP)?;
    agent.says("stopping after SIGHUP").await?;
    agent.says("agent stopped").await?;
    assert!(agent.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_hangup_does_not_end_an_agent_under_nohup() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?.launched_by(&["nohup"]).connected().await?;
    client.agent()?.signal(Signal::HUP)?;
    server.pull("client4").await?;
    let mut agent = client.take_agent()?;
    agent.terminate()?;
    agent.says("stopping after SIGTERM").await?;
    assert!(agent.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_stopped_agent_sends_a_goodbye() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let mut client = server.connect("client4", b"data").await?;
    client.stop().await?;
    server.server()?.says("\"reason\":\"stopped\"").await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_stops_without_its_server() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let proxy = server.proxy().await?;
    let mut client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    proxy.freeze();
    client.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_hanging_disk_delays_neither_a_cancel_nor_the_shutdown() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&[("SHUTDOWN_GRACE", "0s")]).await?;
    let _client = server.connect_at("client4", &test_data("client4", 64 << 20), "4MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    server.server()?.says("transfer.started").await?;
    let hang = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=600000000"];
    let Some(hanging) = Strace::attach(server.server()?.pid(), &hang).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    // At this rate the hanging checkpoint started long before.
    let far = |transfer: &Value| 12 << 20 < transfer["bytes_done"].as_u64().unwrap_or_default();
    server.until(started.header("location"), far).await?;
    let cancelled = server.cancel(started.header("location")).await?;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text());
    let mut process = server.take_server()?;
    process.terminate()?;
    process.says("server.stopped").await?;
    // Only the thread that strace traces has not ended.
    let stat = format!("/proc/{}/stat", process.pid());
    let is_zombie = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    poll("the exit", async || Ok(is_zombie().then_some(()))).await?;
    hanging.detach().await?;
    process.ended().await?;
    Ok(())
}
