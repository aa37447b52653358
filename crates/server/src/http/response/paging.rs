//! Splits lists into pages: `limit`, `cursor`, and the link to the next page (RFC 8288).

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

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListPage<T> {
    pub(crate) items: Vec<T>,
    /// The position after which the next page starts. `None` on the last page.
    pub(crate) next_cursor: Option<String>,
    /// The number of items on all pages.
    pub(crate) total: Total,
}

impl<T> ListPage<T> {
    pub(crate) fn map<U>(self, map: impl FnMut(T) -> U) -> ListPage<U> {
        let Self { items, next_cursor, total } = self;
        ListPage { items: items.into_iter().map(map).collect(), next_cursor, total }
    }
}

/// Parses the maximum number of items of a page.
pub(crate) fn limit(params: &Params) -> Result<u32, Problem> {
    let Some(text) = params.get("limit") else { return Ok(DEFAULT_LIMIT) };
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    let detail = || format!("limit is a number from 1 to {MAX_LIMIT}.");
    limit.ok_or_else(|| invalid(detail(), "For example: limit=100"))
}

/// Parses the start of the page with `parse`: the `next_cursor` of an earlier page.
pub(crate) fn cursor<'a, T>(
    params: &'a Params,
    parse: impl Fn(&'a str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(text) = params.get("cursor") else { return Ok(None) };
    let hint = "Use the next_cursor of the previous page.";
    let cursor = parse(text);
    cursor.map(Some).ok_or_else(|| invalid("cursor: this is not a cursor of this list.", hint))
}

#[derive(Debug, Serialize)]
struct PageJson<'a, J> {
    items: Vec<J>,
    next_cursor: Option<&'a str>,
    total: u64,
    /// If false, counting stopped at `total`, and there are more.
    total_is_exact: bool,
}

/// Returns a page as text or JSON, with the link to the next page of the list `name`.
pub(crate) fn respond<'a, T, J: Serialize>(
    caller: &Caller,
    name: &str,
    params: &Params,
    page: &'a ListPage<T>,
    text: impl FnOnce() -> String,
    resource: impl Fn(&'a T) -> J,
) -> Response {
    let next_path = page.next_cursor.as_deref().map(|cursor| {
        let query = params.with("cursor", cursor).to_query();
        format!("{name}?{query}")
    });
    let text_with_link = || match &next_path {
        Some(path) => format!("{}next page: curl \"{}/{path}\"\n", text(), caller.host),
        None => text(),
    };
    let (total, total_is_exact) = match page.total {
        Total::Exactly(count) => (count, true),
        Total::MoreThan(count) => (count, false),
    };
    let page_json = || PageJson {
        items: page.items.iter().map(resource).collect(),
        next_cursor: page.next_cursor.as_deref(),
        total,
        total_is_exact,
    };
    let mut response = text_or_json(caller, text_with_link, page_json);
    let link = next_path.map(|path| format!("</api/v1/{path}>; rel=\"next\""));
    if let Some(value) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_1_to_1000_items() {
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
