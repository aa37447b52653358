//! `/trigger`: one curl command that pulls a file and prints the outcome.

mod answer;

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::header::{ALLOW, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use filepull_core::problem::{Code, Problem};

use super::wait;
use crate::http::request::body::RequestParams;
use crate::http::request::caller::{Caller, Format};
use crate::http::request::extract::TextParam;
use crate::http::request::headers::AppliedPreference;
use crate::http::request::pull::{self, PullRequest};
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::RETRY_SECONDS;
use crate::http::response::resource::{TransferJson, transfer_url};
use crate::http::{App, response};
use crate::transfers::{PullResult, View};
use answer::{AnswerContext, WaitResult};

const PARAMS: &[&str] = &["id", "path", "wait", "queue", "fresh"];

/// How long a trigger waits for the client to accept or reject the order, so that the response can
/// contain a reason such as "no such file".
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// Rejects a method that is neither GET nor POST, also HEAD: a link checker must not start a transfer.
pub(crate) async fn reject_method(method: Method, uri: Uri) -> Response {
    let detail = format!("{} does not take {method}; nothing was started.", uri.path());
    let rejection = Rejection::from(Problem::new(Code::MethodNotAllowed, detail));
    ([(ALLOW, HeaderValue::from_static("GET, POST"))], rejection).into_response()
}

/// Handles `/trigger?id=client4`, and POST with a form or a JSON object.
pub(crate) async fn by_parameter(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    let applied = AppliedPreference::apply(&headers, &mut params);
    if params.get("id").is_none_or(str::is_empty) {
        params.only(PARAMS)?;
        return Err(pull::which_client(&app.clients, "Add ?id=…").await.into());
    }
    trigger(&app, &caller, PullRequest::parse(&params, "id", PARAMS)?, applied).await
}

/// Handles `/trigger/client4`, for shells in which a `?` must be quoted.
pub(crate) async fn by_path(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TextParam(id): TextParam,
    headers: HeaderMap,
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    let applied = AppliedPreference::apply(&headers, &mut params);
    params.add("id".to_owned(), id)?;
    trigger(&app, &caller, PullRequest::parse(&params, "id", PARAMS)?, applied).await
}

async fn trigger(
    app: &App,
    caller: &Caller,
    request: PullRequest,
    applied: AppliedPreference,
) -> Result<Response, Rejection> {
    let received_at = Instant::now();
    let pulled = match app.transfers.pull(request.pull(caller)).await {
        Ok(pulled) => pulled,
        Err(problem) => {
            return Err(pull::explain_for_curl(&app.clients, caller, &request, problem).await);
        }
    };
    let view = pulled.view.clone();
    let (view, end) = match request.wait {
        Some(limit) => wait::watch(app, view, limit, |view| view.transfer.is_final()).await,
        None => wait::watch(app, view, SETTLE_LIMIT, View::is_settled).await,
    };
    let waited = request.wait.map(|_| WaitResult { time: received_at.elapsed(), end });
    let mut response = respond(app, caller, &pulled, &view, waited)
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

fn respond(
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
        place: app.transfers.queue_position(pulled.id),
        n_running: app.transfers.counts().running,
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
