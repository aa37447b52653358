//! Conditional requests (RFC 9110, 13), judged by the digest of the file.

use axum::http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{HeaderMap, Method};

/// What a request's conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send the file, or the range that the headers still ask for.
    Serve,
    /// The caller has it already.
    NotModified,
    /// The caller wanted another version.
    PreconditionFailed,
}

/// Judges the conditions that name an `etag`, and takes them out of the headers: whoever serves
/// the file would hold them against an etag of its own. Conditions on times are left to it.
pub(super) fn judge(method: &Method, headers: &mut HeaderMap, etag: &str) -> Verdict {
    let range = headers.get(RANGE).map(|range| range.as_bytes().starts_with(b"bytes="));
    // Ranges are for GET, and units that we do not know are as if not there (RFC 9110, 14.2).
    if method != Method::GET || range == Some(false) {
        headers.remove(RANGE);
    }
    let if_match = take(headers, IF_MATCH);
    let if_none_match = take(headers, IF_NONE_MATCH);
    let if_range = take(headers, IF_RANGE);
    // A time in `If-Range` counts as another version: then the whole file is sent, which is safe.
    let continues_another = if_range.is_some_and(|tag| tag.trim() != etag);
    if continues_another {
        headers.remove(RANGE);
    }
    if if_none_match.is_some() {
        headers.remove(IF_MODIFIED_SINCE);
    }
    if if_match.is_some_and(|tags| !names(&tags, etag, false)) {
        Verdict::PreconditionFailed
    } else if if_none_match.is_some_and(|tags| names(&tags, etag, true)) {
        Verdict::NotModified
    } else {
        Verdict::Serve
    }
}

/// The values of a header, joined as a list. One that is no text names nothing.
fn take(headers: &mut HeaderMap, name: HeaderName) -> Option<String> {
    let values = headers.get_all(&name).iter().map(|value| value.to_str().unwrap_or_default());
    let joined = values.collect::<Vec<_>>().join(",");
    headers.remove(name).map(|_| joined)
}

/// Is the etag in this list? Ours is hexadecimal, so no comma can be inside of it.
fn names(tags: &str, etag: &str, weakly: bool) -> bool {
    let tags = tags.split(',').map(str::trim);
    let mut tags = tags.map(|tag| if weakly { tag.strip_prefix("W/").unwrap_or(tag) } else { tag });
    tags.any(|tag| tag == "*" || tag == etag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const ETAG: &str = "\"9f86\"";

    fn judged(pairs: &[(HeaderName, &'static str)]) -> (Verdict, bool) {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=1-"));
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        (judge(&Method::GET, &mut headers, ETAG), headers.contains_key(RANGE))
    }

    #[test]
    fn a_caller_that_has_the_file_need_not_get_it_again() {
        let check = |tags, expected| {
            assert_eq!(judged(&[(IF_NONE_MATCH, tags)]).0, expected, "{tags}");
        };
        check("\"9f86\"", Verdict::NotModified);
        check("W/\"9f86\"", Verdict::NotModified);
        check("\"other\", \"9f86\"", Verdict::NotModified);
        check("*", Verdict::NotModified);
        check("\"other\"", Verdict::Serve);
        check("9f86", Verdict::Serve);
    }

    #[test]
    fn a_range_of_another_version_becomes_the_whole_file() {
        let check = |tag, keeps_range| {
            assert_eq!(judged(&[(IF_RANGE, tag)]), (Verdict::Serve, keeps_range), "{tag}");
        };
        check("\"9f86\"", true);
        check("\"other\"", false);
        check("W/\"9f86\"", false);
        check("Thu, 12 Jun 2025 14:23:25 GMT", false);
        assert_eq!(judged(&[]), (Verdict::Serve, true));
    }

    #[test]
    fn a_range_is_for_get_and_in_bytes() {
        let check = |method, range, kept| {
            let mut headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
            assert_eq!(judge(&method, &mut headers, ETAG), Verdict::Serve);
            assert_eq!(headers.contains_key(RANGE), kept, "{method} {range}");
        };
        check(Method::GET, "bytes=1-2", true);
        check(Method::GET, "bytes=9-", true);
        check(Method::GET, "lines=1-2", false);
        check(Method::GET, "bytes 1-2", false);
        check(Method::HEAD, "bytes=1-2", false);
    }

    #[test]
    fn a_wanted_version_that_is_not_this_one_fails() {
        let verdict = |tag| judged(&[(IF_MATCH, tag)]).0;
        assert_eq!(verdict("\"9f86\""), Verdict::Serve);
        assert_eq!(verdict("*"), Verdict::Serve);
        assert_eq!(verdict("\"other\""), Verdict::PreconditionFailed);
        assert_eq!(verdict("W/\"9f86\""), Verdict::PreconditionFailed);
    }

    #[test]
    fn a_list_may_be_spread_over_several_headers() {
        let pairs = [(IF_NONE_MATCH, "\"other\""), (IF_NONE_MATCH, "\"9f86\"")];
        assert_eq!(judged(&pairs).0, Verdict::NotModified);
    }
}
