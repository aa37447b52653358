//! Asks a server that has many transfers on record.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_server::data_folder::RECORDS_FOLDER;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::fill::{FilledDatabase, client, fill};
use crate::Bench;
use crate::http::Http;
use crate::server::ServerProcess;

/// Nobody waits longer for one answer.
const LIMIT: Duration = Duration::from_secs(60);

const N_STARTS: u32 = 3;

const N_TRIGGERS: u32 = 300;

const N_ASKS: u32 = 30;

const TRIGGERS_BETWEEN_LOOKS: u32 = 50;

/// What is asked: as the table calls it, and its path.
pub(super) const QUESTIONS: [(&str, &str); 10] = [
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

/// What one number of transfers costs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RecordsMeasurement {
    pub(super) filled: FilledDatabase,
    pub(super) start_seconds: Vec<f64>,
    pub(super) trigger_seconds: Vec<f64>,
    /// In the order of [`QUESTIONS`].
    pub(super) question_seconds: Vec<Vec<f64>>,
    pub(super) peak_rss: u64,
    pub(super) thinned: Thinned,
}

/// What it took to let old records go, beside triggers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Thinned {
    pub(super) forgotten: u64,
    /// Their download is on the disk.
    pub(super) kept: u64,
    pub(super) seconds: f64,
    pub(super) trigger_seconds: Vec<f64>,
    /// The size of the database afterwards.
    pub(super) bytes: u64,
    /// Its size after as many have been made again.
    pub(super) bytes_refilled: u64,
}

/// Starts servers on a filled folder and asks the last of them.
pub(super) async fn measure(
    bench: &Bench,
    folder: &Path,
    filled: FilledDatabase,
) -> anyhow::Result<RecordsMeasurement> {
    let program = &bench.programs.server;
    let mut start_seconds = Vec::new();
    for _ in 1..N_STARTS {
        let (server, took) = start(program, folder).await?;
        start_seconds.push(took);
        server.process.kill().await?;
    }
    let (server, took) = start(program, folder).await?;
    start_seconds.push(took);
    let http = Http::keeping(1, server.http.clone());
    let mut trigger_seconds = Vec::new();
    for number in 0..N_TRIGGERS {
        trigger_seconds.push(trigger(&http, number % filled.clients).await?);
    }
    let mut question_seconds = Vec::new();
    for (_, path) in QUESTIONS {
        question_seconds.push(ask(&http, &format!("/api/v1/{path}")).await?);
    }
    let peak_rss = server.process.peak_rss()?;
    server.process.kill().await?;
    let thinned = thin(program, folder, filled.clients).await?;
    Ok(RecordsMeasurement {
        filled,
        start_seconds,
        trigger_seconds,
        question_seconds,
        peak_rss,
        thinned,
    })
}

async fn start(program: &Path, folder: &Path) -> anyhow::Result<(ServerProcess, f64)> {
    let began = Instant::now();
    let server = ServerProcess::start_with(&[("KEEP_RECORDS", "forever")], program, folder).await?;
    Ok((server, began.elapsed().as_secs_f64()))
}

/// Starts a server that keeps half of the records, and pulls until the other half is gone.
async fn thin(program: &Path, folder: &Path, clients: u32) -> anyhow::Result<Thinned> {
    let server = ServerProcess::start_with(&[("KEEP_RECORDS", "30d")], program, folder).await?;
    let http = Http::keeping(1, server.http.clone());
    let mut trigger_seconds = Vec::new();
    let said = loop {
        for number in 0..TRIGGERS_BETWEEN_LOOKS {
            trigger_seconds.push(trigger(&http, number % clients).await?);
        }
        if let Some(line) = server.process.find(r#""event":"records.forgotten""#) {
            break serde_json::from_str::<serde_json::Value>(&line)?;
        }
    };
    let figure = |name: &str| said[name].as_u64().with_context(|| format!("{name} in {said}"));
    let bytes = fs::metadata(server.data_dir.join(RECORDS_FOLDER).join("records.db"))?.len();
    let (forgotten, kept) = (figure("transfers")?, figure("kept")?);
    server.process.kill().await?;
    let refilled = fill(folder, u32::try_from(forgotten)?, clients).await?;
    Ok(Thinned {
        forgotten,
        kept,
        seconds: said["duration_seconds"].as_f64().context("duration_seconds")?,
        trigger_seconds,
        bytes,
        bytes_refilled: refilled.bytes,
    })
}

/// The time until a new transfer is durable. It is cancelled afterwards.
async fn trigger(http: &Http, number: u32) -> anyhow::Result<f64> {
    let order = json!({ "client": client(number)?.as_str(), "queue": "24h" });
    let began = Instant::now();
    let answer = http.post("/api/v1/transfers", &order, LIMIT).await?;
    let took = began.elapsed().as_secs_f64();
    anyhow::ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.text());
    let id = answer.json()?["id"].as_str().context("a transfer has an id")?.to_owned();
    let cancelled = http.post(&format!("/api/v1/transfers/{id}/cancel"), &json!({}), LIMIT).await?;
    anyhow::ensure!(cancelled.status == StatusCode::OK, cancelled.text().into_owned());
    Ok(took)
}

async fn ask(http: &Http, path: &str) -> anyhow::Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..N_ASKS {
        let began = Instant::now();
        let answer = http.get(path, LIMIT).await?;
        seconds.push(began.elapsed().as_secs_f64());
        anyhow::ensure!(answer.status == StatusCode::OK, "{path}: {}", answer.text());
    }
    Ok(seconds)
}
