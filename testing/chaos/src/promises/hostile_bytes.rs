//! S12: the fuzz targets, from the committed corpus. A panic, a hang or too much memory breaks the promise.

use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::process;
use futures::FutureExt as _;
use tokio::process::Command;

use super::supply_chain::workspace;
use crate::promise::Promise;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S12",
    statement: "Hostile bytes never panic: messages, requests, invites and records from libFuzzer.",
    requirements: &[],
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

/// For each target; the corpus alone takes less. `--count` replaces it.
const SECONDS: u32 = 10;
/// The build of the targets, with instrumentation. CI has built them before.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// What the script prints before each target.
const TARGET: &str = "== ";

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let root = workspace().await?;
    let seconds = trial.times(SECONDS);
    // With the environment of the caller: cargo finds its registry through it.
    let mut command = Command::new(root.join("fuzz/run"));
    command.current_dir(&root).arg(seconds.to_string()).kill_on_drop(true).process_group(0);
    let limit = BUILD_LIMIT + Duration::from_secs(u64::from(seconds) * 10);
    let said = process::finish(command, limit).await.context("a fuzz target")?;
    let n_targets = said.lines().filter(|line| line.starts_with(TARGET)).count();
    anyhow::ensure!(4 <= n_targets, "only {n_targets} targets ran: {said}");
    trial.counters.faults("fuzz targets", n_targets as u64);
    let units =
        said.lines().filter_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let n_inputs: u64 = units.filter_map(|count| count.trim().parse::<u64>().ok()).sum();
    trial.counters.faults("hostile inputs", n_inputs);
    Ok(())
}
