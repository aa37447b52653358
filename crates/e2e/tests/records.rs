//! What is written, and when: neither a heartbeat nor a tick of progress is.

use std::fs;
use std::time::Instant;

use filepull_e2e::{TestBed, made};
use hyper::Method;

/// How many commits the log beside the database holds. It is emptied only after a thousand pages.
fn commits(bed: &TestBed) -> anyhow::Result<usize> {
    let log = fs::read(bed.data_dir().join(".filepull/records.db-wal"))?;
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
    let bed = TestBed::with(&[("HEARTBEAT", "50ms")]).await?;
    let _client = bed.connected("client4", b"data").await?;
    let url = "/api/v1/clients/client4";
    // It is told to the second: each change is at least one heartbeat, and most are twenty.
    let mut seen = bed.json(url).await?["last_seen_at"].clone();
    let before = commits(&bed)?;
    assert_ne!(before, 0);
    for _ in 0..3 {
        seen = bed.until(url, |now| now["last_seen_at"] != seen).await?["last_seen_at"].clone();
    }
    assert_eq!(commits(&bed)?, before);
    Ok(())
}

#[tokio::test]
async fn progress_is_not_written_but_for_a_checkpoint_a_second() -> anyhow::Result<()> {
    let bed = TestBed::start().await?;
    let data = made("client4", 3 << 20);
    let mut client = bed.client("client4", &data)?.setting("MAX_RATE", "1MiB/s");
    client.connect().await?;
    let (before, began) = (commits(&bed)?, Instant::now());
    let order = r#"{"client": "client4"}"#;
    let json = [("content-type", "application/json")];
    let made = bed.send(Method::POST, "/api/v1/transfers", &json, order).await?.json()?;
    let url = format!("/api/v1/transfers/{}", made["id"].as_str().unwrap_or_default());
    let (mut ticks, mut seen) = (0, made["bytes_done"].clone());
    let is_final = |now: &serde_json::Value| now["state"] == "done" || now["state"] == "failed";
    loop {
        let now = bed.until(&url, |now| is_final(now) || now["bytes_done"] != seen).await?;
        if is_final(&now) {
            assert_eq!(now["state"], "done", "{now}");
            break;
        }
        (ticks, seen) = (ticks + 1, now["bytes_done"].clone());
    }
    let written = commits(&bed)? - before;
    // Made, started, opened, sealed, done; and a checkpoint for each second that it took.
    let bound = 5 + usize::try_from(began.elapsed().as_secs())?;
    assert!(bound < ticks, "{ticks} ticks are too few to tell");
    assert!(written <= bound, "{written} commits for {ticks} ticks; at most {bound} are needed");
    Ok(())
}
