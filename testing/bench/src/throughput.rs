//! One file from trigger to `done`, repeatedly, in turn with other programs.

use std::path::Path;

use anyhow::Context as _;
use filepull_core::human::{self, parse_size};
use serde::Serialize;

use crate::Bench;
use crate::competitor::{self, Competitor, TransferRun};
use crate::peers::{self, Facts};
use crate::product::{BothEnds, Product};
use crate::report::{BenchReport, Table, log_progress, mib, print, write_json};
use crate::server::TLS;
use crate::source::{self, SourceFile};
use crate::stats::SortedSamples;
use crate::targets;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measured runs of each program and size, after one run that does not count.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// File sizes, comma separated, such as 1MiB,10MiB,100MiB,1GiB,10GiB.
    #[arg(long, default_value = "100MiB", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<u64>,
    /// Also measures the other programs that are installed: dd, rsync, scp, nginx; each as it is,
    /// and with the guarantees of filepull.
    #[arg(long)]
    peers: bool,
    /// Measures filepull with TLS, and compares it with plain text and with the peers that encrypt.
    #[arg(long)]
    tls: bool,
}

/// The runs of one program with one size.
#[derive(Clone, Debug, Serialize)]
struct ThroughputSeries {
    #[serde(flatten)]
    facts: Facts,
    bytes: u64,
    runs: Vec<TransferRun>,
}

#[derive(Debug, Serialize)]
struct ThroughputResults {
    series: Vec<ThroughputSeries>,
    missing: Vec<String>,
    peak_rss_bytes: BothEnds<u64>,
}

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let folder = source::folder(&bench.folder)?;
    let mut head = bench.head(folder.path()).await?;
    let mut sources = Vec::new();
    for &size in &args.size {
        sources.push(SourceFile::create(&folder.path().join("source"), size)?);
    }
    let first = sources.first().context("a size is needed")?;
    let mut competitors = Vec::new();
    if args.tls {
        let home = folder.path().join("tls");
        std::fs::create_dir(&home)?;
        let product = Product::start_with(&[TLS], &bench.programs, &home, first).await?;
        competitors.push(Competitor::Product(Box::new(product)));
    }
    let product = Product::start(&bench.programs, folder.path(), first).await?;
    competitors.push(Competitor::Product(Box::new(product)));
    let mut missing = Vec::new();
    if args.peers {
        let started = peers::start_all(folder.path(), args.tls).await;
        competitors.extend(started.0.into_iter().map(|peer| Competitor::Peer(Box::new(peer))));
        missing = started.1;
    }
    let competitors = competitor::warm_up(competitors, first, &mut missing).await?;

    head.versions.extend(competitors.iter().skip(1).map(|peer| peer.facts().version));
    // A program with and without an option follows itself.
    head.versions.dedup();
    print(&head);
    for missing in &missing {
        print(format!("missing   {missing}"));
    }
    let mut series = Vec::new();
    for source in &sources {
        let measured = measure_in_turn(&competitors, source, args.runs, folder.path()).await?;
        print(format!("\n{}", table(&measured, source)));
        series.extend(measured);
    }
    let peak_rss_bytes = competitor::end(competitors).await?;
    let BothEnds { server, agent } = peak_rss_bytes.map(mib);
    print(format!(
        "filepull, peak memory of all runs: server {server:.1} MiB, agent {agent:.1} MiB"
    ));
    print(NOTES);
    let results = ThroughputResults { series, missing, peak_rss_bytes };
    write_json(bench.json.as_deref(), &BenchReport { mode: "throughput", head: &head, results })
}

const NOTES: &str = "
MB is 10^6 bytes. The rates are the median, the minimum and the maximum of the runs.
Time of filepull: from the HTTP request (POST /api/v1/transfers?wait) to the answer `done`: recorded,
sent, read twice at the source, BLAKE3 at both ends, SHA-256 at the server, fsync, rename, fsync of the
folder. Time of the others: from the start of their client program to its end. `server` accepts the connection.
CPU: user and system time of the processes and their children, as the mean of all runs, because its
clock has a resolution of 10 ms.
`filepull is`: the median rate of the first row divided by the rate of that program. The disk is synced before each run.
Each copy is checked by its size, then deleted.
sums, sync: sha256sum of the source, the program, sync of the copy and its folder, sha256sum of the copy, one after
the other; their CPU time is the client's. `dd, direct` writes past the page cache and calls fsync: the limit of the disk.";

async fn measure_in_turn(
    competitors: &[Competitor],
    source: &SourceFile,
    n_runs: u32,
    folder: &Path,
) -> anyhow::Result<Vec<ThroughputSeries>> {
    let new = |competitor: &Competitor| ThroughputSeries {
        facts: competitor.facts(),
        bytes: source.size,
        runs: Vec::new(),
    };
    let mut series: Vec<ThroughputSeries> = competitors.iter().map(new).collect();
    for round in 1..=n_runs {
        log_progress(format!("{}: round {round} of {n_runs}", human::size(source.size)));
        for (competitor, series) in competitors.iter().zip(&mut series) {
            source::settle(folder)?;
            series.runs.push(competitor.measure(source).await?);
        }
    }
    Ok(series)
}

impl ThroughputSeries {
    fn megabytes(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 9 PB")]
        let bytes = self.bytes as f64;
        bytes / 1e6
    }

    fn rates(&self) -> SortedSamples {
        SortedSamples::of(self.runs.iter().map(|run| self.megabytes() / run.seconds))
    }

    /// Returns the CPU seconds per GB of server and client.
    fn cpu(&self) -> [f64; 2] {
        let gigabytes = self.runs.iter().map(|_| self.megabytes() / 1e3).sum::<f64>();
        let server = self.runs.iter().map(|run| run.server_cpu_seconds).sum::<f64>();
        let client = self.runs.iter().map(|run| run.client_cpu_seconds).sum::<f64>();
        [server / gigabytes, client / gigabytes]
    }
}

fn table(measured: &[ThroughputSeries], source: &SourceFile) -> String {
    let size = human::size(source.size);
    let mut table = Table::new(&[
        &size,
        "MB/s",
        "min",
        "max",
        "CPU-s/GB",
        "server",
        "client",
        " guarantees",
        " filepull is",
    ]);
    let Some((ours, peers)) = measured.split_first() else { return String::new() };
    table.row(ours.cells(cpu_verdict(ours)));
    for peer in peers {
        let ratio = ours.rates().median() / peer.rates().median();
        table.row(peer.cells(compared(peer, ratio)));
    }
    table.to_string()
}

impl ThroughputSeries {
    fn cells(&self, last: String) -> impl Iterator<Item = String> {
        let sorted = self.rates();
        let rates = [sorted.median(), sorted.min(), sorted.max()].map(|rate| format!("{rate:.0}"));
        let [server, client] = self.cpu();
        let cpu = [server + client, server, client].map(|cpu| format!("{cpu:.2}"));
        let name = [self.facts.name.to_owned()];
        name.into_iter().chain(rates).chain(cpu).chain([self.facts.guarantees.to_owned(), last])
    }
}

/// The targets are for one file size; other sizes have no verdict.
fn cpu_verdict(ours: &ThroughputSeries) -> String {
    let cpu: f64 = ours.cpu().iter().sum();
    let target = match ours.facts.name {
        competitor::WITH_TLS => targets::TLS_CPU_PER_GB,
        _ => targets::CPU_PER_GB,
    };
    let [_, agent] = ours.cpu();
    let agent_verdict = match ours.facts.name {
        competitor::WITH_TLS => String::new(),
        _ => format!("; client {}", targets::AGENT_CPU_PER_GB.verdict(agent)),
    };
    let judged = || format!("CPU {}{agent_verdict}", target.verdict(cpu));
    if ours.bytes == targets::SIZE { judged() } else { String::new() }
}

/// Returns text such as `2.05 x (target: at least 1.3: met)`.
fn compared(peer: &ThroughputSeries, ratio: f64) -> String {
    let target = peer.facts.target;
    let verdict = target.map(|target| target.verdict(peer.bytes, ratio)).unwrap_or_default();
    format!("{ratio:.2} x {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_millions_of_bytes_and_cpu_is_per_billion() {
        let target = Some(targets::OVER_RSYNC);
        let facts = Facts { name: "x", version: String::new(), guarantees: "", target };
        let run =
            |seconds| TransferRun { seconds, server_cpu_seconds: 0.1, client_cpu_seconds: 0.3 };
        let runs = vec![run(0.1), run(0.2), run(0.4)];
        let series = ThroughputSeries { facts, bytes: 100_000_000, runs };
        assert_eq!(series.rates().median().round(), 500.0);
        assert_eq!(series.cpu().map(f64::round), [1.0, 3.0]);
        assert_eq!(compared(&series, 1.25), "1.25 x ", "the target is for another size");
        let series = ThroughputSeries { bytes: targets::SIZE, ..series };
        assert_eq!(compared(&series, 1.25), "1.25 x (target: at least 1.5: MISSED)");
    }
}
