//! The bytes of downloads, whole or in ranges, with what proves them.
//!
//! What was pulled is untrusted: it is only ever offered for saving, never for rendering.

mod conditions;
mod headers;
mod opened;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_RANGE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Download, Phase, Transfer};
use tokio::task::spawn_blocking;
use tower::ServiceExt as _;
use tower_http::services::ServeDir;
use tracing::{error, info};

use super::caller::Caller;
use super::ids::{ClientIn, TransferIn};
use super::reply::Refusal;
use super::{App, clients, say};
use crate::records::Recorded;
use conditions::Verdict;
use opened::Opened;

/// `/clients/ID/file`: the client's newest finished download, at a URL that never changes.
pub(super) async fn newest_of_client(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ClientIn(client): ClientIn,
    request: Request,
) -> Result<Response, Refusal> {
    let newest = app.records.newest_download(&client).await;
    match newest.map_err(|error| clients::failed(&error))? {
        Some(Recorded::Readable(transfer)) => file(&app, &caller, &transfer, request).await,
        // An older download would be another file than the newest.
        Some(Recorded::Damaged(damaged)) => Err(damaged.problem().into()),
        None => Err(no_download(&app, &client).await.into()),
    }
}

async fn no_download(app: &App, client: &ClientId) -> Problem {
    match app.clients.known(client, clients::failed).await {
        Err(unknown) => unknown,
        Ok(_) => {
            let hint = format!("pull one: curl \"localhost:8080/trigger?id={client}&wait\"");
            Problem::new(Code::TransferUnknown, format!("{client} has no finished download yet."))
                .hint(hint)
        }
    }
}

/// `/transfers/ID/file`
pub(super) async fn of_transfer(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferIn(id): TransferIn,
    request: Request,
) -> Result<Response, Refusal> {
    let view = app.transfers.find(id).await?;
    match &view.transfer.phase {
        Phase::Done(_) => file(&app, &caller, &view.transfer, request).await,
        Phase::Failed(ended) | Phase::Cancelled(ended) => Err(ended.problem.clone().into()),
        Phase::Queued | Phase::Receiving { .. } | Phase::Sealed(_) => {
            let progress = say::progress(&view).unwrap_or_else(|| "nothing is here yet".to_owned());
            let detail = format!("The transfer is not finished: {progress}.");
            let hint = format!("wait for it: curl \"localhost:8080/transfers/{id}?wait\"");
            Err(Problem::new(Code::TransferActive, detail).hint(hint).into())
        }
    }
}

async fn file(
    app: &App,
    caller: &Caller,
    transfer: &Transfer,
    request: Request,
) -> Result<Response, Refusal> {
    let Some(download) = transfer.download() else { return Err(deleted(transfer).into()) };
    let opened = open(app, transfer, download).await?;
    let (mut head, _) = request.into_parts();
    let etag = headers::etag(download);
    let mut response = match conditions::judge(&head.method, &mut head.headers, &etag) {
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::PreconditionFailed => StatusCode::PRECONDITION_FAILED.into_response(),
        Verdict::Serve => {
            let mut request = Request::new(Body::empty());
            *request.method_mut() = head.method.clone();
            *request.headers_mut() = head.headers;
            let service = ServeDir::with_backend("", opened).ignore_multi_range_requests(true);
            service.oneshot(request).await.into_response()
        }
    };
    if response.status().is_server_error() {
        return Err(unreadable("it was open and could not be read").into());
    }
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(no_such_range(download));
    }
    if head.method == Method::GET && response.status().is_success() {
        let (id, requested_by) = (transfer.id, caller.name());
        info!(
            event = "download.served", transfer = %id, client = %transfer.client, requested_by,
            "download served"
        );
    }
    headers::describe(response.headers_mut(), transfer, download);
    Ok(response)
}

/// Is the download still there as it arrived? One that cannot be looked at now counts as there.
pub(super) async fn is_stored(app: &App, transfer: &Transfer) -> bool {
    let Some(download) = transfer.download() else { return false };
    let gone = |problem: Problem| problem.code == Code::DownloadDeleted;
    !open(app, transfer, download).await.is_err_and(gone)
}

fn no_such_range(download: &Download) -> Response {
    let size = download.size;
    let detail =
        format!("The file has {size} bytes; the range that was asked for has none of them.");
    let refusal = Refusal::from(Problem::new(Code::RangeNotSatisfiable, detail));
    ([(CONTENT_RANGE, format!("bytes */{size}"))], refusal).into_response()
}

/// Opens a download without following links. One that has another size was changed by somebody
/// else: it is not the file that its digest speaks of.
async fn open(app: &App, transfer: &Transfer, download: &Download) -> Result<Opened, Problem> {
    let (store, client, name) = (app.store.clone(), transfer.client.clone(), download.name.clone());
    let found = spawn_blocking(move || match store.find_download(&client, &name) {
        Ok(Some(file)) => Opened::new(file).map(Some).map_err(|error| error.to_string()),
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    });
    match found.await {
        Ok(Ok(Some(opened))) if opened.len() == download.size => Ok(opened),
        Ok(Ok(_)) => Err(deleted(transfer)),
        Ok(Err(error)) => Err(unreadable(&error)),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

fn deleted(transfer: &Transfer) -> Problem {
    let client = &transfer.client;
    let detail = format!("The file that {client} sent is no longer stored as it arrived.");
    let hint = format!("pull it again: curl \"localhost:8080/trigger?id={client}&wait\"");
    Problem::new(Code::DownloadDeleted, detail).hint(hint)
}

fn unreadable(error: &str) -> Problem {
    error!(event = "store.failed", error, "a download cannot be read");
    Problem::new(Code::StorageFailed, "The server could not read the file from its disk.")
}
