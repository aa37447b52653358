//! What many transfers on record cost: room on the disk, and time for whoever asks.

mod ask;
pub(crate) mod fill;

use filepull_core::human;

use crate::Bench;
use crate::report::{BenchReport, Table, mib, print, tell, write_json};
use crate::source;
use crate::stats::Sorted;
use ask::RecordsMeasurement;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Transfers on record, comma separated; each number is measured by itself.
    #[arg(long, default_value = "1000,30000,1000000", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    transfers: Vec<u32>,
    /// Clients that the transfers are of.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
}

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let mut measured = Vec::new();
    for &n_transfers in &args.transfers {
        let folder = source::folder(&bench.folder)?;
        tell(format!("making {n_transfers} transfers of {} clients", args.clients));
        let filled = fill::fill(folder.path(), n_transfers, args.clients).await?;
        source::settle(folder.path())?;
        tell(format!("asking a server with {n_transfers} transfers on record"));
        measured.push(ask::measure(bench, folder.path(), filled).await?);
    }
    print(format!("\n{}", table(&measured)));
    print(NOTES);
    write_json(
        bench.json.as_deref(),
        &BenchReport { mode: "records", head: &head, results: measured },
    )
}

const NOTES: &str = "\
Made through the records' own code, one row for each transfer, spread evenly over the last 60 days
and over the clients: 90 % done, 8 % failed, 2 % cancelled. One download in ten lies on the disk, as
an empty file.
Start: from the start of the process until \"Ready.\". Lists: GET, as JSON, the first page of 100.
Trigger: POST /api/v1/transfers for a client that is offline, with `queue`: answered once its record
is durable. Each is cancelled before the next. All on one connection that is kept; ms are p50, and
the longest behind it.
Old ones: a server with KEEP_RECORDS=30d on the same records, which lets the older half go; then as many are made again.";

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
    row("made at, records/s", &|one| {
        format!("{:.0}", f64::from(one.filled.transfers) / one.filled.seconds)
    });
    row("start of the server, ms", &|one| ms(&one.start_seconds));
    row("trigger, ms", &|one| ms(&one.trigger_seconds));
    for (idx, name) in ask::QUESTIONS.iter().map(|(name, _)| name).enumerate() {
        row(&format!("{name}, ms"), &|one| ms(&one.question_seconds[idx]));
    }
    row("old ones that left", &|one| one.thinned.forgotten.to_string());
    row("  that stayed with their file", &|one| one.thinned.kept.to_string());
    row("  took, s", &|one| format!("{:.1}", one.thinned.seconds));
    row("  trigger meanwhile, ms", &|one| ms(&one.thinned.trigger_seconds));
    row("  records.db afterwards, MiB", &|one| format!("{:.1}", mib(one.thinned.bytes)));
    row("  and with as many made again", &|one| format!("{:.1}", mib(one.thinned.bytes_refilled)));
    row("server, peak memory", &|one| human::size(one.peak_rss));
    table.to_string()
}

/// `0.82 (1.75)`: the middle one, and the longest.
fn ms(seconds: &[f64]) -> String {
    let sorted = Sorted::of(seconds.iter().map(|seconds| seconds * 1e3));
    format!("{:.2} ({:.2})", sorted.percentile(50), sorted.max())
}
