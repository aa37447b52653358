//! `filepull-bench` measures the throughput, latency and resources of filepull.

mod agent;
mod competitor;
mod distance;
mod fleet;
mod latency;
mod machine;
mod memory;
mod peers;
mod product;
mod records;
mod report;
mod scale;
mod server;
mod setup;
mod source;
mod stats;
mod targets;
mod throughput;
mod uplink;
mod wire;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use filepull_process::signal;
use filepull_testkit::{Programs, run_tool};
use tokio::runtime;
use tokio::time::sleep;

use machine::Machine;
use report::{ReportHead, log_progress};

/// The version of this build, and of the programs beside it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Measures filepull: a release server and release agents, as processes, over loopback.
///
/// Every run uses temporary folders and free ports, and kills all its processes at the end and on
/// Ctrl-C. Absolute figures vary by 30 % from hour to hour on most machines. Compare only figures
/// of one run, on an idle machine.
#[derive(Debug, Parser)]
#[command(name = "filepull-bench", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
    /// Folder of `filepull` and `filepull-agent` [default: the folder of this program].
    #[arg(long, global = true)]
    bin_dir: Option<PathBuf>,
    /// Folder for the data; it determines the disk that is measured [default: a folder in target/].
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// Writes all raw figures to this file, as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Throughput (MB/s) and CPU seconds per GB of one file, from trigger to done.
    Throughput(throughput::Args),
    /// Time (ms) from a trigger to its answer, on disk and on tmpfs.
    Latency(latency::Args),
    /// Peak memory of server and agent, for small and large transfers, one and many concurrently.
    Memory(memory::Args),
    /// Many clients on one server: memory and CPU of each client, while idle, connecting and
    /// sending.
    Fleet(fleet::Args),
    /// Many transfers on record: database size, and response times.
    #[command(hide = true)]
    Records(records::Args),
    /// Response times (ms), memory and start time of a server with a million records, 100,000 known
    /// clients and 10,000 waiting transfers.
    Scale(scale::Args),
    /// Throughput (MB/s) over a long link, with the product's window and with tonic's (needs root).
    Distance(distance::Args),
    /// Response time of control messages while a file uses a slow uplink (needs root).
    Uplink(uplink::Args),
    /// Bytes on the wire and seconds of a pull over a slow uplink, beside rsync: for a new, an
    /// unchanged and a changed file (needs root).
    Wire(wire::Args),
}

const EXAMPLES: &str = "\
Before:  cargo build --release -p filepull-cli -p filepull-agent
Then:    cargo run --release -p filepull-bench -- throughput --peers --json throughput.json
         cargo run --release -p filepull-bench -- throughput --size 1MiB,10MiB,100MiB,1GiB,10GiB --peers
         cargo run --release -p filepull-bench -- memory --size 10MiB,1GiB --clients 1,20
         cargo run --release -p filepull-bench -- latency --dir /srv/fast
         cargo run --release -p filepull-bench -- fleet --clients 100,1000,10000
         cargo run --release -p filepull-bench -- throughput --tls --peers
         cargo run --release -p filepull-bench -- fleet --tls
         cargo run --release -p filepull-bench -- scale --records 1000000 --clients 100000
         sudo target/release/filepull-bench distance --rtt 40ms,100ms --rate 1Gbit,none
         sudo target/release/filepull-bench uplink --rate 5Mbit,2Mbit --loss-percent 1
         sudo target/release/filepull-bench wire --json wire.json --svg wire.svg
         sudo target/release/filepull-bench wire --size 10MB --data text,appended,database
Peers:   apt-get install rsync openssh-server nginx-light";

/// Enough time for killed processes to end.
const REAP_TIME: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Bench {
    programs: Programs,
    /// The parent of all temporary folders.
    folder: PathBuf,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Some(code) = run_tool() {
        return code;
    }
    let result = start(&Cli::parse());
    result.unwrap_or_else(|error| {
        log_progress(format!("filepull-bench: {error:#}"));
        ExitCode::FAILURE
    })
}

fn start(cli: &Cli) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let result = run_until_signal(cli).await;
        // The runtime reaps the processes that were killed by a drop.
        sleep(REAP_TIME).await;

        result
    })
}

async fn run_until_signal(cli: &Cli) -> anyhow::Result<ExitCode> {
    let shutdown = signal::shutdown()?;
    // On a signal the run is dropped, with all its processes and folders.
    tokio::select! {
        result = run(cli) => result.map(|()| ExitCode::SUCCESS),
        () = shutdown => Ok(ExitCode::from(130)),
    }
}

async fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.mode {
        Mode::Throughput(args) => throughput::run(args, &Bench::new(cli)?).await,
        Mode::Latency(args) => latency::run(args, &Bench::new(cli)?).await,
        Mode::Memory(args) => memory::run(args, &Bench::new(cli)?).await,
        Mode::Fleet(args) => fleet::run(args, &Bench::new(cli)?).await,
        Mode::Records(args) => records::run(args, &Bench::new(cli)?).await,
        Mode::Scale(args) => scale::run(args, &Bench::new(cli)?).await,
        Mode::Distance(args) => distance::run(args, &Bench::new(cli)?).await,
        Mode::Uplink(args) => uplink::run(args, &Bench::new(cli)?).await,
        Mode::Wire(args) => wire::run(args, &Bench::new(cli)?).await,
    }
}

impl Bench {
    fn new(cli: &Cli) -> anyhow::Result<Self> {
        let own = env::current_exe()?;
        let own_folder = own.parent().context("a program is in a folder")?;
        let folder = cli.dir.clone().unwrap_or_else(|| own_folder.with_file_name("bench"));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let programs = Programs::in_folder(cli.bin_dir.as_deref().unwrap_or(own_folder))?;
        Ok(Self { programs, folder, json: cli.json.clone() })
    }

    /// Describes the machine and the programs; the data is in `folder`.
    async fn head(&self, folder: &Path) -> anyhow::Result<ReportHead> {
        let versions = product::versions(&self.programs).await?;
        Ok(ReportHead {
            machine: Machine::describe(folder),
            versions,
            command: command(env::args()),
        })
    }
}

/// Returns the command line without the paths, which are specific to this machine.
fn command(mut args: impl Iterator<Item = String>) -> String {
    // The name of this program.
    let _ = args.next();
    let mut command = "filepull-bench".to_owned();
    while let Some(arg) = args.next() {
        let is_path = |flag| arg == flag || arg.strip_prefix(flag).is_some_and(is_value);
        if !["--bin-dir", "--dir", "--json", "--svg"].into_iter().any(is_path) {
            command = format!("{command} {arg}");
        } else if !arg.contains('=') {
            let _ = args.next();
        }
    }
    command
}

fn is_value(rest: &str) -> bool {
    rest.starts_with('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_shown_without_paths() {
        let line =
            "/a/filepull-bench --dir /b fleet --clients 1,2 --json=/c --bin-dir /d --svg /e --x";
        let args = line.split(' ').map(str::to_owned);
        assert_eq!(command(args), "filepull-bench fleet --clients 1,2 --x");
    }
}
