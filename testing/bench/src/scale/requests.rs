//! Starts servers on a generated data folder, and sends requests to one of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::HttpClient;
use futures::future::try_join_all;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::Args;
use crate::records::generate::client;
use crate::report::log_progress;
use crate::server::ServerProcess;

/// Maximum time for the requests of one kind.
const KIND_LIMIT: Duration = Duration::from_secs(20);

/// The first start warms the cache and does not count.
const N_STARTS: u32 = 4;

/// Concurrent callers of one kind.
const N_CALLERS: u32 = 8;

/// The kinds of requests, with their names in the table.
const KINDS: [(&str, RequestKind); 6] = [
    ("trigger", RequestKind::Trigger),
    ("join", RequestKind::Join),
    ("mistyped id", RequestKind::Mistyped),
    ("/clients?limit=100", RequestKind::Clients),
    ("/transfers?state=waiting", RequestKind::Waiting),
    ("/transfers/ID", RequestKind::Transfer),
];

#[derive(Clone, Copy, Debug)]
enum RequestKind {
    Trigger,
    Join,
    Mistyped,
    Clients,
    Waiting,
    Transfer,
}

/// The response times of one kind of request, in seconds.
#[derive(Debug, Serialize)]
pub(super) struct RequestTimes {
    pub(super) name: &'static str,
    pub(super) alone: Vec<f64>,
    pub(super) together: Vec<f64>,
}

/// The time that a start took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StartTimes {
    pub(super) ready_seconds: f64,
    pub(super) answered_seconds: f64,
}

/// Starts servers one after another.
pub(super) async fn starts(
    program: &Path,
    folder: &Path,
    waiting: u32,
) -> anyhow::Result<Vec<StartTimes>> {
    let mut starts = Vec::new();
    for number in 0..N_STARTS {
        let began = Instant::now();
        let server = start(program, folder, waiting).await?;
        let ready_seconds = began.elapsed().as_secs_f64();
        let http = HttpClient::new(server.http);
        let answer = http.get("/api/v1/transfers?state=waiting&limit=1").await?;
        let answered_seconds = began.elapsed().as_secs_f64();
        anyhow::ensure!(answer.success_json()?["total"] == waiting, "{}", answer.text());
        server.process.kill().await?;
        if 0 < number {
            starts.push(StartTimes { ready_seconds, answered_seconds });
        }
    }
    Ok(starts)
}

/// Returns the memory of a server that has shown one page of clients.
pub(super) async fn rss_at_rest(program: &Path, folder: &Path) -> anyhow::Result<u64> {
    let server = start(program, folder, 0).await?;
    let http = HttpClient::new(server.http);
    http.get("/api/v1/clients?limit=100").await?.success_json()?;
    let rss = server.process.rss()?;
    server.process.kill().await?;
    Ok(rss)
}

/// Measures every kind of request against one server, alone and with concurrent requests of the
/// same kind.
pub(super) async fn all(
    program: &Path,
    folder: &Path,
    args: &Args,
) -> anyhow::Result<Vec<RequestTimes>> {
    let server = start(program, folder, args.waiting).await?;
    let http = HttpClient::new(server.http);
    let first = http.get("/api/v1/transfers?state=done&limit=1000").await?.success_json()?;
    let items = first["items"].as_array().context("a list has items")?;
    let ids = items.iter().filter_map(|item| item["id"].as_str()).map(str::to_owned).collect();
    let sender =
        RequestSender { server: server.http, args: args.clone(), ids, n_sent: AtomicU32::new(0) };
    let mut answers = Vec::new();
    for (name, kind) in KINDS {
        log_progress(format!("sending: {name}"));
        let alone = sender.send(kind, args.requests).await?;
        let callers = (0..N_CALLERS).map(|_| sender.send(kind, args.requests.div_ceil(N_CALLERS)));
        let together = try_join_all(callers).await?.concat();
        answers.push(RequestTimes { name, alone, together });
    }
    server.process.kill().await?;
    Ok(answers)
}

async fn start(program: &Path, folder: &Path, waiting: u32) -> anyhow::Result<ServerProcess> {
    let max_waiting = (waiting + 1000).to_string();
    let settings = [("KEEP_RECORDS", "forever"), ("MAX_WAITING", max_waiting.as_str())];
    ServerProcess::start_with(&settings, program, folder).await
}

/// Sends requests of one kind, each for a different item.
struct RequestSender {
    server: SocketAddr,
    args: Args,
    ids: Vec<String>,
    n_sent: AtomicU32,
}

impl RequestSender {
    /// Sends requests over one connection. Returns the response times.
    async fn send(&self, kind: RequestKind, n_requests: u32) -> anyhow::Result<Vec<f64>> {
        let http = HttpClient::keep_alive(self.server, 1);
        let mut seconds = Vec::new();
        let began = Instant::now();
        while seconds.len() < n_requests as usize && began.elapsed() < KIND_LIMIT {
            seconds.push(self.one(kind, &http).await?);
        }
        Ok(seconds)
    }

    async fn one(&self, kind: RequestKind, http: &HttpClient) -> anyhow::Result<f64> {
        let number = self.n_sent.fetch_add(1, Ordering::Relaxed);
        let Args { clients, waiting, .. } = self.args;
        let began = Instant::now();
        let (answer, expected) = match kind {
            RequestKind::Trigger => {
                let client = client(waiting + number % (clients - waiting))?;
                let order = json!({ "client": client.as_str(), "queue": "24h" });
                (http.post("/api/v1/transfers", &order).await?, StatusCode::CREATED)
            }
            RequestKind::Join => {
                let order = json!({ "client": client(number % waiting)?.as_str() });
                (http.post("/api/v1/transfers", &order).await?, StatusCode::OK)
            }
            RequestKind::Mistyped => {
                let typed = client(number % clients)?.as_str().replacen("sto", "sot", 1);
                (http.get(&format!("/trigger?id={typed}")).await?, StatusCode::NOT_FOUND)
            }
            RequestKind::Clients => (http.get("/clients?limit=100").await?, StatusCode::OK),
            RequestKind::Waiting => (http.get("/transfers?state=waiting").await?, StatusCode::OK),
            RequestKind::Transfer => {
                let nth = self.ids.get(number as usize % self.ids.len().max(1));
                let id = nth.context("no finished transfer is on record")?;
                (http.get(&format!("/transfers/{id}")).await?, StatusCode::OK)
            }
        };
        let took = began.elapsed().as_secs_f64();
        anyhow::ensure!(answer.status == expected, "{}: {}", answer.status, answer.text());
        if let RequestKind::Trigger = kind {
            let id =
                answer.success_json()?["id"].as_str().context("a transfer has an id")?.to_owned();
            let cancel = format!("/api/v1/transfers/{id}/cancel");
            http.post(&cancel, &json!({})).await?.success_json()?;
        }
        Ok(took)
    }
}
