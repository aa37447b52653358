//! The command line: which promises to test, with which seed and counts.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use filepull_process::signal;
use filepull_testkit::{Programs, run_tool};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::counters::Counters;
use crate::isolation;
use crate::mutations;
use crate::promise::Promise;
use crate::promises;
use crate::report::{PromiseVerdict, ReportRow, print_line, print_table};
use crate::sandbox::Sandbox;
use crate::trial::{SOAK, Trial};

/// Tests the reliability promises of filepull by injecting faults.
///
/// Needs root. Exit code 0: every promise held. 1: a promise is broken. 2: a tool or a kernel feature
/// is missing.
#[derive(Clone, Debug, Parser)]
#[command(name = "filepull-chaos", version)]
struct Args {
    /// Promises such as R1; `all` (except R11-slow, which takes ten minutes); `list` prints them;
    /// `mutations [NAME]...` checks that a promise or a test catches each mutation.
    #[arg(required = true)]
    what: Vec<String>,
    /// Seed of all random choices [default: random].
    #[arg(long)]
    seed: Option<u64>,
    /// Number of faults of each kind [default: the counts of CI].
    #[arg(long)]
    count: Option<u32>,
    /// Injects 60 times as many faults as CI.
    #[arg(long)]
    soak: bool,
    /// Folder of `filepull` and `filepull-agent` [default: the folder of this program].
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Folder for disk images and data [default: /dev/shm if 8 GiB are free there, else the temp
    /// folder].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Promises to skip, comma separated. The report shows each as skipped.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
}

impl Args {
    /// Returns the command that repeats a trial of this run.
    fn repeat_command(&self, row: &ReportRow) -> String {
        let mut command = format!("filepull-chaos {} --seed {}", row.promise.id, row.seed);
        if let Some(count) = self.count {
            let _ = write!(command, " --count {count}");
        }
        if self.soak {
            command.push_str(" --soak");
        }
        command
    }
}

/// A trial is stopped after this many times its limit, and its promise counts as broken.
const STOP_AFTER: u32 = 3;

pub(crate) fn main() -> ExitCode {
    if let Some(code) = run_tool() {
        return code;
    }
    let args = Args::parse();
    let runs_trials = !matches!(args.what[0].as_str(), "list" | "mutations");
    let result = if !runs_trials || isolation::is_isolated() {
        let runtime = Builder::new_multi_thread().enable_all().worker_threads(4).build();
        runtime.context("no threads").and_then(|runtime| runtime.block_on(start(&args)))
    } else {
        // `PR_SET_PDEATHSIG` follows the thread that starts the run: it must be the main thread.
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.context("no threads").and_then(|runtime| runtime.block_on(isolation::run()))
    };
    result.unwrap_or_else(|error| {
        print_line(format!("filepull-chaos: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn start(args: &Args) -> anyhow::Result<ExitCode> {
    let shutdown = signal::shutdown()?;
    // On a signal the run is dropped, which removes its sandbox.
    tokio::select! {
        result = run(args) => result,
        () = shutdown => Ok(ExitCode::from(130)),
    }
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.what[0].as_str() {
        "list" => {
            let all = promises::ALL.iter().chain(promises::LONG);
            all.for_each(|promise| print_line(format!("{:9}{}", promise.id, promise.statement)));
            Ok(ExitCode::SUCCESS)
        }
        "mutations" => mutations::run(&args.what[1..]).await,
        _ => run_trials(args, &select(&args.what)?).await,
    }
}

fn select(names: &[String]) -> anyhow::Result<Vec<&'static Promise>> {
    if names.iter().any(|name| name == "all") {
        return Ok(promises::ALL.iter().collect());
    }
    let find = |name: &String| {
        let mut all = promises::ALL.iter().chain(promises::LONG);
        let found = all.find(|promise| promise.id.eq_ignore_ascii_case(name));
        found.with_context(|| format!("there is no promise {name}; see `filepull-chaos list`"))
    };
    names.iter().map(find).collect()
}

async fn run_trials(args: &Args, selected: &[&'static Promise]) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe()?;
    let own_folder = own.parent().context("a program is in a folder")?;
    let programs = Programs::in_folder(args.bin_dir.as_deref().unwrap_or(own_folder))?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let mut rows = Vec::new();
    for &promise in selected {
        let mut row = ReportRow {
            promise,
            seed,
            counters: Counters::default(),
            verdict: PromiseVerdict::Skipped,
            duration: Duration::ZERO,
        };
        let skipped = args.skip.iter().any(|name| promise.id.eq_ignore_ascii_case(name));
        let missing: Vec<String> =
            promise.requirements.iter().filter_map(|requirement| requirement.missing()).collect();
        if !skipped && !missing.is_empty() {
            row.verdict = PromiseVerdict::Missing(missing.join(", "));
        } else if !skipped {
            let trial = Trial {
                programs: programs.clone(),
                // Every trial has its own sandbox: leftovers of one trial do not affect the next.
                sandbox: Arc::new(Sandbox::new(args.dir.as_deref())?),
                counters: row.counters.clone(),
                seed,
                count: args.count,
                soak: args.soak,
            };
            run_trial(&mut row, trial).await;
        }
        print_line(row.line());
        if let Some(evidence) = row.evidence() {
            print_line(format!("    {evidence}\n    repeat with: {}", args.repeat_command(&row)));
        }
        rows.push(row);
    }
    print_table(&rows);
    Ok(exit_code(&rows))
}

async fn run_trial(row: &mut ReportRow, trial: Trial) {
    let began = Instant::now();
    let limit = row.promise.limit * STOP_AFTER * if trial.soak { SOAK } else { 1 };
    let result = timeout(limit, (row.promise.run)(&trial)).await;
    row.duration = began.elapsed();
    row.verdict = match result {
        Ok(Ok(())) => PromiseVerdict::Held,
        Ok(Err(error)) => PromiseVerdict::Broken(format!("{error:#}")),
        Err(_) => PromiseVerdict::Broken(format!("not finished after {} s", limit.as_secs())),
    };
}

fn exit_code(rows: &[ReportRow]) -> ExitCode {
    let any = |is: fn(&PromiseVerdict) -> bool| rows.iter().any(|row| is(&row.verdict));
    if any(|verdict| matches!(verdict, PromiseVerdict::Broken(_))) {
        ExitCode::from(1)
    } else if any(|verdict| matches!(verdict, PromiseVerdict::Missing(_))) {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}
