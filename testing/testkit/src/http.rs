//! A small HTTP client.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::DEADLINE;

/// Sends requests to one server.
#[derive(Clone, Debug)]
pub struct HttpClient {
    addr: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    limit: Duration,
    token: Option<String>,
}

/// A response whose body has been read.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code, such as 200.
    pub status: u16,
    /// All headers, with names in lower case.
    pub headers: HeaderMap,
    /// The body, read to its end.
    pub body: Bytes,
}

impl HttpClient {
    /// Returns a client that opens a new connection for every request, as `curl` does. A request
    /// fails after [`DEADLINE`].
    pub fn new(addr: SocketAddr) -> Self {
        Self::keep_alive(addr, 0)
    }

    /// Returns a client that keeps up to `n_connections` open for later requests.
    pub fn keep_alive(addr: SocketAddr, n_connections: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        let client = builder.pool_max_idle_per_host(n_connections).build(connector);
        Self { addr, client, limit: DEADLINE, token: None }
    }

    /// Makes a request fail after `limit`.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Sends this API token with each request.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        self.maybe_token(Some(token.to_owned()))
    }

    /// Sends this API token with each request, if there is one.
    #[must_use]
    pub(crate) fn maybe_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Sends a GET request without extra headers.
    pub async fn get(&self, path: &str) -> anyhow::Result<HttpResponse> {
        self.send(Method::GET, path, &[], "").await
    }

    /// Sends a POST request with a JSON body.
    pub async fn post(&self, path: &str, json: &Value) -> anyhow::Result<HttpResponse> {
        let headers = [("content-type", "application/json")];
        self.send(Method::POST, path, &headers, &json.to_string()).await
    }

    /// Sends a request with any method, headers and body.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<HttpResponse> {
        let uri = format!("http://{}{path}", self.addr);
        let mut builder = Request::builder().method(method).uri(&uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let has_own = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let Some(token) = self.token.as_ref().filter(|_| !has_own) {
            builder = builder.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = builder.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(HttpResponse { status: head.status.as_u16(), headers: head.headers, body })
        };
        let response = timeout(self.limit, exchange).await;
        response.with_context(|| format!("timed out waiting for {uri}"))?.with_context(|| uri)
    }
}

impl HttpResponse {
    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Parses the body as JSON. The status is not checked.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// Parses the body as JSON. Fails if the status is not 2xx.
    pub fn success_json(&self) -> anyhow::Result<Value> {
        anyhow::ensure!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self.json()
    }

    /// Returns the first line of the body.
    pub fn first_line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    /// Returns the value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
