//! Handles `/clients` and `/clients/ID`, in text and under `/api/v1` in JSON.

mod list;
mod text;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use chrono::Utc;

use crate::http::App;
use crate::http::request::caller::Caller;
use crate::http::request::extract::ClientParam;
use crate::http::request::params::{NoParams, Params};
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::records_failed;
use crate::http::response::resource::{ClientDetails, ClientJson};
use crate::http::response::{self, paging};
use crate::records::RecordedTransfer;
use crate::registry::ClientView;

/// Handles `/clients` and `GET /api/v1/clients`.
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let params = Params::from_query(query.as_deref())?;
    let clients = app.clients.within(caller.scope());
    let page = list::fetch(&clients, &params).await?;
    let shown: Vec<_> = page.items.iter().map(|client| client.record.id.clone()).collect();
    let found = app.records.newest_of_each(&shown).await;
    let mut newest = found.map_err(|error| records_failed(&error))?;
    let detailed = page.map(|client| {
        let last = newest.remove(&client.record.id);
        details(&app, client, last)
    });
    let counts = clients.counts().await;
    let text = || text::list(&detailed, counts, Utc::now());
    Ok(paging::respond(&caller, "clients", &params, &detailed, text, ClientJson::new))
}

/// Handles `/clients/ID` and `GET /api/v1/clients/ID`.
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
    ClientParam(id): ClientParam,
) -> Result<Response, Rejection> {
    let client = app.clients.within(caller.scope()).known(&id, records_failed).await?;
    let last = app.records.newest(&id).await.map_err(|error| records_failed(&error))?;
    let details = details(&app, client, last);
    let text = || text::client(&details, Utc::now(), &caller.host);
    Ok(response::text_or_json(&caller, text, || ClientJson::new(&details)))
}

pub(crate) fn details(
    app: &App,
    client: ClientView,
    last: Option<RecordedTransfer>,
) -> ClientDetails {
    let current = app.transfers.current(&client.record.id);
    let last = last.map(|last| app.transfers.listed(last));
    ClientDetails { client, current, last }
}
