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
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};

use super::App;
use super::body::RequestParams;
use super::caller::{Caller, Format};
use super::ids::{ClientIn, TransferIn};
use super::params::Params;
use super::preferences::{PreferenceApplied, idempotency_key};
use super::reply::{self, Rejection};
use super::trigger::{self, PullRequest};
use super::{clients, files, paging, waiting};
use crate::records::RecordedTransfer;
use crate::transfers::{Pull, TransferListItem, View};
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
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    let applied = PreferenceApplied::follow(&headers, &mut params);
    if params.get("client").is_none_or(str::is_empty) {
        params.only(PULL)?;
        return Err(trigger::which_client(&app, "Add \"client\" to the JSON body.").await.into());
    }
    let order = PullRequest::parse(&params, "client", PULL)?;
    let pull = Pull { key: idempotency_key(&headers)?, ..order.pull(&caller) };
    let pulled = match app.transfers.pull(pull).await {
        Ok(pulled) => pulled,
        Err(problem) => return Err(trigger::explain_for_api(&app, &order, problem).await),
    };
    let view = match order.wait {
        Some(limit) => app.watch(pulled.view, limit, |view| view.transfer.is_final()).await.0,
        None => pulled.view.borrow().clone(),
    };
    let resource =
        TransferJson::new(&view, &app.about.data_dir, &caller.host).joined(pulled.joined);
    let status = match pulled.joined {
        // The wait timed out: the request was accepted, and its work is not done (RFC 7240).
        _ if order.wait.is_some() && !view.transfer.is_final() => StatusCode::ACCEPTED,
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
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
) -> Result<Response, Rejection> {
    let params = Params::from_query(query.as_deref())?;
    let now = Utc::now();
    let page = list::fetch(&app, &params, now).await?;
    let place = |item: &TransferListItem| app.transfers.place_in_line(item.as_view()?.transfer.id);
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
) -> Result<Response, Rejection> {
    let mut params = Params::from_query(query.as_deref())?;
    let applied = PreferenceApplied::follow(&headers, &mut params);
    params.only(&["wait"])?;
    let view = match app.find(id, waiting::asked(&params)?).await? {
        TransferListItem::View(view) => view,
        TransferListItem::Damaged(damaged) => {
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

/// `POST /transfers/ID/cancel`, and the same under `/api/v1`. May be repeated. 202 means that the end
/// is still to come: the disk hangs, or the file is being published.
pub(super) async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferIn(id): TransferIn,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&[])?;
    let view = app.transfers.cancel(id, &caller.name()).await?;
    Ok(cancelled(&app, &caller, &view))
}

/// `POST /clients/ID/cancel`, and the same under `/api/v1`: cancels the client's unfinished transfer,
/// of several the one that runs. Without one the newest is shown, unchanged.
pub(super) async fn cancel_of_client(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ClientIn(client): ClientIn,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&[])?;
    let id = match app.transfers.current(&client) {
        Some(view) => view.transfer.id,
        None => newest_of(&app, &client).await?,
    };
    let view = app.transfers.cancel(id, &caller.name()).await?;
    Ok(cancelled(&app, &caller, &view))
}

async fn newest_of(app: &App, client: &ClientId) -> Result<TransferId, Problem> {
    match app.records.newest(client).await.map_err(|error| clients::failed(&error))? {
        Some(RecordedTransfer::Readable(transfer)) => Ok(transfer.id),
        Some(RecordedTransfer::Damaged(damaged)) => Err(damaged.problem()),
        None => {
            app.clients.known(client, clients::failed).await?;
            let detail = format!("{client} has no transfer to cancel.");
            Err(Problem::new(Code::TransferUnknown, detail))
        }
    }
}

fn cancelled(app: &App, caller: &Caller, view: &View) -> Response {
    let status = if view.transfer.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let (data_dir, host) = (&app.about.data_dir, &caller.host);
    match caller.format {
        Format::Text => reply::text(status, words::cancelled(view, data_dir, host)),
        Format::Json => reply::json(status, &TransferJson::new(view, data_dir, host)),
    }
}

/// Where the transfer can be looked at.
pub(super) fn url(id: TransferId) -> HeaderValue {
    let url = format!("/api/v1/transfers/{id}");
    HeaderValue::try_from(url).expect("an id is hexadecimal digits and dashes")
}
