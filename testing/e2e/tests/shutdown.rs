//! The end of both programs: asked for, it comes; what runs is finished or kept.

use filepull_testkit::{Strace, TestServer, same_bytes, soon, test_data};
use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;

/// A grace that no test waits for: whoever does wait for it fails by the deadline.
const ENDLESS: [(&str, &str); 1] = [("SHUTDOWN_GRACE", "1h")];

#[tokio::test]
async fn an_idle_server_ends_when_it_is_asked_to() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&ENDLESS).await?;
    let client = bed.connect("client4", b"data").await?;
    let mut server = bed.take_server()?;
    server.terminate()?;
    assert!(server.ended().await?.success());
    server.says("server.stopped").await?;
    // Sent away, it dials again before its line ends, or hears that the server stops.
    client.agent()?.says("WARN").await?;
    Ok(())
}

#[tokio::test]
async fn connections_that_never_speak_do_not_hold_the_server() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&ENDLESS).await?;
    let _silent = [TcpStream::connect(bed.grpc()).await?, TcpStream::connect(bed.http()).await?];
    let mut server = bed.take_server()?;
    server.terminate()?;
    assert!(server.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_running_transfer_may_finish_before_the_server_ends() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&ENDLESS).await?;
    let client =
        bed.client("client4", &test_data("client4", 4 << 20))?.setting("MAX_RATE", "2MiB/s");
    let mut client = client;
    client.connect().await?;
    bed.get("/trigger?id=client4").await?;
    let mut server = bed.take_server()?;
    server.says("transfer.started").await?;
    server.terminate()?;
    assert!(server.ended().await?.success());
    assert!(same_bytes(&bed.downloads("client4")?[0], &client.data())?);
    assert!(bed.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_transfer_that_was_cut_short_goes_on_after_the_restart() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&[("SHUTDOWN_GRACE", "0s")]).await?;
    let proxy = bed.proxy().await?;
    let size = 16 << 20;
    let client = bed.client("client4", &test_data("client4", size))?.setting("MAX_RATE", "8MiB/s");
    let mut client = client.dialling(proxy.addr());
    client.connect().await?;
    let started = bed.get("/trigger?id=client4").await?;
    proxy.sent_at_least(10 << 20).await?;
    let mut server = bed.take_server()?;
    server.terminate()?;
    assert!(server.ended().await?.success());
    bed.start_server().await?;
    proxy.retarget(bed.grpc());
    let done = bed.json(&format!("{}?wait=100s", started.header("location"))).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &2.into()), "{done}");
    assert!(same_bytes(&bed.downloads("client4")?[0], &client.data())?);
    // What had come was made durable at the end, not only at the last checkpoint.
    let sent_again = proxy.sent() - size as u64;
    assert!(sent_again < 6 << 20, "{sent_again} bytes were sent again");
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_server_at_once() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&ENDLESS).await?;
    let mut client =
        bed.client("client4", &test_data("client4", 1 << 20))?.setting("MAX_RATE", "1KiB");
    client.connect().await?;
    bed.get("/trigger?id=client4").await?;
    let mut server = bed.take_server()?;
    server.terminate()?;
    server.says("a second SIGINT or SIGTERM ends the process at once").await?;
    server.says("server.stopping").await?;
    server.terminate()?;
    assert_eq!(server.ended().await?.code(), Some(143));
    Ok(())
}

/// A terminal that closes sends SIGHUP twice: from the kernel, and from the shell.
/// Starts a program that does not ignore SIGHUP, even if the tests run under `nohup`.
const WITH_SIGHUP: [&str; 2] = ["env", "--default-signal=HUP"];

#[tokio::test]
async fn a_hang_up_lets_both_programs_finish_and_so_do_two() -> anyhow::Result<()> {
    let mut bed = TestServer::launched_by(&WITH_SIGHUP, &ENDLESS).await?;
    let client = bed.client("client4", &test_data("client4", 4 << 20))?.launched_by(&WITH_SIGHUP);
    let mut client = client.setting("MAX_RATE", "2MiB/s");
    client.connect().await?;
    bed.get("/trigger?id=client4").await?;
    let mut server = bed.take_server()?;
    server.says("transfer.started").await?;
    server.signal(Signal::HUP)?;
    server.says("stopping after SIGHUP").await?;
    server.signal(Signal::HUP)?;
    assert!(server.ended().await?.success());
    assert!(same_bytes(&bed.downloads("client4")?[0], &client.data())?);
    let mut agent = client.take_agent()?;
    agent.signal(Signal::HUP)?;
    agent.says("stopping after SIGHUP").await?;
    agent.says("agent stopped").await?;
    assert!(agent.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_hang_up_does_not_end_an_agent_under_nohup() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.client("client4", b"data")?.launched_by(&["nohup"]);
    client.connect().await?;
    client.agent()?.signal(Signal::HUP)?;
    bed.pull("client4").await?;
    let mut agent = client.take_agent()?;
    agent.terminate()?;
    agent.says("stopping after SIGTERM").await?;
    assert!(agent.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn an_agent_says_goodbye() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.connect("client4", b"data").await?;
    let mut agent = client.take_agent()?;
    agent.terminate()?;
    assert!(agent.ended().await?.success());
    bed.server()?.says("\"reason\":\"stopped\"").await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_ends_without_its_server() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let proxy = bed.proxy().await?;
    let mut client = bed.client("client4", b"data")?.dialling(proxy.addr());
    client.connect().await?;
    proxy.freeze();
    let mut agent = client.take_agent()?;
    agent.terminate()?;
    assert!(agent.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_holds_neither_a_cancel_nor_the_end() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&[("SHUTDOWN_GRACE", "0s")]).await?;
    let client =
        bed.client("client4", &test_data("client4", 64 << 20))?.setting("MAX_RATE", "4MiB/s");
    let mut client = client;
    client.connect().await?;
    let started = bed.get("/trigger?id=client4").await?;
    bed.server()?.says("transfer.started").await?;
    let hang = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=600000000"];
    let Some(hanging) = Strace::attach(bed.server()?.pid(), &hang).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    // At this rate: long after the checkpoint that hangs has begun.
    let far = |transfer: &Value| 12 << 20 < transfer["bytes_done"].as_u64().unwrap_or_default();
    soon("12 MiB", bed.until(started.header("location"), far)).await??;
    let cancel = format!("{}/cancel", started.header("location"));
    let cancelled = bed.send(Method::POST, &cancel, &[], "").await?;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text());
    let mut server = bed.take_server()?;
    server.terminate()?;
    server.says("server.stopped").await?;
    // It has ended but for the thread that strace holds.
    let stat = format!("/proc/{}/stat", server.pid());
    let is_zombie = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    soon("the exit", async {
        while !is_zombie() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    hanging.detach().await?;
    server.ended().await?;
    Ok(())
}
