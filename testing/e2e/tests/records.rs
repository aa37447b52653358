//! When records are written, and how the server handles damaged or missing ones.

use std::fs;
use std::path::Path;
use std::time::Instant;

use filepull_testkit::{TestServer, test_data};
use hyper::Method;
use serde_json::{Value, json};

/// Counts the commits in the write-ahead log. SQLite empties it only after a thousand pages.
fn commits(server: &TestServer) -> anyhow::Result<usize> {
    let log = fs::read(server.data_dir().join(".filepull/records.db-wal"))?;
    let word = |at: usize| log[at..at + 4].try_into().map(u32::from_be_bytes);
    // <https://www.sqlite.org/fileformat2.html#walformat>: each frame is a header and a page. Old
    // frames have another salt. The last frame of a commit holds the size of the database.
    let page_len = usize::try_from(word(8)?)?;
    let salt = &log[16..24];
    let mut commits = 0;
    for frame in (32..log.len()).step_by(24 + page_len) {
        if &log[frame + 8..frame + 16] == salt && word(frame + 4)? != 0 {
            commits += 1;
        }
    }
    Ok(commits)
}

#[tokio::test]
async fn a_heartbeat_is_not_written() -> anyhow::Result<()> {
    let server = TestServer::with(&[("HEARTBEAT", "50ms")]).await?;
    let _client = server.connect("client4", b"data").await?;
    let url = "/api/v1/clients/client4";
    // The time has a resolution of one second, so each change is about twenty heartbeats.
    let mut seen = server.json(url).await?["last_seen_at"].clone();
    let before = commits(&server)?;
    assert_ne!(before, 0);
    for _ in 0..3 {
        seen = server.until(url, |now| now["last_seen_at"] != seen).await?["last_seen_at"].clone();
    }
    assert_eq!(commits(&server)?, before);
    Ok(())
}

#[tokio::test]
async fn progress_is_written_at_most_once_a_second() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 3 << 20);
    let _client = server.connect_at("client4", &data, "1MiB/s").await?;
    let before = commits(&server)?;
    let began = Instant::now();
    let order = json!({"client": "client4"});
    let created = server.post("/api/v1/transfers", &order).await?.json()?;
    let url = format!("/api/v1/transfers/{}", created["id"].as_str().unwrap_or_default());
    let mut n_changes = 0;
    let mut seen = created["bytes_done"].clone();
    let is_final = |now: &Value| now["state"] == "done" || now["state"] == "failed";
    loop {
        let now = server.until(&url, |now| is_final(now) || now["bytes_done"] != seen).await?;
        if is_final(&now) {
            assert_eq!(now["state"], "done", "{now}");
            break;
        }
        n_changes += 1;
        seen = now["bytes_done"].clone();
    }
    let written = commits(&server)? - before;
    // Created, started, opened, sealed, done; and one checkpoint per second.
    let bound = 5 + usize::try_from(began.elapsed().as_secs())?;
    assert!(bound < n_changes, "{n_changes} changes are too few for this test");
    assert!(written <= bound, "{written} commits for {n_changes} changes; maximum {bound}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_is_shown_and_affects_no_other_record() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    let not_shared = server.get("/trigger?id=client4&path=zebra.txt&wait=1m").await?;
    assert_eq!(not_shared.status, 403, "{}", not_shared.text());
    server.pull("client4").await?;
    let before = server.json("/api/v1/transfers").await?;
    let id = before["items"][1]["id"].as_str().unwrap_or_default().to_owned();
    server.stop().await?;

    let file = server.data_dir().join(".filepull/records.db");
    let mut records = fs::read(&file)?;
    let name = b"zebra.txt";
    let found = records.windows(name.len()).enumerate().filter(|(_, bytes)| bytes == name);
    for offset in found.map(|(offset, _)| offset).collect::<Vec<_>>() {
        records[offset] ^= 1;
    }
    fs::write(&file, records)?;
    server.start_server().await?;

    let shown = server.json("/api/v1/transfers").await?;
    assert_eq!((&shown["total"], &shown["items"][0]["state"]), (&2.into(), &"done".into()));
    let damaged = &shown["items"][1];
    assert_eq!((&damaged["id"], &damaged["state"]), (&id.as_str().into(), &"damaged".into()));
    assert_eq!(damaged["reason"], "the checksum of the row does not match");
    assert_eq!(server.json(&format!("/api/v1/transfers/{id}")).await?, *damaged);
    let page = server.get(&format!("/transfers/{id}")).await?;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.first_line().starts_with("Damaged: "), "{}", page.text());
    let list = server.get("/transfers").await?;
    assert!(list.text().contains("damaged") && list.text().contains("done"), "{}", list.text());
    assert_eq!(server.get("/clients").await?.status, 200);
    assert_eq!(server.server()?.count("records.damaged"), 1, "the damage is logged once");
    Ok(())
}

/// Flips a bit of the state in the index of the states. Only a change of the state uses that entry,
/// so a server with this damage starts and lists everything.
fn damage_state_index(file: &Path, transfer: &str) -> anyhow::Result<()> {
    let mut records = fs::read(file)?;
    let state = b"queued";
    // In the index, the state and the id are separated by a time of six bytes.
    let n_before = state.len() + 6;
    let is_entry = |at: &usize| {
        records[*at..].starts_with(state)
            && records[at + n_before..].starts_with(transfer.as_bytes())
    };
    let entries: Vec<usize> = (0..records.len() - n_before).filter(is_entry).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    records[entries[0]] ^= 1;
    Ok(fs::write(file, records)?)
}

#[tokio::test]
async fn damage_that_only_a_write_finds_is_named_and_loses_nothing() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    drop(client);
    server.until_offline("client4").await?;
    let location =
        server.get("/trigger?id=client4&queue=1h&fresh").await?.header("location").to_owned();
    let id = location.rsplit('/').next().unwrap_or_default();
    server.stop().await?;
    let file = server.data_dir().join(".filepull/records.db");
    damage_state_index(&file, id)?;
    server.start_server().await?;
    assert_eq!(server.get("/readyz").await?.status, 200);

    let client = server.connect("client4", b"again").await?;
    let found = server.until(&location, |now| now["waiting_for"] == "disk").await?;
    assert_eq!(found["state"], "waiting");
    let ready = server.get("/readyz").await?;
    assert_eq!(ready.status, 503);
    let repair = format!("sqlite3 {} REINDEX", file.display());
    for part in ["the records are damaged", "database disk image is malformed", &repair] {
        assert!(ready.text().contains(part), "{part}: {}", ready.text());
    }
    let page = server.get(&format!("/transfers/{id}")).await?;
    let reason = "waits for the server's disk: The server could not read or write its records.";
    assert!(page.text().contains(reason), "{}", page.text());

    drop(client);
    server.stop().await?;
    rusqlite::Connection::open(&file)?.execute_batch("REINDEX")?;
    server.start_server().await?;
    let _client = server.connect("client4", b"again").await?;
    server.done(&location).await?;
    assert_eq!(server.downloads("client4")?.len(), 2);
    assert_eq!(server.get("/readyz").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_trigger_is_rejected_while_the_records_are_gone() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    let records = server.data_dir().join(".filepull");
    let aside = server.data_dir().join("aside");
    fs::rename(&records, &aside)?;
    let trigger = server.get("/trigger?id=client4&wait=1m").await?;
    assert_eq!(trigger.status, 503, "{}", trigger.text());
    let rejected = server.send(Method::POST, "/api/v1/transfers?client=client4", &[], "").await?;
    assert_eq!((rejected.status, &rejected.json()?["code"]), (503, &"records-failed".into()));
    assert_eq!(server.get("/readyz").await?.status, 503);
    // No transfer was created. A pull succeeds once the files are back.
    fs::rename(&aside, &records)?;
    fs::write(client.data(), "again")?;
    server.pull("client4").await?;
    assert_eq!(server.downloads("client4")?.len(), 2);
    Ok(())
}
