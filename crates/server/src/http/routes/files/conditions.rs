//! Which part of a file a request asks for, and under which conditions (RFC 9110, 13 and 14).

use std::ops::RangeInclusive;
use std::time::SystemTime;

use axum::http::header::{IF_RANGE, RANGE};
use axum::http::{HeaderMap, Method};
use headers::{
    ETag, HeaderMapExt as _, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince,
};
use http_range_header::{
    EndPosition, RangeUnsatisfiableError, StartPosition, SyntacticallyCorrectRange,
    parse_range_header,
};

/// How to answer a request for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Send the whole file.
    Whole,
    /// Send these bytes.
    Part(RangeInclusive<u64>),
    /// The caller has the file already.
    NotModified,
    /// The caller wanted another version of the file.
    OtherVersion,
    /// The bytes of the URL change, and the caller did not name the version that it continues.
    UnnamedVersion,
    /// The file has none of the bytes that were asked for.
    Unsatisfiable,
}

/// The version of a file that a URL leads to now.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) etag: ETag,
    pub(crate) modified_at: SystemTime,
    pub(crate) size: u64,
    /// The URL leads to other files later.
    pub(crate) changes: bool,
}

/// Judges the conditions of a request in the order of RFC 9110, 13.2.2.
pub(crate) fn judge(method: &Method, headers: &HeaderMap, version: &Version) -> Precondition {
    if !is_wanted(headers, version) {
        return Precondition::OtherVersion;
    }
    if is_known(headers, version) {
        return Precondition::NotModified;
    }
    let part =
        if method == Method::GET { part(headers, version.size) } else { Precondition::Whole };
    match (&part, continues(headers, version)) {
        (Precondition::Whole, _) => part,
        // The rest of this version must not be appended to a part of another.
        (_, Some(false)) => Precondition::Whole,
        (_, None) if version.changes => Precondition::UnnamedVersion,
        (_, None | Some(true)) => part,
    }
}

/// Do `If-Match` and `If-Unmodified-Since` allow this version? An `If-Match` that cannot be read
/// names no version.
fn is_wanted(headers: &HeaderMap, version: &Version) -> bool {
    match headers.typed_try_get::<IfMatch>() {
        Ok(Some(tags)) => tags.precondition_passes(&version.etag),
        Err(_) => false,
        Ok(None) => headers
            .typed_get::<IfUnmodifiedSince>()
            .is_none_or(|since| since.precondition_passes(version.modified_at)),
    }
}

/// Does the caller have this version, by `If-None-Match` or `If-Modified-Since`?
fn is_known(headers: &HeaderMap, version: &Version) -> bool {
    match headers.typed_try_get::<IfNoneMatch>() {
        Ok(Some(tags)) => !tags.precondition_passes(&version.etag),
        Err(_) => false,
        Ok(None) => headers
            .typed_get::<IfModifiedSince>()
            .is_some_and(|since| !since.is_modified(version.modified_at)),
    }
}

/// Does the caller continue this version? `None`: it did not name one. A time in `If-Range` counts as
/// another version: then the whole file is sent, which is safe. `If-Match` was judged before.
fn continues(headers: &HeaderMap, version: &Version) -> Option<bool> {
    if headers.contains_key(IF_RANGE) {
        let named = headers.typed_get::<IfRange>();
        return Some(named.is_some_and(|named| !named.is_modified(Some(&version.etag), None)));
    }
    headers.typed_get::<IfMatch>().map(|_| true)
}

/// The bytes that `Range` asks for. One that cannot be read, one in other units and one of several
/// parts are ignored, as RFC 9110, 14.2 allows.
fn part(headers: &HeaderMap, size: u64) -> Precondition {
    let text = headers.get(RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    if text.contains(',') {
        return Precondition::Whole;
    }
    match parse_range_header(text) {
        Ok(parsed) => {
            parsed.ranges.first().map_or(Precondition::Whole, |range| within(*range, size))
        }
        Err(RangeUnsatisfiableError::ZeroSuffix) => Precondition::Unsatisfiable,
        Err(_) => Precondition::Whole,
    }
}

/// The bytes of a range that a file of `size` bytes has.
fn within(range: SyntacticallyCorrectRange, size: u64) -> Precondition {
    let first = match range.start {
        StartPosition::Index(first) => first,
        StartPosition::FromLast(len) => size.saturating_sub(len),
    };
    let wanted_last = match range.end {
        EndPosition::Index(last) => last,
        EndPosition::LastByte => u64::MAX,
    };
    let is_suffix = matches!(range.start, StartPosition::FromLast(_));
    match size.checked_sub(1) {
        // It ends before it starts: not a range.
        _ if wanted_last < first => Precondition::Whole,
        Some(last) if first <= last => Precondition::Part(first..=last.min(wanted_last)),
        // The last bytes of an empty file are the whole of it.
        None if is_suffix => Precondition::Whole,
        Some(_) | None => Precondition::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const ETAG: &str = "\"9f86\"";

    /// 14:23:25 on 12 June 2025, and a second before and after.
    const AT: &str = "Thu, 12 Jun 2025 14:23:25 GMT";
    const BEFORE: &str = "Thu, 12 Jun 2025 14:23:24 GMT";
    const AFTER: &str = "Thu, 12 Jun 2025 14:23:26 GMT";

    fn version(size: u64, changes: bool) -> Version {
        let modified_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_749_738_205_400);
        Version { etag: ETAG.parse().unwrap(), modified_at, size, changes }
    }

    fn judged(pairs: &[(HeaderName, &'static str)], version: &Version) -> Precondition {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        judge(&Method::GET, &headers, version)
    }

    #[test]
    fn a_caller_that_has_the_file_need_not_get_it_again() {
        let check = |name: HeaderName, value, expected| {
            assert_eq!(judged(&[(name, value)], &version(4, true)), expected, "{value}");
        };
        check(IF_NONE_MATCH, "\"9f86\"", Precondition::NotModified);
        check(IF_NONE_MATCH, "W/\"9f86\"", Precondition::NotModified);
        check(IF_NONE_MATCH, "\"other\", \"9f86\"", Precondition::NotModified);
        check(IF_NONE_MATCH, "*", Precondition::NotModified);
        check(IF_NONE_MATCH, "\"other\"", Precondition::Whole);
        check(IF_NONE_MATCH, "9f86", Precondition::Whole);
        check(IF_MODIFIED_SINCE, AT, Precondition::NotModified);
        check(IF_MODIFIED_SINCE, AFTER, Precondition::NotModified);
        check(IF_MODIFIED_SINCE, BEFORE, Precondition::Whole);
        check(IF_MODIFIED_SINCE, "yesterday", Precondition::Whole);
        let both = [(IF_NONE_MATCH, "\"other\""), (IF_MODIFIED_SINCE, AFTER)];
        assert_eq!(judged(&both, &version(4, true)), Precondition::Whole);
    }

    #[test]
    fn a_list_may_be_spread_over_several_headers() {
        let pairs = [(IF_NONE_MATCH, "\"other\""), (IF_NONE_MATCH, "\"9f86\"")];
        assert_eq!(judged(&pairs, &version(4, false)), Precondition::NotModified);
    }

    #[test]
    fn a_wanted_version_that_is_not_this_one_fails() {
        let check = |name: HeaderName, value, expected| {
            assert_eq!(judged(&[(name, value)], &version(4, false)), expected, "{value}");
        };
        check(IF_MATCH, "\"9f86\"", Precondition::Whole);
        check(IF_MATCH, "*", Precondition::Whole);
        check(IF_MATCH, "\"other\"", Precondition::OtherVersion);
        check(IF_MATCH, "W/\"9f86\"", Precondition::OtherVersion);
        check(IF_MATCH, "9f86", Precondition::OtherVersion);
        check(IF_UNMODIFIED_SINCE, AFTER, Precondition::Whole);
        check(IF_UNMODIFIED_SINCE, BEFORE, Precondition::OtherVersion);
    }

    #[test]
    fn a_range_of_another_version_becomes_the_whole_file() {
        for changes in [false, true] {
            let check = |tag, expected| {
                let pairs = [(RANGE, "bytes=1-"), (IF_RANGE, tag)];
                assert_eq!(judged(&pairs, &version(4, changes)), expected, "{tag}");
            };
            check("\"9f86\"", Precondition::Part(1..=3));
            check("\"other\"", Precondition::Whole);
            check("W/\"9f86\"", Precondition::Whole);
            check(AT, Precondition::Whole);
            check("9f86", Precondition::Whole);
        }
    }

    #[test]
    fn a_range_of_a_url_whose_bytes_change_must_name_its_version() {
        let check = |pairs: &[_], expected| {
            assert_eq!(judged(pairs, &version(4, true)), expected, "{pairs:?}");
        };
        check(&[(RANGE, "bytes=1-")], Precondition::UnnamedVersion);
        check(&[(RANGE, "bytes=9-")], Precondition::UnnamedVersion);
        check(&[(RANGE, "lines=1-")], Precondition::Whole);
        check(&[(RANGE, "bytes=1-"), (IF_MATCH, "\"9f86\"")], Precondition::Part(1..=3));
        check(&[(RANGE, "bytes=1-"), (IF_NONE_MATCH, "\"9f86\"")], Precondition::NotModified);
        assert_eq!(judged(&[(RANGE, "bytes=1-")], &version(4, false)), Precondition::Part(1..=3));
    }

    #[test]
    fn a_range_is_cut_to_the_bytes_that_the_file_has() {
        let check = |range, size, expected| {
            assert_eq!(
                judged(&[(RANGE, range)], &version(size, false)),
                expected,
                "{range} {size}"
            );
        };
        check("bytes=1-2", 4, Precondition::Part(1..=2));
        check("bytes=0-", 4, Precondition::Part(0..=3));
        check("bytes=3-3", 4, Precondition::Part(3..=3));
        check("bytes=2-99", 4, Precondition::Part(2..=3));
        check("bytes=4-", 4, Precondition::Unsatisfiable);
        check("bytes=9-12", 4, Precondition::Unsatisfiable);
        check("bytes=-1", 4, Precondition::Part(3..=3));
        check("bytes=-4", 4, Precondition::Part(0..=3));
        check("bytes=-99", 4, Precondition::Part(0..=3));
        check("bytes=-0", 4, Precondition::Unsatisfiable);
        check("bytes=-0", 0, Precondition::Unsatisfiable);
        check("bytes=0-", 0, Precondition::Unsatisfiable);
        check("bytes=0-0", 0, Precondition::Unsatisfiable);
        check("bytes=-5", 0, Precondition::Whole);
        for ignored in ["lines=1-2", "bytes 1-2", "bytes=", "bytes=2-1", "bytes=0-0,2-3", "bytes=x"]
        {
            check(ignored, 4, Precondition::Whole);
        }
    }

    #[test]
    fn a_range_is_for_get() {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=1-2"))]);
        assert_eq!(judge(&Method::HEAD, &headers, &version(4, true)), Precondition::Whole);
    }
}
