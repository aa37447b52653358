//! Response times of control messages on a slow and lossy uplink: without an upload, and with an
//! upload on a separate or on the same connection.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_core::human::parse_duration;
use filepull_testkit::net::{
    Hosts, Link, Namespace, Network, SendReport, measure_sender, parse_rate,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Bench;
use crate::agent::AgentProcess;
use crate::product::{CLIENT, Product};
use crate::report::{BenchReport, Table, log_progress, print, write_json};
use crate::server::ServerProcess;
use crate::setup::Setup;
use crate::source::{self, SourceFile};
use crate::stats::SortedSamples;
use crate::targets;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Round trip time.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    rtt: Duration,
    /// Rates of the uplink, comma separated.
    #[arg(long, default_value = "5Mbit,2Mbit", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<Option<u64>>,
    /// Packet loss in percent, in each direction.
    #[arg(long, default_value_t = 1.0)]
    loss_percent: f64,
    /// Buffer of the router for a sender that is too fast, as the time to send it.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    queue: Duration,
    /// Duration of each measurement.
    #[arg(long, default_value = "40s", value_parser = parse_duration)]
    time: Duration,
    #[command(flatten)]
    hosts: Hosts,
}

/// Larger than what can be sent during a measurement.
const SIZE: u64 = 1 << 30;

/// Interval of the server's pings, ± 20 %.
const HEARTBEAT: &str = "200ms";

/// Interval of pings on a connection that carries a file. HTTP/2 sends frames in turn, so a pong
/// waits for a chunk, and more pings than chunks would wait for each other.
const SHARED_HEARTBEAT: &str = "1s";

/// Clients that are pinged. The 99th percentile needs many samples. Their pings use a few percent
/// of the link.
const N_CLIENTS: u32 = 8;

/// Time from the first bytes of an upload to the measurement, until its rate is stable.
const SETTLE: Duration = Duration::from_secs(5);

/// The upload during the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum UplinkMode {
    None,
    Separate,
    Shared,
}

impl UplinkMode {
    fn heartbeat(self) -> &'static str {
        match self {
            Self::None | Self::Separate => HEARTBEAT,
            Self::Shared => SHARED_HEARTBEAT,
        }
    }

    fn data_conn(self) -> &'static str {
        match self {
            Self::None | Self::Separate => "separate",
            Self::Shared => "shared",
        }
    }
}

/// The figures of one link.
#[derive(Debug, Serialize)]
struct UplinkMeasurement {
    link: Link,
    cases: Vec<UplinkCase>,
    plain_tcp: SendReport,
}

#[derive(Debug, Serialize)]
struct UplinkCase {
    upload: UplinkMode,
    round_trip_ms: Vec<f64>,
    /// What arrived of the file.
    received: SendReport,
}

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let folder = source::folder(&bench.folder)?;
    let head = bench.head(folder.path()).await?;
    print(&head);
    let source = SourceFile::create(&folder.path().join("source"), SIZE)?;
    let network = Network::create(&args.hosts).await?;
    let mut measured = Vec::new();
    for &rate in &args.rate {
        let Args { rtt, loss_percent, queue, .. } = *args;
        let link = Link { rtt, rate, downlink: None, loss_percent, queue };
        log_progress(link.to_string());
        let run_folder = folder.path().join(measured.len().to_string());
        let setup = Setup { bench, network: &network, source: &source, folder: &run_folder };
        measured.push(measure(&setup, link, args.time).await?);
    }
    print(format!("\n{}", table(&measured)));
    print(NOTES);
    let results = UplinkResults { hosts: &args.hosts, measured };
    write_json(bench.json.as_deref(), &BenchReport { mode: "uplink", head: &head, results })
}

#[derive(Debug, Serialize)]
struct UplinkResults<'a> {
    hosts: &'a Hosts,
    measured: Vec<UplinkMeasurement>,
}

const NOTES: &str = "\
Round trip: from a ping of the server on the session to the pong of the agent, as logged by the server.
It pings eight clients on the same link every 200 ms; with `shared` only the client that sends, every
second, because its pongs and chunks are sent in turn. Lost packets delay pings without an upload too.
separate: the file has its own connection (the default). shared: the file uses the connection of the
session (DATA_CONN=shared). MB/s: what arrived of the file meanwhile. Plain TCP: one connection, alone on
the link.";

async fn measure(
    setup: &Setup<'_>,
    link: Link,
    time: Duration,
) -> anyhow::Result<UplinkMeasurement> {
    let mut cases = Vec::new();
    std::fs::create_dir_all(setup.folder)?;
    for upload in [UplinkMode::None, UplinkMode::Separate, UplinkMode::Shared] {
        log_progress(format!("upload: {upload:?}"));
        cases.push(case(setup, link, upload, time).await?);
    }
    let linked = link.apply(setup.network).await?;
    let plain_tcp = measure_sender(setup.network, u64::MAX, time / 2).await?;
    linked.remove(setup.network).await?;
    Ok(UplinkMeasurement { link, cases, plain_tcp })
}

async fn case(
    setup: &Setup<'_>,
    link: Link,
    upload: UplinkMode,
    time: Duration,
) -> anyhow::Result<UplinkCase> {
    // Started before the link has its delay: the start would wait for it.
    let server_settings = [
        ("HEARTBEAT", upload.heartbeat()),
        ("LOG_LEVEL", "info,filepull_server::grpc::session=trace"),
    ];
    let agent_settings = [("DATA_CONN", upload.data_conn())];
    let product = setup.start("product", &server_settings, &agent_settings).await?;
    let others = start_others(setup, &product.server, upload).await?;
    let linked = link.apply(setup.network).await?;
    let transfer = match upload {
        UplinkMode::None => None,
        UplinkMode::Separate | UplinkMode::Shared => Some(start_transfer(&product).await?),
    };
    sleep(SETTLE).await;
    let n_before = pongs(&product)?.len();
    let bytes_before = received(&product, transfer.as_deref()).await?;
    let began = Instant::now();
    sleep(time).await;
    let bytes = received(&product, transfer.as_deref()).await? - bytes_before;
    let seconds = began.elapsed().as_secs_f64();
    let round_trip_ms = pongs(&product)?.split_off(n_before);
    linked.remove(setup.network).await?;
    for agent in others {
        agent.process.kill().await?;
    }
    product.end().await?;
    std::fs::remove_dir_all(setup.folder.join("product"))?;
    Ok(UplinkCase { upload, round_trip_ms, received: SendReport { bytes, seconds } })
}

/// Starts the clients that send nothing. With [`UplinkMode::Shared`] there are none, because only
/// the connection that carries the file is measured.
async fn start_others(
    setup: &Setup<'_>,
    server: &ServerProcess,
    upload: UplinkMode,
) -> anyhow::Result<Vec<AgentProcess>> {
    let mut others = Vec::new();
    for number in (2..=N_CLIENTS).filter(|_| upload != UplinkMode::Shared) {
        let client = format!("client{number}");
        let folder = setup.folder.join("product").join(&client);
        std::fs::create_dir_all(&folder)?;
        let program = setup.network.command_in(Namespace::Agent, &setup.bench.programs.agent);
        others.push(AgentProcess::start(program, &client, server, setup.source, &folder).await?);
    }
    Ok(others)
}

/// Starts a transfer. Returns its id after its first bytes have arrived.
async fn start_transfer(product: &Product) -> anyhow::Result<String> {
    let body = json!({ "client": CLIENT });
    let transfer = product.http.post("/api/v1/transfers", &body).await?.success_json()?;
    let id = transfer["id"].as_str().context("a transfer has an id")?.to_owned();
    let process = &product.server.process;
    let has_begun = async || received(product, Some(&id)).await.is_ok_and(|bytes| 0 < bytes);
    process.until("the first bytes", has_begun).await?;
    Ok(id)
}

/// Returns how many bytes of the file have arrived.
async fn received(product: &Product, transfer: Option<&str>) -> anyhow::Result<u64> {
    let Some(id) = transfer else { return Ok(0) };
    let path = format!("/api/v1/transfers/{id}");
    let transfer = product.http.get(&path).await?.success_json()?;
    anyhow::ensure!(transfer["state"] == "running", "the transfer does not run: {transfer:#}");
    transfer["bytes_done"].as_u64().context("a transfer has bytes")
}

/// Returns every round trip in the server's log, in milliseconds.
fn pongs(product: &Product) -> anyhow::Result<Vec<f64>> {
    Ok(product.server.process.said().iter().filter_map(|line| pong(line)).collect())
}

fn pong(line: &str) -> Option<f64> {
    let event: Value = serde_json::from_str(line).ok()?;
    let is_pong = event["event"] == "client.pong_received";
    Some(event["round_trip_us"].as_f64().filter(|_| is_pong)? / 1e3)
}

fn table(measured: &[UplinkMeasurement]) -> String {
    let mut table =
        Table::new(&["round trip, ms", " upload", "pings", "p50", "p99", "max", "MB/s", " p99 is"]);
    for UplinkMeasurement { link, cases, plain_tcp } in measured {
        let rest = cases.first().map_or(f64::NAN, |idle| idle.sorted().percentile(99));
        for case in cases {
            table.row([link.to_string()].into_iter().chain(case.cells(rest)));
        }
        let rate = format!("{:.3}", plain_tcp.megabytes_per_second());
        let [none, names] = ["", "plain TCP"].map(str::to_owned);
        let blank = || none.clone();
        table.row([link.to_string(), names, blank(), blank(), blank(), blank(), rate]);
    }
    table.to_string()
}

impl UplinkCase {
    fn sorted(&self) -> SortedSamples {
        SortedSamples::of(self.round_trip_ms.iter().copied())
    }

    /// `rest`: the 99th percentile without an upload.
    fn cells(&self, rest: f64) -> [String; 7] {
        let sorted = self.sorted();
        let p99 = sorted.percentile(99);
        let [p50_ms, p99_ms, max_ms] =
            [sorted.percentile(50), p99, sorted.max()].map(|ms| format!("{ms:.0}"));
        let ratio = p99 / rest;
        let (name, verdict) = match self.upload {
            UplinkMode::None => ("none", String::new()),
            UplinkMode::Separate => ("separate", targets::OVER_REST.verdict(ratio)),
            UplinkMode::Shared => ("shared", String::new()),
        };
        let rate = match self.upload {
            UplinkMode::None => String::new(),
            UplinkMode::Separate | UplinkMode::Shared => {
                format!("{:.3}", self.received.megabytes_per_second())
            }
        };
        let n_pings = self.round_trip_ms.len().to_string();
        [name.to_owned(), n_pings, p50_ms, p99_ms, max_ms, rate, format!("{ratio:.1} x {verdict}")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pongs_are_round_trips() {
        let line = r#"{"level":"TRACE","event":"client.pong_received","round_trip_us":100250}"#;
        assert_eq!(pong(line), Some(100.25));
        assert_eq!(pong(r#"{"event":"client.pong_received","round_trip_us":null}"#), None);
        assert_eq!(pong(r#"{"event":"client.connected","round_trip_us":7}"#), None);
        assert_eq!(pong("no JSON"), None);
    }
}
