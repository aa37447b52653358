//! What surrounds every request: its number, its line in the log, and how problems are told.

use std::any::Any;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use tracing::{debug, error, info};
use uuid::Uuid;

use super::App;
use super::caller::{Caller, check_format};
use super::nearest::nearest_path;
use super::reply::Refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Numbers a request, renders the problem it ended with, and logs it.
pub(super) async fn frame(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let caller = Caller::of(&request, app.about.http_addr);
    let line = Line::of(&request, caller.request_id);
    let mut response = match check_format(request.uri()) {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(problem) => Refusal::from(problem).into_response(),
    };
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        // A handler may have said more in headers, such as `Allow`.
        let headers = std::mem::take(response.headers_mut());
        response = refusal.render(&caller);
        response.headers_mut().extend(headers);
    }
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(request_id) = HeaderValue::from_str(&caller.request_id.to_string()) {
        headers.insert(REQUEST_ID, request_id);
    }
    line.log(response.status(), started);
    response
}

/// What the log says of a request: never its URL, which may hold anything.
struct Line {
    method: Method,
    route: Option<MatchedPath>,
    request_id: Uuid,
}

impl Line {
    fn of(request: &Request, request_id: Uuid) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self { method: request.method().clone(), route, request_id }
    }

    fn log(&self, status: StatusCode, started: Instant) {
        let Self { method, route, request_id } = self;
        let route = route.as_ref().map_or("none", MatchedPath::as_str);
        let (duration_seconds, status) = (started.elapsed().as_secs_f64(), status.as_u16());
        if status < 500 {
            debug!(
                event = "http.request", %method, route, status, duration_seconds, %request_id,
                "request answered"
            );
        } else {
            info!(
                event = "http.request", %method, route, status, duration_seconds, %request_id,
                "request answered"
            );
        }
    }
}

/// Answers for URLs that do not exist.
pub(super) async fn no_such_url(uri: Uri) -> Refusal {
    let path = human::printable(uri.path(), 200);
    let meant = nearest_path(uri.path()).map(|path| format!(" Did you mean {path}?"));
    let detail = format!("There is nothing at {path}.{}", meant.unwrap_or_default());
    Problem::new(Code::NoSuchUrl, detail).into()
}

/// Answers for methods that a URL does not take. The router adds `Allow`.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let path = human::printable(uri.path(), 200);
    Problem::new(Code::MethodNotAllowed, format!("{path} does not take {method}.")).into()
}

/// Answers for a handler that panicked.
#[allow(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    error!(event = "http.panicked", text, "a request made the server panic");
    let detail = "The server made a mistake while it answered; others are not affected.";
    Refusal::from(Problem::new(Code::Internal, detail)).into_response()
}
