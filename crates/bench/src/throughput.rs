//! One file from trigger to `done`, again and again, in turn with the peers.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use filepull_core::human::{self, parse_size};
use serde::Serialize;

use crate::peers::{self, Facts, Peer};
use crate::product::{Ends, Product};
use crate::report::{Report, Table, mib, print, tell, write_json};
use crate::source::{self, Source};
use crate::stats::Sorted;
use crate::{Bench, VERSION};

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measured runs of each; one more before them warms up.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Sizes of the file, comma separated.
    #[arg(long, default_value = "100MiB", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<u64>,
    /// Run the other programs that are installed in turn with filepull: dd, rsync, scp, nginx.
    #[arg(long)]
    peers: bool,
}

/// The runs of one program with one size.
#[derive(Clone, Debug, Serialize)]
struct Series {
    #[serde(flatten)]
    facts: Facts,
    bytes: u64,
    runs: Vec<Run>,
}

/// One transfer. The server is the end that is dialled, the client the end that dials.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    seconds: f64,
    server_cpu_seconds: f64,
    client_cpu_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    series: Vec<Series>,
    missing: Vec<String>,
    peak_rss_bytes: Ends<u64>,
}

/// One that runs in turn with the others.
enum Contestant {
    Product(Box<Product>),
    Peer(Peer),
}

/// Processes that have answered may still have a little to do, which is theirs.
const REST: Duration = Duration::from_millis(100);

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let folder = source::folder(&bench.folder)?;
    let mut head = bench.head(folder.path()).await?;
    let mut sources = Vec::new();
    for &size in &args.size {
        sources.push(Source::make(&folder.path().join("source"), size)?);
    }
    let first = sources.first().context("a size is needed")?;
    let product = Product::start(&bench.programs, folder.path(), first).await?;
    let (peers, mut missing) = match args.peers {
        true => peers::start_all(folder.path()).await,
        false => (Vec::new(), Vec::new()),
    };
    let mut contestants = vec![Contestant::Product(Box::new(product))];
    contestants.extend(peers.into_iter().map(Contestant::Peer));
    warm_up(&mut contestants, first, &mut missing).await?;

    head.versions.extend(contestants.iter().filter_map(Contestant::version));
    print(&head);
    for missing in &missing {
        print(format!("missing   {missing}"));
    }
    let mut series = Vec::new();
    for source in &sources {
        let measured = in_turn(&contestants, source, args.runs, folder.path()).await?;
        print(table(&measured, source));
        series.extend(measured);
    }
    let peak_rss_bytes = end(contestants).await?;
    let Ends { server, agent } = peak_rss_bytes;
    print(format!("filepull, peak memory: server {} MiB, agent {} MiB", mib(server), mib(agent)));
    print(NOTES);
    let results = Results { series, missing, peak_rss_bytes };
    write_json(bench.json.as_deref(), &Report { mode: "throughput", head: &head, results })
}

const NOTES: &str = "\
MB is 10^6 bytes. Time: filepull from the HTTP request (POST /api/v1/transfers?wait) to the answer
that says `done`: recorded, sent, read twice at the source, SHA-256 at both ends, fsync, rename,
fsync of the folder; the others from the start of their client program to its end. CPU: user and
system, of whole processes and their children; the mean of all runs, as the clock ticks at 10 ms.
The last column is filepull's median rate over that program's, and the least it has to be. Before
each run the disk is synced; each copy is checked by its size, then deleted.";

/// One run of each that does not count. A peer that fails here is missing, with the reason.
async fn warm_up(
    contestants: &mut Vec<Contestant>,
    source: &Source,
    missing: &mut Vec<String>,
) -> anyhow::Result<()> {
    for contestant in std::mem::take(contestants) {
        tell(format!("warming up: {}", contestant.facts().name));
        match (contestant.measure(source).await, contestant) {
            (Ok(_), contestant) => contestants.push(contestant),
            (Err(error), Contestant::Peer(peer)) => {
                missing.push(format!("{}: {error:#}", peer.facts.name));
                peer.end().await?;
            }
            (Err(error), Contestant::Product(_)) => return Err(error),
        }
    }
    Ok(())
}

async fn in_turn(
    contestants: &[Contestant],
    source: &Source,
    n_runs: u32,
    folder: &Path,
) -> anyhow::Result<Vec<Series>> {
    let new = |contestant: &Contestant| Series {
        facts: contestant.facts(),
        bytes: source.size,
        runs: Vec::new(),
    };
    let mut series: Vec<Series> = contestants.iter().map(new).collect();
    for round in 1..=n_runs {
        tell(format!("{}: round {round} of {n_runs}", human::size(source.size)));
        for (contestant, series) in contestants.iter().zip(&mut series) {
            source::settle(folder)?;
            series.runs.push(contestant.measure(source).await?);
        }
    }
    Ok(series)
}

impl Contestant {
    fn facts(&self) -> Facts {
        match self {
            Self::Product(_) => Facts {
                name: "filepull",
                version: VERSION.to_owned(),
                assures: "SHA-256, synced, source unchanged",
                must: None,
            },
            Self::Peer(peer) => peer.facts.clone(),
        }
    }

    /// Its version, if the head does not have it.
    fn version(&self) -> Option<String> {
        match self {
            Self::Product(_) => None,
            Self::Peer(peer) => Some(peer.facts.version.clone()),
        }
    }

    async fn measure(&self, source: &Source) -> anyhow::Result<Run> {
        let (took, server, client) = match self {
            Self::Peer(peer) => {
                let copied = peer.copy(source).await?;
                (copied.took, copied.server_cpu, copied.client_cpu)
            }
            Self::Product(product) => {
                let before = product.cpu()?;
                let took = product.pull(source).await?;
                tokio::time::sleep(REST).await;
                let after = product.cpu()?;
                (took, after.server - before.server, after.agent - before.agent)
            }
        };
        Ok(Run {
            seconds: took.as_secs_f64(),
            server_cpu_seconds: server.as_secs_f64(),
            client_cpu_seconds: client.as_secs_f64(),
        })
    }
}

/// Ends all of them; the peak memory of filepull.
async fn end(contestants: Vec<Contestant>) -> anyhow::Result<Ends<u64>> {
    let mut peak = Ends::default();
    for contestant in contestants {
        match contestant {
            Contestant::Product(product) => {
                peak = product.peak_rss()?;
                product.end().await?;
            }
            Contestant::Peer(peer) => peer.end().await?,
        }
    }
    Ok(peak)
}

impl Series {
    fn megabytes(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 9 PB")]
        let bytes = self.bytes as f64;
        bytes / 1e6
    }

    fn rates(&self) -> Sorted {
        Sorted::of(self.runs.iter().map(|run| self.megabytes() / run.seconds))
    }

    /// CPU-seconds per GB, of what `end` picks.
    fn cpu(&self, end: impl Fn(&Run) -> f64) -> f64 {
        let n_bytes = self.megabytes() / 1e3 * self.runs.iter().map(|_| 1.0).sum::<f64>();
        self.runs.iter().map(end).sum::<f64>() / n_bytes
    }
}

fn table(measured: &[Series], source: &Source) -> String {
    let mut table = Table::new(&[
        &human::size(source.size),
        "MB/s",
        "min",
        "max",
        "CPU-s/GB",
        "server",
        "client",
        " assures",
        " filepull is",
    ]);
    let ours = measured.first().map_or(f64::NAN, |series| series.rates().median());
    for series in measured {
        let rates = series.rates();
        let server = series.cpu(|run| run.server_cpu_seconds);
        let client = series.cpu(|run| run.client_cpu_seconds);
        let rates_in_words =
            [rates.median(), rates.min(), rates.max()].map(|rate| format!("{rate:.0}"));
        let cpu_in_words = [server + client, server, client].map(|cpu| format!("{cpu:.2}"));
        let ratio = ours / rates.median();
        let words = [series.facts.assures.to_owned(), compared(&series.facts, ratio)];
        let name = [series.facts.name.to_owned()];
        table.row(name.into_iter().chain(rates_in_words).chain(cpu_in_words).chain(words));
    }
    table.to_string()
}

/// `2.05 x (must 1.3: kept)`
fn compared(facts: &Facts, ratio: f64) -> String {
    match facts.must {
        None if facts.name == "filepull" => String::new(),
        None => format!("{ratio:.2} x"),
        Some(must) => {
            let verdict = if must <= ratio { "kept" } else { "MISSED" };
            format!("{ratio:.2} x (must {must:.1}: {verdict})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_millions_of_bytes_and_cpu_is_per_billion() {
        let facts = Facts { name: "x", version: String::new(), assures: "", must: Some(1.3) };
        let run = |seconds| Run { seconds, server_cpu_seconds: 0.1, client_cpu_seconds: 0.3 };
        let runs = vec![run(0.1), run(0.2), run(0.4)];
        let series = Series { facts, bytes: 100_000_000, runs };
        assert_eq!(series.rates().median().round(), 500.0);
        assert_eq!(series.cpu(|run| run.client_cpu_seconds).round(), 3.0);
        assert_eq!(compared(&series.facts, 1.25), "1.25 x (must 1.3: MISSED)");
        assert_eq!(compared(&series.facts, 1.5), "1.50 x (must 1.3: kept)");
    }
}
