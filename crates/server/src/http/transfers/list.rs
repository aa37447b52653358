//! Which transfers a list shows.

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};

use super::super::App;
use super::super::paging::{self, Page};
use super::super::params::Params;
use crate::records::{Cursor, StateWord, TransferFilter};
use crate::transfers::{Listed, Unfinished};

const PARAMS: &[&str] = &["client", "state", "since", "until", "error", "limit", "cursor"];

/// The words of the `state` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Whether an unfinished transfer waits or runs is not on record.
    Unfinished(Unfinished),
    /// This state, which is as final in the records as it is here.
    Final(StateWord),
}

const STATES: &[(&str, Wanted)] = &[
    ("waiting", Wanted::Unfinished(Unfinished::Waiting)),
    ("running", Wanted::Unfinished(Unfinished::Running)),
    ("done", Wanted::Final(StateWord::Done)),
    ("failed", Wanted::Final(StateWord::Failed)),
    ("cancelled", Wanted::Final(StateWord::Cancelled)),
];

/// Do the parameters ask for some of the transfers only?
pub(super) fn is_narrowed(params: &Params) -> bool {
    ["client", "state", "since", "until", "error"].iter().any(|name| params.get(name).is_some())
}

/// The page that the parameters ask for, newest first.
pub(super) async fn fetch(
    app: &App,
    params: &Params,
    now: DateTime<Utc>,
) -> Result<Page<Listed>, Problem> {
    params.only(PARAMS)?;
    let wanted = params.choice("state", STATES)?;
    let mut filter = filter(params, now)?;
    let page = match wanted {
        Some(Wanted::Unfinished(kind)) => app.transfers.list_unfinished(kind, &filter),
        Some(Wanted::Final(word)) => {
            filter.states = vec![word];
            app.transfers.list(&filter).await?
        }
        None => app.transfers.list(&filter).await?,
    };
    Ok(Page { items: page.items, next_cursor: page.next_cursor, total: page.total })
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
