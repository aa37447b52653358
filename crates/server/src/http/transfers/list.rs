//! Which transfers a list shows.

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};

use super::super::App;
use super::super::paging::{self, Page};
use super::super::params::Params;
use crate::records::{Cursor, StateWord, TransferFilter};
use crate::transfers::{Listed, State};

const PARAMS: &[&str] = &["client", "state", "since", "until", "error", "limit", "cursor"];

/// The words of the `state` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// In line, or away.
    Waiting,
    /// Asked for, or being received.
    Running,
    /// This state, which is as final in the records as it is here.
    Final(StateWord),
}

const STATES: &[(&str, Wanted)] = &[
    ("waiting", Wanted::Waiting),
    ("running", Wanted::Running),
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
    match wanted {
        Some(Wanted::Waiting) => {
            unfinished(app, filter, |state| matches!(state, State::Waiting(_))).await
        }
        Some(Wanted::Running) => unfinished(app, filter, |state| state == State::Running).await,
        Some(Wanted::Final(word)) => {
            filter.states = vec![word];
            recorded(app, &filter).await
        }
        None => recorded(app, &filter).await,
    }
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

async fn recorded(app: &App, filter: &TransferFilter) -> Result<Page<Listed>, Problem> {
    let page = app.transfers.list(filter).await?;
    Ok(Page { items: page.items, next_cursor: page.next_cursor, total: page.total })
}

/// Whether an unfinished transfer waits or runs is not on record: all of them are looked at. There
/// are at most `MAX_RUNNING` and `MAX_WAITING` together.
async fn unfinished(
    app: &App,
    wanted: TransferFilter,
    is_wanted: impl Fn(State) -> bool,
) -> Result<Page<Listed>, Problem> {
    let (limit, cursor) = (wanted.limit, wanted.cursor);
    let states = vec![StateWord::Queued, StateWord::Receiving, StateWord::Sealed];
    let all = TransferFilter::MAX_LIMIT;
    let mut filter = TransferFilter { states, limit: all, cursor: None, ..wanted };
    let mut items = Vec::new();
    loop {
        let page = app.transfers.list(&filter).await?;
        // A damaged record may be of any state.
        let is_wanted = |item: &Listed| item.as_view().is_none_or(|view| is_wanted(view.state()));
        items.extend(page.items.into_iter().filter(is_wanted));
        match page.next_cursor.as_deref().and_then(Cursor::parse) {
            Some(cursor) => filter.cursor = Some(cursor),
            None => break,
        }
    }
    let is_after = |item: &Listed| cursor.is_none_or(|cursor| item.cursor() < Some(cursor));
    let key = |item: &Listed| item.cursor().map_or_else(String::new, |at| at.to_string());
    Ok(paging::cut(items, limit, is_after, key))
}

fn error(params: &Params) -> Result<Option<Code>, Problem> {
    let codes: Vec<(&str, Code)> = Code::ALL.iter().map(|code| (code.as_str(), *code)).collect();
    params.choice("error", &codes)
}
