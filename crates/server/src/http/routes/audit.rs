//! `/audit`: who did what, as text, as JSON, and as JSON lines for another program.

mod lines;
mod text;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use filepull_core::problem::Problem;
use serde::Serialize;

use crate::audit::AuditRecordJson;
use crate::http::App;
use crate::http::request::caller::{Caller, wants_lines};
use crate::http::request::params::Params;
use crate::http::request::rejection::{Rejection, invalid};
use crate::http::response::paging::{self, ListPage};
use crate::http::response::problem::records_failed;
use crate::records::{AuditFilter, AuditOrder, ReadAuditRecord, RecordsError};

const PARAMS: &[&str] =
    &["since", "until", "actor", "action", "subject", "order", "after", "limit", "cursor"];

/// An item of the list: a record, or why it cannot be read.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum AuditItemJson<'a> {
    Record(Box<AuditRecordJson<'a>>),
    Damaged { damaged: String },
}

impl<'a> From<&'a ReadAuditRecord> for AuditItemJson<'a> {
    fn from(item: &'a ReadAuditRecord) -> Self {
        match item {
            Ok(record) => Self::Record(Box::new(record.into())),
            Err(error) => Self::Damaged { damaged: error.to_string() },
        }
    }
}

/// Handles `/audit` and `GET /api/v1/audit`.
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let params = Params::from_query(query.as_deref())?;
    params.only(PARAMS)?;
    let now = Utc::now();
    if wants_lines(&params, &headers) {
        let filter = filter(&params, now, AuditOrder::OldestFirst)?;
        let is_page = params.get("limit").is_some();
        return Ok(lines::respond(app.records.clone(), filter, is_page));
    }
    let filter = filter(&params, now, AuditOrder::NewestFirst)?;
    let failed = |error: RecordsError| records_failed(&error);
    let found = app.records.audit_page(&filter).await.map_err(failed)?;
    let total = app.records.count_audit(&filter).await.map_err(failed)?;
    let next_cursor = found.next.map(|seq| seq.to_string());
    let page = ListPage { items: found.items, next_cursor, total };
    let text = || text::list(&page);
    Ok(paging::respond(&caller, "audit", &params, &page, text, AuditItemJson::from))
}

/// Parses the filter. `after` without `order` means oldest first.
fn filter(
    params: &Params,
    now: DateTime<Utc>,
    default: AuditOrder,
) -> Result<AuditFilter, Problem> {
    let orders = [("asc", AuditOrder::OldestFirst), ("desc", AuditOrder::NewestFirst)];
    let after = number(params, "after")?;
    let implied = if after.is_some() { AuditOrder::OldestFirst } else { default };
    let text = |name| params.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let cursor = paging::cursor(params, |text| text.parse().ok())?;
    Ok(AuditFilter {
        since: params.time("since", now)?,
        until: params.time("until", now)?,
        actor: text("actor"),
        action: text("action"),
        subject: text("subject"),
        order: params.choice("order", &orders)?.unwrap_or(implied),
        after: cursor.or(after),
        limit: paging::limit(params)?,
    })
}

fn number(params: &Params, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let hint = format!("For example: {name}=1000");
    let number = text.parse().ok();
    number.map(Some).ok_or_else(|| invalid(format!("{name} is the number of a record."), hint))
}
