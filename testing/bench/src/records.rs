//! The cost of many transfers on record: disk space and response times.

pub(crate) mod generate;
mod queries;

use filepull_core::human;

use crate::Bench;
use crate::report::{BenchReport, Table, log_progress, mib, print, write_json};
use crate::source;
use crate::stats::SortedSamples;
use queries::RecordsMeasurement;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Transfers on record, comma separated. Each number is measured separately.
    #[arg(long, default_value = "1000,30000,1000000", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    transfers: Vec<u32>,
    /// Number of clients of these transfers.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
}

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let mut measured = Vec::new();
    for &n_transfers in &args.transfers {
        let folder = source::folder(&bench.folder)?;
        log_progress(format!("creating {n_transfers} transfers of {} clients", args.clients));
        let filled = generate::fill(folder.path(), n_transfers, args.clients).await?;
        source::settle(folder.path())?;
        log_progress(format!("querying a server with {n_transfers} transfers on record"));
        measured.push(queries::measure(bench, folder.path(), filled).await?);
    }
    print(format!("\n{}", table(&measured)));
    print(NOTES);
    write_json(
        bench.json.as_deref(),
        &BenchReport { mode: "records", head: &head, results: measured },
    )
}

const NOTES: &str = "\
The records are created through the code of the server: one for each transfer, spread evenly over the
last 60 days and the clients; 90 % done, 8 % failed, 2 % cancelled. One download in ten is on the disk,
as an empty file.
Start: from the start of the process until \"Ready.\". Lists: GET, as JSON, the first page of 100.
Trigger: POST /api/v1/transfers for an offline client, with `queue`, answered when the record is
durable, then cancelled. All requests use one connection. Figures in ms are the median and, in
parentheses, the maximum.
Old records: a server with KEEP_RECORDS=30d on the same records deletes the older half; then the same
number is created again.";

fn table(measured: &[RecordsMeasurement]) -> String {
    let sizes: Vec<String> = measured.iter().map(|one| one.filled.transfers.to_string()).collect();
    let mut headings = vec!["transfers on record"];
    headings.extend(sizes.iter().map(String::as_str));
    let mut table = Table::new(&headings);
    let mut row = |name: &str, cell: &dyn Fn(&RecordsMeasurement) -> String| {
        table.row([name.to_owned()].into_iter().chain(measured.iter().map(cell)));
    };
    row("records.db, MiB", &|one| format!("{:.1}", mib(one.filled.bytes)));
    row("  bytes for each", &|one| {
        (one.filled.bytes / u64::from(one.filled.transfers)).to_string()
    });
    row("created, records/s", &|one| {
        format!("{:.0}", f64::from(one.filled.transfers) / one.filled.seconds)
    });
    row("start of the server, ms", &|one| ms(&one.start_seconds));
    row("trigger, ms", &|one| ms(&one.trigger_seconds));
    for (idx, name) in queries::QUERIES.iter().map(|(name, _)| name).enumerate() {
        row(&format!("{name}, ms"), &|one| ms(&one.query_seconds[idx]));
    }
    row("old records deleted", &|one| one.retention.forgotten.to_string());
    row("  kept with their download", &|one| one.retention.kept.to_string());
    row("  duration, s", &|one| format!("{:.1}", one.retention.seconds));
    row("  trigger meanwhile, ms", &|one| ms(&one.retention.trigger_seconds));
    row("  records.db afterwards, MiB", &|one| format!("{:.1}", mib(one.retention.bytes)));
    row("    and after as many new records", &|one| {
        format!("{:.1}", mib(one.retention.bytes_refilled))
    });
    row("server, peak memory", &|one| human::size(one.peak_rss));
    table.to_string()
}

/// `0.82 (1.75)`: median and maximum.
fn ms(seconds: &[f64]) -> String {
    let sorted = SortedSamples::of(seconds.iter().map(|seconds| seconds * 1e3));
    format!("{:.2} ({:.2})", sorted.percentile(50), sorted.max())
}
