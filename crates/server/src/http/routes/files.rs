//! Serves downloads, whole or in ranges, with their digest.
//!
//! A download is untrusted: a browser is told to save it, never to render it.

mod conditions;
mod headers;
mod stored;

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::time::SystemTime;

use ::headers::{ContentLength, ContentRange, HeaderMapExt as _};
use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_RANGE;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use filepull_core::audit::AuditAction;
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Download, Phase, Transfer};
use tokio::task::spawn_blocking;
use tracing::{error, info};

use crate::http::App;
use crate::http::request::caller::Caller;
use crate::http::request::extract::{ClientParam, TransferParam};
use crate::http::request::params::{NoParams, Params};
use crate::http::request::pull::{path_param, shared_path};
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::records_failed;
use crate::http::response::text;
use crate::known_clients::ScopedClients;
use crate::records::{AuditEntry, DownloadState, RecordedTransfer};
use crate::transfers::View;
use conditions::{FileVersion, Precondition};
use stored::StoredFile;

/// A request for the bytes of a download.
struct FileRequest {
    caller: Caller,
    method: Method,
    headers: HeaderMap,
    /// Whether the next pull changes the file at this URL.
    changes: bool,
}

/// Handles `/clients/ID/file`: the client's newest download, or with `path` the newest of that path.
pub(crate) async fn newest_of_client(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ClientParam(client): ClientParam,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let params = Params::from_query(query.as_deref())?;
    params.only(&["path"])?;
    let path = shared_path(&params)?;
    let clients = app.clients.within(caller.scope());
    clients.check(&client, records_failed).await?;
    let newest = app.records.newest_download(&client, path.as_ref()).await;
    match newest.map_err(|error| records_failed(&error))? {
        Some(RecordedTransfer::Readable(transfer)) => {
            let request = FileRequest { caller, method, headers, changes: true };
            serve_file(&app, &transfer, request).await
        }
        // Do not fall back to an older download: it is not the newest file.
        Some(RecordedTransfer::Damaged(damaged)) => Err(damaged.problem().into()),
        None => Err(no_download(&clients, &client, path.as_ref()).await.into()),
    }
}

async fn no_download(
    clients: &ScopedClients,
    client: &ClientId,
    path: Option<&SharedPath>,
) -> Problem {
    if let Err(unknown) = clients.known(client, records_failed).await {
        return unknown;
    }
    let of_path = path.map(|path| format!(" of {}", text::name(path.as_str()))).unwrap_or_default();
    let path_param = path_param(path);
    let detail = format!("{client} has no finished download{of_path} yet.");
    let hint = format!("pull one: curl \"localhost:8080/trigger?id={client}{path_param}&wait\"");
    Problem::new(Code::TransferUnknown, detail).hint(hint)
}

/// Handles `/transfers/ID/file`, also under `/api/v1`.
pub(crate) async fn of_transfer(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferParam(id): TransferParam,
    _: NoParams,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let view = app.transfers.find(id, caller.scope()).await?;
    check_done(&view)?;
    let request = FileRequest { caller, method, headers, changes: false };
    serve_file(&app, &view.transfer, request).await
}

/// Checks that a transfer is done.
///
/// # Errors
/// The problem of a transfer that failed or made no file, or how to wait for one that is not finished.
pub(crate) fn check_done(view: &View) -> Result<(), Problem> {
    match &view.transfer.phase {
        Phase::Done(_) => Ok(()),
        Phase::Unchanged(unchanged) => {
            let client = &view.transfer.client;
            let since = &unchanged.since;
            let detail = format!("The transfer made no file: the file is unchanged since {since}.");
            let hint = format!("list the files: curl localhost:8080/transfers?client={client}");
            Err(Problem::new(Code::FileUnchanged, detail).hint(hint))
        }
        Phase::Failed(failure) | Phase::Cancelled(failure) => Err(failure.problem.clone()),
        Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_) => {
            let progress =
                text::progress(view).unwrap_or_else(|| "no bytes have arrived".to_owned());
            let detail = format!("The transfer is not finished: {progress}.");
            let id = view.transfer.id;
            let hint = format!("wait for it: curl \"localhost:8080/transfers/{id}?wait\"");
            Err(Problem::new(Code::TransferActive, detail).hint(hint))
        }
    }
}

async fn serve_file(
    app: &App,
    transfer: &Transfer,
    request: FileRequest,
) -> Result<Response, Rejection> {
    let Some(download) = transfer.download() else {
        return Err(deleted(transfer, &StoredFile::Missing).into());
    };
    let mark = match app.records.download_marks(&[transfer.id]).await {
        Ok(marks) => marks.get(&transfer.id).copied().unwrap_or_default(),
        // A mark that cannot be read may exist, so the bytes decide.
        Err(_) => DownloadState::Damaged,
    };
    let stored = find(app, transfer, download, mark).await?;
    let StoredFile::Unchanged(opened) = stored else {
        return Err(deleted(transfer, &stored).into());
    };
    let FileRequest { caller, method, headers, changes } = request;
    let modified_at = transfer.finished_at.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    let etag = headers::etag(download);
    let version = FileVersion { etag, modified_at, size: download.size, changes };
    let file_response = |range: Option<RangeInclusive<u64>>| {
        file_response(opened, range, download.size).map_err(|error| unreadable(&error))
    };
    let mut response = match conditions::evaluate(&method, &headers, &version) {
        Precondition::Whole => file_response(None)?,
        Precondition::Range(range) => file_response(Some(range))?,
        Precondition::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Precondition::OtherVersion => return Err(other_version(transfer).into()),
        Precondition::UnnamedVersion => return Err(unnamed_version(transfer).into()),
        Precondition::Unsatisfiable => return Ok(no_such_range(download)),
    };
    if method == Method::GET && response.status().is_success() {
        // Before the first byte leaves, so that no retrieval is without its record.
        let entry = retrieval(&caller, transfer, download, response.headers());
        app.records.audit(entry).await.map_err(|error| records_failed(&error))?;
        info!(
            event = "download.served", transfer = %transfer.id, client = %transfer.client,
            requested_by = caller.name(), "download served"
        );
    }
    headers::set_headers(response.headers_mut(), transfer, download, &version);
    Ok(response)
}

/// Returns the audit record of a retrieval, with the range of a partial response.
fn retrieval(
    caller: &Caller,
    transfer: &Transfer,
    download: &Download,
    headers: &HeaderMap,
) -> AuditEntry {
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    caller
        .actor()
        .did(AuditAction::DownloadRetrieved, transfer.client.as_str())
        .with("transfer", transfer.id.to_string())
        .with("file", download.name.to_string())
        .with("size", download.size)
        .with("range", range)
}

/// Returns the response with the whole file, or with the bytes of `range`.
fn file_response(
    file: File,
    range: Option<RangeInclusive<u64>>,
    size: u64,
) -> io::Result<Response> {
    let (mut response, len) = match range {
        None if size == 0 => (Body::empty().into_response(), 0),
        None => (stored::body(file, &(0..=size - 1))?.into_response(), size),
        Some(range) => {
            let len = range.end() - range.start() + 1;
            let body = stored::body(file, &range)?;
            let mut partial = (StatusCode::PARTIAL_CONTENT, body).into_response();
            if let Ok(content_range) = ContentRange::bytes(range, size) {
                partial.headers_mut().typed_insert(content_range);
            }
            (partial, len)
        }
    };
    response.headers_mut().typed_insert(ContentLength(len));
    Ok(response)
}

/// Returns the state of a download on the disk now, as far as it shows without reading a file that
/// seems untouched. If the disk cannot be read, the last known state.
pub(crate) async fn download_state(app: &App, view: &View) -> DownloadState {
    let last_state = view.download_state;
    let Some(download) = view.transfer.download() else { return last_state };
    match find(app, &view.transfer, download, DownloadState::Stored).await {
        Ok(StoredFile::Missing) => DownloadState::Deleted,
        Ok(StoredFile::Other) => DownloadState::Damaged,
        Ok(StoredFile::Unchanged(_)) if last_state == DownloadState::Deleted => {
            DownloadState::Stored
        }
        Ok(StoredFile::Unchanged(_)) | Err(_) => last_state,
    }
}

fn no_such_range(download: &Download) -> Response {
    let size = download.size;
    let detail = format!("The file has {size} bytes; none of them is in the requested range.");
    let mut response =
        Rejection::from(Problem::new(Code::RangeNotSatisfiable, detail)).into_response();
    response.headers_mut().typed_insert(ContentRange::unsatisfied_bytes(size));
    response
}

fn other_version(transfer: &Transfer) -> Problem {
    let id = transfer.id;
    let detail = format!("The file of transfer {id} is not the version in the request.");
    Problem::new(Code::PreconditionFailed, detail)
}

/// Rejects a range without a version: appended to a part of an older file, it would mix two files.
fn unnamed_version(transfer: &Transfer) -> Problem {
    let client = &transfer.client;
    let detail = format!(
        "A range of this URL needs If-Range with the ETag of the version to continue: \
         the newest file of {client} changes."
    );
    let hint = format!(
        "continue a download at the URL of its transfer: \
         curl \"localhost:8080/transfers?client={client}&state=done\""
    );
    Problem::new(Code::PreconditionFailed, detail).hint(hint)
}

/// Finds a download. One with the mark `damaged` is read whole.
async fn find(
    app: &App,
    transfer: &Transfer,
    download: &Download,
    mark: DownloadState,
) -> Result<StoredFile, Problem> {
    let store = app.store.clone();
    let transfer = transfer.clone();
    let download = download.clone();
    let found = spawn_blocking(move || stored::find(&store, &transfer, &download, mark)).await;
    found.map_err(io::Error::from).and_then(|found| found).map_err(|error| unreadable(&error))
}

/// Returns the problem for a download that was deleted or changed.
fn deleted(transfer: &Transfer, stored: &StoredFile) -> Problem {
    let client = &transfer.client;
    let name = transfer.download().map_or("the file".to_owned(), |file| file.name.to_string());
    let reason = match stored {
        StoredFile::Other => "was changed or replaced after it arrived",
        StoredFile::Missing | StoredFile::Unchanged(_) => "was removed from the data folder",
    };
    let path_param = path_param(transfer.path.as_ref());
    let hint =
        format!("pull it again: curl \"localhost:8080/trigger?id={client}{path_param}&wait\"");
    let detail = format!("{name}, which {client} sent, {reason}.");
    Problem::new(Code::DownloadDeleted, detail).hint(hint)
}

/// Logs a disk error and returns a generic problem.
fn unreadable(error: &io::Error) -> Problem {
    error!(event = "store.failed", error = %human::chain(error), "a download cannot be read");
    Problem::new(Code::StorageFailed, "The server could not read the file from its disk.")
}
