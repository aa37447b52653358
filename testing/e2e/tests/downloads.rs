//! Downloads: their names, and the requests that read them.

use std::collections::BTreeSet;

use filepull_testkit::TestServer;
use hyper::Method;
use serde_json::json;

#[tokio::test]
async fn twenty_pulls_get_twenty_names_and_overwrite_nothing() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"0").await?;
    for version in 0..20 {
        std::fs::write(client.data(), version.to_string())?;
        server.pull("client4").await?;
    }
    let downloads = server.downloads("client4")?;
    let contents: BTreeSet<_> =
        downloads.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    assert_eq!((downloads.len(), contents.len()), (20, 20));
    Ok(())
}

#[tokio::test]
async fn a_name_on_record_is_never_given_to_another_file() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"0").await?;
    let mut names = BTreeSet::new();
    // Some of the pulls end in the same second.
    for version in 0..10 {
        std::fs::write(client.data(), version.to_string())?;
        let download = server.pull("client4").await?;
        assert_eq!(std::fs::read_to_string(&download)?, version.to_string());
        std::fs::remove_file(&download)?;
        names.insert(download);
    }
    assert_eq!(names.len(), 10, "{names:?}");
    let transfers = server.json("/api/v1/transfers").await?;
    for transfer in transfers["items"].as_array().into_iter().flatten() {
        let url = transfer["download"]["url"].as_str().unwrap_or_default();
        assert_eq!(server.get(url).await?.status, 410, "{transfer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_replaced_by_hand_is_never_served_for_the_one_on_record() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"first").await?;
    let download = server.pull("client4").await?;
    assert_eq!(server.get("/clients/client4/file").await?.text(), "first");
    let other = download.with_extension("other");
    std::fs::write(&other, "other")?;
    std::fs::rename(&other, &download)?;
    let gone = server.get("/clients/client4/file").await?;
    assert_eq!(gone.status, 410, "{}", gone.text());
    let problem = server.json("/api/v1/clients/client4/file").await?;
    assert_eq!(problem["code"], "download-deleted", "{problem}");
    Ok(())
}

#[tokio::test]
async fn a_range_of_one_file_is_never_continued_with_another() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"first version").await?;
    server.pull("client4").await?;
    let url = "/clients/client4/file";
    let etag = server.get(url).await?.header("etag").to_owned();
    std::fs::write(client.data(), "other version")?;
    server.pull("client4").await?;
    let range = ("range", "bytes=6-");
    let mismatch = server.send(Method::GET, url, &[range], "").await?;
    assert_eq!(mismatch.status, 412, "{}", mismatch.text());
    let whole = server.send(Method::GET, url, &[range, ("if-range", &etag)], "").await?;
    assert_eq!((whole.status, whole.text().as_str()), (200, "other version"));
    let if_range = ("if-range", whole.header("etag"));
    let rest = server.send(Method::GET, url, &[range, if_range], "").await?;
    assert_eq!((rest.status, rest.text().as_str()), (206, "version"));
    Ok(())
}

#[tokio::test]
async fn the_page_of_a_transfer_offers_its_own_file() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", b"old").await?;
    let old = server.get("/trigger?id=client4&wait=100s").await?;
    assert_eq!(old.status, 200, "{}", old.text());
    let id = server.json("/api/v1/transfers").await?["items"][0]["id"].clone();
    std::fs::write(client.data(), "new")?;
    server.pull("client4").await?;
    let page = server.get(&format!("/transfers/{}", id.as_str().unwrap_or_default())).await?.text();
    let offered = page.lines().find_map(|line| line.trim().strip_prefix("file    curl -OJ "));
    let url = offered.and_then(|url| url.strip_prefix(&server.http().to_string()));
    assert_eq!(server.get(url.unwrap_or(&page)).await?.text(), "old");
    Ok(())
}

#[tokio::test]
async fn a_client_shows_its_default_file_as_last_seen() -> anyhow::Result<()> {
    let mut server = TestServer::start().await?;
    let mut client = server.connect("client4", b"data").await?;
    let default_file = async |server: &TestServer| {
        let client = server.json("/api/v1/clients/client4").await?;
        anyhow::Ok(client["default_file"]["size"].as_u64())
    };
    assert_eq!(default_file(&server).await?, Some(4));
    std::fs::write(client.data(), "longer data")?;
    server.pull("client4").await?;
    assert_eq!(default_file(&server).await?, Some(11));
    std::fs::remove_file(client.data())?;
    assert_eq!(server.get("/trigger?id=client4").await?.status, 404);
    assert_eq!(default_file(&server).await?, None);
    std::fs::write(client.data(), "back again")?;
    server.pull("client4").await?;
    client.stop().await?;
    server.until_offline("client4").await?;
    server.stop().await?;
    server.start_server().await?;
    assert_eq!(default_file(&server).await?, Some(10), "after a restart");
    Ok(())
}

#[tokio::test]
async fn a_script_pulls_through_the_api() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    let order = json!({"client": "client4"});
    let created = server.post("/api/v1/transfers?wait=100s", &order).await?;
    assert_eq!(created.status, 201, "{}", created.text());
    let transfer = created.json()?;
    assert_eq!(transfer["state"], "done", "{transfer}");
    let url = transfer["download"]["url"].as_str().unwrap_or_default();
    let file = server.get(url).await?;
    assert_eq!((file.status, file.text()), (200, "data".into()));
    let etag = file.header("etag").to_owned();
    let part = server.send(Method::GET, url, &[("range", "bytes=1-2")], "").await?;
    assert_eq!((part.status, part.text()), (206, "at".into()));
    let unchanged = server.send(Method::GET, url, &[("if-none-match", &etag)], "").await?;
    assert_eq!(unchanged.status, 304);
    let name = file.header("content-disposition").to_owned();
    assert!(name.contains("filename=\"client4-download-"), "{name}");
    let newest = server.get("/clients/client4/file").await?;
    assert_eq!(newest.text(), "data");
    Ok(())
}
