//! Single requests to a server with very many clients, records and waiting transfers.

mod ask;
mod data;

use serde::Serialize;

use crate::Bench;
use crate::report::{BenchReport, Table, print, tell, write_json};
use crate::stats::Sorted;
use crate::targets;
use ask::{Answers, Start};
use data::{Cache, Size};

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Transfers on record that have ended.
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    records: u32,
    /// Known clients, all offline.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    clients: u32,
    /// Transfers that wait for their clients, one for each of the first clients.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    waiting: u32,
    /// Requests of each kind, by one caller and by all of several together.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    asks: u32,
}

/// The measurements.
#[derive(Debug, Serialize)]
struct ScaleMeasurement {
    starts: Vec<Start>,
    answers: Vec<Answers>,
    memory: Memory,
}

/// Resident memory of a server at rest, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    without_clients: u64,
    with_clients: u64,
    clients: u32,
}

impl Memory {
    fn kib_for_each(self) -> f64 {
        let more = self.with_clients.saturating_sub(self.without_clients);
        #[allow(clippy::cast_precision_loss, reason = "memory has fewer than 2^52 bytes")]
        let more = more as f64;
        more / 1024.0 / f64::from(self.clients)
    }
}

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let &Args { records, clients, waiting, asks: _ } = args;
    anyhow::ensure!(waiting < clients, "--waiting must be less than --clients");
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let cache = Cache::open(&bench.folder.join("scale"), &bench.programs.server).await?;
    let whole = cache.data(Size { records, clients, waiting }).await?;
    let only_clients = cache.data(Size { records: 0, clients, waiting: 0 }).await?;
    let nothing = cache.data(Size { records: 0, clients: 0, waiting: 0 }).await?;
    let program = &bench.programs.server;
    tell("starting servers".to_owned());
    let starts = ask::starts(program, &whole, waiting).await?;
    let memory = Memory {
        without_clients: ask::rss_at_rest(program, &nothing).await?,
        with_clients: ask::rss_at_rest(program, &only_clients).await?,
        clients,
    };
    let answers = ask::all(program, &whole, args).await?;
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
Made through the records' own code and copied into the schema of the program under test; kept in the
folder `scale` of --dir for the next run. One download in ten lies on the disk, as an empty file.
Trigger: POST /api/v1/transfers for a client that is offline, with `queue`: answered once its record is
durable; cancelled before the next. Join: POST for a client whose transfer waits. Every caller keeps one
connection. A kind of request ends after 20 s even if not all were sent.
Memory: resident after the first page of clients, with these clients on record and nothing else, less
that of a server on an empty folder.";

fn table(measured: &ScaleMeasurement) -> String {
    let mut table = Table::new(&["ms", "alone: p50", "p99", "8 callers: p50", "p99", "  p99"]);
    for Answers { name, alone, together } in &measured.answers {
        let (alone, together) = (millis(alone), millis(together));
        let worst = alone.percentile(99).max(together.percentile(99));
        let figures = [&alone, &together].into_iter().flat_map(|sorted| {
            [50, 99].map(|percent| format!("{:.2}", sorted.percentile(percent)))
        });
        let verdict = format!("  {}", targets::ANSWER_MS.verdict(worst));
        table.row(std::iter::once((*name).to_owned()).chain(figures).chain([verdict]));
    }
    table.to_string()
}

fn millis(seconds: &[f64]) -> Sorted {
    Sorted::of(seconds.iter().map(|seconds| seconds * 1e3))
}

fn figures(measured: &ScaleMeasurement) -> String {
    let slowest =
        |seconds: fn(&Start) -> f64| Sorted::of(measured.starts.iter().map(seconds)).max();
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
