//! The scrubber finds downloads that have changed on the disk, and marks exactly those.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use filepull_testkit::{DEADLINE, ScriptedAgent, TestServer, poll, test_data};
use serde_json::Value;

/// The shortest interval. A download is due a second after it arrived.
const OFTEN: (&str, &str) = ("SCRUB_EVERY", "1s");
const OFF: (&str, &str) = ("SCRUB_EVERY", "off");

const DAMAGED: &str = "\"download.damaged\"";

/// Flips a bit of a download, and hides it as a failing disk does: mode, size and time of
/// modification stay.
fn flip(path: &Path) -> anyhow::Result<()> {
    let stat = fs::metadata(path)?;
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0b100;
    fs::set_permissions(path, fs::Permissions::from_mode(0o640))?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, stat.permissions())?;
    fs::File::open(path)?.set_modified(stat.modified()?)?;
    Ok(())
}

/// Returns the transfer of a download from the list.
async fn transfer_of(server: &TestServer, download: &Path) -> anyhow::Result<Value> {
    let list = server.json("/api/v1/transfers").await?;
    let path = download.display().to_string();
    let mut items = list["items"].as_array().into_iter().flatten();
    Ok(items.find(|item| item["download"]["path"] == path).cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_marked() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[OFTEN]).await?;
    let _client = server.connect("client4", &test_data("client4", 700_000)).await?;
    let intact = server.pull("client4").await?;
    let flipped = server.pull("client4").await?;
    let ready = server.get("/readyz?verbose").await?;
    assert!(ready.text().contains("[+] downloads     none is damaged\n"), "{}", ready.text());
    flip(&flipped)?;

    let line = server.server()?.says(DAMAGED).await?;
    let event: Value = serde_json::from_str(&line)?;
    let transfer = transfer_of(&server, &flipped).await?;
    assert_eq!(event["transfer"], transfer["id"], "{line}");
    assert_eq!((&event["level"], &event["client"]), (&"ERROR".into(), &"client4".into()), "{line}");
    let reason = event["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("SHA-256"), "{line}");

    let id = transfer["id"].as_str().unwrap_or_default().to_owned();
    let again = format!("curl \"{}/trigger?id=client4&wait\"", server.http());
    for transfer in [transfer, server.json(&format!("/api/v1/transfers/{id}")).await?] {
        assert_eq!(transfer["state"], "done", "{transfer}");
        assert_eq!(transfer["download"]["state"], "damaged", "{transfer}");
        assert_eq!(transfer["download"]["hint"], format!("pull it again: {again}"), "{transfer}");
    }
    let list = server.get("/transfers").await?.text();
    let row = list.lines().find(|line| line.starts_with(&id)).unwrap_or_default().to_owned();
    assert!(row.ends_with("683.6 KiB, damaged"), "{list}");
    let page = server.get(&format!("/transfers/{id}")).await?.text();
    assert!(page.contains(&format!("  again   {again}\n")), "{page}");
    let ready = server.get("/readyz?verbose").await?;
    let finding = "[+] downloads     1 damaged, listed at /transfers?download=damaged\n";
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert!(ready.text().contains(finding), "{}", ready.text());
    let damaged = server.json("/api/v1/transfers?download=damaged").await?;
    assert_eq!((&damaged["total"], &damaged["items"][0]["id"]), (&1.into(), &id.clone().into()));
    let gone = server.get(&format!("/transfers/{id}/file")).await?;
    assert_eq!(gone.status, 410, "{}", gone.text());

    let other = transfer_of(&server, &intact).await?;
    assert_eq!(other["download"]["state"], "stored", "{other}");
    assert_eq!(other["download"]["hint"], Value::Null, "{other}");
    // A restored file loses its mark, and the damage was logged once.
    flip(&flipped)?;
    server.server()?.says("\"download.restored\"").await?;
    assert_eq!(transfer_of(&server, &flipped).await?["download"]["state"], "stored");
    assert_eq!(server.server()?.count(DAMAGED), 1);
    Ok(())
}

#[tokio::test]
async fn a_bit_that_flipped_before_the_name_is_found_and_marked() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[OFTEN]).await?;
    let mut agent = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let triggered = server.get("/trigger?id=client4&queue=1h").await?;
    let order = agent.order().await?;
    let mut upload = agent.upload(&order, 0, 4).await?;
    upload.chunk(0, "data".into()).await?;
    let complete_partial = async || match &server.leftovers("client4")?[..] {
        [partial] if fs::read(partial)? == b"data" => Ok(Some(partial.clone())),
        _ => Ok(None),
    };
    let partial = poll("the bytes on the disk", complete_partial).await?;
    fs::write(partial, b"dat\x60")?;
    upload.trailer(b"data").await?;
    while upload.response(DEADLINE).await?.is_some() {}
    // With READ_BACK=resumed the file is published, and does not stay unnoticed.
    let transfer = server.done(triggered.header("location")).await?;
    let line = server.server()?.says(DAMAGED).await?;
    assert!(line.contains(transfer["id"].as_str().unwrap_or_default()), "{line}");
    Ok(())
}

#[tokio::test]
async fn marks_survive_a_restart_and_unread_downloads_are_read_after_it() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&[OFTEN]).await?;
    let client = server.connect("client4", &test_data("client4", 1000)).await?;
    let first = server.pull("client4").await?;
    flip(&first)?;
    server.server()?.says(DAMAGED).await?;
    server.kill().await?;
    server.server_setting(OFF.0, OFF.1);
    server.start_server().await?;
    let state = transfer_of(&server, &first).await?["download"]["state"].clone();
    assert_eq!(state, "damaged", "on record");
    assert_eq!(server.json("/api/v1/server").await?["settings"]["scrub_every"], "off");
    drop(client);
    let _client = server.connect("client5", &test_data("client5", 1000)).await?;
    let second = server.pull("client5").await?;
    flip(&second)?;
    server.stop().await?;
    server.server_setting(OFTEN.0, OFTEN.1);
    server.start_server().await?;
    server.server()?.says(DAMAGED).await?;
    assert_eq!(transfer_of(&server, &second).await?["download"]["state"], "damaged");
    assert_eq!(server.server()?.count(DAMAGED), 1, "the first one was logged before the restart");
    Ok(())
}

#[tokio::test]
async fn a_deleted_download_is_no_damage() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[OFTEN]).await?;
    let _client = server.connect("client4", &test_data("client4", 1000)).await?;
    let download = server.pull("client4").await?;
    fs::remove_file(&download)?;
    let deleted = |list: &Value| list["items"][0]["download"]["state"] == "deleted";
    let list = server.until("/api/v1/transfers", deleted).await?;
    let hint = list["items"][0]["download"]["hint"].as_str().unwrap_or_default();
    assert!(hint.starts_with("pull it again: curl "), "{list}");
    assert_eq!(server.server()?.count(DAMAGED), 0);
    Ok(())
}

#[tokio::test]
async fn a_wrong_filter_for_downloads_is_rejected() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let unknown = server.get("/transfers?download=broken").await?;
    assert_eq!(unknown.status, 400, "{}", unknown.text());
    assert!(unknown.text().contains("Choices are: damaged."), "{}", unknown.text());
    let waiting = server.get("/transfers?download=damaged&state=waiting").await?;
    assert_eq!(waiting.status, 400, "{}", waiting.text());
    Ok(())
}
