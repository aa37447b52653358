//! Surrounds every request: its span and id, its log event, and the rendering of its error.

use std::any::Any;
use std::net::SocketAddr;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, HeaderName, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use tracing::{Instrument as _, error, error_span};

use super::request::caller::{Caller, check_format};
use super::request::gate::Gate;
use super::request::rejection::Rejection;
use super::request::suggest::suggest_path;
use super::request_log::{RequestLog, RequestLogEntry};
use super::response::problem;
use super::routing::Access;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// What [`answer`] needs for every request.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) log: RequestLog,
    pub(crate) own_addr: SocketAddr,
    pub(crate) gate: Gate,
}

/// Gives a request its id and its span, answers it, and logs it.
pub(crate) async fn answer(
    State(Surroundings { log, own_addr, gate }): State<Surroundings>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = Caller::of(&mut request, own_addr, &gate);
    let entry = RequestLogEntry::of(&request);
    // Level `error`: at LOG_LEVEL=warn an `info` span would be disabled, and its id lost.
    let span = error_span!("request", id = %caller.request_id);
    async {
        let mut response = answer_caller(request, next, &caller, &gate).await;
        log.log(&entry, &caller, &response);
        // For `rejections::record` and `render`, which run outside the router.
        response.extensions_mut().insert(entry);
        response.extensions_mut().insert(caller);
        response
    }
    .instrument(span)
    .await
}

async fn answer_caller(mut request: Request, next: Next, caller: &Caller, gate: &Gate) -> Response {
    let checked = gate.check_origin(&request).and_then(|()| check_format(request.uri()));
    let mut response = match checked {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(problem) => Rejection::from(problem).into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED
        && let Err(too_many) = gate.count_failure()
    {
        response = too_many.into_response();
    }
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    if let Ok(request_id) = HeaderValue::from_str(&caller.request_id.to_string()) {
        headers.insert(REQUEST_ID, request_id);
    }
    response
}

/// Rejects a caller who may not use the route. It runs before the handler of every route.
pub(crate) async fn authorize(
    State(access): State<Access>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let checked = match access {
        Access::Public => Ok(()),
        Access::Needs(role) => caller.check_role(role),
        Access::NeedsAll(role) => caller.check_role(role).and_then(|()| caller.check_sees_all()),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => Rejection::from(problem).into_response(),
    }
}

/// Renders the rejection of a request. It runs outside the router, which adds `Allow` to a response
/// only after the middleware of its routes.
pub(crate) async fn render(mut response: Response) -> Response {
    let caller = response.extensions_mut().remove::<Caller>();
    let rejection = response.extensions_mut().remove::<Rejection>();
    let (Some(caller), Some(rejection)) = (caller, rejection) else { return response };
    let mut headers = std::mem::take(response.headers_mut());
    // The length of the empty body that is replaced.
    headers.remove(CONTENT_LENGTH);
    let allowed = headers.get(ALLOW).and_then(|allowed| allowed.to_str().ok());
    let mut rendered = match allowed {
        Some(allowed) => problem::render(&rejection.naming_methods(allowed), &caller),
        None => problem::render(&rejection, &caller),
    };
    rendered.headers_mut().extend(headers);
    rendered
}

/// Rejects a request for a URL that does not exist, and suggests one that does.
pub(crate) async fn no_such_url(uri: Uri) -> Rejection {
    let path = human::printable(uri.path(), 200);
    let meant = suggest_path(uri.path()).map(|path| format!(" Did you mean {path}?"));
    let detail = format!("There is nothing at {path}.{}", meant.unwrap_or_default());
    Problem::new(Code::NoSuchUrl, detail).into()
}

/// Rejects a method that the URL does not support. The router adds `Allow`.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Rejection {
    let path = human::printable(uri.path(), 200);
    Problem::new(Code::MethodNotAllowed, format!("{path} does not take {method}.")).into()
}

/// Answers a request whose handler panicked.
#[allow(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer requires")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = literal.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    error!(event = "request.panicked", text, "the handler of a request panicked");
    let detail = "The server could not answer because of a bug; other requests are not affected.";
    Rejection::from(Problem::new(Code::Internal, detail)).into_response()
}
