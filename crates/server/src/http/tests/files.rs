//! Downloads over HTTP.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use filepull_core::digest::Digest;
use filepull_core::transfer::Transfer;

use super::fixture::{HttpFixture, TestResponse};

async fn ask(bed: &HttpFixture, method: &str, url: &str, headers: &[(&str, &str)]) -> TestResponse {
    let mut request = Request::builder().method(method).uri(url).header("host", "pull:80");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    bed.send(request.body(Body::empty()).unwrap()).await
}

/// Changes a file later than `transfer` ended: the clock of a file system has ticks of some
/// milliseconds, so that a change right after it may look as if it came before.
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
async fn a_download_is_served_whole_in_ranges_or_not_again() {
    let bed = HttpFixture::start().await;
    let transfer = bed.stored().await;
    let urls =
        ["/clients/client4/file".to_owned(), format!("/api/v1/transfers/{}/file", transfer.id)];
    let etag = format!("\"{}\"", Digest::of(b"test"));
    for url in urls {
        let ask = async |method, headers: &[_]| ask(&bed, method, &url, headers).await;
        let whole = ask("GET", &[]).await;
        assert_eq!((whole.status.as_u16(), whole.body.as_str()), (200, "test"));
        assert_eq!((whole.header("etag"), whole.header("content-length")), (&*etag, "4"));
        assert_eq!(whole.header("accept-ranges"), "bytes");
        assert_eq!(whole.header("content-type"), "application/octet-stream");
        assert_ne!(whole.header("last-modified"), "");
        let head = ask("HEAD", &[]).await;
        assert_eq!(
            (head.status.as_u16(), head.header("content-length"), &*head.body),
            (200, "4", "")
        );
        let part = ask("GET", &[("range", "bytes=1-2"), ("if-range", &etag)]).await;
        assert_eq!((part.status.as_u16(), part.body.as_str()), (206, "es"));
        assert_eq!(part.header("content-range"), "bytes 1-2/4");
        assert_eq!(part.header("content-length"), "2");
        let other = ask("GET", &[("range", "bytes=1-2"), ("if-range", "\"other\"")]).await;
        assert_eq!((other.status.as_u16(), other.body.as_str()), (200, "test"));
        let json = ("accept", "application/json");
        let beyond = ask("GET", &[("range", "bytes=9-"), ("if-range", &etag), json]).await;
        assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */4"));
        assert_eq!(beyond.header("content-type"), "application/problem+json");
        assert_eq!(beyond.json()["code"], "range-not-satisfiable");
        let lines = ask("GET", &[("range", "lines=1-2")]).await;
        assert_eq!((lines.status.as_u16(), lines.body.as_str()), (200, "test"));
        let head = ask("HEAD", &[("range", "bytes=1-2")]).await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "4"));
        assert_eq!(ask("GET", &[("range", "bytes=0-0,2-3")]).await.body, "test");
        let again = ask("GET", &[("if-none-match", &etag)]).await;
        assert_eq!((again.status.as_u16(), again.header("etag"), &*again.body), (304, &*etag, ""));
        let wanted = ask("GET", &[("if-match", "\"other\""), json]).await;
        assert_eq!(wanted.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(wanted.json()["code"], "precondition-failed");
    }
}

#[tokio::test]
async fn a_range_of_the_newest_file_must_name_its_version() {
    let bed = HttpFixture::start().await;
    let transfer = bed.stored().await;
    let refused = ask(&bed, "GET", "/clients/client4/file", &[("range", "bytes=1-")]).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{}", refused.body);
    let hint = "\ncontinue a download at the URL of its transfer: \
                curl \"pull:80/transfers?client=client4&state=done\"\n";
    assert!(refused.body.ends_with(hint), "{}", refused.body);
    let own = format!("/transfers/{}/file", transfer.id);
    let part = ask(&bed, "GET", &own, &[("range", "bytes=1-")]).await;
    assert_eq!((part.status.as_u16(), part.body.as_str()), (206, "est"));
}

#[tokio::test]
async fn the_newest_file_of_a_path_is_served_at_a_url_of_its_own() {
    let bed = HttpFixture::start().await;
    bed.stored_as(Some("logs/a+b.log"), b"first").await;
    bed.stored_as(Some("logs/a+b.log"), b"second").await;
    bed.stored_as(Some("logs/other.log"), b"other").await;
    let file = async |query| bed.get(&format!("/clients/client4/file{query}")).await;
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
    let bed = HttpFixture::start().await;
    let empty = format!("/transfers/{}/file", bed.stored_as(None, b"").await.id);
    let four = format!("/transfers/{}/file", bed.stored().await.id);
    let check = async |url: &str, range, status: u16, body: &str, content_range: &str| {
        let answered = ask(&bed, "GET", url, &[("range", range)]).await;
        assert_eq!(answered.status.as_u16(), status, "{range} {}", answered.body);
        assert_eq!(answered.header("content-range"), content_range, "{range}");
        if status < 400 {
            assert_eq!(answered.body, body, "{range}");
        }
    };
    check(&empty, "bytes=0-", 416, "", "bytes */0").await;
    check(&empty, "bytes=-0", 416, "", "bytes */0").await;
    check(&empty, "bytes=-5", 200, "", "").await;
    check(&four, "bytes=-0", 416, "", "bytes */4").await;
    check(&four, "bytes=-1", 206, "t", "bytes 3-3/4").await;
    check(&four, "bytes=-99", 206, "test", "bytes 0-3/4").await;
    check(&four, "bytes=2-99", 206, "st", "bytes 2-3/4").await;
    let whole = ask(&bed, "GET", &empty, &[]).await;
    assert_eq!((whole.status.as_u16(), whole.header("content-length")), (200, "0"));
}

fn download_path(bed: &HttpFixture, transfer: &Transfer) -> PathBuf {
    bed.app.store.download_path(&transfer.client, &transfer.download().unwrap().name)
}

#[tokio::test]
async fn a_download_that_is_gone_or_changed_is_not_served() {
    let bed = HttpFixture::start().await;
    let transfer = bed.stored().await;
    let path = download_path(&bed, &transfer);
    let name = path.file_name().unwrap().to_str().unwrap();
    let page = format!("/transfers/{}", transfer.id);
    assert!(bed.get(&page).await.body.contains("\n  saved   server-data/client4/download-"));
    assert!(path.starts_with(bed.folder.path()));
    let etag = format!("\"{}\"", Digest::of(b"test"));
    let gone = async |said: &str| {
        let answered = ask(&bed, "GET", "/clients/client4/file", &[("if-none-match", &etag)]).await;
        assert_eq!(answered.status, StatusCode::GONE, "{}", answered.body);
        let sentence = format!("{name}, which client4 sent, {said}.\n");
        assert!(answered.body.starts_with(&sentence), "{}", answered.body);
        let page = bed.get(&page).await.body;
        assert!(page.contains(". The file is no longer stored.\n  was     "), "{page}");
        assert!(!page.contains("curl -OJ"), "{page}");
    };
    let changed = "was changed or replaced after it arrived";
    std::fs::write(&path, "tampered with").unwrap();
    gone(changed).await;
    change(&path, "TEST", &transfer);
    gone(changed).await;
    std::fs::remove_file(&path).unwrap();
    gone("was removed from the data folder").await;
    let elsewhere = bed.folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "test").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    gone(changed).await;
}

#[tokio::test]
async fn a_file_with_another_inode_is_served_only_if_its_bytes_are_those_on_record() {
    let bed = HttpFixture::start().await;
    let transfer = bed.stored().await;
    let path = download_path(&bed, &transfer);
    let copy = path.with_extension("copy");
    for (bytes, status) in [("test", 200), ("TEST", 410)] {
        change(&copy, bytes, &transfer);
        let file = std::fs::File::options().write(true).open(&copy).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        let answered = bed.get("/clients/client4/file").await;
        assert_eq!(answered.status.as_u16(), status, "{}", answered.body);
    }
}
