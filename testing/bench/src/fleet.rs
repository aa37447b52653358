//! Many clients on one server: what one of them costs, at rest, when all come at once, when the
//! server is lost, and when each sends a file.

mod measure;
mod pulls;
mod setup;
mod table;

use filepull_testkit::fleet::make_room;

use crate::Bench;
use crate::report::{BenchReport, print, write_json};
use crate::targets;
use measure::{FleetMeasurement, measure};
use table::table;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sizes of the fleet, comma separated; each is measured by itself.
    #[arg(long, default_value = "100,1000,10000", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: Vec<u32>,
}

/// The file that each client sends.
const SIZE: u64 = 1024;

/// Measures, prints and writes.
pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let most = args.clients.iter().copied().max().unwrap_or_default();
    let room = make_room(most)?;
    let head = bench.head(&bench.folder).await?;
    print(&head);
    print(format!("limit     {room}"));
    let mut measured: Vec<FleetMeasurement> = Vec::new();
    for &n_clients in &args.clients {
        let next = measure(bench, n_clients).await?;
        let added_kib = measured.last().map(|smaller| next.added_kib(smaller));
        measured.push(FleetMeasurement { added_kib, ..next });
    }
    print(format!("\n{}", table(&measured)));
    print(notes());
    write_json(
        bench.json.as_deref(),
        &BenchReport { mode: "fleet", head: &head, results: measured },
    )
}

fn notes() -> String {
    let (rest, at_once) = (measure::REST.as_secs(), pulls::AT_ONCE);
    format!(
        "\
The server is one process, all agents are another one; both share the cores with this program, so
that whoever connects or pulls pays for both ends. Verdicts are for {fleet} clients.
KiB for each: resident memory after {rest} s at rest, less that before the first agent dialled, over
the number of clients. `added`: the same between this fleet and the one in the column before, which
leaves out what the first client costs; were it to rise, memory would not grow linearly.
Connected: from the word to dial until the server says that all are online; it is asked every 10 ms
at first, later after every further 2 % of the time. Each line is on record, durably, before it
counts. Lines lost: accepted, then broken.
CPU: user and system, of the whole process; the clock behind it ticks every 10 ms.
At rest: {rest} s with nothing but heartbeats (every 15 s, both ways).
Server lost: SIGKILL, then another one on the same ports and files. Agents that lost a healthy line
dial again within 5 s, at random, so that `again` is about 5 s whatever the server can do; the time
counts from the moment the new server was ready.
Pulls: POST /api/v1/transfers?wait for each client once, {at_once} at once on connections that are
kept, until `done`: recorded, 1 KiB sent, read twice at the source, verified, fsync, rename, fsync
of the folder. p50 and p99 hold the wait for a turn: the server runs 20 at once. So small a file
travels on the connection of its session. Pulls lost: not `done`, or not exactly one whole file.
Peak memory: the most that was resident, from the restart of the server to the last pull.",
        fleet = targets::FLEET
    )
}
