//! What is recorded and when, and how damaged or missing records are handled.

use std::fs;
use std::time::Instant;

use filepull_testkit::{TestServer, test_data};
use hyper::Method;

/// How many commits the log beside the database holds. It is emptied only after a thousand pages.
fn commits(server: &TestServer) -> anyhow::Result<usize> {
    let log = fs::read(server.data_dir().join(".filepull/records.db-wal"))?;
    let word = |at: usize| log[at..at + 4].try_into().map(u32::from_be_bytes);
    // <https://www.sqlite.org/fileformat2.html#walformat>: frames of a header and a page; those of
    // an older round have another salt, and the last of a commit says how large the file is now.
    let (page_len, salt) = (usize::try_from(word(8)?)?, &log[16..24]);
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
    // It is told to the second: each change is at least one heartbeat, and most are twenty.
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
async fn progress_is_not_written_but_for_a_checkpoint_a_second() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 3 << 20);
    let _client = server.connect_at("client4", &data, "1MiB/s").await?;
    let (before, began) = (commits(&server)?, Instant::now());
    let order = r#"{"client": "client4"}"#;
    let json = [("content-type", "application/json")];
    let made = server.send(Method::POST, "/api/v1/transfers", &json, order).await?.json()?;
    let url = format!("/api/v1/transfers/{}", made["id"].as_str().unwrap_or_default());
    let (mut ticks, mut seen) = (0, made["bytes_done"].clone());
    let is_final = |now: &serde_json::Value| now["state"] == "done" || now["state"] == "failed";
    loop {
        let now = server.until(&url, |now| is_final(now) || now["bytes_done"] != seen).await?;
        if is_final(&now) {
            assert_eq!(now["state"], "done", "{now}");
            break;
        }
        (ticks, seen) = (ticks + 1, now["bytes_done"].clone());
    }
    let written = commits(&server)? - before;
    // Made, started, opened, sealed, done; and a checkpoint for each second that it took.
    let bound = 5 + usize::try_from(began.elapsed().as_secs())?;
    assert!(bound < ticks, "{ticks} ticks are too few to tell");
    assert!(written <= bound, "{written} commits for {ticks} ticks; at most {bound} are needed");
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_is_shown_as_damaged_and_breaks_nothing() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    let refused = server.get("/trigger?id=client4&path=zebra.txt&wait=1m").await?;
    assert_eq!(refused.status, 403, "{}", refused.text());
    server.pull("client4").await?;
    let before = server.json("/api/v1/transfers").await?;
    let id = before["items"][1]["id"].as_str().unwrap_or_default().to_owned();
    server.stop().await?;

    let file = server.data_dir().join(".filepull/records.db");
    let mut records = fs::read(&file)?;
    let name = b"zebra.txt";
    let places = records.windows(name.len()).enumerate().filter(|(_, word)| word == name);
    for at in places.map(|(at, _)| at).collect::<Vec<_>>() {
        records[at] ^= 1;
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
    let told =
        server.server()?.said().iter().filter(|line| line.contains("records.damaged")).count();
    assert_eq!(told, 1, "it is logged once");
    Ok(())
}

#[tokio::test]
async fn a_trigger_is_rejected_while_the_records_are_gone() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    let (records, aside) = (server.data_dir().join(".filepull"), server.data_dir().join("aside"));
    fs::rename(&records, &aside)?;
    let rejected = server.get("/trigger?id=client4&wait=1m").await?;
    assert_eq!(rejected.status, 503, "{}", rejected.text());
    let rejected = server.send(Method::POST, "/api/v1/transfers?client=client4", &[], "").await?;
    assert_eq!((rejected.status, &rejected.json()?["code"]), (503, &"records-failed".into()));
    assert_eq!(server.get("/readyz").await?.status, 503);
    // Nothing was started. Everything works again once the files are back.
    fs::rename(&aside, &records)?;
    fs::write(client.data(), "again")?;
    server.pull("client4").await?;
    assert_eq!(server.downloads("client4")?.len(), 2);
    Ok(())
}
