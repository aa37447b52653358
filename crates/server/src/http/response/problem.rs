//! Problems as responses, in text and in JSON (RFC 9457).

use std::borrow::Cow;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
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

/// Renders a rejection in the format that the caller accepts.
pub(crate) fn render(rejection: &Rejection, caller: &Caller) -> Response {
    let code = rejection.problem.code;
    let status = rejection.status();
    let problem = with_host(&rejection.problem, &caller.host);
    let mut response = match caller.format {
        Format::Text => plain_text(status, to_text(&problem)),
        Format::Json => {
            let request_id = Some(caller.request_id.to_string());
            let body = ProblemJson { request_id, ..ProblemJson::new(&problem, &rejection.members) };
            (status, [(CONTENT_TYPE, PROBLEM)], pretty(&body)).into_response()
        }
    };
    if matches!(code, Code::ServerStopping | Code::ServerBusy) {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}

/// Returns the problem with `host` in the commands of its hint. The catalogue and the records contain
/// `localhost:8080`, as they do not know the host that a caller uses.
pub(crate) fn with_host(problem: &Problem, host: &str) -> Problem {
    Problem { hint: problem.hint.replace("localhost:8080", host), ..problem.clone() }
}

/// Returns two lines: the detail and the hint.
pub(crate) fn to_text(problem: &Problem) -> String {
    // Some of these texts contain text from an agent.
    let detail = human::printable(&problem.detail, 2000);
    let hint = human::printable(&problem.hint, 2000);
    format!("{detail}\n{hint}\n")
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
    hint: Cow<'a, str>,
    #[serde(flatten)]
    members: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl<'a> ProblemJson<'a> {
    /// Returns the problem with `host` in the commands of its hint.
    pub(crate) fn with_host(problem: &'a Problem, host: &str) -> Self {
        Self { hint: Cow::Owned(with_host(problem, host).hint), ..Self::from(problem) }
    }

    fn new(problem: &'a Problem, members: &'a Map<String, Value>) -> Self {
        Self { members: Some(members), ..Self::from(problem) }
    }
}

impl<'a> From<&'a Problem> for ProblemJson<'a> {
    fn from(problem: &'a Problem) -> Self {
        let code = problem.code;
        Self {
            page: format!("/problems/{code}"),
            code,
            title: code.title(),
            status: code.status(),
            detail: &problem.detail,
            hint: Cow::Borrowed(&problem.hint),
            members: None,
            request_id: None,
        }
    }
}
