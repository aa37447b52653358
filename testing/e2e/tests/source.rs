//! Files that a client cannot send: the response gives the reason, and nothing stays on the server's
//! disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use filepull_testkit::{HttpResponse, TestClient, TestServer, same_bytes, test_data};

/// Checks that a trigger fails at once, without `wait`, and returns the response.
async fn rejected(
    server: &TestServer,
    url: &str,
    status: u16,
    code: &str,
) -> anyhow::Result<HttpResponse> {
    let response = server.get(url).await?;
    assert_eq!(response.status, status, "{}", response.text());
    let last = server.json("/api/v1/transfers?limit=1").await?;
    assert_eq!(last["items"][0]["error"]["code"], code, "{last}");
    assert!(server.downloads("client4")?.is_empty());
    assert!(server.leftovers("client4")?.is_empty());
    Ok(response)
}

async fn client(server: &TestServer) -> anyhow::Result<TestClient> {
    server.connect("client4", b"data").await
}

#[tokio::test]
async fn a_missing_file_is_reported() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = client(&server).await?;
    fs::remove_file(client.data())?;
    let response = rejected(&server, "/trigger?id=client4", 404, "file-missing").await?;
    assert!(response.first_line().starts_with("client4 has no file at "), "{}", response.text());
    Ok(())
}

#[tokio::test]
async fn a_directory_is_rejected() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = client(&server).await?;
    fs::remove_file(client.data())?;
    fs::create_dir(client.data())?;
    let response = rejected(&server, "/trigger?id=client4", 409, "not-a-file").await?;
    assert!(response.first_line().contains("directory"), "{}", response.text());
    Ok(())
}

#[tokio::test]
async fn a_pipe_is_rejected_without_blocking() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = client(&server).await?;
    fs::remove_file(client.data())?;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, client.data(), rustix::fs::FileType::Fifo, mode, 0)?;
    let response = rejected(&server, "/trigger?id=client4", 409, "not-a-file").await?;
    assert!(response.first_line().contains("pipe"), "{}", response.text());
    Ok(())
}

#[tokio::test]
async fn an_unreadable_file_is_reported_with_the_reason() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?;
    if rustix::process::geteuid().is_root() {
        // Root can read every file, so the agent runs as another user.
        client = client.launched_by(&["setpriv", "--reuid=65534", "--clear-groups"]);
        server.open_to_all()?;
    }
    client.connect().await?;
    fs::set_permissions(client.data(), fs::Permissions::from_mode(0o000))?;
    let response = rejected(&server, "/trigger?id=client4", 502, "file-unreadable").await?;
    assert!(response.text().to_lowercase().contains("permission denied"), "{}", response.text());
    Ok(())
}

#[tokio::test]
async fn a_link_to_outside_its_share_is_not_followed() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = client(&server).await?;
    let secret = server.data_dir().join("secret");
    fs::write(&secret, "secret")?;
    fs::remove_file(client.data())?;
    symlink(&secret, client.data())?;
    let response = rejected(&server, "/trigger?id=client4", 403, "path-not-shared").await?;
    assert!(response.first_line().contains("link"), "{}", response.text());
    Ok(())
}

#[tokio::test]
async fn a_path_outside_the_shares_is_rejected_with_a_list_of_them() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client =
        server.client("client4", b"data")?.setting("SHARE", "logs/*.log").connected().await?;
    let url = "/trigger?id=client4&path=C:%5CWindows%5Cwin.ini";
    let response = rejected(&server, url, 403, "path-not-shared").await?;
    let line = "client4 does not share C:\\Windows\\win.ini. It shares: data.txt, logs/*.log";
    assert_eq!(response.first_line(), line);
    let climbing = server.get("/trigger?id=client4&path=../secret").await?;
    assert_eq!(climbing.status, 400, "{}", climbing.text());
    Ok(())
}

#[tokio::test]
async fn a_shared_path_is_sent() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?.setting("SHARE", "logs/*.log");
    fs::create_dir(client.files.join("logs"))?;
    fs::write(client.files.join("logs/pos.log"), "log")?;
    client.connect().await?;
    let response = server.get("/trigger?id=client4&path=logs/pos.log&wait=100s").await?;
    assert!(
        response.first_line().starts_with("Done: client4 sent pos.log, 3 B in"),
        "{}",
        response.text()
    );
    let downloads = server.downloads("client4")?;
    assert!(downloads[0].extension().is_some_and(|extension| extension == "log"));
    Ok(())
}

#[tokio::test]
async fn a_file_that_always_changes_is_rejected() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect_at("client4", &test_data("client4", 8 << 20), "32MiB/s").await?;
    let path = client.data();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        use std::os::unix::fs::FileExt as _;
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let mut version = 0u64;
        // As fast as the disk allows, so that the file changes during every read.
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            version += 1;
            file.write_all_at(&version.to_be_bytes(), 4 << 20).unwrap();
        }
    });
    let response = server.get("/trigger?id=client4&wait=100s").await?;
    drop(stop);
    writer.join().unwrap();
    assert_eq!(response.status, 409, "{}", response.text());
    let last = server.json("/api/v1/transfers?limit=1").await?;
    assert_eq!(last["items"][0]["error"]["code"], "file-changed", "{last}");
    assert_eq!(last["items"][0]["attempt"], 3, "{last}");
    assert!(server.downloads("client4")?.is_empty());
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_growing_file_is_sent_up_to_its_first_size() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 2 << 20);
    let client = server.connect_at("client4", &data, "2MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    let mut file = fs::OpenOptions::new().append(true).open(client.data())?;
    std::io::Write::write_all(&mut file, b"one more line\n")?;
    let done = server.finished(started.header("location")).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &1.into()), "{done}");
    assert_eq!(fs::read(&server.downloads("client4")?[0])?, data);
    Ok(())
}

#[tokio::test]
async fn a_file_that_shrinks_is_sent_again() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect_at("client4", &test_data("client4", 4 << 20), "4MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    fs::OpenOptions::new().write(true).open(client.data())?.set_len(1 << 20)?;
    let done = server.finished(started.header("location")).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &2.into()), "{done}");
    assert!(same_bytes(&server.downloads("client4")?[0], &client.data())?);
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}
