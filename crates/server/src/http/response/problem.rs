//! Problems as responses, in text and in JSON (RFC 9457).

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse as _, Response};
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::error;

use crate::http::request::caller::{Caller, Format};
use crate::http::request::rejection::Rejection;
use crate::http::response::{plain_text, pretty};
use crate::records::RecordsError;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// `Retry-After` in seconds: a restart takes about this long.
pub(crate) const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("10");

/// How a caller signs in (RFC 6750).
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"filepull\"");

/// Renders a rejection in the format that the caller accepts.
pub(crate) fn render(rejection: &Rejection, caller: &Caller) -> Response {
    let Rejection { problem, members } = rejection;
    let status = rejection.status();
    let mut response = match caller.format {
        Format::Text => plain_text(status, to_text(problem, &caller.host)),
        Format::Json => {
            let body = ProblemJson {
                members: Some(members),
                request_id: Some(caller.request_id.to_string()),
                ..ProblemJson::new(problem, &caller.host)
            };
            (status, [(CONTENT_TYPE, PROBLEM)], pretty(&body)).into_response()
        }
    };
    if matches!(problem.code, Code::ServerStopping | Code::ServerBusy) {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    if let Some(seconds) = members.get("retry_after_seconds").and_then(Value::as_u64) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if problem.code == Code::SignedOut {
        response.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
    }
    response
}

/// Returns two lines: the detail, and the hint for a caller that reaches this server as `host`.
pub(crate) fn to_text(problem: &Problem, host: &str) -> String {
    // Some of these texts contain text from an agent.
    let detail = human::printable(&problem.detail, 2000);
    let hint = human::printable(&hint(problem, host), 2000);
    format!("{detail}\n{hint}\n")
}

/// Returns the hint with `host` in its commands. The catalogue and the records contain
/// `localhost:8080`, as they do not know the host that a caller uses.
fn hint(problem: &Problem, host: &str) -> String {
    problem.hint.replace("localhost:8080", host)
}

/// Logs a database error and returns a generic problem.
pub(crate) fn records_failed(error: &RecordsError) -> Problem {
    error!(event = "records.failed", error = %human::chain(error), "the records cannot be read");
    Problem::new(Code::RecordsFailed, "The server could not read its records.")
}

/// A problem in JSON: the body of an error response, and the field `error` of a transfer.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemJson<'a> {
    #[serde(rename = "type")]
    page: String,
    code: Code,
    title: &'static str,
    status: u16,
    detail: &'a str,
    hint: String,
    #[serde(flatten)]
    members: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl<'a> ProblemJson<'a> {
    /// `host`: the host that the caller used, for the commands of the hint.
    pub(crate) fn new(problem: &'a Problem, host: &str) -> Self {
        let code = problem.code;
        Self {
            page: format!("/problems/{code}"),
            code,
            title: code.title(),
            status: code.status(),
            detail: &problem.detail,
            hint: hint(problem, host),
            members: None,
            request_id: None,
        }
    }
}
