//! Interrupted transfers resume: few bytes are sent again, and none is corrupted.

use filepull_core::file_digest::FileDigests;
use filepull_testkit::{Proxy, TestClient, TestServer, same_bytes, test_data};
use serde_json::Value;

/// The window of an upload: maximum bytes in flight when a connection is cut.
const WINDOW: u64 = 16 << 20;

/// Connects a client through the proxy, with a rate that leaves time for a fault.
async fn connect_through(
    proxy: &Proxy,
    server: &TestServer,
    data: &[u8],
    rate: &str,
) -> anyhow::Result<TestClient> {
    let client = server.client("client4", data)?.setting("MAX_RATE", rate);
    client.dialling(proxy.addr()).connected().await
}

async fn trigger(server: &TestServer) -> anyhow::Result<String> {
    let started = server.get("/trigger?id=client4").await?;
    assert_eq!(started.status, 202, "{}", started.text());
    Ok(started.header("location").to_owned())
}

/// Waits until the transfer is done, and checks that the only download is the client's file.
async fn check_arrival(
    server: &TestServer,
    client: &TestClient,
    location: &str,
) -> anyhow::Result<Value> {
    let done = server.done(location).await?;
    let downloads = server.downloads("client4")?;
    assert_eq!(downloads.len(), 1);
    assert!(same_bytes(&downloads[0], &client.data())?, "the download is not the client's file");
    let FileDigests { blake3, sha256 } = FileDigests::of(&std::fs::read(client.data())?);
    let download = &done["download"];
    assert_eq!(download["blake3"], blake3.to_string(), "{done}");
    assert_eq!(download["sha256"], sha256.to_string(), "{done}");
    assert!(server.leftovers("client4")?.is_empty());
    Ok(done)
}

#[tokio::test]
async fn a_cut_upload_resumes() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let proxy = server.proxy().await?;
    let size = 48 << 20;
    let client = connect_through(&proxy, &server, &test_data("client4", size), "24MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(30 << 20).await?;
    proxy.cut_uploads();
    let done = check_arrival(&server, &client, &location).await?;
    assert_eq!(done["attempt"], 2, "{done}");
    let sent_again = proxy.sent() - size as u64;
    assert!(sent_again < WINDOW, "{sent_again} bytes were sent again");
    Ok(())
}

/// The session stays up, and every upload connection fails, as behind a misconfigured firewall.
#[tokio::test]
async fn a_transfer_waits_for_its_upload_connection() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client =
        connect_through(&proxy, &server, &test_data("client4", 16 << 20), "8MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(4 << 20).await?;
    let closed_port = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    proxy.retarget(closed_port);
    proxy.cut_uploads();
    // More interruptions than a transfer survives without `RESUME_WITHIN`.
    server.server()?.says_times("transfer.interrupted", 7).await?;
    proxy.retarget(server.grpc());
    check_arrival(&server, &client, &location).await?;
    Ok(())
}

#[tokio::test]
async fn a_transfer_fails_if_its_upload_connection_does_not_return() -> anyhow::Result<()> {
    let server = TestServer::with(&[("RESUME_WITHIN", "1s")]).await?;
    let proxy = server.proxy().await?;
    let _client =
        connect_through(&proxy, &server, &test_data("client4", 16 << 20), "8MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(4 << 20).await?;
    let closed_port = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    proxy.retarget(closed_port);
    proxy.cut_uploads();
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "transfer-stalled", "{failed}");
    Ok(())
}

#[tokio::test]
async fn a_restarted_agent_resumes() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client =
        connect_through(&proxy, &server, &test_data("client4", 16 << 20), "16MiB/s").await?;
    let location = trigger(&server).await?;
    let has_begun = |transfer: &Value| Some(4 << 20) < transfer["bytes_done"].as_u64();
    server.until(&location, has_begun).await?;
    client.kill().await?;
    let waits = |transfer: &Value| transfer["waiting_for"] == "client";
    let waiting = server.until(&location, waits).await?;
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert!(0 < waiting["bytes_done"].as_u64().unwrap_or_default(), "{waiting}");
    client.connect().await?;
    let done = check_arrival(&server, &client, &location).await?;
    assert!(2 <= done["attempt"].as_u64().unwrap_or_default(), "{done}");
    Ok(())
}

#[tokio::test]
async fn a_killed_server_resumes_from_its_last_checkpoint() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let size = 48 << 20;
    let client = connect_through(&proxy, &server, &test_data("client4", size), "12MiB/s").await?;
    let location = trigger(&server).await?;
    // At this rate the server has written at least two checkpoints.
    proxy.sent_at_least(36 << 20).await?;
    server.kill().await?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    let done = check_arrival(&server, &client, &location).await?;
    assert_eq!(done["attempt"], 2, "{done}");
    let sent_again = proxy.sent() - size as u64;
    assert!(sent_again < (24 << 20) + WINDOW, "{sent_again} bytes were sent again");
    Ok(())
}

#[tokio::test]
async fn two_versions_of_a_file_are_never_mixed() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client =
        connect_through(&proxy, &server, &test_data("old", 16 << 20), "16MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(8 << 20).await?;
    client.kill().await?;
    std::fs::write(client.data(), test_data("new", 16 << 20))?;
    client.connect().await?;
    check_arrival(&server, &client, &location).await?;
    Ok(())
}

#[tokio::test]
async fn a_partial_damaged_while_the_server_was_down_is_not_resumed() -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client =
        connect_through(&proxy, &server, &test_data("client4", 36 << 20), "12MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(30 << 20).await?;
    server.kill().await?;
    let partials = server.leftovers("client4")?;
    assert_eq!(partials.len(), 1);
    let partial = std::fs::OpenOptions::new().write(true).open(&partials[0])?;
    partial.write_all_at(b"flipped", 1000)?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    check_arrival(&server, &client, &location).await?;
    Ok(())
}

#[tokio::test]
async fn partials_without_a_transfer_are_deleted_at_the_start() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    server.kill().await?;
    let stray = format!("{}-1.tmp", filepull_core::id::TransferId::generate());
    std::fs::write(server.data_dir().join("client4").join(stray), "stray")?;
    server.start_server().await?;
    server.server()?.says("store.swept").await?;
    assert!(server.leftovers("client4")?.is_empty());
    assert_eq!(server.downloads("client4")?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_partial_without_a_recorded_generation_is_deleted() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    server.pull("client4").await?;
    client.kill().await?;
    server.server()?.says("client.disconnected").await?;
    let queued = server.get("/trigger?id=client4&queue=1h").await?;
    let location = queued.header("location").to_owned();
    server.kill().await?;
    // The state after a kill between the first two effects of an upload.
    let id = location.rsplit('/').next().unwrap_or_default();
    std::fs::write(server.data_dir().join(format!("client4/{id}-1.tmp")), "half")?;
    server.start_server().await?;
    server.server()?.says("store.swept").await?;
    assert!(server.leftovers("client4")?.is_empty());
    proxy.retarget(server.grpc());
    client.connect().await?;
    server.done(&location).await?;
    Ok(())
}

/// Injects ten cuts, two kills of the agent and two kills of the server at random bytes.
#[tokio::test]
async fn a_hundred_mebibytes_arrive_despite_cuts_and_kills() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let size = 100 << 20;
    let rate = 40 << 20;
    let mut client =
        connect_through(&proxy, &server, &test_data("client4", size), "40MiB/s").await?;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut faults = [
        vec![ResumeFault::Cut; 10],
        vec![ResumeFault::KillAgent; 2],
        vec![ResumeFault::KillServer; 2],
    ]
    .concat();
    random.shuffle(&mut faults);
    println!("seed {seed}: {faults:?}");
    let location = trigger(&server).await?;
    let mut at = 0;
    for fault in faults {
        at = at.max(proxy.sent()) + random.u64(1 << 20..5 << 20);
        proxy.sent_at_least(at).await?;
        match fault {
            ResumeFault::Cut => proxy.cut_uploads(),
            ResumeFault::KillAgent => {
                client.kill().await?;
                client.start()?;
            }
            ResumeFault::KillServer => {
                server.kill().await?;
                server.start_server().await?;
                proxy.retarget(server.grpc());
            }
        }
    }
    let done = check_arrival(&server, &client, &location).await?;
    let attempts = done["attempt"].as_u64().unwrap_or_default();
    // Most faults end an attempt. Two faults before the next order count once.
    assert!(10 < attempts, "{done}");
    let sent = proxy.sent();
    println!("{size} bytes, {sent} sent, {attempts} attempts");
    // R10: one window per interruption, and two seconds of transfer per kill of the server.
    assert!(sent <= size as u64 + 14 * WINDOW + 2 * 2 * rate, "{sent} bytes were sent");
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum ResumeFault {
    Cut,
    KillAgent,
    KillServer,
}
