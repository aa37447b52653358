//! Two machines with one id and real agents; in half of the cases one is an image of the other. One
//! is frozen in the middle of a file, the other connects, and the first continues before, during or
//! after the takeover. The loser and the operator are informed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use futures::future::try_join_all;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::CLIENT;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const TAKEOVERS: u32 = 32;
const WORKERS: u32 = 8;
const FILE_LEN: usize = 1 << 20;
/// Slow enough to be frozen in the middle of a file.
const SETTINGS: [(&str, &str); 1] = [("MAX_RATE", "2MiB/s")];
/// The server waits 2 s for an answer of the frozen agent.
const MAX_FREEZE: Duration = Duration::from_secs(4);

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let workers = (0..WORKERS.min(trial.times(TAKEOVERS))).map(|n| run_worker(trial, n));
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, n: u32) -> anyhow::Result<()> {
    let name = format!("r12-machines-{n}");
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    scenario.start_server().await?;
    let first = scenario.add_client(CLIENT, FILE_LEN, &SETTINGS)?;
    let second = scenario.add_twin(first, "image", &SETTINGS)?;
    let tried = takeovers(trial, &mut scenario, [first, second], &mut trial.rng(&name)).await;
    scenario.explain(&name, tried)?;
    scenario.audit(true).await?;
    scenario.teardown().await
}

async fn takeovers(
    trial: &Trial,
    scenario: &mut Scenario,
    machines: [usize; 2],
    rng: &mut Rng,
) -> anyhow::Result<()> {
    scenario.connect(machines[0]).await?;
    let mut present = machines[0];
    for n_before in 0..trial.share(TAKEOVERS, WORKERS) {
        let newcomer = machines[0] + machines[1] - present;
        let met = meet(scenario, present, newcomer, n_before as usize, rng).await;
        let winner = met.with_context(|| format!("takeover {n_before}"))?;
        trial.counters.fault(if winner == present {
            "newcomers rejected"
        } else {
            "machines taken over"
        });
        present = winner;
    }
    Ok(())
}

/// A newcomer connects while the present machine sends a file. Returns the machine that remains.
async fn meet(
    scenario: &mut Scenario,
    present: usize,
    newcomer: usize,
    n_before: usize,
    rng: &mut Rng,
) -> anyhow::Result<usize> {
    scenario.rewrite(present, FILE_LEN)?;
    scenario.rewrite(newcomer, FILE_LEN)?;
    let id = scenario.trigger(present).await?;
    let halfway = rng.u64(1..FILE_LEN as u64 / 2);
    let begun = |transfer: &Value| halfway <= transfer["bytes_done"].as_u64().unwrap_or(0);
    scenario.wait_until(&format!("/api/v1/transfers/{id}"), begun).await?;
    scenario.agent(present)?.signal(Signal::STOP)?;
    if rng.bool() {
        copy(&scenario.state(present), &scenario.state(newcomer))?;
    }
    scenario.start_agent(newcomer)?;
    sleep(MAX_FREEZE.mul_f64(rng.f64())).await;
    scenario.agent(present)?.signal(Signal::CONT)?;

    let done = scenario.wait_until_done(&id).await?;
    let name = done["download"]["name"].as_str().context("a download has a name")?;
    let saved = fs::read(scenario.data_dir().join(CLIENT).join(name))?;
    let found = TestPattern::read(CLIENT, &saved).map_err(|flaw| anyhow::anyhow!("{flaw}"))?;
    let owners = [(present, newcomer), (newcomer, present)];
    let owner = owners.into_iter().find(|&(winner, _)| scenario.pattern(winner) == found);
    let (winner, loser) = owner.with_context(|| format!("no machine has {found:?}"))?;

    let informed = scenario.agent(loser)?.says("is connected right now from another machine");
    timeout(WAIT_LIMIT, informed).await.context("the loser was not informed")??;
    let alarm = scenario.server_process()?.says_times("client.duplicate_id", n_before + 1);
    timeout(WAIT_LIMIT, alarm).await.context("the operator was not informed")??;
    scenario.kill_agent(loser).await;
    scenario.audit(false).await?;
    Ok(winner)
}

/// Copies the state of one machine's agent to the other machine.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
