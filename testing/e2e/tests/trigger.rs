//! What an operator asks for, and what the answer says.

use std::collections::BTreeSet;

use anyhow::bail;
use filepull_testkit::{TestServer, same_bytes, test_data};
use futures::future::try_join_all;
use hyper::Method;

#[tokio::test]
async fn a_triggered_file_arrives_whole() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.connect("client4", &test_data("client4", 100 << 20)).await?;
    let reply = bed.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        reply.text().starts_with("Done: client4 sent data.txt, 100.0 MiB in "),
        "{}",
        reply.text()
    );
    let downloads = bed.downloads("client4")?;
    assert_eq!(downloads.len(), 1);
    assert!(same_bytes(&downloads[0], &client.data())?);
    assert_eq!(bed.leftovers("client4")?, NONE);
    assert!(reply.text().contains(&downloads[0].display().to_string()), "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn the_first_answer_names_the_file_and_its_size() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client =
        bed.client("client4", &test_data("client4", 1 << 20))?.setting("MAX_RATE", "1MiB/s");
    let mut client = client;
    client.connect().await?;
    let reply = bed.get("/trigger?id=client4").await?;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let location = reply.header("location").to_owned();
    let id = location.rsplit('/').next().unwrap_or_default();
    let first = format!("Started: client4 is sending data.txt (1.0 MiB). Transfer {id}");
    assert_eq!(reply.first_line(), first);
    let client = bed.get("/clients/client4").await?.text();
    assert!(client.starts_with("client4 is sending, connected for "), "{client}");
    assert!(
        client.contains(&format!("current  running  {}/transfers/{id}", bed.http())),
        "{client}"
    );
    let again = bed.get("/trigger?id=client4").await?;
    assert_eq!(again.header("location"), location);
    assert!(again.first_line().starts_with("Already running: client4 is sending data.txt since"));
    let done = bed.json(&format!("{location}?wait=100s")).await?;
    assert_eq!((&done["state"], &done["attempt"]), (&"done".into(), &1.into()), "{done}");
    assert_eq!(done["download"]["size"], 1 << 20);
    Ok(())
}

#[tokio::test]
async fn a_thousand_triggers_at_once_make_one_transfer() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.client("client4", &test_data("client4", 4 << 20))?;
    let mut client = client.setting("MAX_RATE", "2MiB/s");
    client.connect().await?;
    let replies = try_join_all((0..1000).map(|_| bed.get("/trigger?id=client4"))).await?;
    let locations: BTreeSet<_> = replies.iter().map(|reply| reply.header("location")).collect();
    assert!(replies.iter().all(|reply| reply.status == 202));
    assert_eq!(locations.len(), 1, "{locations:?}");
    let location = locations.first().copied().unwrap_or_default();
    bed.get(&format!("{location}?wait=100s")).await?;
    assert_eq!(bed.downloads("client4")?.len(), 1);
    let list = bed.json("/api/v1/transfers").await?;
    assert_eq!(list["total"], 1, "{list}");
    Ok(())
}

#[tokio::test]
async fn five_clients_at_once_send_five_right_files() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let ids = ["client1", "client2", "client3", "client4", "client5"];
    let clients = ids.map(|id| (id, test_data(id, 20 << 20)));
    let clients = try_join_all(clients.iter().map(|(id, data)| bed.connect(id, data))).await?;
    try_join_all(ids.iter().map(|id| bed.pull(id))).await?;
    for client in clients {
        let downloads = bed.downloads(&client.id)?;
        assert_eq!(downloads.len(), 1);
        assert!(same_bytes(&downloads[0], &client.data())?, "{} has another file", client.id);
    }
    Ok(())
}

#[tokio::test]
async fn twenty_pulls_get_twenty_names_and_overwrite_nothing() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.connect("client4", b"0").await?;
    for version in 0..20 {
        std::fs::write(client.data(), version.to_string())?;
        bed.pull("client4").await?;
    }
    let downloads = bed.downloads("client4")?;
    let contents: BTreeSet<_> =
        downloads.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    assert_eq!((downloads.len(), contents.len()), (20, 20));
    Ok(())
}

#[tokio::test]
async fn a_name_on_record_is_never_given_to_another_file() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.connect("client4", b"0").await?;
    let mut names = BTreeSet::new();
    // Some of the pulls end in the same second.
    for version in 0..10 {
        std::fs::write(client.data(), version.to_string())?;
        let download = bed.pull("client4").await?;
        assert_eq!(std::fs::read_to_string(&download)?, version.to_string());
        std::fs::remove_file(&download)?;
        names.insert(download);
    }
    assert_eq!(names.len(), 10, "{names:?}");
    let transfers = bed.json("/api/v1/transfers").await?;
    let Some(transfers) = transfers["items"].as_array() else { bail!("no list: {transfers}") };
    for transfer in transfers {
        let url = transfer["download"]["url"].as_str().unwrap_or_default();
        assert_eq!(bed.get(url).await?.status, 410, "{transfer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_replaced_by_hand_is_never_served_for_the_one_on_record() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let _client = bed.connect("client4", b"first").await?;
    let download = bed.pull("client4").await?;
    assert_eq!(bed.get("/clients/client4/file").await?.text(), "first");
    let other = download.with_extension("other");
    std::fs::write(&other, "other")?;
    std::fs::rename(&other, &download)?;
    let gone = bed.get("/clients/client4/file").await?;
    assert_eq!(gone.status, 410, "{}", gone.text());
    let problem = bed.json("/api/v1/clients/client4/file").await?;
    assert_eq!(problem["code"], "download-deleted", "{problem}");
    Ok(())
}

#[tokio::test]
async fn a_part_of_one_file_is_never_continued_with_another() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.connect("client4", b"first version").await?;
    bed.pull("client4").await?;
    let url = "/clients/client4/file";
    let etag = bed.get(url).await?.header("etag").to_owned();
    std::fs::write(client.data(), "other version")?;
    bed.pull("client4").await?;
    let range = ("range", "bytes=6-");
    let refused = bed.send(Method::GET, url, &[range], "").await?;
    assert_eq!(refused.status, 412, "{}", refused.text());
    let whole = bed.send(Method::GET, url, &[range, ("if-range", &etag)], "").await?;
    assert_eq!((whole.status, whole.text().as_str()), (200, "other version"));
    let etag = whole.header("etag").to_owned();
    let rest = bed.send(Method::GET, url, &[range, ("if-range", &etag)], "").await?;
    assert_eq!((rest.status, rest.text().as_str()), (206, "version"));
    Ok(())
}

#[tokio::test]
async fn a_wait_succeeds_only_if_the_file_is_there() -> anyhow::Result<()> {
    let mut bed = TestServer::process_with(&[("SHUTDOWN_GRACE", "1s")]).await?;
    let mut client =
        bed.client("client4", &test_data("client4", 8 << 20))?.setting("MAX_RATE", "128KiB/s");
    client.connect().await?;
    let up = bed.get("/trigger?id=client4&wait=1s").await?;
    assert_eq!(up.status, 504, "{}", up.text());
    assert!(up.first_line().starts_with("Still running after 1 s: "), "{}", up.text());
    let waiting = bed.get("/trigger?id=client4&wait=24h&format=json");
    let stopping = async {
        let joined = bed.server()?.says("transfer.joined").await?;
        anyhow::ensure!(joined.contains("\"requested_by\":\"127.0.0.1\""), "{joined}");
        bed.server()?.terminate()
    };
    let (waited, stopped) = tokio::join!(waiting, stopping);
    stopped?;
    let waited = waited?;
    assert_eq!((waited.status, waited.header("retry-after")), (503, "10"), "{}", waited.text());
    assert_eq!(waited.json()?["finished_at"], serde_json::Value::Null);
    bed.take_server()?.kill().await
}

#[tokio::test]
async fn an_empty_file_is_a_file() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let _client = bed.connect("client4", b"").await?;
    let reply = bed.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(reply.first_line(), "Done: client4 sent data.txt, which is empty (0 B).");
    assert_eq!(std::fs::read(&bed.downloads("client4")?[0])?, b"");
    Ok(())
}

#[tokio::test]
async fn the_page_of_a_transfer_offers_its_own_file() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.connect("client4", b"old").await?;
    let old = bed.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(old.status, 200, "{}", old.text());
    let id = bed.json("/api/v1/transfers").await?["items"][0]["id"].clone();
    std::fs::write(client.data(), "new")?;
    bed.pull("client4").await?;
    let page = bed.get(&format!("/transfers/{}", id.as_str().unwrap_or_default())).await?.text();
    let offered = page.lines().find_map(|line| line.trim().strip_prefix("file    curl -OJ "));
    let url = offered.and_then(|url| url.strip_prefix(&bed.http().to_string()));
    assert_eq!(bed.get(url.unwrap_or(&page)).await?.text(), "old");
    Ok(())
}

#[tokio::test]
async fn a_client_shows_its_default_file_as_last_seen() -> anyhow::Result<()> {
    let mut bed = TestServer::start_process().await?;
    let mut client = bed.connect("client4", b"data").await?;
    let default_file = async |bed: &TestServer| {
        let client = bed.json("/api/v1/clients/client4").await?;
        anyhow::Ok(client["default_file"]["size"].as_u64())
    };
    assert_eq!(default_file(&bed).await?, Some(4));
    std::fs::write(client.data(), "longer data")?;
    bed.pull("client4").await?;
    assert_eq!(default_file(&bed).await?, Some(11));
    std::fs::remove_file(client.data())?;
    assert_eq!(bed.get("/trigger?id=client4").await?.status, 404);
    assert_eq!(default_file(&bed).await?, None);
    std::fs::write(client.data(), "back again")?;
    bed.pull("client4").await?;
    client.take_agent()?.kill().await?;
    bed.server()?.says("client.disconnected").await?;
    let mut server = bed.take_server()?;
    server.terminate()?;
    server.ended().await?;
    bed.start_server().await?;
    assert_eq!(default_file(&bed).await?, Some(10), "after a restart");
    Ok(())
}

#[tokio::test]
async fn a_fresh_pull_gets_a_file_opened_after_it() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client = bed.client("client4", &test_data("old", 2 << 20))?.setting("MAX_RATE", "1MiB/s");
    let mut client = client;
    client.connect().await?;
    let first = bed.get("/trigger?id=client4").await?;
    // Replaced, not written to: the upload that runs keeps the file it has opened.
    let newer = client.files.join("newer");
    std::fs::write(&newer, "new")?;
    std::fs::rename(&newer, client.data())?;
    let fresh = bed.get("/trigger?id=client4&fresh").await?;
    assert_ne!(fresh.header("location"), first.header("location"));
    let said = "Waiting: client4 sends another file first; this is next. Transfer ";
    assert!(fresh.first_line().starts_with(said), "{}", fresh.text());
    let joined = bed.get("/trigger?id=client4&fresh").await?;
    assert_eq!(joined.header("location"), fresh.header("location"), "it has not begun yet");
    let done = bed.json(&format!("{}?wait=100s", fresh.header("location"))).await?;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["download"]["size"], 3);
    Ok(())
}

#[tokio::test]
async fn a_queued_pull_starts_when_its_client_returns() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.connect("client4", b"data").await?;
    let mut agent = client.take_agent()?;
    agent.terminate()?;
    agent.ended().await?;
    bed.server()?.says("client.disconnected").await?;
    let offline = bed.get("/trigger?id=client4").await?;
    assert_eq!(offline.status, 409);
    assert!(offline.text().starts_with("client4 is offline. Last seen "), "{}", offline.text());
    assert!(offline.text().contains(": its agent was stopped."), "{}", offline.text());
    assert!(offline.text().contains("/trigger?id=client4&queue=24h"), "{}", offline.text());
    let queued = bed.get("/trigger?id=client4&queue=1h").await?;
    assert_eq!(queued.status, 202);
    assert!(
        queued.text().starts_with("Queued: client4 is offline; the pull starts when it returns")
    );
    client.connect().await?;
    let done = bed.json(&format!("{}?wait=100s", queued.header("location"))).await?;
    assert_eq!(done["state"], "done", "{done}");
    Ok(())
}

#[tokio::test]
async fn a_queued_pull_fails_when_its_client_does_not_return() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.connect("client4", b"data").await?;
    client.take_agent()?.kill().await?;
    bed.server()?.says("client.disconnected").await?;
    let reply = bed.get("/trigger?id=client4&queue=1s&wait=100s").await?;
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert!(reply.text().starts_with("client4 did not return in time."), "{}", reply.text());
    let next = format!("look at it: curl {}/clients/client4\n", bed.http());
    assert!(reply.text().ends_with(&next), "{}", reply.text());
    let page = bed.json("/api/v1/transfers").await?["items"][0].take();
    assert_eq!(page["error"]["hint"], next.trim_end(), "{page}");
    Ok(())
}

#[tokio::test]
async fn a_cancelled_transfer_leaves_nothing() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let client =
        bed.client("client4", &test_data("client4", 8 << 20))?.setting("MAX_RATE", "1MiB/s");
    let mut client = client;
    client.connect().await?;
    let started = bed.get("/trigger?id=client4").await?;
    let cancel = format!("{}/cancel", started.header("location"));
    let cancelled = bed.send(Method::POST, &cancel, &[], "").await?;
    assert_eq!(cancelled.json()?["state"], "cancelled", "{}", cancelled.text());
    assert_eq!(bed.downloads("client4")?, NONE);
    assert_eq!(bed.leftovers("client4")?, NONE);
    Ok(())
}

#[tokio::test]
async fn a_cancelled_transfer_still_tells_which_file_and_how_far() -> anyhow::Result<()> {
    let mut bed = TestServer::start_process().await?;
    let client =
        bed.client("client4", &test_data("client4", 8 << 20))?.setting("MAX_RATE", "1MiB/s");
    let mut client = client;
    client.connect().await?;
    let started = bed.get("/trigger?id=client4").await?;
    let url = started.header("location").to_owned();
    bed.until(&url, |transfer| transfer["bytes_done"].as_u64() > Some(0)).await?;
    let first = bed.send(Method::POST, &format!("{url}/cancel"), &[], "").await?.json()?;
    assert_eq!(first["file"]["size"], 8 << 20, "{first}");
    assert!(first["bytes_done"].as_u64() > Some(0), "{first}");
    let second = bed.send(Method::POST, &format!("{url}/cancel"), &[], "").await?.json()?;
    assert_eq!(second, first);
    let mut server = bed.take_server()?;
    server.terminate()?;
    server.ended().await?;
    bed.start_server().await?;
    assert_eq!(bed.json(&url).await?, first, "after a restart");
    Ok(())
}

#[tokio::test]
async fn a_mistyped_client_is_answered_with_what_to_do() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let _client = bed.connect("client4", b"data").await?;
    let unknown = bed.get("/trigger?id=cleint4").await?;
    assert_eq!(unknown.status, 404);
    let said = "No client called cleint4 has ever connected. Did you mean client4?";
    assert_eq!(unknown.first_line(), said);
    let which = bed.get("/trigger").await?;
    assert_eq!(which.status, 400);
    assert!(which.text().starts_with("Which client? Add ?id="), "{}", which.text());
    assert!(which.text().contains("online now: client4 (1 of 1)"), "{}", which.text());
    Ok(())
}

#[tokio::test]
async fn an_id_is_never_used_as_a_path() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let before = everything_in(&bed)?;
    let too_long = "a".repeat(65);
    let ids =
        ["..", "a/b", "%2e%2e%2f", "%00", "a%00b", "CON", "x.tmp", ".filepull", "%C3%A9", "%FF"];
    for id in ids.into_iter().chain([too_long.as_str()]) {
        for url in [format!("/trigger?id={id}"), format!("/trigger?id={id}&queue")] {
            let reply = bed.get(&url).await?;
            assert_eq!(reply.status, 400, "{url}: {}", reply.text());
        }
    }
    assert_eq!(everything_in(&bed)?, before);
    Ok(())
}

#[tokio::test]
async fn head_starts_nothing() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let _client = bed.connect("client4", b"data").await?;
    for url in ["/trigger?id=client4", "/trigger/client4"] {
        let reply = bed.send(Method::HEAD, url, &[], "").await?;
        assert_eq!((reply.status, reply.header("allow")), (405, "GET, POST"));
    }
    assert_eq!(bed.json("/api/v1/transfers").await?["total"], 0);
    Ok(())
}

#[tokio::test]
async fn a_script_pulls_through_the_api() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let _client = bed.connect("client4", b"data").await?;
    let json = [("content-type", "application/json")];
    let body = r#"{"client":"client4"}"#;
    let made = bed.send(Method::POST, "/api/v1/transfers?wait=100s", &json, body).await?;
    assert_eq!(made.status, 201, "{}", made.text());
    let transfer = made.json()?;
    assert_eq!(transfer["state"], "done", "{transfer}");
    let url = transfer["download"]["url"].as_str().unwrap_or_default();
    let file = bed.get(url).await?;
    assert_eq!((file.status, file.text()), (200, "data".into()));
    let etag = file.header("etag").to_owned();
    let part = bed.send(Method::GET, url, &[("range", "bytes=1-2")], "").await?;
    assert_eq!((part.status, part.text()), (206, "at".into()));
    let unchanged = bed.send(Method::GET, url, &[("if-none-match", &etag)], "").await?;
    assert_eq!(unchanged.status, 304);
    let name = file.header("content-disposition").to_owned();
    assert!(name.contains("filename=\"client4-download-"), "{name}");
    let newest = bed.get("/clients/client4/file").await?;
    assert_eq!(newest.text(), "data");
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_transfer_even_after_a_restart() -> anyhow::Result<()> {
    let mut bed = TestServer::start_process().await?;
    let _client = bed.connect("client4", b"data").await?;
    let headers = [("content-type", "application/json"), ("idempotency-key", "nightly-1")];
    let body = r#"{"client":"client4"}"#;
    let url = "/api/v1/transfers?wait=100s";
    let first = bed.send(Method::POST, url, &headers, body).await?;
    assert_eq!((first.status, &first.json()?["state"]), (201, &"done".into()), "{}", first.text());
    bed.take_server()?.kill().await?;
    bed.start_server().await?;
    let again = bed.send(Method::POST, url, &headers, body).await?;
    assert_eq!((again.status, again.header("location")), (200, first.header("location")));
    assert_eq!(bed.downloads("client4")?.len(), 1);
    let other = r#"{"client":"client4","path":"other.txt"}"#;
    let other = bed.send(Method::POST, url, &headers, other).await?;
    assert_eq!(other.status, 422, "{}", other.text());
    Ok(())
}

#[tokio::test]
async fn every_problem_has_a_page() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    for code in filepull_core::problem::Code::ALL {
        let page = bed.get(&format!("/problems/{code}")).await?;
        assert_eq!(page.status, 200, "{code}");
        assert!(page.text().contains(code.title()), "{}", page.text());
    }
    let unknown = bed.json("/nowhere").await?;
    assert_eq!(unknown["code"], "no-such-url", "{unknown}");
    Ok(())
}

const NONE: [std::path::PathBuf; 0] = [];

/// Returns the names in the data folder, without the file that the server creates for a moment to
/// check that the disk can be written.
fn everything_in(bed: &TestServer) -> anyhow::Result<BTreeSet<std::ffi::OsString>> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(bed.data_dir())? {
        all.insert(entry?.file_name());
    }
    all.retain(|name| name != ".probe");
    Ok(all)
}

#[tokio::test]
async fn a_file_travels_on_the_line_itself_where_only_one_connection_is_allowed()
-> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let proxy = bed.proxy().await?;
    let client = bed.client("client4", &test_data("client4", 20 << 20))?.dialling(proxy.addr());
    let mut client = client.setting("DATA_CONN", "shared").setting("CONSISTENCY", "stat");
    client.connect().await?;
    let download = bed.pull("client4").await?;
    assert!(same_bytes(&download, &client.data())?);
    assert_eq!(proxy.n_connections(), 1);
    Ok(())
}
