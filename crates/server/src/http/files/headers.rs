//! The headers that say what a file is, and how to keep it.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, HeaderName, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use filepull_core::transfer::{Download, Transfer};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Names this version of the file: its SHA-256, in quotes.
pub(super) fn etag(download: &Download) -> String {
    format!("\"{}\"", download.digest)
}

/// Sets the headers, over those of whoever served the bytes.
pub(super) fn describe(headers: &mut HeaderMap, transfer: &Transfer, download: &Download) {
    // With the client's id, so that files saved from many clients do not collide.
    let saved_as = format!("{}-{}", transfer.client, download.name);
    let texts = [
        (ETAG, etag(download)),
        (REPR_DIGEST, format!("sha-256=:{}:", base64(download.digest.as_bytes()))),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{saved_as}\"")),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        // It may be kept, and is asked for again: the newest file of a client changes.
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    for (name, text) in texts {
        // All of them are made of ids, names and digests, which are plain ASCII.
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// Base64 with padding (RFC 4648, 4), as a digest in a header is written (RFC 9530).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |n: usize| usize::from(group.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let letters = [18, 12, 6, 0].map(|shift| char::from(LETTERS[bits >> shift & 63]));
        text.extend(&letters[..=group.len()]);
        text.push_str(&"=="[..3 - group.len()]);
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use filepull_core::digest::Digest;
    use filepull_core::id::ClientId;
    use filepull_core::name::DownloadName;
    use filepull_core::source::Source;

    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let check = |bytes: &[u8], text| assert_eq!(base64(bytes), text);
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foobar", "Zm9vYmFy");
        check(&[0xfb, 0xff], "+/8=");
    }

    #[test]
    fn a_download_is_offered_for_saving_with_its_digest() {
        let client = ClientId::parse("client4").unwrap();
        let transfer = Transfer::new(client, None, "test".to_owned(), DateTime::UNIX_EPOCH);
        let source = Source { name: "a.txt".to_owned(), size: 4, modified_ns: 0 };
        let name = DownloadName::new(DateTime::UNIX_EPOCH, "a.txt");
        let download = Download { source, name, size: 4, digest: Digest::of(b"test"), inode: 1 };
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, HeaderValue::from_static("\"of somebody else\""));
        describe(&mut headers, &transfer, &download);
        let check = |name: HeaderName, value: &str| assert_eq!(headers[name], value);
        check(ETAG, "\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"");
        check(REPR_DIGEST, "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:");
        let saved_as = "attachment; filename=\"client4-download-19700101-000000.txt\"";
        check(CONTENT_DISPOSITION, saved_as);
    }
}
