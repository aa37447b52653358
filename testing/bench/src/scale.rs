//! Single requests to a server with very many clients, records and waiting transfers.

mod data;
mod requests;

use serde::Serialize;

use crate::Bench;
use crate::report::{BenchReport, Table, log_progress, print, write_json};
use crate::stats::SortedSamples;
use crate::targets;
use data::{DataCache, DataSize};
use requests::{RequestTimes, StartTimes};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Finished transfers on record.
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    records: u32,
    /// Known clients, which are all offline.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    clients: u32,
    /// Transfers that wait for their clients, one for each of the first clients.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    waiting: u32,
    /// Requests of each kind, by one caller and by several callers together.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
}

#[derive(Debug, Serialize)]
struct ScaleMeasurement {
    starts: Vec<StartTimes>,
    answers: Vec<RequestTimes>,
    memory: IdleMemory,
}

/// Resident memory of an idle server, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
struct IdleMemory {
    without_clients: u64,
    with_clients: u64,
    clients: u32,
}

impl IdleMemory {
    fn kib_for_each(self) -> f64 {
        let more = self.with_clients.saturating_sub(self.without_clients);
        #[allow(clippy::cast_precision_loss, reason = "memory has fewer than 2^52 bytes")]
        let more = more as f64;
        more / 1024.0 / f64::from(self.clients)
    }
}

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let &Args { records, clients, waiting, requests: _ } = args;
    anyhow::ensure!(waiting < clients, "--waiting must be less than --clients");
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let cache = DataCache::open(&bench.folder.join("scale"), &bench.programs.server).await?;
    let complete = cache.data(DataSize { records, clients, waiting }).await?;
    let only_clients = cache.data(DataSize { records: 0, clients, waiting: 0 }).await?;
    let nothing = cache.data(DataSize { records: 0, clients: 0, waiting: 0 }).await?;
    let program = &bench.programs.server;
    log_progress("starting servers".to_owned());
    let starts = requests::starts(program, &complete, waiting).await?;
    let memory = IdleMemory {
        without_clients: requests::rss_at_rest(program, &nothing).await?,
        with_clients: requests::rss_at_rest(program, &only_clients).await?,
        clients,
    };
    let answers = requests::all(program, &complete, args).await?;
    let measured = ScaleMeasurement { starts, answers, memory };
    print(format!("\n{}", table(&measured)));
    print(figures(&measured));
    print(NOTES);
    write_json(
        bench.json.as_deref(),
        &BenchReport { mode: "scale", head: &head, results: measured },
    )
}

const NOTES: &str = "\
The records are created through the code of the server, copied into the schema of the program under
test, and kept in the folder `scale` of --dir for the next run. One download in ten is on the disk, as
an empty file.
Trigger: POST /api/v1/transfers for an offline client, with `queue`, answered when the record is durable,
then cancelled. Join: POST for a client with a waiting transfer. Every caller uses one connection. A kind
of request ends after 20 s even if not all requests were sent.
Memory: resident after the first page of clients, with only these clients on record, minus the memory of
a server with an empty data folder.";

fn table(measured: &ScaleMeasurement) -> String {
    let mut table = Table::new(&["ms", "alone: p50", "p99", "8 callers: p50", "p99", "  p99"]);
    for RequestTimes { name, alone, together } in &measured.answers {
        let alone = millis(alone);
        let together = millis(together);
        let worst = alone.percentile(99).max(together.percentile(99));
        let figures = [&alone, &together].into_iter().flat_map(|sorted| {
            [50, 99].map(|percent| format!("{:.2}", sorted.percentile(percent)))
        });
        let verdict = format!("  {}", targets::ANSWER_MS.verdict(worst));
        table.row(std::iter::once((*name).to_owned()).chain(figures).chain([verdict]));
    }
    table.to_string()
}

fn millis(seconds: &[f64]) -> SortedSamples {
    SortedSamples::of(seconds.iter().map(|seconds| seconds * 1e3))
}

fn figures(measured: &ScaleMeasurement) -> String {
    let slowest = |seconds: fn(&StartTimes) -> f64| {
        SortedSamples::of(measured.starts.iter().map(seconds)).max()
    };
    let answered = slowest(|start| start.answered_seconds);
    let kib = measured.memory.kib_for_each();
    format!(
        "start until it answers   {answered:.2} s {}, the slowest of {}; until \"Ready.\" {:.2} s\n\
         offline client           {kib:.3} KiB {}\n",
        targets::START_SECONDS.verdict(answered),
        measured.starts.len(),
        slowest(|start| start.ready_seconds),
        targets::OFFLINE_CLIENT_KIB.verdict(kib),
    )
}
