//! What is sent back: plain text, indented JSON, and problems (RFC 9457).

pub(crate) mod paging;
pub(crate) mod problem;
pub(crate) mod resource;
pub(crate) mod text;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use crate::http::request::caller::{Caller, Format};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A plain text answer.
pub(crate) fn plain_text(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], body).into_response()
}

/// A JSON answer, readable in a terminal.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(CONTENT_TYPE, JSON)], pretty(body)).into_response()
}

/// The same thing in words or as JSON, whichever the caller asked for.
pub(crate) fn text_or_json<J: Serialize>(
    caller: &Caller,
    words: impl FnOnce() -> String,
    resource: impl FnOnce() -> J,
) -> Response {
    match caller.format {
        Format::Text => plain_text(StatusCode::OK, words()),
        Format::Json => json(StatusCode::OK, &resource()),
    }
}

/// Two spaces of indent, and a newline at the end.
pub(crate) fn pretty(body: &impl Serialize) -> String {
    // Only a map with keys that are no text could fail, and there is none.
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    text
}
