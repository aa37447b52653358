//! An operator's `curl`.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::soon;

/// An answer of the server.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl HttpResponse {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// The first line of the body.
    pub fn first_line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Sends one request to the server at `http`, on a connection of its own.
///
/// # Errors
/// The server does not answer.
pub async fn send(
    http: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<HttpResponse> {
    let mut request = Request::builder().method(method).uri(format!("http://{http}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let answer = async {
        let (head, body) = client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(HttpResponse { status: head.status.as_u16(), headers: head.headers, body })
    };
    soon(&format!("an answer to {path}"), answer).await?
}
