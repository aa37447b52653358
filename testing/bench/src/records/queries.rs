//! Sends requests to a server with many transfers on record.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use filepull_server::data_folder::RECORDS_FOLDER;
use filepull_testkit::HttpClient;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::generate::{FilledDatabase, client, fill};
use crate::Bench;
use crate::server::ServerProcess;

const N_STARTS: u32 = 3;

const N_TRIGGERS: u32 = 300;

const N_REPEATS: u32 = 30;

const TRIGGERS_BETWEEN_CHECKS: u32 = 50;

/// The requests: name in the table, and path.
pub(super) const QUERIES: [(&str, &str); 10] = [
    ("/transfers", "transfers"),
    ("  ?state=done", "transfers?state=done"),
    ("  ?state=failed&since=1d", "transfers?state=failed&since=1d"),
    ("  ?since=30d", "transfers?since=30d"),
    ("  ?until=30d", "transfers?until=30d"),
    ("  ?client=store-00500", "transfers?client=store-00500"),
    ("  …&state=failed", "transfers?client=store-00500&state=failed"),
    ("/clients", "clients"),
    ("/clients/store-00500", "clients/store-00500"),
    ("/server", "server"),
];

/// The figures for one number of transfers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RecordsMeasurement {
    pub(super) filled: FilledDatabase,
    pub(super) start_seconds: Vec<f64>,
    pub(super) trigger_seconds: Vec<f64>,
    /// In the order of [`QUERIES`].
    pub(super) query_seconds: Vec<Vec<f64>>,
    pub(super) peak_rss: u64,
    pub(super) retention: RetentionMeasurement,
}

/// How long the server took to delete old records, and the triggers meanwhile.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RetentionMeasurement {
    pub(super) forgotten: u64,
    /// Old records that stayed because their download is on the disk.
    pub(super) kept: u64,
    pub(super) seconds: f64,
    pub(super) trigger_seconds: Vec<f64>,
    /// Size of the database afterwards.
    pub(super) bytes: u64,
    /// Size of the database after the same number of new records.
    pub(super) bytes_refilled: u64,
}

/// Starts servers on a filled folder and sends requests to the last one.
pub(super) async fn measure(
    bench: &Bench,
    folder: &Path,
    filled: FilledDatabase,
) -> anyhow::Result<RecordsMeasurement> {
    let program = &bench.programs.server;
    let mut start_seconds = Vec::new();
    for _ in 1..N_STARTS {
        let (server, seconds) = start(program, folder).await?;
        start_seconds.push(seconds);
        server.process.kill().await?;
    }
    let (server, seconds) = start(program, folder).await?;
    start_seconds.push(seconds);
    let http = HttpClient::keep_alive(server.http, 1);
    let mut trigger_seconds = Vec::new();
    for number in 0..N_TRIGGERS {
        trigger_seconds.push(trigger(&http, number % filled.clients).await?);
    }
    let mut query_seconds = Vec::new();
    for (_, path) in QUERIES {
        query_seconds.push(query(&http, &format!("/api/v1/{path}")).await?);
    }
    let peak_rss = server.process.peak_rss()?;
    server.process.kill().await?;
    let retention = measure_retention(program, folder, filled.clients).await?;
    Ok(RecordsMeasurement {
        filled,
        start_seconds,
        trigger_seconds,
        query_seconds,
        peak_rss,
        retention,
    })
}

async fn start(program: &Path, folder: &Path) -> anyhow::Result<(ServerProcess, f64)> {
    let began = Instant::now();
    let server = ServerProcess::start_with(&[("KEEP_RECORDS", "forever")], program, folder).await?;
    Ok((server, began.elapsed().as_secs_f64()))
}

/// Starts a server that keeps half of the records, and sends triggers until the other half is
/// deleted.
async fn measure_retention(
    program: &Path,
    folder: &Path,
    clients: u32,
) -> anyhow::Result<RetentionMeasurement> {
    let server = ServerProcess::start_with(&[("KEEP_RECORDS", "30d")], program, folder).await?;
    let http = HttpClient::keep_alive(server.http, 1);
    let mut trigger_seconds = Vec::new();
    let event = loop {
        for number in 0..TRIGGERS_BETWEEN_CHECKS {
            trigger_seconds.push(trigger(&http, number % clients).await?);
        }
        if let Some(line) = server.process.find(r#""event":"records.forgotten""#) {
            break serde_json::from_str::<serde_json::Value>(&line)?;
        }
    };
    let figure = |name: &str| event[name].as_u64().with_context(|| format!("{name} in {event}"));
    let bytes = fs::metadata(server.data_dir.join(RECORDS_FOLDER).join("records.db"))?.len();
    let forgotten = figure("transfers")?;
    let kept = figure("kept")?;
    server.process.kill().await?;
    let refilled = fill(folder, u32::try_from(forgotten)?, clients).await?;
    Ok(RetentionMeasurement {
        forgotten,
        kept,
        seconds: event["duration_seconds"].as_f64().context("duration_seconds")?,
        trigger_seconds,
        bytes,
        bytes_refilled: refilled.bytes,
    })
}

/// Returns the time until a new transfer is durable. Cancels it afterwards.
async fn trigger(http: &HttpClient, number: u32) -> anyhow::Result<f64> {
    let order = json!({ "client": client(number)?.as_str(), "queue": "24h" });
    let began = Instant::now();
    let answer = http.post("/api/v1/transfers", &order).await?;
    let took = began.elapsed().as_secs_f64();
    anyhow::ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.text());
    let id = answer.success_json()?["id"].as_str().context("a transfer has an id")?.to_owned();
    let cancelled = http.post(&format!("/api/v1/transfers/{id}/cancel"), &json!({})).await?;
    anyhow::ensure!(cancelled.status == StatusCode::OK, cancelled.text());
    Ok(took)
}

async fn query(http: &HttpClient, path: &str) -> anyhow::Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..N_REPEATS {
        let began = Instant::now();
        let answer = http.get(path).await?;
        seconds.push(began.elapsed().as_secs_f64());
        anyhow::ensure!(answer.status == StatusCode::OK, "{path}: {}", answer.text());
    }
    Ok(seconds)
}
