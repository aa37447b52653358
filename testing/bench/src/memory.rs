//! Peak memory of new processes, for small and large transfers, one and many concurrently. It must
//! not depend on the file size.

mod many_clients;
mod stalled;

use filepull_core::human::{self, parse_size};
use rustix::fs::statvfs;
use serde::Serialize;

use crate::Bench;
use crate::product::BothEnds;
use crate::report::{BenchReport, Table, log_progress, mib, print, write_json};
use crate::source::{self, SourceFile};
use crate::targets::{self, Target};
use many_clients::ManyClients;
use stalled::StalledMeasurement;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// File sizes, comma separated.
    #[arg(long, default_value = "10MiB,1GiB", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<u64>,
    /// Clients that send concurrently, comma separated.
    #[arg(long, default_value = "1", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: Vec<u32>,
    /// Also stalls the disk during the maximum number of uploads (needs root).
    #[arg(long)]
    stalled: bool,
}

/// Disk space besides all copies: the server's reserve, and some more.
const RESERVE: u64 = 3 << 30;

#[derive(Debug, Serialize)]
struct MemoryMeasurement {
    clients: u32,
    bytes: u64,
    /// `None` if the disk has no space for these copies.
    peaks: Option<Peaks>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Peaks {
    /// After the connections, before the transfers.
    before: BothEnds<u64>,
    after: BothEnds<u64>,
}

#[derive(Debug, Serialize)]
struct MemoryResults {
    transfers: Vec<MemoryMeasurement>,
    stalled: Vec<StalledMeasurement>,
}

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let mut transfers = Vec::new();
    for &bytes in &args.size {
        for &clients in &args.clients {
            log_progress(format!("{clients} transfers of {}", human::size(bytes)));
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
VmHWM in MiB: the peak of the resident memory since the start of the process, code included; the highest
of several agents. Each row is a new server with new agents; `connected` is before the transfers. A window
is what HTTP/2 lets an agent send in advance. Each upload also has a batch that is being written and a
batch that waits, 192 KiB each with 20 uploads, and 2 MiB for direct writes.";

async fn measure(bench: &Bench, clients: u32, bytes: u64) -> anyhow::Result<MemoryMeasurement> {
    let folder = source::folder(&bench.folder)?;
    let disk = statvfs(folder.path())?;
    let needed = bytes.saturating_mul(u64::from(clients) + 1).saturating_add(RESERVE);
    if disk.f_bavail.saturating_mul(disk.f_frsize) < needed {
        log_progress(format!("not enough disk space: {} needed", human::size(needed)));
        return Ok(MemoryMeasurement { clients, bytes, peaks: None });
    }
    let source = SourceFile::zeros(&folder.path().join("source"), bytes)?;
    let folders = (folder.path(), folder.path());
    let many_clients =
        ManyClients::start(&bench.programs, folders, &source, clients, "separate").await?;
    let before = many_clients.peak_rss()?;
    many_clients.pull_all(&source).await?;
    let after = many_clients.peak_rss()?;
    many_clients.end().await?;
    Ok(MemoryMeasurement { clients, bytes, peaks: Some(Peaks { before, after }) })
}

fn table(measured: &[MemoryMeasurement]) -> String {
    let headings =
        ["peak memory, MiB", "clients", "server connected", "server", "agent", " server", " agent"];
    let mut table = Table::new(&headings);
    for MemoryMeasurement { clients, bytes, peaks } in measured {
        let names = [human::size(*bytes), clients.to_string()];
        let Some(Peaks { before, after }) = peaks else {
            table.row(names.into_iter().chain(["not enough disk space".to_owned()]));
            continue;
        };
        let after = after.map(mib);
        let figures =
            [mib(before.server), after.server, after.agent].map(|mib| format!("{mib:.1}"));
        // The targets are for one transfer.
        let judged =
            |target: Target, mib| if *clients == 1 { target.verdict(mib) } else { String::new() };
        let verdicts =
            [judged(targets::SERVER_MIB, after.server), judged(targets::AGENT_MIB, after.agent)];
        table.row(names.into_iter().chain(figures).chain(verdicts));
    }
    table.to_string()
}

fn stalled_table(stalled: &[StalledMeasurement]) -> String {
    let n_uploads = stalled::N_CLIENTS;
    let window = stalled::WINDOW;
    let title = format!("{n_uploads} uploads, stalled disk, MiB");
    let bound = format!("{n_uploads} windows");
    let with_batches = format!("{n_uploads} windows and batches");
    let headings = [&title, "connected", "server", "increase", &bound, &with_batches, "agent"];
    let mut table = Table::new(&headings);
    for StalledMeasurement { data_conn, before, peak } in stalled {
        let bounds = [window, window + stalled::BATCHES].map(|each| each * u64::from(n_uploads));
        let [windows, all] = bounds.map(mib);
        let connected = mib(before.server);
        let server = mib(peak.server);
        let figures = [connected, server, server - connected, windows, all, mib(peak.agent)];
        let name = [format!("data connection {data_conn}")];
        table.row(name.into_iter().chain(figures.map(|mib| format!("{mib:.1}"))));
    }
    table.to_string()
}
