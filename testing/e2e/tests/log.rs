//! The log: its contents, and a reader that disappears.

use anyhow::Context as _;
use filepull_testkit::{TestServer, test_data};
use futures::future::try_join_all;
use serde_json::Value;

/// Returns a launcher that reads the log of a program up to the line that contains `last`, and then
/// closes the pipe.
fn read_up_to(last: &str) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("\"$0\" \"$@\" 2>&1 | sed -u '/{last}/q'")]
}

#[tokio::test]
async fn a_closed_log_stops_no_program() -> anyhow::Result<()> {
    let launcher = read_up_to("server.ready");
    let server = TestServer::launched_by(&launcher.each_ref().map(String::as_str), &[]).await?;
    let agent_launcher = read_up_to("connected in");
    let file = test_data("client4", 1000);
    let _client = server
        .client("client4", &file)?
        .launched_by(&agent_launcher.each_ref().map(String::as_str))
        .connected()
        .await?;
    for _ in 0..2 {
        let download = server.pull("client4").await?;
        assert_eq!(std::fs::read(download)?, file);
    }
    Ok(())
}

#[tokio::test]
async fn the_log_names_the_caller_and_the_path() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let mut client =
        server.client("client4", b"data")?.setting("SHARE", "logs/*.log").connected().await?;
    server.get("/trigger?id=client4&path=logs/pos.log&wait=100s").await?;
    let created = server.server()?.says("transfer.created").await?;
    for part in ["INFO", "logs/pos.log", "127.0.0.1", "request_id"] {
        assert!(created.contains(part), "{part}: {created}");
    }
    client.kill().await?;
    server.server()?.says("client.disconnected").await?;
    server.get("/trigger?id=client4&path=logs/pos.log&queue=1h").await?;
    let queued = server.server()?.says("transfer.queued").await?;
    assert!(queued.contains("logs/pos.log"), "{queued}");
    Ok(())
}

#[tokio::test]
async fn rejected_requests_are_logged_and_a_flood_is_summarized() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    server.get("/trigger?id=unknown").await?;
    let rejected = server.server()?.says("client-unknown").await?;
    for part in ["http.request", "/trigger", "404", "127.0.0.1"] {
        assert!(rejected.contains(part), "{part}: {rejected}");
    }
    try_join_all((0..400).map(|_| server.get("/trigger?id=unknown"))).await?;
    let omitted = server.server()?.says("http.requests_omitted").await?;
    assert!(omitted.contains("count"), "{omitted}");
    let logged = server.server()?.count("client-unknown");
    assert!(logged < 300, "{logged} of 401 rejected requests were logged");
    Ok(())
}

/// Returns the fields of the span `name` of a JSON log line. The event must not repeat them.
fn span_of(line: &str, name: &str) -> anyhow::Result<Value> {
    let event: Value = serde_json::from_str(line)?;
    let mut spans = event["spans"].as_array().into_iter().flatten();
    let found = spans.find(|span| span["name"] == name);
    let span = found.with_context(|| format!("no span {name}: {line}"))?;
    for key in ["id", "client"] {
        anyhow::ensure!(event.get(key).is_none(), "{key} is repeated: {line}");
    }
    Ok(span.clone())
}

#[tokio::test]
async fn json_lines_carry_the_fields_of_their_spans() -> anyhow::Result<()> {
    let test_server = TestServer::process_with(&[("LOG_FORMAT", "json")]).await?;
    let mut client = test_server.connect("client4", b"data").await?;
    let server = test_server.server()?;
    let session = span_of(&server.says("client.connected").await?, "session")?;
    assert_eq!(session["client"], "client4");

    test_server.pull("client4").await?;
    let transfer = span_of(&server.says("transfer.created").await?, "transfer")?;
    assert_eq!(transfer["client"], "client4");
    let done = server.says("transfer.done").await?;
    assert_eq!(span_of(&done, "transfer")?, transfer);
    // The transfer outlives the request that created it.
    assert!(span_of(&done, "request").is_err(), "{done}");

    let rejected = test_server.get("/trigger?id=unknown").await?;
    let request = span_of(&server.says("http.request_rejected").await?, "request")?;
    assert_eq!(request["id"].as_str(), Some(rejected.headers["x-request-id"].to_str()?));

    client.take_agent()?.kill().await?;
    let disconnected = span_of(&server.says("client.disconnected").await?, "session")?;
    assert_eq!(disconnected, session);
    Ok(())
}
