//! Lists, page by page: `limit`, `cursor`, and the link to the next one (RFC 8288).

use axum::http::HeaderValue;
use axum::http::header::LINK;
use axum::response::Response;
use filepull_core::problem::Problem;
use serde::Serialize;

use crate::http::request::caller::Caller;
use crate::http::request::params::Params;
use crate::http::request::rejection::invalid;
use crate::http::response::text_or_json;
use crate::records::Total;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// Some of the things that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListPage<T> {
    pub(crate) items: Vec<T>,
    /// What the next page begins after.
    pub(crate) next_cursor: Option<String>,
    /// How many match, on all pages.
    pub(crate) total: Total,
}

impl<T> ListPage<T> {
    pub(crate) fn map<U>(self, map: impl FnMut(T) -> U) -> ListPage<U> {
        let Self { items, next_cursor, total } = self;
        ListPage { items: items.into_iter().map(map).collect(), next_cursor, total }
    }
}

/// How many items a page has.
pub(crate) fn limit(params: &Params) -> Result<u32, Problem> {
    let Some(text) = params.get("limit") else { return Ok(DEFAULT_LIMIT) };
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    let bad = || invalid(format!("limit is a number from 1 to {MAX_LIMIT}."), "limit=100");
    limit.ok_or_else(bad)
}

/// Where the page begins, if not at the start: read from what an earlier page gave away.
pub(crate) fn cursor<'a, T>(
    params: &'a Params,
    read: impl Fn(&'a str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(text) = params.get("cursor") else { return Ok(None) };
    let bad = || invalid("cursor: this is not a cursor.", "Take next_cursor from the page before.");
    read(text).map(Some).ok_or_else(bad)
}

#[derive(Debug, Serialize)]
struct PageJson<'a, J> {
    items: Vec<J>,
    next_cursor: Option<&'a str>,
    total: u64,
    /// Were it false, `total` would be where the counting ended.
    total_is_exact: bool,
}

/// A page in words or as JSON, with the link to the next one.
pub(crate) fn answer<'a, T, J: Serialize>(
    caller: &Caller,
    name: &str,
    params: &Params,
    page: &'a ListPage<T>,
    words: impl FnOnce() -> String,
    resource: impl Fn(&'a T) -> J,
) -> Response {
    let next = page.next_cursor.as_deref().map(|cursor| params.with("cursor", cursor).to_query());
    let next = next.map(|query| format!("{name}?{query}"));
    let in_words = || match &next {
        Some(next) => format!("{}next page: curl \"{}/{next}\"\n", words(), caller.host),
        None => words(),
    };
    let (total, total_is_exact) = match page.total {
        Total::Exactly(count) => (count, true),
        Total::MoreThan(count) => (count, false),
    };
    let in_json = || PageJson {
        items: page.items.iter().map(resource).collect(),
        next_cursor: page.next_cursor.as_deref(),
        total,
        total_is_exact,
    };
    let mut response = text_or_json(caller, in_words, in_json);
    let link = next.as_ref().map(|next| format!("</api/v1/{next}>; rel=\"next\""));
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_one_to_a_thousand_items() {
        let check = |query, expected| {
            let params = Params::from_query(Some(query)).unwrap();
            assert_eq!(limit(&params).ok(), expected, "{query}");
        };
        check("", Some(100));
        check("limit=1000", Some(1000));
        check("limit=0", None);
        check("limit=1001", None);
        check("limit=-1", None);
    }
}
