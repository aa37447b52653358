//! Parses the parameters of a list of transfers, and fetches the page.

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::PhaseName;

use crate::http::App;
use crate::http::request::params::Params;
use crate::http::request::rejection::invalid;
use crate::http::response::paging::{self, ListPage};
use crate::records::{Cursor, TransferFilter};
use crate::scope::Scope;
use crate::transfers::{ActivityFilter, TransferListItem};

const PARAMS: &[&str] =
    &["client", "state", "since", "until", "error", "download", "limit", "cursor"];

/// The values of the parameter `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferSelection {
    /// Only memory knows whether an unfinished transfer waits or runs.
    Unfinished(ActivityFilter),
    /// A final state, which is in the records.
    Final(PhaseName),
}

const STATES: &[(&str, TransferSelection)] = &[
    ("waiting", TransferSelection::Unfinished(ActivityFilter::Waiting)),
    ("running", TransferSelection::Unfinished(ActivityFilter::Running)),
    ("done", TransferSelection::Final(PhaseName::Done)),
    ("unchanged", TransferSelection::Final(PhaseName::Unchanged)),
    ("failed", TransferSelection::Final(PhaseName::Failed)),
    ("cancelled", TransferSelection::Final(PhaseName::Cancelled)),
];

/// The values of the parameter `download`.
const DOWNLOADS: &[(&str, ())] = &[("damaged", ())];

/// Returns whether the parameters exclude some transfers from the list.
pub(crate) fn is_filtered(params: &Params) -> bool {
    let filters = ["client", "state", "since", "until", "error", "download"];
    filters.iter().any(|name| params.get(name).is_some())
}

/// Returns the page that the parameters select, newest first.
pub(crate) async fn fetch(
    app: &App,
    scope: &Scope,
    params: &Params,
    now: DateTime<Utc>,
) -> Result<ListPage<TransferListItem>, Problem> {
    params.only(PARAMS)?;
    let selection = params.choice("state", STATES)?;
    let mut filter = filter(scope, params, now)?;
    let page = match selection {
        Some(TransferSelection::Unfinished(_)) if filter.only_damaged => {
            let detail = "download=damaged selects transfers that are done.";
            return Err(invalid(detail, "Leave out state, or write state=done."));
        }
        Some(TransferSelection::Unfinished(activity)) => {
            app.transfers.list_unfinished(activity, &filter).await?
        }
        Some(TransferSelection::Final(phase)) => {
            filter.states = vec![phase];
            app.transfers.list(&filter).await?
        }
        None => app.transfers.list(&filter).await?,
    };
    Ok(ListPage { items: page.items, next_cursor: page.next_cursor, total: page.total })
}

fn filter(scope: &Scope, params: &Params, now: DateTime<Utc>) -> Result<TransferFilter, Problem> {
    Ok(TransferFilter {
        scope: scope.clone(),
        client: params.client("client")?,
        states: Vec::new(),
        since: params.time("since", now)?,
        until: params.time("until", now)?,
        error: error(params)?,
        only_damaged: params.choice("download", DOWNLOADS)?.is_some(),
        limit: paging::limit(params)?,
        cursor: paging::cursor(params, Cursor::parse)?,
    })
}

fn error(params: &Params) -> Result<Option<Code>, Problem> {
    let codes: Vec<(&str, Code)> = Code::ALL.iter().map(|code| (code.as_str(), *code)).collect();
    params.choice("error", &codes)
}
