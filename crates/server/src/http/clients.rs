//! Clients: who is online, and since when the others are not.

mod json;
mod list;
mod words;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use chrono::Utc;
use filepull_core::problem::{Code, Problem};
use tracing::error;

use super::App;
use super::caller::Caller;
use super::ids::ClientIn;
use super::paging;
use super::params::{NoParams, Params};
use super::reply::{self, Rejection};
use crate::records::{RecordedTransfer, RecordsError};
use crate::registry::ClientView;
use crate::transfers::{TransferListItem, View};
use json::ClientJson;

/// A client and its transfers.
#[derive(Debug)]
struct ClientDetails {
    client: ClientView,
    /// The unfinished one.
    current: Option<View>,
    /// The one that was asked for last, which may be the same.
    last: Option<TransferListItem>,
}

impl ClientDetails {
    fn of(app: &App, client: ClientView, last: Option<RecordedTransfer>) -> Self {
        let current = app.transfers.current(&client.record.id);
        let last = last.map(|last| app.transfers.listed(last));
        Self { client, current, last }
    }
}

/// `/clients` and `GET /api/v1/clients`
pub(super) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let params = Params::from_query(query.as_deref())?;
    let page = list::fetch(&app, &params).await?;
    let shown: Vec<_> = page.items.iter().map(|client| client.record.id.clone()).collect();
    let newest = app.records.newest_of_each(&shown).await;
    let mut newest = newest.map_err(|error| failed(&error))?;
    let page = page.map(|client| {
        let last = newest.remove(&client.record.id);
        ClientDetails::of(&app, client, last)
    });
    let counts = app.clients.counts().await;
    let words = || words::list(&page, counts, Utc::now());
    Ok(paging::answer(&caller, "clients", &params, &page, words, ClientJson::new))
}

/// `/clients/ID` and `GET /api/v1/clients/ID`
pub(super) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
    ClientIn(id): ClientIn,
) -> Result<Response, Rejection> {
    let client = app.clients.known(&id, failed).await?;
    let last = app.records.newest(&id).await.map_err(|error| failed(&error))?;
    let known = ClientDetails::of(&app, client, last);
    let words = || words::one(&known, Utc::now(), &caller.host);
    Ok(reply::page(&caller, words, || ClientJson::new(&known)))
}

/// The records failed: the log gets the reason, the caller a sentence.
pub(super) fn failed(error: &RecordsError) -> Problem {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    error!(event = "records.failed", %error, cause, "the records failed");
    Problem::new(Code::RecordsFailed, "The server could not read its records.")
}
