//! Downloads over HTTP.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use filepull_core::digest::Digest;

use super::bed::Bed;

#[tokio::test]
async fn a_download_is_served_whole_in_ranges_or_not_again() {
    let bed = Bed::start().await;
    let transfer = bed.stored().await;
    let urls =
        ["/clients/client4/file".to_owned(), format!("/api/v1/transfers/{}/file", transfer.id)];
    let etag = format!("\"{}\"", Digest::of(b"test"));
    for url in urls {
        let ask = async |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(&url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            bed.send(request.body(Body::empty()).unwrap()).await
        };
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
        let other = ask("GET", &[("range", "bytes=1-2"), ("if-range", "\"other\"")]).await;
        assert_eq!((other.status.as_u16(), other.body.as_str()), (200, "test"));
        let beyond = ask("GET", &[("range", "bytes=9-"), ("accept", "application/json")]).await;
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
    }
}

#[tokio::test]
async fn a_download_that_is_gone_or_changed_is_not_served() {
    let bed = Bed::start().await;
    let transfer = bed.stored().await;
    let path = bed.app.transfers.download_path(&transfer).unwrap();
    let page = format!("/transfers/{}", transfer.id);
    assert!(bed.get(&page).await.body.contains("\n  saved   server-data/client4/download-"));
    assert!(path.starts_with(bed.folder.path()));
    std::fs::write(&path, "tampered with").unwrap();
    assert_eq!(bed.get("/clients/client4/file").await.status, StatusCode::GONE);
    assert!(bed.get(&page).await.body.contains(". The file is no longer stored.\n  was     "));
    std::fs::remove_file(&path).unwrap();
    assert!(!bed.get(&page).await.body.contains("curl -OJ"));
    assert_eq!(bed.get("/clients/client4/file").await.status, StatusCode::GONE);
    let elsewhere = bed.folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "test").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert_ne!(bed.get("/clients/client4/file").await.status, StatusCode::OK);
}
