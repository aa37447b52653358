//! `/trigger`: a file arrives whole, and the response describes it.

use std::collections::BTreeSet;

use filepull_testkit::{TestServer, same_bytes, test_data};
use futures::future::try_join_all;
use hyper::Method;

#[tokio::test]
async fn a_triggered_file_arrives_whole() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", &test_data("client4", 100 << 20)).await?;
    let response = server.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(
        response.text().starts_with("Done: client4 sent data.txt, 100.0 MiB "),
        "{}",
        response.text()
    );
    let downloads = server.downloads("client4")?;
    assert_eq!(downloads.len(), 1);
    assert!(same_bytes(&downloads[0], &client.data())?);
    assert_eq!(server.leftovers("client4")?, NONE);
    assert!(response.text().contains(&downloads[0].display().to_string()), "{}", response.text());
    Ok(())
}

#[tokio::test]
async fn the_first_response_names_the_file_and_its_size() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect_at("client4", &test_data("client4", 1 << 20), "1MiB/s").await?;
    let response = server.get("/trigger?id=client4").await?;
    assert_eq!(response.status, 202, "{}", response.text());
    let location = response.header("location").to_owned();
    let id = location.rsplit('/').next().unwrap_or_default();
    let first = format!("Started: client4 is sending data.txt (1.0 MiB). Transfer {id}");
    assert_eq!(response.first_line(), first);
    let client = server.get("/clients/client4").await?.text();
    assert!(client.starts_with("client4 is sending, connected for "), "{client}");
    assert!(
        client.contains(&format!("current  running  {}/transfers/{id}", server.http())),
        "{client}"
    );
    let again = server.get("/trigger?id=client4").await?;
    assert_eq!(again.header("location"), location);
    assert!(again.first_line().starts_with("Already running: client4 is sending data.txt since"));
    let done = server.finished(&location).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &1.into()), "{done}");
    assert_eq!(done["download"]["size"], 1 << 20);
    Ok(())
}

#[tokio::test]
async fn a_thousand_triggers_at_once_make_one_transfer() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect_at("client4", &test_data("client4", 4 << 20), "2MiB/s").await?;
    let responses = try_join_all((0..1000).map(|_| server.get("/trigger?id=client4"))).await?;
    let locations: BTreeSet<_> =
        responses.iter().map(|response| response.header("location")).collect();
    assert!(responses.iter().all(|response| response.status == 202));
    assert_eq!(locations.len(), 1, "{locations:?}");
    let location = locations.first().copied().unwrap_or_default();
    server.get(&format!("{location}?wait=100s")).await?;
    assert_eq!(server.downloads("client4")?.len(), 1);
    let list = server.json("/api/v1/transfers").await?;
    assert_eq!(list["total"], 1, "{list}");
    Ok(())
}

#[tokio::test]
async fn five_clients_at_once_send_the_right_files() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let ids = ["client1", "client2", "client3", "client4", "client5"];
    let files = ids.map(|id| (id, test_data(id, 20 << 20)));
    let clients = try_join_all(files.iter().map(|(id, data)| server.connect(id, data))).await?;
    try_join_all(ids.iter().map(|id| server.pull(id))).await?;
    for client in clients {
        let downloads = server.downloads(&client.id)?;
        assert_eq!(downloads.len(), 1);
        assert!(same_bytes(&downloads[0], &client.data())?, "{} has another file", client.id);
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_succeeds_only_if_the_file_is_there() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&[("SHUTDOWN_GRACE", "1s")]).await?;
    let _client = server.connect_at("client4", &test_data("client4", 8 << 20), "128KiB/s").await?;
    let running = server.get("/trigger?id=client4&wait=1s").await?;
    assert_eq!(running.status, 504, "{}", running.text());
    assert!(running.first_line().starts_with("Still running after 1 s: "), "{}", running.text());
    let waiting = server.get("/trigger?id=client4&wait=24h&format=json");
    let stopping = async {
        let joined = server.server()?.says("transfer.joined").await?;
        anyhow::ensure!(joined.contains("\"requested_by\":\"127.0.0.1\""), "{joined}");
        server.server()?.terminate()
    };
    let (waited, ()) = tokio::try_join!(waiting, stopping)?;
    assert_eq!((waited.status, waited.header("retry-after")), (503, "10"), "{}", waited.text());
    assert_eq!(waited.json()?["finished_at"], serde_json::Value::Null);
    server.kill().await
}

#[tokio::test]
async fn an_empty_file_is_a_file() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"").await?;
    let response = server.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(response.first_line(), "Done: client4 sent data.txt, which is empty (0 B).");
    assert_eq!(std::fs::read(&server.downloads("client4")?[0])?, b"");
    Ok(())
}

#[tokio::test]
async fn a_mistyped_client_gets_a_suggestion() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    let unknown = server.get("/trigger?id=cleint4").await?;
    assert_eq!(unknown.status, 404);
    let suggestion = "No client called cleint4 has ever connected. Did you mean client4?";
    assert_eq!(unknown.first_line(), suggestion);
    let without_id = server.get("/trigger").await?;
    assert_eq!(without_id.status, 400);
    assert!(without_id.text().starts_with("Which client? Add ?id="), "{}", without_id.text());
    assert!(without_id.text().contains("online now: client4 (1 of 1)"), "{}", without_id.text());
    Ok(())
}

#[tokio::test]
async fn an_id_is_never_used_as_a_path() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let before = names_in(&server)?;
    let too_long = "a".repeat(65);
    let ids =
        ["..", "a/b", "%2e%2e%2f", "%00", "a%00b", "CON", "x.tmp", ".filepull", "%C3%A9", "%FF"];
    for id in ids.into_iter().chain([too_long.as_str()]) {
        for url in [format!("/trigger?id={id}"), format!("/trigger?id={id}&queue")] {
            let response = server.get(&url).await?;
            assert_eq!(response.status, 400, "{url}: {}", response.text());
        }
    }
    assert_eq!(names_in(&server)?, before);
    Ok(())
}

#[tokio::test]
async fn head_starts_nothing() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    for url in ["/trigger?id=client4", "/trigger/client4"] {
        let response = server.send(Method::HEAD, url, &[], "").await?;
        assert_eq!((response.status, response.header("allow")), (405, "GET, POST"));
    }
    assert_eq!(server.json("/api/v1/transfers").await?["total"], 0);
    Ok(())
}

#[tokio::test]
async fn every_problem_has_a_page() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    for code in filepull_core::problem::Code::ALL {
        let page = server.get(&format!("/problems/{code}")).await?;
        assert_eq!(page.status, 200, "{code}");
        assert!(page.text().contains(code.title()), "{}", page.text());
    }
    let unknown = server.json("/nowhere").await?;
    assert_eq!(unknown["code"], "no-such-url", "{unknown}");
    Ok(())
}

const NONE: [std::path::PathBuf; 0] = [];

/// Returns the names in the data folder, without the file that the server creates to check that the
/// disk can be written.
fn names_in(server: &TestServer) -> anyhow::Result<BTreeSet<std::ffi::OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(server.data_dir())? {
        names.insert(entry?.file_name());
    }
    names.retain(|name| name != ".probe");
    Ok(names)
}

#[tokio::test]
async fn a_shared_connection_carries_the_upload() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let proxy = server.proxy().await?;
    let client = server
        .client("client4", &test_data("client4", 20 << 20))?
        .dialling(proxy.addr())
        .setting("DATA_CONN", "shared")
        .setting("CONSISTENCY", "stat")
        .connected()
        .await?;
    let download = server.pull("client4").await?;
    assert!(same_bytes(&download, &client.data())?);
    assert_eq!(proxy.n_connections(), 1);
    Ok(())
}
