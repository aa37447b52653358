//! Formats responses: plain text, indented JSON, and problems (RFC 9457).

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

pub(crate) fn plain_text(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], body).into_response()
}

/// Returns a JSON response, indented for a terminal.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(CONTENT_TYPE, JSON)], pretty(body)).into_response()
}

/// Returns a text or a JSON response, as the caller asked. Only that one is formatted.
pub(crate) fn text_or_json<J: Serialize>(
    caller: &Caller,
    text: impl FnOnce() -> String,
    resource: impl FnOnce() -> J,
) -> Response {
    match caller.format {
        Format::Text => plain_text(StatusCode::OK, text()),
        Format::Json => json(StatusCode::OK, &resource()),
    }
}

/// Formats JSON with an indent of two spaces and a final newline.
pub(crate) fn pretty(body: &impl Serialize) -> String {
    // Fails only for maps whose keys are not text, and no body has one.
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    text
}
