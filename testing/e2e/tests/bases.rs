//! Pulls of a file whose last download the server has: what is sent, and what the answers tell.

use std::fs;
use std::path::PathBuf;

use filepull_testkit::{TestServer, same_bytes, test_data};
use hyper::Method;
use serde_json::{Value, json};

/// Pulls the file of a client, and returns the finished transfer.
async fn pull(server: &TestServer, more: &Value) -> anyhow::Result<Value> {
    let mut request = json!({"client": "client4", "wait": "100s"});
    for (name, value) in more.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    let response = server.post("/api/v1/transfers", &request).await?;
    anyhow::ensure!(response.status == 201, "{}", response.text());
    response.json()
}

/// Returns the path of the file of a transfer that is done.
fn file(server: &TestServer, done: &Value) -> PathBuf {
    let name = done["download"]["name"].as_str().unwrap_or_default();
    server.data_dir().join("client4").join(name)
}

fn id(transfer: &Value) -> &str {
    transfer["id"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn only_new_bytes_are_sent_and_the_answers_say_so() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut data = test_data("client4", 8 << 20);
    let client = server.connect("client4", &data).await?;
    let first = pull(&server, &json!({})).await?;
    assert_eq!((&first["base"], &first["mode"]), (&"unused".into(), &"changes".into()));
    data.extend_from_slice(&test_data("more", 100_000));
    fs::write(client.data(), &data)?;
    let second = pull(&server, &json!({})).await?;
    assert_eq!((&second["state"], &second["base"]), (&"done".into(), &"copied".into()));
    let sent = second["bytes_sent"].as_u64().unwrap_or_default();
    assert!((1..=200_000).contains(&sent), "{second}");
    assert_eq!(second["bytes_done"], data.len());
    let text = server.get(&format!("/transfers/{}", id(&second))).await?.text().to_owned();
    assert!(text.starts_with("Done: client4 sent data.txt, 8.1 MiB file, "), "{text}");
    assert_eq!(server.downloads("client4")?.len(), 2, "every pull makes its own file");
    assert!(same_bytes(&file(&server, &second), &client.data())?);
    let fresh = pull(&server, &json!({"fresh": true})).await?;
    assert_eq!((&fresh["base"], &fresh["mode"]), (&"unused".into(), &"all".into()));
    Ok(())
}

#[tokio::test]
async fn a_pull_with_if_changed_makes_no_file_without_a_change() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.connect("client4", &test_data("client4", 100_000)).await?;
    let url = "/trigger?id=client4&if-changed&wait=100s";
    let first = server.get(url).await?;
    assert!(first.text().starts_with("Done: "), "{}", first.text());
    let download = server.downloads("client4")?[0].clone();
    let name = download.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let same = server.get(url).await?;
    let line = format!("Unchanged: data.txt of client4 (97.7 KiB) is unchanged since {name}.");
    assert_eq!((same.status, same.first_line()), (200, line));

    let key = [("idempotency-key", "k"), ("content-type", "application/json")];
    let body = r#"{"client": "client4", "if_changed": true, "wait": "100s"}"#;
    let post = async || server.send(Method::POST, "/api/v1/transfers", &key, body).await?.json();
    let unchanged = post().await?;
    assert_eq!(
        (&unchanged["state"], &unchanged["unchanged_since"]),
        (&"unchanged".into(), &name.clone().into())
    );
    assert_eq!((&unchanged["download"], &unchanged["bytes_sent"]), (&Value::Null, &0.into()));
    assert_eq!(post().await?["id"], unchanged["id"], "the key leads to the same transfer");
    let listed = server.json("/api/v1/transfers?state=unchanged").await?;
    assert_eq!((&listed["total"], &listed["items"][0]["id"]), (&2.into(), &unchanged["id"]));
    for of_file in ["file", "receipt"] {
        let path = format!("/api/v1/transfers/{}/{of_file}", id(&unchanged));
        let missing = server.get(&path).await?;
        assert_eq!((missing.status, &missing.json()?["code"]), (404, &"file-unchanged".into()));
    }
    let cancel = server.cancel(&format!("/transfers/{}", id(&unchanged))).await?;
    assert_eq!(cancel.status, 200);
    let requested = server.json("/api/v1/audit?action=transfer.requested").await?;
    assert_eq!(requested["items"][0]["detail"]["if_changed"], true, "{requested}");
    assert_eq!(server.downloads("client4")?.len(), 1);
    assert_eq!(server.get("/clients/client4/file").await?.status, 200);

    fs::write(client.data(), test_data("other", 100_000))?;
    let changed = server.get(url).await?;
    assert!(changed.text().starts_with("Done: "), "{}", changed.text());
    assert_eq!(server.downloads("client4")?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_damaged_base_costs_bytes_and_never_the_file() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 1 << 20);
    let client = server.connect("client4", &data).await?;
    let mut last = pull(&server, &json!({})).await?;
    for if_changed in [false, true] {
        let base = file(&server, &last);
        let mut bytes = fs::read(&base)?;
        bytes[500_000] ^= 1;
        fs::write(&base, bytes)?;
        let done = pull(&server, &json!({"if_changed": if_changed})).await?;
        assert_eq!((&done["state"], &done["base"]), (&"done".into(), &"failed".into()), "{done}");
        assert!(data.len() as u64 <= done["bytes_sent"].as_u64().unwrap_or_default(), "{done}");
        let text = server.get(&format!("/transfers/{}", id(&done))).await?.text().to_owned();
        assert!(text.contains("the earlier download could not be used"), "{text}");
        assert!(same_bytes(&file(&server, &done), &client.data())?);
        last = done;
    }
    Ok(())
}

#[tokio::test]
async fn the_download_of_another_client_or_path_is_no_base() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let data = test_data("client4", 300_000);
    let _other = server.connect("client5", &data).await?;
    server.get("/trigger?id=client5&wait=100s").await?;
    let _client = server.connect("client4", &data).await?;
    let first = pull(&server, &json!({"if_changed": true})).await?;
    assert_eq!((&first["state"], &first["base"]), (&"done".into(), &"unused".into()));
    let by_path = pull(&server, &json!({"path": "data.txt", "if_changed": true})).await?;
    assert_eq!((&by_path["state"], &by_path["base"]), (&"done".into(), &"unused".into()));
    Ok(())
}
