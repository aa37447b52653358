//! One file over a long link, with the product's flow-control window and with tonic's default, in
//! turn with a plain TCP connection.

use std::time::Duration;

use filepull_core::human::{self, parse_duration, parse_size};
use filepull_testkit::net::{Hosts, Link, Network, SendReport, measure_sender, parse_rate};
use serde::Serialize;

use crate::Bench;
use crate::product::Product;
use crate::report::{BenchReport, Table, log_progress, print, write_json};
use crate::setup::Setup;
use crate::source::{self, SourceFile};
use crate::stats::SortedSamples;
use crate::targets;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Round trip times, comma separated.
    #[arg(long, default_value = "40ms,100ms", value_delimiter = ',', value_parser = parse_duration)]
    rtt: Vec<Duration>,
    /// Rates of the link, comma separated, such as 1Gbit; `none` is unlimited.
    #[arg(long, default_value = "1Gbit,none", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<Option<u64>>,
    /// Buffer of the router for a sender that is too fast, as the time to send it.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    queue: Duration,
    /// Size of the file.
    #[arg(long, default_value = "100MiB", value_parser = parse_size)]
    size: u64,
    /// Measured runs of each, after one run on a new connection that is shown separately.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    hosts: Hosts,
}

/// The window of a stream and a connection in hyper's server, unless tonic sets it.
const DEFAULT_WINDOW: &str = "1MiB";

/// The figures of one link.
#[derive(Debug, Serialize)]
struct DistanceMeasurement {
    link: Link,
    bytes: u64,
    /// As measured, including the time of the machine itself.
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

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let folder = source::folder(&bench.folder)?;
    let head = bench.head(folder.path()).await?;
    print(&head);
    let source = SourceFile::create(&folder.path().join("source"), args.size)?;
    let network = Network::create(&args.hosts).await?;
    let mut measured = Vec::new();
    for &rtt in &args.rtt {
        for &rate in &args.rate {
            let link = Link { rtt, rate, downlink: None, loss_percent: 0.0, queue: args.queue };
            log_progress(link.to_string());
            let run_folder = folder.path().join(measured.len().to_string());
            let setup = Setup { bench, network: &network, source: &source, folder: &run_folder };
            measured.push(measure(&setup, link, args.runs).await?);
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
MB is 10^6 bytes; rates are medians. `first`: a transfer on a new connection; the others use an existing
one. Time: from the HTTP request to the answer `done`, as in `throughput`. TCP: one plain connection,
from its acceptance, into memory, without disk and digest. 1 MiB: the window of a stream in hyper's
server, unless tonic sets it.";

async fn measure(
    setup: &Setup<'_>,
    link: Link,
    n_runs: u32,
) -> anyhow::Result<DistanceMeasurement> {
    // Started before the link has its delay: the start would wait for it.
    let product = setup.start("product", &[], &[]).await?;
    let other = setup.start(DEFAULT_WINDOW, &[("STREAM_WINDOW", DEFAULT_WINDOW)], &[]).await?;
    let linked = link.apply(setup.network).await?;
    let mut measured = DistanceMeasurement {
        link,
        bytes: setup.source.size,
        rtt_seconds: setup.network.round_trip().await?,
        product: DistanceSeries { first: pull(setup, &product).await?, rest: Vec::new() },
        default_window: DistanceSeries { first: pull(setup, &other).await?, rest: Vec::new() },
        plain_tcp: Vec::new(),
    };
    for round in 1..=n_runs {
        log_progress(format!("round {round} of {n_runs}"));
        measured.product.rest.push(pull(setup, &product).await?);
        measured.default_window.rest.push(pull(setup, &other).await?);
        let size = setup.source.size;
        let limit = setup.source.limit();
        measured.plain_tcp.push(measure_sender(setup.network, size, limit).await?);
    }
    linked.remove(setup.network).await?;
    product.end().await?;
    other.end().await?;
    Ok(measured)
}

/// Pulls the file once. Returns the seconds.
async fn pull(setup: &Setup<'_>, product: &Product) -> anyhow::Result<f64> {
    source::settle(setup.folder)?;
    Ok(product.pull(setup.source).await?.as_secs_f64())
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
            |series: &DistanceSeries| rate(SortedSamples::of(series.rest.iter().copied()).median());
        let plain =
            SortedSamples::of(self.plain_tcp.iter().map(SendReport::megabytes_per_second)).median();
        let ours = median(&self.product);
        let other = median(&self.default_window);
        let rates = [ours, rate(self.product.first), other, rate(self.default_window.first), plain];
        let mut cells = vec![self.link.to_string(), format!("{:.1} ms", self.rtt_seconds * 1e3)];
        cells.extend(rates.map(|rate| format!("{rate:.1}")));
        cells.push(self.compared(ours / other, ours / plain));
        cells
    }

    /// The target is for one round trip and one size, and for a link without a rate limit.
    fn compared(&self, over_default: f64, over_plain: f64) -> String {
        let Link { rtt, rate, .. } = self.link;
        let judged = rtt == targets::FAR && rate.is_none() && self.bytes == targets::SIZE;
        let verdict =
            if judged { targets::OVER_DEFAULT_WINDOW.verdict(over_default) } else { String::new() };
        format!("{over_default:.1} x 1 MiB, {over_plain:.2} x TCP {verdict}")
    }
}
