//! Pulls of a file that the server has in part: the bytes that the agent sends, and the file that
//! arrives.

use anyhow::Context as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use filepull_testkit::{TestClient, TestServer, same_bytes, test_data};
use serde_json::Value;

const MIB: usize = 1 << 20;

fn log_file(n_lines: usize) -> Vec<u8> {
    let line = |n: usize| format!("{n:08} till {} sold {} items\n", n % 23, n * 7919 % 31);
    (0..n_lines).flat_map(|n| line(n).into_bytes()).collect()
}

/// Pulls the default file, checks that it arrives whole, and returns its transfer.
async fn pull(server: &TestServer, client: &TestClient, switch: &str) -> anyhow::Result<Value> {
    let n_before = server.downloads("client4")?.len();
    let response = server.get(&format!("/trigger?id=client4&wait=100s{switch}")).await?;
    assert_eq!(response.status, 200, "{}", response.text());
    let last = server.json("/api/v1/transfers?limit=1").await?["items"][0].clone();
    if last["state"] == "done" {
        let downloads = server.downloads("client4")?;
        assert_eq!(downloads.len(), n_before + 1);
        let name = last["download"]["name"].as_str().unwrap_or_default();
        let found = downloads.iter().find(|path| path.ends_with(name));
        let download = found.context("the download that the API names")?;
        assert!(same_bytes(download, &client.data())?, "{last}");
    }
    assert!(server.leftovers("client4")?.is_empty());
    Ok(last)
}

fn bytes_sent(transfer: &Value) -> u64 {
    transfer["bytes_sent"].as_u64().unwrap_or(u64::MAX)
}

#[tokio::test]
async fn a_file_is_sent_by_what_the_server_does_not_have() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let content = log_file(150_000);
    let len = content.len() as u64;
    let client = server.connect("client4", &content).await?;

    let first = pull(&server, &client, "").await?;
    assert!(bytes_sent(&first) < len / 2, "{first}");
    assert_eq!(first["base"], "unused", "{first}");

    let unchanged = pull(&server, &client, "").await?;
    assert_eq!((bytes_sent(&unchanged), &unchanged["base"]), (0, &"copied".into()));

    OpenOptions::new().append(true).open(client.data())?.write_all(&test_data("more", MIB))?;
    let grown = pull(&server, &client, "").await?;
    assert_eq!((bytes_sent(&grown), &grown["base"]), (MIB as u64, &"copied".into()));

    let inserted = [&content[..MIB], b"one more line\n", &content[MIB..]].concat();
    fs::write(client.data(), inserted)?;
    let changed = pull(&server, &client, "").await?;
    assert!(bytes_sent(&changed) < 3 * 4096, "{changed}");
    assert_eq!(changed["base"], "copied", "{changed}");

    fs::write(client.data(), &content[MIB..2 * MIB])?;
    let shorter = pull(&server, &client, "").await?;
    assert!(bytes_sent(&shorter) < 3 * 4096, "{shorter}");

    let fresh = pull(&server, &client, "&fresh").await?;
    assert_eq!(fresh["base"], "unused", "{fresh}");
    assert!(0 < bytes_sent(&fresh));
    Ok(())
}

#[tokio::test]
async fn an_unchanged_file_makes_no_download_with_if_changed() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 3 * MIB);
    let client = server.connect("client4", &data).await?;
    let first = pull(&server, &client, "&if-changed").await?;
    assert_eq!(first["state"], "done");
    let unchanged = pull(&server, &client, "&if-changed").await?;
    assert_eq!((&unchanged["state"], bytes_sent(&unchanged)), (&"unchanged".into(), 0));
    assert_eq!(unchanged["unchanged_since"], first["download"]["name"], "{unchanged}");
    assert_eq!(server.downloads("client4")?.len(), 1);

    fs::write(client.data(), &data[1..])?;
    let changed = pull(&server, &client, "&if-changed").await?;
    assert_eq!(changed["state"], "done");
    Ok(())
}

#[tokio::test]
async fn a_sparse_file_is_sent_and_stored_by_its_data() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"").await?;
    let file = OpenOptions::new().write(true).open(client.data())?;
    file.set_len(128 << 20)?;
    file.write_all_at(b"20 bytes in the file", 70 << 20)?;
    for _ in 0..2 {
        let transfer = pull(&server, &client, "").await?;
        assert!(bytes_sent(&transfer) < 64 * 1024, "{transfer}");
    }
    for download in server.downloads("client4")? {
        let metadata = fs::metadata(download)?;
        assert_eq!(metadata.len(), 128 << 20);
        assert!(metadata.blocks() * 512 < MIB as u64, "{} blocks", metadata.blocks());
    }
    Ok(())
}

#[tokio::test]
async fn a_base_that_was_damaged_costs_bytes_and_no_correctness() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 3 * MIB);
    let client = server.connect("client4", &data).await?;
    pull(&server, &client, "").await?;
    // The size and the inode stay, so the server offers it.
    let download = server.downloads("client4")?.remove(0);
    let mut permissions = fs::metadata(&download)?.permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "the folder of a test")]
    permissions.set_readonly(false);
    fs::set_permissions(&download, permissions)?;
    OpenOptions::new().write(true).open(&download)?.write_all_at(b"damage", MIB as u64)?;
    let transfer = pull(&server, &client, "").await?;
    assert_eq!(transfer["base"], "failed", "{transfer}");
    assert!(3 * MIB as u64 <= bytes_sent(&transfer), "{transfer}");
    Ok(())
}
