//! Why a request is rejected: a problem, and what JSON adds to it.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use filepull_core::problem::{Code, Problem};
use serde_json::{Map, Value};

/// A problem on its way to the caller. [`frame`](super::frame) renders it, so that handlers need
/// not know who asks.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) problem: Problem,
    pub(crate) members: Map<String, Value>,
}

impl Rejection {
    /// Adds a member of its own to the JSON form.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The error.
    pub(crate) fn code(&self) -> &Code {
        &self.problem.code
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        let status = self.problem.code.status();
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Says which methods would do.
    pub(crate) fn naming_methods(mut self, allowed: &str) -> Self {
        let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
        self.problem.hint = format!("Use {}.", allowed.join(" or "));
        self
    }
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self { problem, members: Map::new() }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        // The body made of the status is empty; its headers must not outlive it.
        *response.headers_mut() = HeaderMap::new();
        response.extensions_mut().insert(self);
        response
    }
}

/// A bad or missing parameter, and what a good one looks like.
pub(crate) fn invalid(detail: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail).hint(hint)
}
