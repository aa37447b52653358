//! Creates, lists, shows and cancels transfers, in text and under `/api/v1` in JSON.

mod list;
mod text;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::Utc;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};

use super::{files, limits, wait};
use crate::http::App;
use crate::http::request::body::RequestParams;
use crate::http::request::caller::{Caller, Format};
use crate::http::request::extract::{self, ClientParam, TransferParam};
use crate::http::request::headers::{AppliedPreference, idempotency_key};
use crate::http::request::params::Params;
use crate::http::request::pull::{self, PullRequest};
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::records_failed;
use crate::http::response::resource::{DamagedJson, TransferItemJson, TransferJson, transfer_url};
use crate::http::response::{self, paging};
use crate::records::RecordedTransfer;
use crate::transfers::{Pull, TransferListItem, View};

/// The fields of `POST /api/v1/transfers`.
const CREATE_PARAMS: &[&str] = &["client", "path", "queue", "fresh", "if-changed", "wait"];

/// Handles `POST /api/v1/transfers`. The status describes the request; the field `state` describes the
/// transfer.
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    let applied = AppliedPreference::apply(&headers, &mut params);
    if params.get("client").is_none_or(str::is_empty) {
        params.only(CREATE_PARAMS)?;
        let how = "Add \"client\" to the JSON body.";
        return Err(pull::which_client(&app.clients.within(caller.scope()), how).await.into());
    }
    let request = PullRequest::parse(&params, "client", CREATE_PARAMS)?;
    let key = idempotency_key(&headers)?.map(|key| caller.own_key(&key));
    let pull = Pull { key, ..request.pull(&caller) };
    limits::check(&app, &caller, &request).await?;
    let pulled = match app.transfers.pull(pull).await {
        Ok(pulled) => pulled,
        Err(problem) => {
            return Err(pull::explain_for_api(
                &app.clients.within(caller.scope()),
                &request,
                problem,
            )
            .await);
        }
    };
    let view = match request.wait {
        Some(limit) => {
            wait::watch(&app, pulled.view, limit, |view| view.transfer.is_final()).await.0
        }
        None => pulled.view.borrow().clone(),
    };
    let resource =
        TransferJson::new(&view, &app.about.data_dir, &caller.host).joined(pulled.joined);
    let status = match pulled.joined {
        // The wait timed out: the request is accepted but not completed (RFC 7240).
        _ if request.wait.is_some() && !view.transfer.is_final() => StatusCode::ACCEPTED,
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    let mut response = response::json(status, &resource);
    response.headers_mut().insert(LOCATION, transfer_url(pulled.id));
    applied.add_to(&mut response);
    Ok(response)
}

/// Handles `/transfers` and `GET /api/v1/transfers`.
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let params = Params::from_query(query.as_deref())?;
    let now = Utc::now();
    let page = list::fetch(&app, caller.scope(), &params, now).await?;
    let place = |item: &TransferListItem| {
        app.transfers.queue_position(item.as_view()?.transfer.id, caller.scope())
    };
    let page = page.map(|item| (place(&item), item));
    // The counts are of all transfers, so they do not describe a filtered list.
    let counts = match list::is_filtered(&params) {
        true => None,
        false => Some(app.transfers.counts(caller.scope()).await),
    };
    let text = || text::list(&page, now, counts);
    Ok(paging::respond(&caller, "transfers", &params, &page, text, |(_, item)| {
        TransferItemJson::new(item, &app.about.data_dir, &caller.host)
    }))
}

/// Handles `/transfers/ID` and `GET /api/v1/transfers/ID`, both with the parameter `wait`.
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferParam(id): TransferParam,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let mut params = Params::from_query(query.as_deref())?;
    let applied = AppliedPreference::apply(&headers, &mut params);
    params.only(&["wait"])?;
    let mut view = match wait::find(&app, id, caller.scope(), extract::wait(&params)?).await? {
        TransferListItem::View(view) => view,
        TransferListItem::Damaged(damaged) => {
            let text = || text::damaged(&damaged);
            return Ok(response::text_or_json(&caller, text, || DamagedJson::from(&damaged)));
        }
    };
    let data_dir = &app.about.data_dir;
    let place = app.transfers.queue_position(id, caller.scope());
    view.download_state = files::download_state(&app, &view).await;
    let mut response = response::text_or_json(
        &caller,
        || text::transfer(&view, place, data_dir, &caller.host),
        || TransferJson::new(&view, data_dir, &caller.host),
    );
    applied.add_to(&mut response);
    Ok(response)
}

/// Handles `POST /transfers/ID/cancel`, also under `/api/v1`. Idempotent. 202 means that the transfer
/// is not final yet: the disk hangs, or the file is being published.
pub(crate) async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferParam(id): TransferParam,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&[])?;
    let view = app.transfers.cancel(id, &caller.actor(), caller.scope()).await?;
    Ok(respond_to_cancel(&app, &caller, &view))
}

/// Handles `POST /clients/ID/cancel`, also under `/api/v1`: cancels the client's running transfer, or
/// the one that has waited longest. If there is none, returns the newest transfer unchanged.
pub(crate) async fn cancel_of_client(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ClientParam(client): ClientParam,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&[])?;
    app.clients.within(caller.scope()).check(&client, records_failed).await?;
    let id = match app.transfers.current(&client) {
        Some(view) => view.transfer.id,
        None => newest_transfer(&app, &caller, &client).await?,
    };
    let view = app.transfers.cancel(id, &caller.actor(), caller.scope()).await?;
    Ok(respond_to_cancel(&app, &caller, &view))
}

async fn newest_transfer(
    app: &App,
    caller: &Caller,
    client: &ClientId,
) -> Result<TransferId, Problem> {
    match app.records.newest(client).await.map_err(|error| records_failed(&error))? {
        Some(RecordedTransfer::Readable(transfer)) => Ok(transfer.id),
        Some(RecordedTransfer::Damaged(damaged)) => Err(damaged.problem()),
        None => {
            app.clients.within(caller.scope()).known(client, records_failed).await?;
            let detail = format!("{client} has no transfer to cancel.");
            Err(Problem::new(Code::TransferUnknown, detail))
        }
    }
}

fn respond_to_cancel(app: &App, caller: &Caller, view: &View) -> Response {
    let status = if view.transfer.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let data_dir = &app.about.data_dir;
    let host = &caller.host;
    match caller.format {
        Format::Text => response::plain_text(status, text::cancelled(view, data_dir, host)),
        Format::Json => response::json(status, &TransferJson::new(view, data_dir, host)),
    }
}
