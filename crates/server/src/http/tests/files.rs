//! Tests of the URLs that serve downloads.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use chrono::{TimeDelta, Utc};
use filepull_core::digest::Digest;
use filepull_core::transfer::Transfer;

use super::fixture::{HttpFixture, TestResponse};
use crate::data_folder::RECORDS_FOLDER;
use crate::records::DownloadState;

async fn request(
    fixture: &HttpFixture,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> TestResponse {
    let mut builder = Request::builder().method(method).uri(url).header("host", "pull:80");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    fixture.send(builder.body(Body::empty()).unwrap()).await
}

/// Changes a file and its ctime. The clock of a file system has ticks of some milliseconds: it writes
/// until the ctime is later than the end of `transfer`.
fn change(path: &Path, bytes: &str, transfer: &Transfer) {
    let ended_ms = transfer.finished_at.unwrap().timestamp_millis();
    loop {
        std::fs::write(path, bytes).unwrap();
        let found = std::fs::metadata(path).unwrap();
        if ended_ms < found.ctime() * 1000 + found.ctime_nsec() / 1_000_000 {
            return;
        }
    }
}

#[tokio::test]
async fn a_download_is_served_whole_or_in_ranges_unless_the_caller_has_it() {
    let fixture = HttpFixture::start().await;
    let transfer = fixture.store_download().await;
    let urls =
        ["/clients/client4/file".to_owned(), format!("/api/v1/transfers/{}/file", transfer.id)];
    let etag = format!("\"{}\"", Digest::of(b"test"));
    for url in urls {
        let send = async |method, headers: &[_]| request(&fixture, method, &url, headers).await;
        let whole = send("GET", &[]).await;
        assert_eq!((whole.status.as_u16(), whole.body.as_str()), (200, "test"));
        assert_eq!((whole.header("etag"), whole.header("content-length")), (&*etag, "4"));
        assert_eq!(whole.header("accept-ranges"), "bytes");
        assert_eq!(whole.header("content-type"), "application/octet-stream");
        assert_ne!(whole.header("last-modified"), "");
        let head = send("HEAD", &[]).await;
        assert_eq!(
            (head.status.as_u16(), head.header("content-length"), &*head.body),
            (200, "4", "")
        );
        let part = send("GET", &[("range", "bytes=1-2"), ("if-range", &etag)]).await;
        assert_eq!((part.status.as_u16(), part.body.as_str()), (206, "es"));
        assert_eq!(part.header("content-range"), "bytes 1-2/4");
        assert_eq!(part.header("content-length"), "2");
        let other = send("GET", &[("range", "bytes=1-2"), ("if-range", "\"other\"")]).await;
        assert_eq!((other.status.as_u16(), other.body.as_str()), (200, "test"));
        let json = ("accept", "application/json");
        let beyond = send("GET", &[("range", "bytes=9-"), ("if-range", &etag), json]).await;
        assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */4"));
        assert_eq!(beyond.header("content-type"), "application/problem+json");
        assert_eq!(beyond.json()["code"], "range-not-satisfiable");
        let lines = send("GET", &[("range", "lines=1-2")]).await;
        assert_eq!((lines.status.as_u16(), lines.body.as_str()), (200, "test"));
        let head = send("HEAD", &[("range", "bytes=1-2")]).await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "4"));
        assert_eq!(send("GET", &[("range", "bytes=0-0,2-3")]).await.body, "test");
        let again = send("GET", &[("if-none-match", &etag)]).await;
        assert_eq!((again.status.as_u16(), again.header("etag"), &*again.body), (304, &*etag, ""));
        let wanted = send("GET", &[("if-match", "\"other\""), json]).await;
        assert_eq!(wanted.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(wanted.json()["code"], "precondition-failed");
    }
}

#[tokio::test]
async fn a_range_of_the_newest_file_must_name_its_version() {
    let fixture = HttpFixture::start().await;
    let transfer = fixture.store_download().await;
    let rejected =
        request(&fixture, "GET", "/clients/client4/file", &[("range", "bytes=1-")]).await;
    assert_eq!(rejected.status, StatusCode::PRECONDITION_FAILED, "{}", rejected.body);
    let hint = "\ncontinue a download at the URL of its transfer: \
                curl \"pull:80/transfers?client=client4&state=done\"\n";
    assert!(rejected.body.ends_with(hint), "{}", rejected.body);
    let own = format!("/transfers/{}/file", transfer.id);
    let part = request(&fixture, "GET", &own, &[("range", "bytes=1-")]).await;
    assert_eq!((part.status.as_u16(), part.body.as_str()), (206, "est"));
}

#[tokio::test]
async fn the_newest_download_of_a_path_is_served() {
    let fixture = HttpFixture::start().await;
    fixture.store_download_as(Some("logs/a+b.log"), b"first").await;
    fixture.store_download_as(Some("logs/a+b.log"), b"second").await;
    fixture.store_download_as(Some("logs/other.log"), b"other").await;
    let file = async |query| fixture.get(&format!("/clients/client4/file{query}")).await;
    assert_eq!(file("").await.body, "other");
    assert_eq!(file("?path=logs/a%2Bb.log").await.body, "second");
    assert_eq!(file("?path=logs/other.log").await.body, "other");
    let missing = file("?path=logs/a%20b.log").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(
        missing.body,
        "client4 has no finished download of logs/a b.log yet.\n\
         pull one: curl \"pull:80/trigger?id=client4&path=logs/a%20b.log&wait\"\n"
    );
    assert_eq!(file("?path=../x").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn ranges_of_an_empty_file_and_long_suffixes_follow_the_standard() {
    let fixture = HttpFixture::start().await;
    let empty = format!("/transfers/{}/file", fixture.store_download_as(None, b"").await.id);
    let four = format!("/transfers/{}/file", fixture.store_download().await.id);
    let check = async |url: &str, range, status: u16, body: &str, content_range: &str| {
        let response = request(&fixture, "GET", url, &[("range", range)]).await;
        assert_eq!(response.status.as_u16(), status, "{range} {}", response.body);
        assert_eq!(response.header("content-range"), content_range, "{range}");
        if status < 400 {
            assert_eq!(response.body, body, "{range}");
        }
    };
    check(&empty, "bytes=0-", 416, "", "bytes */0").await;
    check(&empty, "bytes=-0", 416, "", "bytes */0").await;
    check(&empty, "bytes=-5", 200, "", "").await;
    check(&four, "bytes=-0", 416, "", "bytes */4").await;
    check(&four, "bytes=-1", 206, "t", "bytes 3-3/4").await;
    check(&four, "bytes=-99", 206, "test", "bytes 0-3/4").await;
    check(&four, "bytes=2-99", 206, "st", "bytes 2-3/4").await;
    let whole = request(&fixture, "GET", &empty, &[]).await;
    assert_eq!((whole.status.as_u16(), whole.header("content-length")), (200, "0"));
}

fn download_path(fixture: &HttpFixture, transfer: &Transfer) -> PathBuf {
    fixture.app.store.download_path(&transfer.client, &transfer.download().unwrap().name)
}

#[tokio::test]
async fn a_deleted_or_changed_download_is_not_served() {
    let fixture = HttpFixture::start().await;
    let transfer = fixture.store_download().await;
    let path = download_path(&fixture, &transfer);
    let name = path.file_name().unwrap().to_str().unwrap();
    let page = format!("/transfers/{}", transfer.id);
    assert!(fixture.get(&page).await.body.contains("\n  saved   server-data/client4/download-"));
    assert!(path.starts_with(fixture.folder.path()));
    let etag = format!("\"{}\"", Digest::of(b"test"));
    let check_gone = async |reason: &str, fate: &str| {
        let response =
            request(&fixture, "GET", "/clients/client4/file", &[("if-none-match", &etag)]).await;
        assert_eq!(response.status, StatusCode::GONE, "{}", response.body);
        let sentence = format!("{name}, which client4 sent, {reason}.\n");
        assert!(response.body.starts_with(&sentence), "{}", response.body);
        let page = fixture.get(&page).await.body;
        assert!(page.contains(&format!(". The file is {fate}.\n  was     ")), "{page}");
        let again = "\n  again   curl \"pull:80/trigger?id=client4&wait\"\n";
        assert!(page.contains(again), "{page}");
        assert!(!page.contains("curl -OJ"), "{page}");
    };
    let check_damaged = async || {
        let fate = "damaged: it has changed since it arrived";
        check_gone("was changed or replaced after it arrived", fate).await;
    };
    std::fs::write(&path, "tampered with").unwrap();
    check_damaged().await;
    change(&path, "TEST", &transfer);
    check_damaged().await;
    std::fs::remove_file(&path).unwrap();
    check_gone("was removed from the data folder", "no longer stored").await;
    let elsewhere = fixture.folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "test").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    check_damaged().await;
}

#[tokio::test]
async fn a_download_that_the_disk_changed_is_not_served_once_it_is_marked() {
    let fixture = HttpFixture::start().await;
    let mut transfer = fixture.store_download().await;
    let path = download_path(&fixture, &transfer);
    std::fs::write(&path, "TEST").unwrap();
    // With a later end on record the inode looks untouched, as if the disk had changed the bytes.
    let records = &fixture.app.records;
    records.forget(&[transfer.id]).await.unwrap();
    transfer.finished_at = Some(Utc::now() + TimeDelta::minutes(1));
    records.save(&transfer).await.unwrap();
    let url = format!("/transfers/{}/file", transfer.id);
    assert_eq!(fixture.get(&url).await.status.as_u16(), 200, "nothing shows the change yet");
    records.note_scrubs(&[(transfer.id, DownloadState::Damaged)], Utc::now()).await.unwrap();
    let damaged = fixture.get(&url).await;
    assert_eq!(damaged.status.as_u16(), 410, "{}", damaged.body);
    assert!(damaged.body.contains("curl \"pull:80/trigger?id=client4&wait\""), "{}", damaged.body);
    std::fs::write(&path, "test").unwrap();
    assert_eq!(fixture.get(&url).await.body, "test", "restored");
    // Marks that cannot be read hide no transfer, and let no changed byte out.
    let file = fixture.folder.path().join(RECORDS_FOLDER).join("records.db");
    let database = rusqlite::Connection::open(file).unwrap();
    database.execute("DROP TABLE scrubs", []).unwrap();
    assert!(fixture.get("/transfers").await.body.contains(&transfer.id.to_string()));
    assert_eq!(fixture.get(&url).await.body, "test");
    std::fs::write(&path, "TEST").unwrap();
    assert_eq!(fixture.get(&url).await.status.as_u16(), 410);
}

#[tokio::test]
async fn a_file_with_another_inode_is_served_only_if_its_digest_matches() {
    let fixture = HttpFixture::start().await;
    let transfer = fixture.store_download().await;
    let path = download_path(&fixture, &transfer);
    let copy = path.with_extension("copy");
    for (bytes, status) in [("test", 200), ("TEST", 410)] {
        change(&copy, bytes, &transfer);
        let file = std::fs::File::options().write(true).open(&copy).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        let response = fixture.get("/clients/client4/file").await;
        assert_eq!(response.status.as_u16(), status, "{}", response.body);
    }
}
