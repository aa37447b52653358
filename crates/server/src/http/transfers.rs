//! Transfers: made, listed, shown and cancelled.

mod json;
mod list;
mod words;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use chrono::Utc;
use filepull_core::id::TransferId;

use super::App;
use super::body::Asked;
use super::caller::Caller;
use super::ids::TransferIn;
use super::params::Params;
use super::preferences::{Applied, idempotency_key};
use super::reply::{self, Refusal};
use super::trigger::{self, Order};
use super::{files, paging, waiting};
use crate::transfers::{Listed, Pull};
pub(super) use json::{DAMAGED, FileJson, TransferJson};
use json::{DamagedJson, ListedJson};

/// The fields of a pull in its machine form, and `wait`.
const PULL: &[&str] = &["client", "path", "queue", "fresh", "wait"];

/// `POST /api/v1/transfers`. The status is about the request; how the transfer fares is in its
/// `state`.
pub(super) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Asked(mut params): Asked,
) -> Result<Response, Refusal> {
    let applied = Applied::follow(&headers, &mut params);
    if params.get("client").is_none_or(str::is_empty) {
        params.only(PULL)?;
        return Err(trigger::which_client(&app, "Add \"client\" to the JSON body.").await.into());
    }
    let order = Order::parse(&params, "client", PULL)?;
    let pull = Pull { key: idempotency_key(&headers)?, ..order.pull(&caller) };
    let pulled = match app.transfers.pull(pull).await {
        Ok(pulled) => pulled,
        Err(problem) => return Err(trigger::explain_for_api(&app, &order, problem).await),
    };
    let view = match order.wait {
        Some(limit) => app.watch(pulled.view, limit, |view| view.transfer.is_final()).await,
        None => pulled.view.borrow().clone(),
    };
    let resource =
        TransferJson::new(&view, &app.about.data_dir, &caller.host).joined(pulled.joined);
    let status = if pulled.joined { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = reply::json(status, &resource);
    response.headers_mut().insert(LOCATION, url(pulled.id));
    applied.tell(&mut response);
    Ok(response)
}

/// `/transfers` and `GET /api/v1/transfers`
pub(super) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let params = Params::from_query(query.as_deref())?;
    let now = Utc::now();
    let page = list::fetch(&app, &params, now).await?;
    let place = |item: &Listed| app.transfers.place_in_line(item.as_view()?.transfer.id);
    let page = page.map(|item| (place(&item), item));
    // How many run at all is no news about those that were asked for.
    let counts = (!list::is_narrowed(&params)).then(|| app.transfers.counts());
    let words = || words::list(&page, now, counts);
    Ok(paging::answer(&caller, "transfers", &params, &page, words, |(_, item)| {
        ListedJson::new(item, &app.about.data_dir, &caller.host)
    }))
}

/// `/transfers/ID` and `GET /api/v1/transfers/ID`, both with `wait`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferIn(id): TransferIn,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut params = Params::from_query(query.as_deref())?;
    let applied = Applied::follow(&headers, &mut params);
    params.only(&["wait"])?;
    let view = match app.find(id, waiting::asked(&params)?).await? {
        Listed::View(view) => view,
        Listed::Damaged(damaged) => {
            let words = || words::damaged(&damaged);
            return Ok(reply::page(&caller, words, || DamagedJson::from(&damaged)));
        }
    };
    let data_dir = &app.about.data_dir;
    let place = app.transfers.place_in_line(id);
    let stored = files::is_stored(&app, &view.transfer).await;
    let mut response = reply::page(
        &caller,
        || words::one(&view, place, stored, data_dir, &caller.host),
        || TransferJson::new(&view, data_dir, &caller.host),
    );
    applied.tell(&mut response);
    Ok(response)
}

/// `POST /api/v1/transfers/ID/cancel`. May be repeated. 202 means that the end is still to come: the
/// disk hangs, or the file is being published.
pub(super) async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferIn(id): TransferIn,
) -> Result<Response, Refusal> {
    let view = app.transfers.cancel(id, &caller.name()).await?;
    let ended = view.transfer.is_final();
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(reply::json(status, &TransferJson::new(&view, &app.about.data_dir, &caller.host)))
}

/// Where the transfer can be looked at.
pub(super) fn url(id: TransferId) -> HeaderValue {
    let url = format!("/api/v1/transfers/{id}");
    HeaderValue::try_from(url).expect("an id is hexadecimal digits and dashes")
}
