//! Interruptions cost little and damage nothing.

use filepull_testkit::{Proxy, TestClient, TestServer, same_bytes, soon, test_data};
use serde_json::Value;

/// The window of an upload: what may be in flight when a line is cut.
const WINDOW: u64 = 16 << 20;

/// A client behind a wire, sending at a rate that leaves time to do things to it.
async fn behind(
    proxy: &Proxy,
    server: &TestServer,
    data: &[u8],
    rate: &str,
) -> anyhow::Result<TestClient> {
    let client = server
        .client("client4", data)?
        .setting("MAX_RATE", rate)
        .dialling(proxy.addr())
        .connected()
        .await?;
    Ok(client)
}

async fn trigger(server: &TestServer) -> anyhow::Result<String> {
    let started = server.get("/trigger?id=client4").await?;
    assert_eq!(started.status, 202, "{}", started.text());
    Ok(started.header("location").to_owned())
}

/// Waits for the end of the transfer, and checks that the one download is the client's file.
async fn arrives(
    server: &TestServer,
    client: &TestClient,
    location: &str,
) -> anyhow::Result<Value> {
    let done = server.done(&location).await?;
    let downloads = server.downloads("client4")?;
    assert_eq!(downloads.len(), 1);
    assert!(same_bytes(&downloads[0], &client.data())?, "the download is not the client's file");
    assert!(server.leftovers("client4")?.is_empty());
    Ok(done)
}

#[tokio::test]
async fn a_cut_upload_goes_on_where_it_was() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let proxy = server.proxy().await?;
    let size = 48 << 20;
    let client = behind(&proxy, &server, &test_data("client4", size), "24MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(30 << 20).await?;
    proxy.cut_uploads();
    let done = arrives(&server, &client, &location).await?;
    assert_eq!(done["attempt"], 2, "{done}");
    let sent_again = proxy.sent() - size as u64;
    assert!(sent_again < WINDOW, "{sent_again} bytes were sent again");
    Ok(())
}

/// Its line is up, and no upload gets through: a firewall that is being changed, a full table.
#[tokio::test]
async fn a_data_path_that_comes_back_finds_the_transfer_waiting() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client = behind(&proxy, &server, &test_data("client4", 16 << 20), "8MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(4 << 20).await?;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    proxy.retarget(nobody);
    proxy.cut_uploads();
    // More often than a transfer may be fruitless before its time is up.
    server.server()?.says_times("transfer.interrupted", 7).await?;
    proxy.retarget(server.grpc());
    arrives(&server, &client, &location).await?;
    Ok(())
}

#[tokio::test]
async fn a_data_path_that_does_not_come_back_fails_the_transfer() -> anyhow::Result<()> {
    let server = TestServer::with(&[("RESUME_WITHIN", "1s")]).await?;
    let proxy = server.proxy().await?;
    let _client = behind(&proxy, &server, &test_data("client4", 16 << 20), "8MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(4 << 20).await?;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    proxy.retarget(nobody);
    proxy.cut_uploads();
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "transfer-stalled", "{failed}");
    Ok(())
}

#[tokio::test]
async fn a_restarted_agent_goes_on() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client = behind(&proxy, &server, &test_data("client4", 16 << 20), "16MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(8 << 20).await?;
    client.kill().await?;
    let waits = |transfer: &Value| transfer["waiting_for"] == "client";
    let waiting = server.until(&location, waits).await?;
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert!(0 < waiting["bytes_done"].as_u64().unwrap_or_default(), "{waiting}");
    client.connect().await?;
    let done = arrives(&server, &client, &location).await?;
    assert!(2 <= done["attempt"].as_u64().unwrap_or_default(), "{done}");
    Ok(())
}

#[tokio::test]
async fn a_killed_server_goes_on_from_its_last_checkpoint() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let size = 48 << 20;
    let client = behind(&proxy, &server, &test_data("client4", size), "12MiB/s").await?;
    let location = trigger(&server).await?;
    // At this rate two checkpoints at least.
    proxy.sent_at_least(36 << 20).await?;
    server.kill().await?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    let done = arrives(&server, &client, &location).await?;
    assert_eq!(done["attempt"], 2, "{done}");
    let sent_again = proxy.sent() - size as u64;
    assert!(sent_again < (24 << 20) + WINDOW, "{sent_again} bytes were sent again");
    Ok(())
}

#[tokio::test]
async fn two_versions_of_a_file_are_never_glued_together() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client = behind(&proxy, &server, &test_data("old", 16 << 20), "16MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(8 << 20).await?;
    client.kill().await?;
    std::fs::write(client.data(), test_data("new", 16 << 20))?;
    client.connect().await?;
    arrives(&server, &client, &location).await?;
    Ok(())
}

#[tokio::test]
async fn a_partial_that_was_damaged_while_the_server_was_down_is_not_built_on() -> anyhow::Result<()>
{
    use std::os::unix::fs::FileExt as _;
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let client = behind(&proxy, &server, &test_data("client4", 36 << 20), "12MiB/s").await?;
    let location = trigger(&server).await?;
    proxy.sent_at_least(30 << 20).await?;
    server.kill().await?;
    let partials = server.leftovers("client4")?;
    assert_eq!(partials.len(), 1);
    let partial = std::fs::OpenOptions::new().write(true).open(&partials[0])?;
    partial.write_all_at(b"flipped", 1000)?;
    server.start_server().await?;
    proxy.retarget(server.grpc());
    arrives(&server, &client, &location).await?;
    Ok(())
}

#[tokio::test]
async fn partials_that_belong_to_no_transfer_are_swept_at_the_start() -> anyhow::Result<()> {
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
async fn a_partial_whose_record_was_cut_off_is_not_in_the_way() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let mut client = server.client("client4", b"data")?.dialling(proxy.addr()).connected().await?;
    server.pull("client4").await?;
    client.kill().await?;
    server.server()?.says("client.disconnected").await?;
    let queued = server.get("/trigger?id=client4&queue=1h").await?;
    let location = queued.header("location").to_owned();
    server.kill().await?;
    // As a server leaves it that is killed between the first two effects of an upload.
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

/// Ten cuts, two kills of the agent and two of the server, at random bytes of 100 MiB.
#[tokio::test]
async fn a_hundred_mebibytes_arrive_through_everything() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let proxy = server.proxy().await?;
    let (size, rate) = (100 << 20, 40 << 20);
    let mut client = behind(&proxy, &server, &test_data("client4", size), "40MiB/s").await?;
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
    let done = soon("the file", arrives(&server, &client, &location)).await??;
    let attempts = done["attempt"].as_u64().unwrap_or_default();
    // Each fault cost an attempt; one that came before the order was out was not counted twice.
    assert!(10 < attempts, "{done}");
    let sent = proxy.sent();
    println!("{size} bytes, {sent} sent, {attempts} attempts");
    // R10: a window for each interruption, and two seconds of transfer for each kill of the server.
    assert!(sent <= size as u64 + 14 * WINDOW + 2 * 2 * rate, "{sent} bytes were sent");
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum ResumeFault {
    Cut,
    KillAgent,
    KillServer,
}
