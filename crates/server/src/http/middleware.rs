//! What surrounds every request: its number, its line in the log, and how problems are told.

use std::any::Any;
use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, HeaderName};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use tracing::error;

use super::request::caller::{Caller, check_format};
use super::request::rejection::Rejection;
use super::request::suggest::nearest_path;
use super::request_log::{RequestLog, RequestLogEntry};
use super::response::problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Numbers a request and logs it.
pub(crate) async fn frame(
    State((log, own_addr)): State<(RequestLog, SocketAddr)>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = Caller::of(&request, own_addr);
    let entry = RequestLogEntry::of(&request);
    let mut response = match check_format(request.uri()) {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(problem) => Rejection::from(problem).into_response(),
    };
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(request_id) = HeaderValue::from_str(&caller.request_id.to_string()) {
        headers.insert(REQUEST_ID, request_id);
    }
    log.log(&entry, &caller, &response);
    response.extensions_mut().insert(caller);
    response
}

/// Renders the problem that a request ended with. Around the router, which adds `Allow` to what
/// comes out of its routes.
pub(crate) async fn render(mut response: Response) -> Response {
    let extensions = response.extensions_mut();
    let (caller, refusal) = (extensions.remove::<Caller>(), extensions.remove::<Rejection>());
    let (Some(caller), Some(refusal)) = (caller, refusal) else { return response };
    let mut headers = std::mem::take(response.headers_mut());
    // That of the empty body.
    headers.remove(CONTENT_LENGTH);
    let allowed = headers.get(ALLOW).and_then(|allowed| allowed.to_str().ok());
    let mut rendered = match allowed {
        Some(allowed) => problem::render(&refusal.naming_methods(allowed), &caller),
        None => problem::render(&refusal, &caller),
    };
    rendered.headers_mut().extend(headers);
    rendered
}

/// Answers for URLs that do not exist.
pub(crate) async fn no_such_url(uri: Uri) -> Rejection {
    let path = human::printable(uri.path(), 200);
    let meant = nearest_path(uri.path()).map(|path| format!(" Did you mean {path}?"));
    let detail = format!("There is nothing at {path}.{}", meant.unwrap_or_default());
    Problem::new(Code::NoSuchUrl, detail).into()
}

/// Answers for methods that a URL does not take. The router adds `Allow`.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Rejection {
    let path = human::printable(uri.path(), 200);
    Problem::new(Code::MethodNotAllowed, format!("{path} does not take {method}.")).into()
}

/// Answers for a handler that panicked.
#[allow(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    error!(event = "http.panicked", text, "a request made the server panic");
    let detail = "The server made a mistake while it answered; others are not affected.";
    Rejection::from(Problem::new(Code::Internal, detail)).into_response()
}
