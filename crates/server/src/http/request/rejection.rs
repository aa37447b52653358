//! The reason why a request is rejected, before it is rendered.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use filepull_core::problem::{Code, Problem};
use serde_json::{Map, Value};

/// A problem for the caller. [`middleware`](crate::http::middleware) renders it, so that a handler
/// does not depend on the format of the response.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) problem: Problem,
    /// Members of the JSON object that only this occurrence has.
    pub(crate) members: Map<String, Value>,
}

impl Rejection {
    /// Adds a member to the JSON object.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        let status = self.problem.code.status();
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Replaces the hint by the methods that the URL supports.
    pub(crate) fn naming_methods(mut self, allowed: &str) -> Self {
        let methods: Vec<&str> = allowed.split(',').map(str::trim).collect();
        self.problem.hint = format!("Use {}.", methods.join(" or "));
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
        // The headers of the empty body must not end up in the rendered response.
        *response.headers_mut() = HeaderMap::new();
        response.extensions_mut().insert(self);
        response
    }
}

/// Returns the problem for a bad or missing parameter. `hint` shows a valid one.
pub(crate) fn invalid(detail: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail).hint(hint)
}
