//! Asks a server over HTTP: as curl does, with a connection of its own for each request, unless it
//! is told to keep some.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// A server, as an operator reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What it answered.
#[derive(Clone, Debug)]
pub(crate) struct BenchResponse {
    pub(crate) status: StatusCode,
    /// Where the answer says to look next.
    pub(crate) location: Option<String>,
    pub(crate) body: Bytes,
}

impl Http {
    /// `base` is such as `http://127.0.0.1:8080`.
    pub(crate) fn new(base: String) -> Self {
        Self::keeping(0, base)
    }

    /// Keeps up to `n_connections` open for the next requests, as a program does that asks often.
    pub(crate) fn keeping(n_connections: usize, base: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(n_connections)
            .build(connector);
        Self { base, client }
    }

    pub(crate) async fn get(&self, path: &str, limit: Duration) -> anyhow::Result<BenchResponse> {
        self.ask(Method::GET, path, Bytes::new(), limit).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        json: &serde_json::Value,
        limit: Duration,
    ) -> anyhow::Result<BenchResponse> {
        self.ask(Method::POST, path, json.to_string().into(), limit).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> anyhow::Result<BenchResponse> {
        let uri = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(&uri).body(Full::new(body))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let answer = async {
            let response = self.client.request(request).await?;
            let (head, body) = response.into_parts();
            let location = head.headers.get(LOCATION).and_then(|place| place.to_str().ok());
            let location = location.map(str::to_owned);
            anyhow::Ok(BenchResponse {
                status: head.status,
                location,
                body: body.collect().await?.to_bytes(),
            })
        };
        let answer = timeout(limit, answer).await.context("no answer in time");
        answer.and_then(|answer| answer).with_context(|| uri)
    }
}

impl BenchResponse {
    /// The body as JSON, if the request succeeded.
    pub(crate) fn json(&self) -> anyhow::Result<serde_json::Value> {
        anyhow::ensure!(self.status.is_success(), "{}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).with_context(|| self.text().into_owned())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}
