//! How long an operator waits for an answer: until the agent has accepted, and until a small file
//! is complete.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use filepull_testkit::HttpResponse;
use hyper::StatusCode;
use serde::Serialize;

use crate::Bench;
use crate::machine::Machine;
use crate::product::{CLIENT, Product};
use crate::report::{BenchReport, Table, log_progress, print, write_json};
use crate::source::{self, SourceFile};
use crate::stats::SortedSamples;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measured runs of each request on each file system.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// The size of the file.
const SIZE: u64 = 1024;

const N_WARM_UP: u32 = 20;

/// Response times on one file system, in seconds.
#[derive(Debug, Serialize)]
struct LatencyMeasurement {
    file_system: String,
    accepted_seconds: Vec<f64>,
    done_seconds: Vec<f64>,
}

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let mut measured = Vec::new();
    let shared_memory = PathBuf::from("/dev/shm");
    for parent in [&bench.folder, &shared_memory] {
        log_progress(format!("{} runs of each in {}", args.runs, parent.display()));
        match measure(args.runs, bench, parent).await {
            Ok(found) => measured.push(found),
            Err(error) if parent == &shared_memory => {
                log_progress(format!("skipped tmpfs: {error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    print(format!("\n{}", table(&measured)));
    print(NOTES);
    write_json(
        bench.json.as_deref(),
        &BenchReport { mode: "latency", head: &head, results: measured },
    )
}

const NOTES: &str = "\
Each run opens a new connection, as curl does. The time ends when the complete answer has arrived.
accepted: GET /trigger?id=client1, answered when the transfer is durably recorded and the agent has
opened the file and sent its name and size. The API does not show when the first chunk arrives.
done: GET /trigger?id=client1&wait, answered when a file of 1 KiB is recorded, sent, read twice,
verified, synced, renamed, and recorded as done. Downloads are deleted between the runs.";

async fn measure(n_runs: u32, bench: &Bench, parent: &Path) -> anyhow::Result<LatencyMeasurement> {
    let folder = source::folder(parent)?;
    let source = SourceFile::create(&folder.path().join("source"), SIZE)?;
    let product = Product::start(&bench.programs, folder.path(), &source).await?;
    let mut measured = LatencyMeasurement {
        file_system: Machine::describe(folder.path()).file_system,
        accepted_seconds: Vec::new(),
        done_seconds: Vec::new(),
    };
    for round in 0..N_WARM_UP + n_runs {
        let accepted = measure_accepted(&product).await?;
        let done = measure_done(&product).await?;
        product.delete_downloads()?;
        if N_WARM_UP <= round {
            measured.accepted_seconds.push(accepted.as_secs_f64());
            measured.done_seconds.push(done.as_secs_f64());
        }
    }
    product.end().await?;
    Ok(measured)
}

/// Returns the time until the agent has accepted. Waits for the end of the transfer, so that the
/// next trigger does not join it.
async fn measure_accepted(product: &Product) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let answer = product.http.get(&format!("/trigger?id={CLIENT}")).await?;
    let took = began.elapsed();
    if answer.status == StatusCode::OK {
        // A small file may be complete before the answer is written.
        return Ok(took);
    }
    let accepted = answer.status == StatusCode::ACCEPTED && answer.text().starts_with("Started");
    anyhow::ensure!(accepted, unexpected(&answer));
    let location = answer.header("location");
    let transfer = product.http.get(&format!("{location}?wait=20s")).await?.success_json()?;
    anyhow::ensure!(transfer["state"] == "done", "the transfer is not done: {transfer:#}");
    Ok(took)
}

/// Returns the time until the file is complete.
async fn measure_done(product: &Product) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let answer = product.http.get(&format!("/trigger?id={CLIENT}&wait=20s")).await?;
    let took = began.elapsed();
    anyhow::ensure!(answer.status == StatusCode::OK, unexpected(&answer));
    Ok(took)
}

fn unexpected(answer: &HttpResponse) -> String {
    format!("unexpected answer to the trigger: {}, {}", answer.status, answer.text())
}

fn table(measured: &[LatencyMeasurement]) -> String {
    let mut table = Table::new(&["latency, ms", " on", "p50", "p99", "min", "max"]);
    for measured in measured {
        let rows = [("accepted", &measured.accepted_seconds), ("done", &measured.done_seconds)];
        for (name, seconds) in rows {
            let sorted = SortedSamples::of(seconds.iter().map(|seconds| seconds * 1e3));
            let figures =
                [sorted.percentile(50), sorted.percentile(99), sorted.min(), sorted.max()];
            let names = [name.to_owned(), measured.file_system.clone()];
            table.row(names.into_iter().chain(figures.map(|ms| format!("{ms:.2}"))));
        }
    }
    table.to_string()
}
