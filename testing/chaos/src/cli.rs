//! The command line: which promises are tried, with which seed, how often.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use filepull_process::signal;
use filepull_testkit::Programs;
use filepull_testkit::{process, tool};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::alone;
use crate::counters::Counters;
use crate::mutations;
use crate::promise::Promise;
use crate::promises;
use crate::report::{PromiseVerdict, ReportRow, tell, tell_all};
use crate::sandbox::Sandbox;
use crate::trial::{SOAK, Trial};

/// Break what filepull runs on, and see whether a promise breaks.
///
/// Needs root. Exit code 0: all held. 1: one broke. 2: a tool or a kernel feature is missing.
#[derive(Clone, Debug, Parser)]
#[command(name = "filepull-chaos", version)]
pub struct Args {
    /// Promises such as R1; `all` of them but R11-slow, which takes ten minutes; `list` them; or
    /// `mutations`, perhaps with names of mutations: prove that each is caught.
    #[arg(required = true)]
    pub what: Vec<String>,
    /// Where all chance comes from [default: another one each time].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Inject this many faults of each kind, instead of as many as CI.
    #[arg(long)]
    pub count: Option<u32>,
    /// Inject 60 times as many faults as CI.
    #[arg(long)]
    pub soak: bool,
    /// Where `filepull` and `filepull-agent` are [default: the folder of this program].
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
    /// Where disks and data are made [default: /dev/shm if it has 8 GiB, else the temp folder].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Promises that are not tried, comma separated. Each is printed as skipped.
    #[arg(long, value_delimiter = ',')]
    pub skip: Vec<String>,
}

/// A trial that takes this many times its limit is cut, and the promise counts as broken.
const CUT_AFTER: u32 = 3;

/// Runs the program.
pub fn main() -> ExitCode {
    if let Some(code) = tool::run() {
        return code;
    }
    let args = Args::parse();
    let tries = !matches!(args.what[0].as_str(), "list" | "mutations");
    let ended = if !tries || alone::is_alone() {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.enable_all().worker_threads(4).build().context("no threads");
        runtime.and_then(|runtime| runtime.block_on(start(&args)))
    } else {
        // This thread starts the run: were it another one, its end would end the run.
        let runtime = Builder::new_current_thread().enable_all().build().context("no threads");
        runtime.and_then(|runtime| runtime.block_on(alone::run()))
    };
    ended.unwrap_or_else(|error| {
        tell(format!("filepull-chaos: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn start(args: &Args) -> anyhow::Result<ExitCode> {
    let asked_to_stop = signal::shutdown()?;
    // Whoever loses is dropped, and with it the ground and everything on it.
    tokio::select! {
        ended = run(args) => ended,
        () = asked_to_stop => Ok(ExitCode::from(130)),
    }
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.what[0].as_str() {
        "list" => {
            let all = promises::ALL.iter().chain(promises::LONG);
            all.for_each(|p| tell(format!("{:8} {}", p.id, p.promised)));
            Ok(ExitCode::SUCCESS)
        }
        "mutations" => mutations::run(&args.what[1..]).await,
        _ => attempt_all(args, &chosen(&args.what)?).await,
    }
}

fn chosen(what: &[String]) -> anyhow::Result<Vec<&'static Promise>> {
    if what.iter().any(|name| name == "all") {
        return Ok(promises::ALL.iter().collect());
    }
    let find = |name: &String| {
        let mut all = promises::ALL.iter().chain(promises::LONG);
        let found = all.find(|promise| promise.id.eq_ignore_ascii_case(name));
        found.with_context(|| format!("there is no promise {name}; see `filepull-chaos list`"))
    };
    what.iter().map(find).collect()
}

async fn attempt_all(args: &Args, chosen: &[&'static Promise]) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe()?;
    let own_folder = own.parent().context("a program is in a folder")?;
    let programs = find_programs(args.bin_dir.as_deref().unwrap_or(own_folder))?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let mut rows = Vec::new();
    for &promise in chosen {
        let mut row = ReportRow::new(promise, seed);
        let skipped = args.skip.iter().any(|name| promise.id.eq_ignore_ascii_case(name));
        let missing: Vec<String> = promise.needs.iter().filter_map(|need| need.missing()).collect();
        if skipped {
            row.verdict = PromiseVerdict::Skipped;
        } else if !missing.is_empty() {
            row.verdict = PromiseVerdict::Missing(missing.join(", "));
        } else {
            // A ground of its own: what one trial leaves behind is in nobody's way.
            let ground = Arc::new(Sandbox::claim(args.dir.as_deref())?);
            let (tally, programs) = (row.tally.clone(), programs.clone());
            let (count, soak) = (args.count, args.soak);
            attempt(&mut row, Trial { programs, ground, tally, seed, count, soak }).await;
        }
        tell(row.line());
        if let Some(evidence) = row.evidence(args) {
            tell(evidence);
        }
        rows.push(row);
    }
    tell_all(&rows);
    Ok(exit_code(&rows))
}

async fn attempt(row: &mut ReportRow, trial: Trial) {
    let began = Instant::now();
    let limit = row.promise.limit * CUT_AFTER * if trial.soak { SOAK } else { 1 };
    let tried = timeout(limit, (row.promise.attempt)(&trial)).await;
    row.took = began.elapsed();
    row.verdict = match tried {
        Ok(Ok(())) => PromiseVerdict::Held,
        Ok(Err(error)) => PromiseVerdict::Broken(format!("{error:#}")),
        Err(_) => PromiseVerdict::Broken(format!("not finished after {} s", limit.as_secs())),
    };
}

fn find_programs(folder: &std::path::Path) -> anyhow::Result<Programs> {
    let find = |name| anyhow::Ok(process::built(folder, name)?.canonicalize()?);
    Ok(Programs { server: find("filepull")?, agent: find("filepull-agent")? })
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

impl ReportRow {
    fn new(promise: &'static Promise, seed: u64) -> Self {
        let (tally, verdict, took) = (Counters::default(), PromiseVerdict::Skipped, Duration::ZERO);
        Self { promise, seed, tally, verdict, took }
    }
}
