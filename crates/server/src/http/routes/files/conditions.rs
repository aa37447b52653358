//! Evaluates the conditions and the range of a request for a file (RFC 9110, 13 and 14).

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

/// The result of the conditions and the range of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    Whole,
    /// The first and the last byte, both included.
    Range(RangeInclusive<u64>),
    /// The caller already has this version.
    NotModified,
    /// The condition names another version.
    OtherVersion,
    /// The file at this URL changes, and the range names no version.
    UnnamedVersion,
    /// The file has no byte in the range.
    Unsatisfiable,
}

/// The current version of the file at a URL.
#[derive(Clone, Debug)]
pub(crate) struct FileVersion {
    pub(crate) etag: ETag,
    pub(crate) modified_at: SystemTime,
    pub(crate) size: u64,
    /// Whether the URL serves another file later.
    pub(crate) changes: bool,
}

/// Evaluates the conditions of a request in the order of RFC 9110, 13.2.2.
pub(crate) fn evaluate(
    method: &Method,
    headers: &HeaderMap,
    version: &FileVersion,
) -> Precondition {
    if !is_wanted(headers, version) {
        return Precondition::OtherVersion;
    }
    if is_known(headers, version) {
        return Precondition::NotModified;
    }
    let requested =
        if method == Method::GET { range(headers, version.size) } else { Precondition::Whole };
    match (&requested, continues(headers, version)) {
        (Precondition::Whole, _) => requested,
        // The rest of this version must not be appended to a part of another version.
        (_, Some(false)) => Precondition::Whole,
        (_, None) if version.changes => Precondition::UnnamedVersion,
        (_, None | Some(true)) => requested,
    }
}

/// Returns whether `If-Match` and `If-Unmodified-Since` allow this version. An invalid `If-Match`
/// allows none.
fn is_wanted(headers: &HeaderMap, version: &FileVersion) -> bool {
    match headers.typed_try_get::<IfMatch>() {
        Ok(Some(tags)) => tags.precondition_passes(&version.etag),
        Err(_) => false,
        Ok(None) => headers
            .typed_get::<IfUnmodifiedSince>()
            .is_none_or(|since| since.precondition_passes(version.modified_at)),
    }
}

/// Returns whether the caller has this version, by `If-None-Match` or `If-Modified-Since`.
fn is_known(headers: &HeaderMap, version: &FileVersion) -> bool {
    match headers.typed_try_get::<IfNoneMatch>() {
        Ok(Some(tags)) => !tags.precondition_passes(&version.etag),
        Err(_) => false,
        Ok(None) => headers
            .typed_get::<IfModifiedSince>()
            .is_some_and(|since| !since.is_modified(version.modified_at)),
    }
}

/// Returns whether the caller continues this version; `None` if it names no version. A time in
/// `If-Range` counts as another version: the response is then the whole file, which is safe.
/// [`is_wanted`] has checked `If-Match`.
fn continues(headers: &HeaderMap, version: &FileVersion) -> Option<bool> {
    if headers.contains_key(IF_RANGE) {
        let named = headers.typed_get::<IfRange>();
        return Some(named.is_some_and(|named| !named.is_modified(Some(&version.etag), None)));
    }
    headers.typed_get::<IfMatch>().map(|_| true)
}

/// Parses `Range`. Ignores an invalid range, another unit, and several ranges in one header, as RFC
/// 9110, 14.2 allows.
fn range(headers: &HeaderMap, size: u64) -> Precondition {
    let text = headers.get(RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    if text.contains(',') {
        return Precondition::Whole;
    }
    match parse_range_header(text) {
        Ok(parsed) => {
            parsed.ranges.first().map_or(Precondition::Whole, |range| limit_to(*range, size))
        }
        Err(RangeUnsatisfiableError::ZeroSuffix) => Precondition::Unsatisfiable,
        Err(_) => Precondition::Whole,
    }
}

/// Limits a range to the bytes of a file of `size` bytes.
fn limit_to(range: SyntacticallyCorrectRange, size: u64) -> Precondition {
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
        // Invalid: the range ends before it starts.
        _ if wanted_last < first => Precondition::Whole,
        Some(last) if first <= last => Precondition::Range(first..=last.min(wanted_last)),
        // A suffix of an empty file is the whole file.
        None if is_suffix => Precondition::Whole,
        Some(_) | None => Precondition::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
    use axum::http::{HeaderName, HeaderValue};

    use super::Precondition::{
        NotModified, OtherVersion, Range, UnnamedVersion, Unsatisfiable, Whole,
    };
    use super::*;

    const ETAG: &str = "\"9f86\"";

    /// The time of the file, and one second before and after it.
    const AT: &str = "Thu, 12 Jun 2025 14:23:25 GMT";
    const BEFORE: &str = "Thu, 12 Jun 2025 14:23:24 GMT";
    const AFTER: &str = "Thu, 12 Jun 2025 14:23:26 GMT";

    fn version(size: u64, changes: bool) -> FileVersion {
        let modified_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_749_738_205_400);
        FileVersion { etag: ETAG.parse().unwrap(), modified_at, size, changes }
    }

    /// A file of 4 bytes at a URL that always serves this file.
    fn stable() -> FileVersion {
        version(4, false)
    }

    /// A file of 4 bytes at a URL that serves another file later.
    fn changing() -> FileVersion {
        version(4, true)
    }

    /// Checks the result of a GET with these headers.
    fn check(pairs: &[(HeaderName, &'static str)], version: &FileVersion, expected: &Precondition) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        let found = evaluate(&Method::GET, &headers, version);
        assert_eq!(&found, expected, "{pairs:?} {version:?}");
    }

    #[test]
    fn a_caller_that_has_this_version_gets_304() {
        for (name, value, expected) in [
            (IF_NONE_MATCH, "\"9f86\"", NotModified),
            (IF_NONE_MATCH, "W/\"9f86\"", NotModified),
            (IF_NONE_MATCH, "\"other\", \"9f86\"", NotModified),
            (IF_NONE_MATCH, "*", NotModified),
            (IF_NONE_MATCH, "\"other\"", Whole),
            (IF_NONE_MATCH, "9f86", Whole),
            (IF_MODIFIED_SINCE, AT, NotModified),
            (IF_MODIFIED_SINCE, AFTER, NotModified),
            (IF_MODIFIED_SINCE, BEFORE, Whole),
            (IF_MODIFIED_SINCE, "yesterday", Whole),
        ] {
            check(&[(name, value)], &changing(), &expected);
        }
        let both = [(IF_NONE_MATCH, "\"other\""), (IF_MODIFIED_SINCE, AFTER)];
        check(&both, &changing(), &Whole);
    }

    #[test]
    fn entity_tags_in_several_headers_are_one_list() {
        let pairs = [(IF_NONE_MATCH, "\"other\""), (IF_NONE_MATCH, "\"9f86\"")];
        check(&pairs, &stable(), &NotModified);
    }

    #[test]
    fn a_condition_for_another_version_fails() {
        for (name, value, expected) in [
            (IF_MATCH, "\"9f86\"", Whole),
            (IF_MATCH, "*", Whole),
            (IF_MATCH, "\"other\"", OtherVersion),
            (IF_MATCH, "W/\"9f86\"", OtherVersion),
            (IF_MATCH, "9f86", OtherVersion),
            (IF_UNMODIFIED_SINCE, AFTER, Whole),
            (IF_UNMODIFIED_SINCE, BEFORE, OtherVersion),
        ] {
            check(&[(name, value)], &stable(), &expected);
        }
    }

    #[test]
    fn a_range_of_another_version_returns_the_whole_file() {
        for version in [stable(), changing()] {
            check(&[(RANGE, "bytes=1-"), (IF_RANGE, "\"9f86\"")], &version, &Range(1..=3));
            for other in ["\"other\"", "W/\"9f86\"", AT, "9f86"] {
                check(&[(RANGE, "bytes=1-"), (IF_RANGE, other)], &version, &Whole);
            }
        }
    }

    #[test]
    fn a_range_of_a_changing_url_must_name_the_version() {
        check(&[(RANGE, "bytes=1-")], &changing(), &UnnamedVersion);
        check(&[(RANGE, "bytes=9-")], &changing(), &UnnamedVersion);
        check(&[(RANGE, "lines=1-")], &changing(), &Whole);
        check(&[(RANGE, "bytes=1-"), (IF_MATCH, "\"9f86\"")], &changing(), &Range(1..=3));
        check(&[(RANGE, "bytes=1-"), (IF_NONE_MATCH, "\"9f86\"")], &changing(), &NotModified);
        check(&[(RANGE, "bytes=1-")], &stable(), &Range(1..=3));
    }

    #[test]
    fn a_range_is_limited_to_the_bytes_of_the_file() {
        for (range, size, expected) in [
            ("bytes=1-2", 4, Range(1..=2)),
            ("bytes=0-", 4, Range(0..=3)),
            ("bytes=3-3", 4, Range(3..=3)),
            ("bytes=2-99", 4, Range(2..=3)),
            ("bytes=4-", 4, Unsatisfiable),
            ("bytes=9-12", 4, Unsatisfiable),
            ("bytes=-1", 4, Range(3..=3)),
            ("bytes=-4", 4, Range(0..=3)),
            ("bytes=-99", 4, Range(0..=3)),
            ("bytes=-0", 4, Unsatisfiable),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-0", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
        ] {
            check(&[(RANGE, range)], &version(size, false), &expected);
        }
        for ignored in ["lines=1-2", "bytes 1-2", "bytes=", "bytes=2-1", "bytes=0-0,2-3", "bytes=x"]
        {
            check(&[(RANGE, ignored)], &stable(), &Whole);
        }
    }

    #[test]
    fn a_range_is_ignored_unless_the_method_is_get() {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=1-2"))]);
        assert_eq!(evaluate(&Method::HEAD, &headers, &changing()), Whole);
    }
}
