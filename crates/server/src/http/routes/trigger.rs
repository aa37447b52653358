//! `/trigger`: the one curl that pulls a file and says in words what came of it.

mod answer;

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::handler::Handler;
use axum::http::header::{ALLOW, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use chrono::Utc;
use filepull_core::problem::{Code, Problem};

use super::wait;
use crate::http::request::body::RequestParams;
use crate::http::request::caller::{Caller, Format};
use crate::http::request::extract::TextIn;
use crate::http::request::headers::PreferenceApplied;
use crate::http::request::pull::{self, PullRequest, TRIGGER};
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::RETRY_SECONDS;
use crate::http::response::resource::{TransferJson, transfer_url};
use crate::http::{App, response};
use crate::transfers::{PullResult, View};
use answer::{AnswerContext, WaitResult};

/// So long the client gets to accept or to refuse before the trigger is answered: "no such file"
/// then comes back in the same curl.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// GET and POST pull; everything else is refused and starts nothing. HEAD must be named: a `get`
/// route answers it too, and a link checker would start a transfer.
pub(crate) fn methods<H, T>(pull: H) -> MethodRouter<App>
where
    H: Handler<T, App> + Clone,
    T: 'static,
{
    get(pull.clone()).post(pull).head(refuse_method).fallback(refuse_method)
}

async fn refuse_method(method: Method, uri: Uri) -> Response {
    let detail = format!("{} does not take {method}; nothing was started.", uri.path());
    let refusal = Rejection::from(Problem::new(Code::MethodNotAllowed, detail));
    ([(ALLOW, HeaderValue::from_static("GET, POST"))], refusal).into_response()
}

/// `/trigger?id=client4`
pub(crate) async fn by_parameter(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    let applied = PreferenceApplied::follow(&headers, &mut params);
    if params.get("id").is_none_or(str::is_empty) {
        params.only(TRIGGER)?;
        return Err(pull::which_client(&app.clients, "Add ?id=…").await.into());
    }
    pull(&app, &caller, PullRequest::parse(&params, "id", TRIGGER)?, applied).await
}

/// `/trigger/client4`, for shells in which `?` needs quotes.
pub(crate) async fn by_path(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TextIn(id): TextIn,
    headers: HeaderMap,
    RequestParams(mut params): RequestParams,
) -> Result<Response, Rejection> {
    let applied = PreferenceApplied::follow(&headers, &mut params);
    params.add("id".to_owned(), id)?;
    pull(&app, &caller, PullRequest::parse(&params, "id", TRIGGER)?, applied).await
}

async fn pull(
    app: &App,
    caller: &Caller,
    order: PullRequest,
    applied: PreferenceApplied,
) -> Result<Response, Rejection> {
    let asked_at = Instant::now();
    let pull = order.pull(caller);
    let pulled = match app.transfers.pull(pull).await {
        Ok(pulled) => pulled,
        Err(problem) => {
            return Err(pull::explain_for_curl(&app.clients, caller, &order, problem).await);
        }
    };
    let (view, end) = match order.wait {
        Some(limit) => {
            wait::watch(app, pulled.view.clone(), limit, |view| view.transfer.is_final()).await
        }
        None => wait::watch(app, pulled.view.clone(), SETTLE_LIMIT, View::is_settled).await,
    };
    let waited = order.wait.map(|_| WaitResult { time: asked_at.elapsed(), end });
    let mut response = answered(app, caller, &pulled, &view, waited)
        .map_err(|problem| pull::explain_failed(caller, &order, pulled.id, problem))?;
    if !view.transfer.is_final() {
        response.headers_mut().insert(LOCATION, transfer_url(pulled.id));
    }
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    applied.tell(&mut response);
    Ok(response)
}

fn answered(
    app: &App,
    caller: &Caller,
    pulled: &PullResult,
    view: &View,
    waited: Option<WaitResult>,
) -> Result<Response, Problem> {
    let told = AnswerContext {
        view,
        joined: pulled.joined,
        waited,
        place: app.transfers.place_in_line(pulled.id),
        n_running: app.transfers.counts().running,
        data_dir: &app.about.data_dir,
        host: &caller.host,
        now: Utc::now(),
    };
    let (status, words) = answer::answer(&told)?;
    Ok(match caller.format {
        Format::Text => response::plain_text(status, words),
        Format::Json => {
            let resource =
                TransferJson::new(view, &app.about.data_dir, &caller.host).joined(pulled.joined);
            response::json(status, &resource)
        }
    })
}
