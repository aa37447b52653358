//! The audit as JSON lines: a stream of all records that match, one object on each line.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::{self, Stream};

use super::AuditItemJson;
use crate::http::response::problem::records_failed;
use crate::records::{AuditFilter, Records};

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Number of records that are read at once. The response holds one page in memory.
const PAGE_LEN: u32 = 1000;

/// Returns one page if `is_page`, or else all records that match. If the records fail, the connection
/// breaks, so that no program takes a part for the whole.
pub(crate) fn respond(records: Records, filter: AuditFilter, is_page: bool) -> Response {
    let limit = if is_page { filter.limit } else { PAGE_LEN };
    let first = Some(AuditFilter { limit, ..filter });
    let pages = stream::try_unfold((records, first), move |(records, next)| async move {
        let Some(filter) = next else { return Ok(None) };
        next_page(records, filter, is_page).await.map(Some)
    });
    ([(CONTENT_TYPE, LINES)], Body::from_stream(pages_of(pages))).into_response()
}

/// Names the error type, which the stream cannot infer.
fn pages_of(
    pages: impl Stream<Item = Result<Bytes, std::io::Error>>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    pages
}

/// Reads one page. Returns it with the filter of the next one.
async fn next_page(
    records: Records,
    filter: AuditFilter,
    is_page: bool,
) -> Result<(Bytes, (Records, Option<AuditFilter>)), std::io::Error> {
    let failed = |error| std::io::Error::other(records_failed(&error));
    let page = records.audit_page(&filter).await.map_err(failed)?;
    let mut text = String::new();
    for item in &page.items {
        text.push_str(&serde_json::to_string(&AuditItemJson::from(item))?);
        text.push('\n');
    }
    let after = page.next.filter(|_| !is_page);
    let next = after.map(|after| AuditFilter { after: Some(after), ..filter });
    Ok((text.into(), (records, next)))
}
