//! Peak memory of fresh processes, in small transfers and in large ones, one and many at once: the
//! size of the file must not be seen in it.

mod crowd;
mod stalled;

use filepull_core::human::{self, parse_size};
use rustix::fs::statvfs;
use serde::Serialize;

use crate::Bench;
use crate::product::Ends;
use crate::report::{BenchReport, Table, mib, print, tell, write_json};
use crate::source::{self, SourceFile};
use crate::targets::{self, Target};
use crowd::Crowd;
use stalled::Stalled;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sizes of the file, comma separated.
    #[arg(long, default_value = "10MiB,1GiB", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<u64>,
    /// Clients that send at once, comma separated.
    #[arg(long, default_value = "1", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: Vec<u32>,
    /// Let the disk stall under as many uploads as may run, too (needs root).
    #[arg(long)]
    stalled: bool,
}

/// What the disk must keep besides all copies: the server's own reserve, and some of ours.
const RESERVE: u64 = 3 << 30;

#[derive(Debug, Serialize)]
struct MemoryMeasurement {
    clients: u32,
    bytes: u64,
    /// None where the disk has no room for so many copies.
    peaks: Option<Peaks>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Peaks {
    /// Connected, before the transfers.
    before: Ends<u64>,
    after: Ends<u64>,
}

#[derive(Debug, Serialize)]
struct MemoryResults {
    transfers: Vec<MemoryMeasurement>,
    stalled: Vec<Stalled>,
}

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let mut transfers = Vec::new();
    for &bytes in &args.size {
        for &clients in &args.clients {
            tell(format!("{clients} at once of {}", human::size(bytes)));
            transfers.push(measure(bench, clients, bytes).await?);
        }
    }
    let mut stalled = Vec::new();
    for data_conn in ["separate", "shared"].into_iter().filter(|_| args.stalled) {
        stalled.push(stalled::measure(bench, data_conn).await?);
    }
    print(format!("\n{}", table(&transfers)));
    if !stalled.is_empty() {
        print(stalled_table(&stalled));
    }
    print(NOTES);
    let results = MemoryResults { transfers, stalled };
    write_json(bench.json.as_deref(), &BenchReport { mode: "memory", head: &head, results })
}

const NOTES: &str = "\
VmHWM in MiB: the most memory the process had resident since it started, its code included; of
several agents the one that had most. Each row is a fresh server with fresh agents; `connected` is
before the transfers. A window is what HTTP/2 lets an agent send ahead; besides it each upload has a
batch that is being written and another one that waits, 256 KiB each where 20 share them.";

async fn measure(bench: &Bench, clients: u32, bytes: u64) -> anyhow::Result<MemoryMeasurement> {
    let folder = source::folder(&bench.folder)?;
    let disk = statvfs(folder.path())?;
    let needed = bytes.saturating_mul(u64::from(clients) + 1).saturating_add(RESERVE);
    if disk.f_bavail.saturating_mul(disk.f_frsize) < needed {
        tell(format!("no room: {} would be needed", human::size(needed)));
        return Ok(MemoryMeasurement { clients, bytes, peaks: None });
    }
    let source = SourceFile::noughts(&folder.path().join("source"), bytes)?;
    let places = (folder.path(), folder.path());
    let crowd = Crowd::start(&bench.programs, places, &source, clients, "separate").await?;
    let before = crowd.peak_rss()?;
    crowd.pull_all(&source).await?;
    let after = crowd.peak_rss()?;
    crowd.end().await?;
    Ok(MemoryMeasurement { clients, bytes, peaks: Some(Peaks { before, after }) })
}

fn table(measured: &[MemoryMeasurement]) -> String {
    let headings =
        ["peak memory, MiB", "at once", "server connected", "server", "agent", " server", " agent"];
    let mut table = Table::new(&headings);
    for MemoryMeasurement { clients, bytes, peaks } in measured {
        let names = [human::size(*bytes), clients.to_string()];
        let Some(Peaks { before, after }) = peaks else {
            table.row(names.into_iter().chain(["no room on this disk".to_owned()]));
            continue;
        };
        let after = after.map(mib);
        let figures = [mib(before.server), after.server, after.agent];
        let figures = figures.map(|mib| format!("{mib:.1}"));
        // The floors are set for one transfer.
        let judged =
            |must: Target, mib| if *clients == 1 { must.verdict(mib) } else { String::new() };
        let verdicts =
            [judged(targets::SERVER_MIB, after.server), judged(targets::AGENT_MIB, after.agent)];
        table.row(names.into_iter().chain(figures).chain(verdicts));
    }
    table.to_string()
}

fn stalled_table(stalled: &[Stalled]) -> String {
    let (at_once, window) = (stalled::N_CLIENTS, stalled::WINDOW);
    let title = format!("{at_once} uploads, disk stalled, MiB");
    let bound = format!("{at_once} windows");
    let with_batches = format!("{at_once} windows and batches");
    let headings = [&title, "connected", "server", "on top", &bound, &with_batches, "agent"];
    let mut table = Table::new(&headings);
    for Stalled { data_conn, before, peak } in stalled {
        let bounds = [window, window + stalled::BATCHES].map(|each| each * u64::from(at_once));
        let [windows, all] = bounds.map(mib);
        let (connected, server) = (mib(before.server), mib(peak.server));
        let figures = [connected, server, server - connected, windows, all, mib(peak.agent)];
        let name = [format!("data connection {data_conn}")];
        table.row(name.into_iter().chain(figures.map(|mib| format!("{mib:.1}"))));
    }
    table.to_string()
}
