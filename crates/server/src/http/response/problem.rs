//! Problems as responses (RFC 9457).

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

/// A server that stops is back after about this many seconds.
pub(crate) const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("10");

/// The answer for this caller.
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

/// The problem with commands that reach this server as `host`: neither the catalogue nor the
/// records know the name that the caller uses.
pub(crate) fn with_host(problem: &Problem, host: &str) -> Problem {
    Problem { hint: problem.hint.replace("localhost:8080", host), ..problem.clone() }
}

/// What happened, and on the next line what to do.
pub(crate) fn to_text(problem: &Problem) -> String {
    // An agent had a hand in some of these texts.
    let (detail, hint) = (human::printable(&problem.detail, 2000), &problem.hint);
    format!("{detail}\n{}\n", human::printable(hint, 2000))
}

/// The records failed: the log gets the reason, the caller a sentence.
pub(crate) fn records_failed(error: &RecordsError) -> Problem {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    error!(event = "records.failed", %error, cause, "the records failed");
    Problem::new(Code::RecordsFailed, "The server could not read its records.")
}

/// A problem as JSON: the body of an error, and the `error` of a transfer.
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
    /// The same with commands that reach this server as `host`.
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
