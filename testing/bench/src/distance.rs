//! One file over a long line, with the product's flow-control window and with that of tonic, in
//! turn with a plain TCP connection.

use std::time::Duration;

use filepull_core::human::{self, parse_duration, parse_size};
use filepull_testkit::net::{Hosts, Link, Network, SendReport, measure_sender, parse_rate};
use serde::Serialize;

use crate::Bench;
use crate::product::Product;
use crate::report::{BenchReport, Table, print, tell, write_json};
use crate::setup::Setup;
use crate::source::{self, SourceFile};
use crate::stats::Sorted;
use crate::targets;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Round trips, comma separated.
    #[arg(long, default_value = "40ms,100ms", value_delimiter = ',', value_parser = parse_duration)]
    rtt: Vec<Duration>,
    /// Rates of the line, comma separated, such as 1Gbit; none is as fast as the machine.
    #[arg(long, default_value = "1Gbit,none", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<Option<u64>>,
    /// What the router keeps of a sender that is too fast, as the time it takes to send it.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    queue: Duration,
    /// Size of the file.
    #[arg(long, default_value = "100MiB", value_parser = parse_size)]
    size: u64,
    /// Measured runs of each; before them one on a new connection, which is shown by itself.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    hosts: Hosts,
}

/// What hyper's server grants a stream, and a connection, if tonic tells it nothing.
const DEFAULT_WINDOW: &str = "1MiB";

/// One line.
#[derive(Debug, Serialize)]
struct DistanceMeasurement {
    line: Link,
    bytes: u64,
    /// As it came out, with the machine's own share.
    rtt_seconds: f64,
    product: DistanceSeries,
    default_window: DistanceSeries,
    plain_tcp: Vec<SendReport>,
}

/// The runs with one window, in seconds.
#[derive(Debug, Serialize)]
struct DistanceSeries {
    first: f64,
    rest: Vec<f64>,
}

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let folder = source::folder(&bench.folder)?;
    let head = bench.head(folder.path()).await?;
    print(&head);
    let source = SourceFile::make(&folder.path().join("source"), args.size)?;
    let network = Network::create(&args.hosts).await?;
    let mut measured = Vec::new();
    for &rtt in &args.rtt {
        for &rate in &args.rate {
            let line = Link { rtt, rate, loss_percent: 0.0, queue: args.queue };
            tell(line.to_string());
            let place = folder.path().join(measured.len().to_string());
            let rig = Setup { bench, network: &network, source: &source, folder: &place };
            measured.push(measure(&rig, line, args.runs).await?);
        }
    }
    print(format!("\n{}", table(&measured, args.size)));
    print(NOTES);
    let results = DistanceResults { hosts: &args.hosts, measured };
    write_json(bench.json.as_deref(), &BenchReport { mode: "distance", head: &head, results })
}

#[derive(Debug, Serialize)]
struct DistanceResults<'a> {
    hosts: &'a Hosts,
    measured: Vec<DistanceMeasurement>,
}

const NOTES: &str = "\
MB is 10^6 bytes; rates are medians. `first` is a transfer that has to dial its connection, the
others find one that has been used before. Time: from the HTTP request to the answer `done`, as in
`throughput`. plain TCP: one connection, from the moment it is accepted, to memory, no disk and no
digest. 1 MiB is what hyper's server grants each stream if tonic is told nothing.";

/// Measures one line.
async fn measure(rig: &Setup<'_>, line: Link, n_runs: u32) -> anyhow::Result<DistanceMeasurement> {
    // Started before the line is there, or everything would wait for it.
    let product = rig.start("product", &[], &[]).await?;
    let other = rig.start(DEFAULT_WINDOW, &[("STREAM_WINDOW", DEFAULT_WINDOW)], &[]).await?;
    let laid = line.apply(rig.network).await?;
    let mut measured = DistanceMeasurement {
        line,
        bytes: rig.source.size,
        rtt_seconds: rig.network.round_trip().await?,
        product: DistanceSeries { first: pull(rig, &product).await?, rest: Vec::new() },
        default_window: DistanceSeries { first: pull(rig, &other).await?, rest: Vec::new() },
        plain_tcp: Vec::new(),
    };
    for round in 1..=n_runs {
        tell(format!("round {round} of {n_runs}"));
        measured.product.rest.push(pull(rig, &product).await?);
        measured.default_window.rest.push(pull(rig, &other).await?);
        let (size, limit) = (rig.source.size, rig.source.limit());
        measured.plain_tcp.push(measure_sender(rig.network, size, limit).await?);
    }
    laid.remove(rig.network).await?;
    product.end().await?;
    other.end().await?;
    Ok(measured)
}

/// Pulls the file once; the seconds it took.
async fn pull(rig: &Setup<'_>, product: &Product) -> anyhow::Result<f64> {
    source::settle(rig.folder)?;
    Ok(product.pull(rig.source).await?.as_secs_f64())
}

fn table(measured: &[DistanceMeasurement], size: u64) -> String {
    let size = format!("{}, MB/s", human::size(size));
    let mut table = Table::new(&[
        &size,
        "measured",
        "filepull",
        "first",
        "1 MiB",
        "first",
        "TCP",
        " filepull is",
    ]);
    for measured in measured {
        table.row(measured.cells());
    }
    table.to_string()
}

impl DistanceMeasurement {
    fn cells(&self) -> Vec<String> {
        let rate = |seconds: f64| SendReport { bytes: self.bytes, seconds }.megabytes_per_second();
        let median =
            |series: &DistanceSeries| rate(Sorted::of(series.rest.iter().copied()).median());
        let plain =
            Sorted::of(self.plain_tcp.iter().map(SendReport::megabytes_per_second)).median();
        let (ours, other) = (median(&self.product), median(&self.default_window));
        let rates = [ours, rate(self.product.first), other, rate(self.default_window.first), plain];
        let mut cells = vec![self.line.to_string(), format!("{:.1} ms", self.rtt_seconds * 1e3)];
        cells.extend(rates.map(|rate| format!("{rate:.1}")));
        cells.push(self.compared(ours / other, ours / plain));
        cells
    }

    /// The floor is set for one distance and one size, and for a line that does not itself stand in
    /// the way.
    fn compared(&self, over_default: f64, over_plain: f64) -> String {
        let Link { rtt, rate, .. } = self.line;
        let judged = rtt == targets::FAR && rate.is_none() && self.bytes == targets::SIZE;
        let verdict = judged.then(|| targets::OVER_DEFAULT_WINDOW.verdict(over_default));
        let verdict = verdict.unwrap_or_default();
        format!("{over_default:.1} x 1 MiB, {over_plain:.2} x TCP {verdict}")
    }
}
