//! Control messages on a slow and lossy uplink: how long they take while nothing else is sent, and
//! while a file is, on a connection of its own and on theirs.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_core::human::parse_duration;
use filepull_testkit::DEADLINE;
use filepull_testkit::net::{
    Hosts, Link, Namespace, Network, SendReport, measure_sender, parse_rate,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Bench;
use crate::agent::AgentProcess;
use crate::product::{CLIENT, Product};
use crate::report::{BenchReport, Table, print, tell, write_json};
use crate::server::ServerProcess;
use crate::setup::Setup;
use crate::source::{self, SourceFile};
use crate::stats::Sorted;
use crate::targets;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The round trip.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    rtt: Duration,
    /// Rates of the uplink, comma separated.
    #[arg(long, default_value = "5Mbit,2Mbit", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<Option<u64>>,
    /// Packets lost, of a hundred, on either way.
    #[arg(long, default_value_t = 1.0)]
    loss_percent: f64,
    /// What the router keeps of a sender that is too fast, as the time it takes to send it.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    queue: Duration,
    /// How long each is measured.
    #[arg(long, default_value = "40s", value_parser = parse_duration)]
    time: Duration,
    #[command(flatten)]
    hosts: Hosts,
}

/// Never sent to its end.
const SIZE: u64 = 1 << 30;

/// The server pings this often, give or take 20 %.
const HEARTBEAT: &str = "200ms";

/// And this often on a connection that carries a file: HTTP/2 takes turns frame by frame, so that a
/// pong waits for a chunk. More pings than chunks would only wait for each other.
const SHARED_HEARTBEAT: &str = "1s";

/// Clients that are pinged: one packet of a hundred decides about the figure that is judged, so many
/// are needed. They use a few percent of the line.
const N_CLIENTS: u32 = 8;

/// Between the first bytes of an upload and the measurement: it has found its pace by then.
const SETTLE: Duration = Duration::from_secs(5);

/// What is sent meanwhile.
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

/// One line.
#[derive(Debug, Serialize)]
struct UplinkMeasurement {
    line: Link,
    cases: Vec<Case>,
    plain_tcp: SendReport,
}

#[derive(Debug, Serialize)]
struct Case {
    upload: UplinkMode,
    round_trip_ms: Vec<f64>,
    /// Of the file.
    received: SendReport,
}

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let folder = source::folder(&bench.folder)?;
    let head = bench.head(folder.path()).await?;
    print(&head);
    let source = SourceFile::make(&folder.path().join("source"), SIZE)?;
    let network = Network::create(&args.hosts).await?;
    let mut measured = Vec::new();
    for &rate in &args.rate {
        let Args { rtt, loss_percent, queue, .. } = *args;
        let line = Link { rtt, rate, loss_percent, queue };
        tell(line.to_string());
        let place = folder.path().join(measured.len().to_string());
        let rig = Setup { bench, network: &network, source: &source, folder: &place };
        measured.push(measure(&rig, line, args.time).await?);
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
Round trip: from the server's ping on the session to the agent's pong, every single one, as the
server logs it. It pings eight clients on the same line every 200 ms, so that there are enough of
them; with shared only the one that sends, every second, because there a pong takes turns with
chunks. Lost packets delay pings at rest too. separate: the file travels on a connection of its own,
which is the default; shared: on that of the session (DATA_CONN=shared). MB/s: what arrived of the
file meanwhile; plain TCP: one connection and nothing else on the line.";

/// Measures one line.
async fn measure(rig: &Setup<'_>, line: Link, time: Duration) -> anyhow::Result<UplinkMeasurement> {
    let mut cases = Vec::new();
    std::fs::create_dir_all(rig.folder)?;
    for upload in [UplinkMode::None, UplinkMode::Separate, UplinkMode::Shared] {
        tell(format!("upload: {upload:?}"));
        cases.push(case(rig, line, upload, time).await?);
    }
    let laid = line.apply(rig.network).await?;
    let plain_tcp = measure_sender(rig.network, u64::MAX, time / 2).await?;
    laid.remove(rig.network).await?;
    Ok(UplinkMeasurement { line, cases, plain_tcp })
}

async fn case(
    rig: &Setup<'_>,
    line: Link,
    upload: UplinkMode,
    time: Duration,
) -> anyhow::Result<Case> {
    // Started before the line is there, or everything would wait for it.
    let of_server = [
        ("HEARTBEAT", upload.heartbeat()),
        ("LOG_LEVEL", "info,filepull_server::grpc::session=trace"),
    ];
    let of_agent = [("DATA_CONN", upload.data_conn())];
    let product = rig.start("product", &of_server, &of_agent).await?;
    let others = start_others(rig, &product.server, upload).await?;
    let laid = line.apply(rig.network).await?;
    let transfer = match upload {
        UplinkMode::None => None,
        UplinkMode::Separate | UplinkMode::Shared => Some(begin(&product).await?),
    };
    sleep(SETTLE).await;
    let n_before = pongs(&product)?.len();
    let bytes_before = received(&product, transfer.as_deref()).await?;
    let began = Instant::now();
    sleep(time).await;
    let bytes = received(&product, transfer.as_deref()).await? - bytes_before;
    let seconds = began.elapsed().as_secs_f64();
    let round_trip_ms = pongs(&product)?.split_off(n_before);
    laid.remove(rig.network).await?;
    for agent in others {
        agent.process.kill().await?;
    }
    product.end().await?;
    std::fs::remove_dir_all(rig.folder.join("product"))?;
    Ok(Case { upload, round_trip_ms, received: SendReport { bytes, seconds } })
}

/// The clients that send nothing. With [`Upload::Shared`] there are none: what counts there is
/// the line that the file is on.
async fn start_others(
    rig: &Setup<'_>,
    server: &ServerProcess,
    upload: UplinkMode,
) -> anyhow::Result<Vec<AgentProcess>> {
    let mut others = Vec::new();
    for number in (2..=N_CLIENTS).filter(|_| upload != UplinkMode::Shared) {
        let client = format!("client{number}");
        let folder = rig.folder.join("product").join(&client);
        std::fs::create_dir_all(&folder)?;
        let program = rig.network.command_in(Namespace::Agent, &rig.bench.programs.agent);
        others.push(AgentProcess::start(program, &client, server, rig.source, &folder).await?);
    }
    Ok(others)
}

/// Starts a transfer; its id, once bytes of it arrive.
async fn begin(product: &Product) -> anyhow::Result<String> {
    let order = json!({ "client": CLIENT });
    let transfer = product.http.post("/api/v1/transfers", &order, DEADLINE).await?.json()?;
    let id = transfer["id"].as_str().context("a transfer has an id")?.to_owned();
    let process = &product.server.process;
    let has_begun = async || received(product, Some(&id)).await.is_ok_and(|bytes| 0 < bytes);
    process.until("receive anything", has_begun).await?;
    Ok(id)
}

/// How many bytes of the file have arrived.
async fn received(product: &Product, transfer: Option<&str>) -> anyhow::Result<u64> {
    let Some(id) = transfer else { return Ok(0) };
    let path = format!("/api/v1/transfers/{id}");
    let transfer = product.http.get(&path, DEADLINE).await?.json()?;
    anyhow::ensure!(transfer["state"] == "running", "the transfer does not run: {transfer:#}");
    transfer["bytes_done"].as_u64().context("a transfer has bytes")
}

/// Every round trip that the server has logged so far, in milliseconds.
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
    for UplinkMeasurement { line, cases, plain_tcp } in measured {
        let rest = cases.first().map_or(f64::NAN, |idle| idle.sorted().percentile(99));
        for case in cases {
            table.row([line.to_string()].into_iter().chain(case.cells(rest)));
        }
        let rate = format!("{:.3}", plain_tcp.megabytes_per_second());
        let [none, names] = ["", "plain TCP"].map(str::to_owned);
        let blank = || none.clone();
        table.row([line.to_string(), names, blank(), blank(), blank(), blank(), rate]);
    }
    table.to_string()
}

impl Case {
    fn sorted(&self) -> Sorted {
        Sorted::of(self.round_trip_ms.iter().copied())
    }

    /// `rest`: the 99th percentile while nothing is sent.
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
