//! Sets the headers of a response with a file: version, digest, name and caching.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use filepull_core::transfer::{Download, Transfer};
use headers::{AcceptRanges, ETag, HeaderMapExt as _, LastModified};

use super::conditions::FileVersion;

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Returns the entity tag of a download: its SHA-256 in quotes.
pub(crate) fn etag(download: &Download) -> ETag {
    format!("\"{}\"", download.digests.sha256).parse().expect("a digest in quotes is an entity tag")
}

/// Sets the headers of a response with a file, or of a 304.
pub(crate) fn set_headers(
    headers: &mut HeaderMap,
    transfer: &Transfer,
    download: &Download,
    version: &FileVersion,
) {
    headers.typed_insert(version.etag.clone());
    headers.typed_insert(LastModified::from(version.modified_at));
    headers.typed_insert(AcceptRanges::bytes());
    // With the client's id, so that files saved from many clients do not collide.
    let saved_as = format!("{}-{}", transfer.client, download.name);
    let texts = [
        (REPR_DIGEST, format!("sha-256=:{}:", BASE64.encode(download.digests.sha256.as_bytes()))),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{saved_as}\"")),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        // A cache must revalidate: the newest file of a client changes.
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    for (name, text) in texts {
        // Never fails: ids, names and digests are ASCII.
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::{ETAG, LAST_MODIFIED};
    use chrono::DateTime;
    use filepull_core::file_digest::FileDigests;
    use filepull_core::id::ClientId;
    use filepull_core::name::DownloadName;
    use filepull_core::source::Source;

    use super::*;

    #[test]
    fn the_headers_of_a_download_name_its_file_and_its_digest() {
        let client = ClientId::parse("client4").unwrap();
        let transfer = Transfer::new(client, None, "test".to_owned(), DateTime::UNIX_EPOCH);
        let source = Source { name: "a.txt".to_owned(), size: 4, modified_ns: 0 };
        let name = DownloadName::new(DateTime::UNIX_EPOCH, "a.txt");
        let download =
            Download { source, name, size: 4, digests: FileDigests::of(b"test"), inode: 1 };
        let mut headers = HeaderMap::new();
        let modified_at = std::time::UNIX_EPOCH;
        let version = FileVersion { etag: etag(&download), modified_at, size: 4, changes: false };
        set_headers(&mut headers, &transfer, &download, &version);
        let check = |name: HeaderName, value: &str| assert_eq!(headers[name], value);
        check(ETAG, "\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"");
        check(LAST_MODIFIED, "Thu, 01 Jan 1970 00:00:00 GMT");
        check(REPR_DIGEST, "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:");
        let saved_as = "attachment; filename=\"client4-download-19700101-000000.txt\"";
        check(CONTENT_DISPOSITION, saved_as);
    }
}
