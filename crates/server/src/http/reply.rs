//! Answers: plain text, indented JSON, and problems (RFC 9457).

use std::borrow::Cow;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use serde::Serialize;
use serde_json::{Map, Value};

use super::caller::{Caller, Format};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A server that stops is back after about this many seconds.
pub(super) const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("10");

/// A plain text answer.
pub(super) fn text(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], body).into_response()
}

/// A JSON answer, readable in a terminal.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(CONTENT_TYPE, JSON)], pretty(body)).into_response()
}

/// The same thing in words or as JSON, whichever the caller asked for.
pub(super) fn page<J: Serialize>(
    caller: &Caller,
    words: impl FnOnce() -> String,
    resource: impl FnOnce() -> J,
) -> Response {
    match caller.format {
        Format::Text => text(StatusCode::OK, words()),
        Format::Json => json(StatusCode::OK, &resource()),
    }
}

/// A time in JSON: RFC 3339 in UTC, to the second.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Two spaces of indent, and a newline at the end.
fn pretty(body: &impl Serialize) -> String {
    // Only a map with keys that are no text could fail, and there is none.
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    text
}

/// A problem on its way to the caller. [`frame`](super::frame) renders it, so that handlers need
/// not know who asks.
#[derive(Clone, Debug)]
pub(super) struct Rejection {
    problem: Problem,
    members: Map<String, Value>,
}

impl Rejection {
    /// Adds a member of its own to the JSON form.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The error.
    pub(super) fn code(&self) -> &Code {
        &self.problem.code
    }

    /// Says which methods would do.
    pub(super) fn naming_methods(mut self, allowed: &str) -> Self {
        let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
        self.problem.hint = format!("Use {}.", allowed.join(" or "));
        self
    }

    /// The answer for this caller.
    pub(super) fn render(&self, caller: &Caller) -> Response {
        let code = self.problem.code;
        let status = status(code);
        let problem = addressed(&self.problem, &caller.host);
        let mut response = match caller.format {
            Format::Text => text(status, in_words(&problem)),
            Format::Json => {
                let request_id = Some(caller.request_id.to_string());
                let body = ProblemJson { request_id, ..ProblemJson::new(&problem, &self.members) };
                (status, [(CONTENT_TYPE, PROBLEM)], pretty(&body)).into_response()
            }
        };
        if matches!(code, Code::ServerStopping | Code::ServerBusy) {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self { problem, members: Map::new() }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = status(self.problem.code).into_response();
        // The body made of the status is empty; its headers must not outlive it.
        *response.headers_mut() = HeaderMap::new();
        response.extensions_mut().insert(self);
        response
    }
}

/// The problem with commands that reach this server as `host`: neither the catalogue nor the
/// records know the name that the caller uses.
pub(super) fn addressed(problem: &Problem, host: &str) -> Problem {
    Problem { hint: problem.hint.replace("localhost:8080", host), ..problem.clone() }
}

/// What happened, and on the next line what to do.
pub(super) fn in_words(problem: &Problem) -> String {
    // An agent had a hand in some of these texts.
    let (detail, hint) = (human::printable(&problem.detail, 2000), &problem.hint);
    format!("{detail}\n{}\n", human::printable(hint, 2000))
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A bad or missing parameter, and what a good one looks like.
pub(super) fn invalid(detail: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail).hint(hint)
}

/// A problem as JSON: the body of an error, and the `error` of a transfer.
#[derive(Debug, Serialize)]
pub(super) struct ProblemJson<'a> {
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
    pub(super) fn addressed(problem: &'a Problem, host: &str) -> Self {
        Self { hint: Cow::Owned(addressed(problem, host).hint), ..Self::from(problem) }
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
