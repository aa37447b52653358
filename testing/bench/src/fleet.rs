//! Many clients on one server: the cost of each client while idle, while all connect, after the
//! server is lost, and while each sends a file.

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

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sizes of the fleet, comma separated. Each is measured separately.
    #[arg(long, default_value = "100,1000,10000", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: Vec<u32>,
    /// The agents enrol before the measurement, and use TLS.
    #[arg(long)]
    tls: bool,
}

/// Size of the file of each client.
const SIZE: u64 = 1024;

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let max_clients = args.clients.iter().copied().max().unwrap_or_default();
    let file_limit = make_room(max_clients)?;
    let head = bench.head(&bench.folder).await?;
    print(&head);
    print(format!("limit     {file_limit}"));
    let mut measured: Vec<FleetMeasurement> = Vec::new();
    for &n_clients in &args.clients {
        let next = measure(bench, n_clients, args.tls).await?;
        let added_kib = measured.last().map(|smaller| next.added_kib(smaller));
        measured.push(FleetMeasurement { added_kib, ..next });
    }
    print(format!("\n{}", table(&measured, args.tls)));
    print(notes());
    write_json(
        bench.json.as_deref(),
        &BenchReport { mode: "fleet", head: &head, results: measured },
    )
}

fn notes() -> String {
    let rest = measure::IDLE_TIME.as_secs();
    let at_once = pulls::N_CONCURRENT;
    format!(
        "\
The server is one process, all agents are another one. Both share the cores with this program. Verdicts
are for {fleet} clients.
KiB for each: resident memory after {rest} s without requests, minus the memory before the first agent
dialled, divided by the number of clients. `added`: the difference to the previous fleet, divided by the
difference of the numbers. It omits the cost of the first client; a rising value would mean that memory
does not grow linearly.
Connected: from the start of dialling until all clients are online; polled every 10 ms at first, then in
steps of 2 % of the time. Each session is durably recorded first. Sessions lost: accepted, then broken.
CPU: user and system time of the process, with a resolution of 10 ms.
Idle: {rest} s with only heartbeats (every 15 s, in both directions).
Server lost: SIGKILL, then a new server on the same ports and files. Agents dial again at a random time
within 5 s, so `again` is about 5 s for any server; the time starts when the new server is ready.
Pulls: POST /api/v1/transfers?wait once for each client, {at_once} concurrently on kept-alive connections,
until `done`: recorded, 1 KiB sent, read twice at the source, verified, fsync, rename, fsync of the
folder. p50 and p99 include the wait for a permit: the server runs 20 transfers concurrently. Small
files use the connection of the session. Pulls lost: not `done`, or not exactly one complete file.
Peak memory: the peak of the resident memory, from the restart of the server to the last pull.",
        fleet = targets::FLEET
    )
}
