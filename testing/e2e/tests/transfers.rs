//! Transfers that are queued, cancelled or requested again.

use filepull_testkit::{TestServer, test_data};
use hyper::Method;

#[tokio::test]
async fn a_fresh_pull_gets_a_file_opened_after_it() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect_at("client4", &test_data("old", 2 << 20), "1MiB/s").await?;
    let first = server.get("/trigger?id=client4").await?;
    // A rename: the running upload keeps its open file.
    let newer = client.files.join("newer");
    std::fs::write(&newer, "new")?;
    std::fs::rename(&newer, client.data())?;
    let fresh = server.get("/trigger?id=client4&fresh").await?;
    assert_ne!(fresh.header("location"), first.header("location"));
    let first_line = "Waiting: client4 sends another file first; this is next. Transfer ";
    assert!(fresh.first_line().starts_with(first_line), "{}", fresh.text());
    let joined = server.get("/trigger?id=client4&fresh").await?;
    assert_eq!(
        joined.header("location"),
        fresh.header("location"),
        "the fresh pull has not started yet"
    );
    let done = server.done(fresh.header("location")).await?;
    assert_eq!(done["download"]["size"], 3);
    Ok(())
}

#[tokio::test]
async fn a_queued_pull_starts_when_its_client_returns() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.connect("client4", b"data").await?;
    client.stop().await?;
    server.until_offline("client4").await?;
    let offline = server.get("/trigger?id=client4").await?;
    assert_eq!(offline.status, 409);
    assert!(offline.text().starts_with("client4 is offline. Last seen "), "{}", offline.text());
    assert!(offline.text().contains(": its agent was stopped."), "{}", offline.text());
    assert!(offline.text().contains("/trigger?id=client4&queue=24h"), "{}", offline.text());
    let queued = server.get("/trigger?id=client4&queue=1h").await?;
    assert_eq!(queued.status, 202);
    assert!(
        queued.text().starts_with("Queued: client4 is offline; the pull starts when it returns")
    );
    client.connect().await?;
    server.done(queued.header("location")).await?;
    Ok(())
}

#[tokio::test]
async fn a_queued_pull_fails_when_its_client_does_not_return() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.connect("client4", b"data").await?;
    client.stop().await?;
    server.until_offline("client4").await?;
    let response = server.get("/trigger?id=client4&queue=1s&wait=100s").await?;
    assert_eq!(response.status, 504, "{}", response.text());
    assert!(response.text().starts_with("client4 did not return in time."), "{}", response.text());
    let next = format!("check it: curl {}/clients/client4\n", server.http());
    assert!(response.text().ends_with(&next), "{}", response.text());
    let page = server.json("/api/v1/transfers").await?["items"][0].take();
    assert_eq!(page["error"]["hint"], next.trim_end(), "{page}");
    Ok(())
}

#[tokio::test]
async fn a_cancelled_transfer_leaves_nothing() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect_at("client4", &test_data("client4", 8 << 20), "1MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    let cancelled = server.cancel(started.header("location")).await?;
    assert_eq!(cancelled.json()?["state"], "cancelled", "{}", cancelled.text());
    assert!(server.downloads("client4")?.is_empty());
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_cancelled_transfer_keeps_its_file_and_its_progress() -> anyhow::Result<()> {
    let mut server = TestServer::start().await?;
    let _client = server.connect_at("client4", &test_data("client4", 8 << 20), "1MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    let url = started.header("location").to_owned();
    server.until(&url, |transfer| transfer["bytes_done"].as_u64() > Some(0)).await?;
    let first = server.cancel(&url).await?.json()?;
    assert_eq!(first["file"]["size"], 8 << 20, "{first}");
    assert!(first["bytes_done"].as_u64() > Some(0), "{first}");
    let second = server.cancel(&url).await?.json()?;
    assert_eq!(second, first);
    server.stop().await?;
    server.start_server().await?;
    assert_eq!(server.json(&url).await?, first, "after a restart");
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_transfer_even_after_a_restart() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    let headers = [("content-type", "application/json"), ("idempotency-key", "nightly-1")];
    let body = r#"{"client":"client4"}"#;
    let url = "/api/v1/transfers?wait=100s";
    let first = server.send(Method::POST, url, &headers, body).await?;
    assert_eq!((first.status, &first.json()?["state"]), (201, &"done".into()), "{}", first.text());
    server.kill().await?;
    server.start_server().await?;
    let again = server.send(Method::POST, url, &headers, body).await?;
    assert_eq!((again.status, again.header("location")), (200, first.header("location")));
    assert_eq!(server.downloads("client4")?.len(), 1);
    let other_body = r#"{"client":"client4","path":"other.txt"}"#;
    let other = server.send(Method::POST, url, &headers, other_body).await?;
    assert_eq!(other.status, 422, "{}", other.text());
    Ok(())
}
