//! Limits: of transfers, of file sizes, of the disk and of open files.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_testkit::{
    DEADLINE, HttpResponse, ScriptedAgent, Strace, TestClient, TestServer, same_bytes, test_data,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tokio::net::TcpStream;

#[tokio::test]
async fn transfers_wait_for_a_permit() -> anyhow::Result<()> {
    let server = TestServer::with(&[("MAX_RUNNING", "1"), ("MAX_WAITING", "1")]).await?;
    let _first = server.connect_at("client1", &test_data("client1", 2 << 20), "1MiB/s").await?;
    let _second = server.connect("client2", b"second").await?;
    let _third = server.connect("client3", b"third").await?;
    server.get("/trigger?id=client1").await?;
    let waiting = server.get("/trigger?id=client2").await?;
    let id = waiting.header("location").rsplit('/').next().unwrap_or_default().to_owned();
    let line = "Waiting: 1 transfer is running; client2 is number 1 in line. Transfer ";
    assert_eq!((waiting.status, waiting.first_line()), (202, format!("{line}{id}")));
    let busy = server.get("/trigger?id=client3").await?;
    assert_eq!(busy.status, 503, "{}", busy.text());
    assert!(!busy.header("retry-after").is_empty());
    server.done(waiting.header("location")).await?;
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_too_large_is_rejected() -> anyhow::Result<()> {
    let server = TestServer::with(&[("MAX_FILE_SIZE", "1KiB")]).await?;
    let _client = server.connect("client4", &test_data("client4", 2048)).await?;
    let response = server.get("/trigger?id=client4").await?;
    assert_eq!(response.status, 413, "{}", response.text());
    assert!(
        response.text().contains("2.0 KiB") && response.text().contains("1.0 KiB"),
        "{}",
        response.text()
    );
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_server_with_an_almost_full_disk_accepts_no_pull() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[("MIN_FREE", "1000TiB")]).await?;
    let _client = server.connect("client4", b"data").await?;
    let response = server.get("/trigger?id=client4").await?;
    assert_eq!(response.status, 507, "{}", response.text());
    assert!(
        response.first_line().ends_with("1000.0 TiB must stay free. Nothing was started."),
        "{}",
        response.text()
    );
    let ready = server.get("/readyz?verbose").await?;
    assert_eq!(ready.status, 503, "{}", ready.text());
    server.server()?.says("Not ready: data folder: writable, ").await?;
    let lines = server.server()?.said();
    assert!(!lines.iter().any(|line| line == "Ready."), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_fit_is_rejected_by_the_first_response() -> anyhow::Result<()> {
    let server = TestServer::with(&[("MAX_FILE_SIZE", "1PiB")]).await?;
    let mut agent = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let accepts = async {
        let order = agent.order().await?;
        agent.accept(&order, 8 << 40).await?;
        agent.next().await
    };
    let (response, message) = tokio::join!(server.get("/trigger?id=client4"), accepts);
    let rejection = response?;
    assert_eq!(rejection.status, 507, "{}", rejection.text());
    assert!(rejection.first_line().contains("the file needs 8.0 TiB"), "{}", rejection.text());
    assert!(server.leftovers("client4")?.is_empty());
    assert!(matches!(message?, Some(ToAgent::Cancel(_))), "the agent knows about the rejection");
    Ok(())
}

#[tokio::test]
async fn a_write_error_ends_the_transfer_and_leaves_nothing() -> anyhow::Result<()> {
    // Every write beyond 1 MiB of a file fails.
    let limit_file_size = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    let server = TestServer::launched_by(&["sh", "-c", limit_file_size, "sh"], &[]).await?;
    let client = server.connect("client4", &test_data("client4", 8 << 20)).await?;
    let response = server.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(response.status, 500, "{}", response.text());
    let last = server.json("/api/v1/transfers?limit=1").await?;
    assert_eq!(last["items"][0]["error"]["code"], "storage-failed", "{last}");
    assert!(server.downloads("client4")?.is_empty());
    assert!(server.leftovers("client4")?.is_empty());
    // A smaller file succeeds.
    std::fs::write(client.data(), "small")?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn a_server_without_file_descriptors_completes_running_transfers() -> anyhow::Result<()> {
    let limit_files = "ulimit -n 64; exec \"$@\"";
    let server = TestServer::launched_by(&["sh", "-c", limit_files, "sh"], &[]).await?;
    let client = server.connect_at("client4", &test_data("client4", 12 << 20), "3MiB/s").await?;
    server.get("/trigger?id=client4").await?;
    server.server()?.says("transfer.started").await?;
    // Each listener has a limit, so connections cannot use all file descriptors.
    let mut connections = Vec::new();
    for _ in 0..80 {
        connections.push(TcpStream::connect(server.http()).await?);
    }
    server.server()?.says("connection_limit.reached").await?;
    let pid = server.server()?.pid();
    let n_open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    limit_open_files(pid, u64::try_from(n_open.saturating_sub(4))?)?;
    connections.push(TcpStream::connect(server.http()).await?);
    server.server()?.says("accept.failed").await?;
    limit_open_files(pid, 64)?;
    server.server()?.says("transfer.done").await?;
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

fn limit_open_files(pid: u32, soft: u64) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    let limit = Rlimit { current: Some(soft), maximum: Some(64) };
    prlimit(pid, Resource::Nofile, limit)?;
    Ok(())
}

/// The disk has space for one version of the file, not for two.
#[tokio::test]
async fn a_new_version_needs_no_space_beside_the_old_one() -> anyhow::Result<()> {
    let mount_disk = "mkdir -p \"$DATA_DIR\" && mount -t tmpfs -o size=48m tmpfs \"$DATA_DIR\" \
                    && exec \"$@\"";
    let launcher =
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount_disk, "sh"];
    let may_mount = "mount -t tmpfs tmpfs /tmp";
    let probe = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", may_mount])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine does not allow mounts in a user namespace");
        return Ok(());
    }
    let server = TestServer::launched_by(&launcher, &[]).await?;
    let proxy = server.proxy().await?;
    let mut client = server
        .client("client4", &test_data("old", 32 << 20))?
        .setting("MAX_RATE", "16MiB/s")
        .dialling(proxy.addr())
        .connected()
        .await?;
    let started = server.get("/trigger?id=client4").await?;
    proxy.sent_at_least(8 << 20).await?;
    client.kill().await?;
    std::fs::write(client.data(), test_data("new", 32 << 20))?;
    client.connect().await?;
    server.done(started.header("location")).await?;
    Ok(())
}

#[tokio::test]
async fn uploads_at_once_stay_within_the_cpu_limit() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 4 << 20);
    let settings = server.client("client4", &data)?.as_process().setting("SHARE", "*.bin");
    let client = settings.setting("MAX_CPU", "10%").connected().await?;
    std::fs::write(client.files.join("more.bin"), &data)?;
    let used_before = client.agent()?.usage()?.cpu;
    let start = Instant::now();
    let mut n_pulls = 0;
    while start.elapsed() < Duration::from_secs(3) {
        let pulls = ["data.txt", "more.bin"].map(|name| {
            let path = format!("/trigger?id=client4&path={name}&fresh&wait=100s");
            let server = &server;
            async move { server.get(&path).await }
        });
        for response in futures::future::try_join_all(pulls).await? {
            assert_eq!(response.status, 200, "{}", response.text());
        }
        n_pulls += 1;
    }
    let used = client.agent()?.usage()?.cpu - used_before;
    // The kernel counts in ticks of 10 ms, and a burst and the last blocks are not paid for yet.
    let allowed = start.elapsed() / 10 + Duration::from_millis(300);
    assert!(used <= allowed, "{used:?} of CPU time, {allowed:?} allowed, for {n_pulls} pulls");
    Ok(())
}

#[tokio::test]
async fn a_low_open_file_limit_is_used_completely_and_logged() -> anyhow::Result<()> {
    let server = TestServer::launched_by(&["prlimit", "--nofile=40:512"], &[]).await?;
    let event = server.server()?.says("connection_limit.lowered").await?;
    assert!(event.contains("room for 256 clients: the open file limit is 512"), "{event}");
    assert!(event.contains("LimitNOFILE") && event.contains("ulimit -n"), "{event}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.server()?.pid()))?;
    let open_files = limits.lines().find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = open_files.unwrap_or_default().split_whitespace().collect();
    assert_eq!(words, ["Max", "open", "files", "512", "512", "files"]);

    // More clients than the soft limit at the start.
    let mut clients = Vec::new();
    for number in 1..=40 {
        clients.push(server.connect(&format!("client{number}"), b"data").await?);
    }
    server.pull("client40").await?;
    Ok(())
}

#[tokio::test]
async fn connections_of_agents_leave_file_descriptors_for_files() -> anyhow::Result<()> {
    let server = TestServer::launched_by(&["prlimit", "--nofile=128:128"], &[]).await?;
    let _client =
        server.client("client4", b"data")?.setting("DATA_CONN", "shared").connected().await?;
    let mut others = Vec::new();
    for _ in 0..128 {
        others.push(TcpStream::connect(server.grpc()).await?);
    }
    server.server()?.says("connection_limit.reached").await?;
    server.pull("client4").await?;
    let process = server.server()?;
    assert_eq!(process.count("Too many open files"), 0, "{}", process.last_output());
    Ok(())
}

#[tokio::test]
async fn a_disk_that_does_not_report_its_space_blocks_one_thread() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    let pid = server.server()?.pid();
    let hang = ["-e", "trace=fstatfs", "-e", "inject=fstatfs:delay_enter=600000000"];
    let Some(hanging) = Strace::attach(pid, &hang).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let hung = |response: &HttpResponse| {
        response.text().contains("data folder   the disk has not answered for")
    };
    let first = server.get("/readyz?verbose").await?;
    assert!(first.status == 503 && hung(&first), "{}", first.text());
    let n_threads =
        || Ok::<_, anyhow::Error>(std::fs::read_dir(format!("/proc/{pid}/task"))?.count());
    let before = n_threads()?;
    let many = (0..30).map(|_| server.get("/readyz?verbose"));
    for response in futures::future::try_join_all(many).await? {
        assert!(hung(&response), "{}", response.text());
    }
    // More pulls than the runtime has workers: a blocked worker would be noticed.
    let pulls = (0..4).map(|_| server.get("/trigger?id=client4&fresh"));
    for response in futures::future::try_join_all(pulls).await? {
        assert_eq!(response.status, 202, "{}", response.text());
    }
    assert_eq!(server.get("/livez").await?.status, 200);
    assert!(n_threads()? < before + 20, "every request blocks a thread");
    server.server()?.says("transfer.done").await?;
    hanging.detach().await?;
    Ok(())
}

/// Starts a transfer at 4 MiB/s and waits until it has a checkpoint. Returns the client, the
/// location of the transfer and the path of the partial.
async fn transfer_with_checkpoint(
    server: &TestServer,
) -> anyhow::Result<(TestClient, String, PathBuf)> {
    let client = server.connect_at("client4", &test_data("client4", 24 << 20), "4MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    let location = started.header("location").to_owned();
    let far = |transfer: &Value| 8 << 20 < transfer["bytes_done"].as_u64().unwrap_or_default();
    server.until(&location, far).await?;
    let partial = server.leftovers("client4")?.pop().context("no partial")?;
    Ok((client, location, partial))
}

#[tokio::test]
async fn a_transfer_survives_a_disk_that_fills_up() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let (client, location, path) = transfer_with_checkpoint(&server).await?;
    let partial = path.display().to_string();
    let full = "inject=pwrite64,pwritev:error=ENOSPC";
    let args = ["-P", &partial, "-e", "trace=pwrite64,pwritev", "-e", full];
    let Some(full) = Strace::attach(server.server()?.pid(), &args).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let waits = |transfer: &Value| transfer["waiting_for"] == "disk";
    let waiting = server.until(&location, waits).await?;
    assert!(0 < waiting["bytes_done"].as_u64().unwrap_or_default(), "{waiting}");
    assert!(waiting["expires_at"].is_string(), "{waiting}");
    let page = server.get(&location.replace("/api/v1", "")).await?.text();
    assert!(page.contains("client4's file waits for the server's disk, until "), "{page}");
    assert!(page.contains(": The server's disk is full."), "{page}");
    full.detach().await?;
    server.done(&location).await?;
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    server.server()?.says("transfer.resumed").await?;
    Ok(())
}

#[tokio::test]
async fn a_stalled_disk_is_not_treated_as_a_silent_agent() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[("STALL_TIMEOUT", "2s")]).await?;
    let (client, location, path) = transfer_with_checkpoint(&server).await?;
    let partial = path.display().to_string();
    let stall = "inject=pwrite64,pwritev:delay_enter=8000000:when=1";
    let stalls = ["-P", &partial, "-e", "trace=pwrite64,pwritev", "-e", stall];
    let Some(stalling) = Strace::attach(server.server()?.pid(), &stalls).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let waits = |transfer: &Value| transfer["waiting_for"] == "disk";
    server.until(&location, waits).await?;
    let done = server.finished(&location).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &1.into()), "{done}");
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    stalling.detach().await?;
    Ok(())
}

/// Only direct writes are single buffers (`pwrite64`).
#[tokio::test]
async fn a_disk_that_refuses_direct_writes_midway_gets_the_rest_through_the_page_cache()
-> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    if write_mode(&server).await? != "direct" {
        println!("skipped: this file system has no direct writes");
        return Ok(());
    }
    let (client, location, path) = transfer_with_checkpoint(&server).await?;
    let partial = path.display().to_string();
    let refuses = ["-P", &partial, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EINVAL"];
    let Some(refusing) = Strace::attach(server.server()?.pid(), &refuses).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let done = server.finished(&location).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &1.into()), "{done}");
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    refusing.detach().await?;
    server.server()?.says("direct_writes.refused").await?;
    assert_eq!(write_mode(&server).await?, "buffered");
    assert_eq!(server.server()?.count("direct_writes.refused"), 1);
    Ok(())
}

/// Returns how the server writes large files.
async fn write_mode(server: &TestServer) -> anyhow::Result<Value> {
    Ok(server.get("/api/v1/server").await?.json()?["disk"]["writes"].clone())
}

/// After a failed fsync the system may report the lost bytes as written.
#[tokio::test]
async fn a_failed_fsync_of_a_partial_is_not_repeated() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let (_client, location, path) = transfer_with_checkpoint(&server).await?;
    let partial = path.display().to_string();
    let fails = ["-P", &partial, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1"];
    let Some(failing) = Strace::attach(server.server()?.pid(), &fails).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let ended = server.finished(&location).await?;
    assert_eq!(
        (&ended["state"], &ended["error"]["code"]),
        (&"failed".into(), &"storage-failed".into()),
        "{ended}"
    );
    failing.detach().await?;
    Ok(())
}
