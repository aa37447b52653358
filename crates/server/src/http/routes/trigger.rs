//! `/trigger`: one curl command that pulls a file and prints the outcome.

mod answer;
mod confirm;

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::header::{ALLOW, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use filepull_core::problem::{Code, Problem};

use super::{limits, wait};
use crate::config::TriggerGet;
use crate::http::request::body::RequestParams;
use crate::http::request::browser::is_browser;
use crate::http::request::caller::{Caller, Format};
use crate::http::request::extract::TextParam;
use crate::http::request::headers::AppliedPreference;
use crate::http::request::params::Params;
use crate::http::request::pull::{self, PullRequest};
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::{RETRY_SECONDS, records_failed};
use crate::http::response::resource::{TransferJson, transfer_url};
use crate::http::response::text;
use crate::http::{App, response};
use crate::transfers::{PullResult, View};
use answer::{AnswerContext, WaitResult};

const PARAMS: &[&str] = &["id", "path", "wait", "queue", "fresh", "if-changed"];

/// How long a trigger waits for the client to accept or reject the order, so that the response can
/// contain a reason such as "no such file".
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// Rejects a method that is neither GET nor POST, also HEAD: a link checker must not start a transfer.
pub(crate) async fn reject_method(State(app): State<App>, method: Method, uri: Uri) -> Response {
    not_taken(&app, &method, uri.path())
}

fn not_taken(app: &App, method: &Method, path: &str) -> Response {
    let allowed = match app.trigger_get {
        TriggerGet::On => "GET, POST",
        TriggerGet::Off => "POST",
    };
    let detail = format!("{path} does not take {method}; nothing was started.");
    let rejection = Rejection::from(Problem::new(Code::MethodNotAllowed, detail));
    ([(ALLOW, HeaderValue::from_static(allowed))], rejection).into_response()
}

/// Handles `/trigger?id=client4`, and POST with a form or a JSON object.
pub(crate) async fn by_parameter(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    let request = TriggerRequest { method, uri, headers, params };
    if request.params.get("id").is_none_or(str::is_empty) {
        request.params.only(PARAMS)?;
        let clients = app.clients.within(caller.scope());
        // Rare branches are in boxes, because the future of every waiting trigger would hold them.
        return Err(Box::pin(pull::which_client(&clients, "Add ?id=…")).await.into());
    }
    request.handle(&app, &caller).await
}

/// Handles `/trigger/client4`, for shells in which a `?` must be quoted.
pub(crate) async fn by_path(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TextParam(id): TextParam,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    params.add("id".to_owned(), id)?;
    TriggerRequest { method, uri, headers, params }.handle(&app, &caller).await
}

/// A request that names a client.
struct TriggerRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    params: Params,
}

impl TriggerRequest {
    async fn handle(self, app: &App, caller: &Caller) -> Result<Response, Rejection> {
        let Self { method, uri, headers, mut params } = self;
        let is_get = method == Method::GET;
        if is_get && app.trigger_get == TriggerGet::Off {
            return Ok(not_taken(app, &method, uri.path()));
        }
        let applied = AppliedPreference::apply(&headers, &mut params);
        let request = PullRequest::parse(&params, "id", PARAMS)?;
        if is_get && is_browser(&headers) {
            return Box::pin(confirm(app, caller, &request, &params)).await;
        }
        // Both share the read buffer of the connection, 8 KiB, and a trigger may wait for hours.
        drop((uri, headers));
        trigger(app, caller, request, applied).await
    }
}

/// Asks the person in front of a browser.
async fn confirm(
    app: &App,
    caller: &Caller,
    request: &PullRequest,
    params: &Params,
) -> Result<Response, Rejection> {
    let client = app.clients.within(caller.scope()).known(&request.client, records_failed).await?;
    let file = match (&request.path, &client.record.default_file) {
        (Some(path), _) => text::name(path.as_str()),
        (None, Ok(source)) => text::name(&source.name),
        (None, Err(_)) => "its file".to_owned(),
    };
    Ok(confirm::page(request.client.as_str(), &file, params))
}

async fn trigger(
    app: &App,
    caller: &Caller,
    request: PullRequest,
    applied: AppliedPreference,
) -> Result<Response, Rejection> {
    let received_at = Instant::now();
    limits::check(app, caller, &request).await?;
    let pulled = match app.transfers.pull(request.pull(caller)).await {
        Ok(pulled) => pulled,
        Err(problem) => {
            let clients = app.clients.within(caller.scope());
            let explained = pull::explain_for_curl(&clients, caller, &request, problem);
            return Err(Box::pin(explained).await);
        }
    };
    let view = pulled.view.clone();
    let (view, end) = match request.wait {
        Some(limit) => wait::watch(app, view, limit, |view| view.transfer.is_final()).await,
        None => wait::watch(app, view, SETTLE_LIMIT, View::is_settled).await,
    };
    let waited = request.wait.map(|_| WaitResult { time: received_at.elapsed(), end });
    let mut response = respond(app, caller, &pulled, &view, waited)
        .await
        .map_err(|problem| pull::explain_failed(caller, &request, pulled.id, problem))?;
    if !view.transfer.is_final() {
        response.headers_mut().insert(LOCATION, transfer_url(pulled.id));
    }
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    applied.add_to(&mut response);
    Ok(response)
}

async fn respond(
    app: &App,
    caller: &Caller,
    pulled: &PullResult,
    view: &View,
    waited: Option<WaitResult>,
) -> Result<Response, Problem> {
    let context = AnswerContext {
        view,
        joined: pulled.joined,
        waited,
        place: app.transfers.queue_position(pulled.id, caller.scope()),
        n_running: app.transfers.counts(caller.scope()).await.running,
        data_dir: &app.about.data_dir,
        host: &caller.host,
        now: Utc::now(),
    };
    let (status, text) = answer::answer(&context)?;
    Ok(match caller.format {
        Format::Text => response::plain_text(status, text),
        Format::Json => {
            let resource = TransferJson::new(view, &app.about.data_dir, &caller.host);
            response::json(status, &resource.joined(pulled.joined))
        }
    })
}
