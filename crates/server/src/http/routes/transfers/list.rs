//! Which transfers a list shows.

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};

use crate::http::App;
use crate::http::request::params::Params;
use crate::http::response::paging::{self, ListPage};
use crate::records::{Cursor, PhaseName, TransferFilter};
use crate::transfers::{ActivityFilter, TransferListItem};

const PARAMS: &[&str] = &["client", "state", "since", "until", "error", "limit", "cursor"];

/// The words of the `state` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferSelection {
    /// Whether an unfinished transfer waits or runs is not on record.
    Unfinished(ActivityFilter),
    /// This state, which is as final in the records as it is here.
    Final(PhaseName),
}

const STATES: &[(&str, TransferSelection)] = &[
    ("waiting", TransferSelection::Unfinished(ActivityFilter::Waiting)),
    ("running", TransferSelection::Unfinished(ActivityFilter::Running)),
    ("done", TransferSelection::Final(PhaseName::Done)),
    ("failed", TransferSelection::Final(PhaseName::Failed)),
    ("cancelled", TransferSelection::Final(PhaseName::Cancelled)),
];

/// Do the parameters ask for some of the transfers only?
pub(crate) fn is_narrowed(params: &Params) -> bool {
    ["client", "state", "since", "until", "error"].iter().any(|name| params.get(name).is_some())
}

/// The page that the parameters ask for, newest first.
pub(crate) async fn fetch(
    app: &App,
    params: &Params,
    now: DateTime<Utc>,
) -> Result<ListPage<TransferListItem>, Problem> {
    params.only(PARAMS)?;
    let wanted = params.choice("state", STATES)?;
    let mut filter = filter(params, now)?;
    let page = match wanted {
        Some(TransferSelection::Unfinished(kind)) => app.transfers.list_unfinished(kind, &filter),
        Some(TransferSelection::Final(word)) => {
            filter.states = vec![word];
            app.transfers.list(&filter).await?
        }
        None => app.transfers.list(&filter).await?,
    };
    Ok(ListPage { items: page.items, next_cursor: page.next_cursor, total: page.total })
}

fn filter(params: &Params, now: DateTime<Utc>) -> Result<TransferFilter, Problem> {
    Ok(TransferFilter {
        client: params.client("client")?,
        states: Vec::new(),
        since: params.time("since", now)?,
        until: params.time("until", now)?,
        error: error(params)?,
        limit: paging::limit(params)?,
        cursor: paging::cursor(params, Cursor::parse)?,
    })
}

fn error(params: &Params) -> Result<Option<Code>, Problem> {
    let codes: Vec<(&str, Code)> = Code::ALL.iter().map(|code| (code.as_str(), *code)).collect();
    params.choice("error", &codes)
}
