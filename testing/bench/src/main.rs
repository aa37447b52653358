//! `filepull-bench`: what filepull costs, measured from outside.

mod agent;
mod competitor;
mod distance;
mod fleet;
mod http;
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

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use filepull_process::signal;
use filepull_testkit::tool;
use tokio::runtime;
use tokio::time::sleep;

use machine::Machine;
use product::Programs;
use report::{Head, tell};

/// The version of this build, which is that of the product beside it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Measure filepull: a release server and a release agent, as processes, over loopback.
///
/// Every run uses throw-away folders and free ports; whatever was started is killed at the end, by
/// Ctrl-C too. Absolute figures move by 30 % from hour to hour on most machines: compare only
/// within one run, on a machine that does nothing else.
#[derive(Debug, Parser)]
#[command(name = "filepull-bench", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
    /// Where `filepull` and `filepull-agent` are [default: the folder of this program].
    #[arg(long, global = true)]
    bin_dir: Option<PathBuf>,
    /// Where the files go, and so which disk is measured [default: a folder in target/].
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// Write every single run to this file.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// MB/s and CPU-seconds per GB of one file, from trigger to done.
    Throughput(throughput::Args),
    /// Milliseconds from a trigger to its answer, on disk and on tmpfs.
    Latency(latency::Args),
    /// Peak memory of both ends, in small and in large transfers, one and many at once.
    Memory(memory::Args),
    /// Many clients on one server: memory and CPU of a client, at rest, connecting and sending.
    Fleet(fleet::Args),
    /// Many transfers on record: the size of the database, and how long who waits.
    #[command(hide = true)]
    Records(records::Args),
    /// Milliseconds of single requests, memory and start of a server with a million records, 100,000
    /// known clients and 10,000 waiting transfers.
    Scale(scale::Args),
    /// MB/s over a long line, with the product's window and with tonic's (needs root).
    Distance(distance::Args),
    /// How long control messages take while a file uses a slow uplink (needs root).
    Uplink(uplink::Args),
}

const EXAMPLES: &str = "\
Before:  cargo build --release -p filepull-cli -p filepull-agent
Then:    cargo run --release -p filepull-bench -- throughput --peers --json throughput.json
         cargo run --release -p filepull-bench -- throughput --size 100MiB,1GiB --runs 5
         cargo run --release -p filepull-bench -- memory --size 10MiB,1GiB --clients 1,20
         cargo run --release -p filepull-bench -- latency --dir /srv/fast
         cargo run --release -p filepull-bench -- fleet --clients 100,1000,10000
         cargo run --release -p filepull-bench -- scale --records 1000000 --clients 100000
         sudo target/release/filepull-bench distance --rtt 40ms,100ms --rate 1Gbit,none
         sudo target/release/filepull-bench uplink --rate 5Mbit,2Mbit --loss-percent 1
Peers:   apt-get install rsync openssh-server nginx-light";

/// Long enough for killed processes to be gone.
const COLLECT: Duration = Duration::from_millis(100);

/// What every measurement needs.
#[derive(Debug)]
pub(crate) struct Bench {
    programs: Programs,
    /// Where folders for files are made.
    folder: PathBuf,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Some(code) = tool::run() {
        return code;
    }
    let ended = start(&Cli::parse());
    ended.unwrap_or_else(|error| {
        tell(format!("filepull-bench: {error:#}"));
        ExitCode::FAILURE
    })
}

fn start(cli: &Cli) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ended = run_until_asked_to_stop(cli).await;
        // The runtime collects the processes that were killed by a drop; then nobody else has to.
        sleep(COLLECT).await;
        ended
    })
}

async fn run_until_asked_to_stop(cli: &Cli) -> anyhow::Result<ExitCode> {
    let asked_to_stop = signal::shutdown()?;
    // Whoever loses is dropped, and with it every process and folder it made.
    tokio::select! {
        ended = run(cli) => ended.map(|()| ExitCode::SUCCESS),
        () = asked_to_stop => Ok(ExitCode::from(130)),
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

    /// The machine and the programs under test; the files are in `folder`.
    async fn head(&self, folder: &Path) -> anyhow::Result<Head> {
        let versions = self.programs.versions().await?;
        Ok(Head { machine: Machine::look(folder), versions, command: command(env::args()) })
    }
}

/// What was typed, without the places of files: they are those of this machine.
fn command(mut typed: impl Iterator<Item = String>) -> String {
    // Whatever the program was called by.
    let _ = typed.next();
    let mut command = "filepull-bench".to_owned();
    while let Some(word) = typed.next() {
        let is_place = |flag| word == flag || word.strip_prefix(flag).is_some_and(is_value);
        if !["--bin-dir", "--dir", "--json"].into_iter().any(is_place) {
            command = format!("{command} {word}");
        } else if !word.contains('=') {
            let _ = typed.next();
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
    fn a_command_is_quoted_without_the_places_of_files() {
        let typed = "/a/filepull-bench --dir /b fleet --clients 1,2 --json=/c --bin-dir /d --x";
        let typed = typed.split(' ').map(str::to_owned);
        assert_eq!(command(typed), "filepull-bench fleet --clients 1,2 --x");
    }
}
