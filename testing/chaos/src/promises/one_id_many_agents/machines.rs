//! Two machines with one id, half of the time one an image of the other, with real agents: one is
//! frozen in the middle of a file, the other comes, and the first thaws before, while or after it
//! is taken over. Whoever loses is told, and so is the operator.

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
use crate::scenario::{PATIENCE, Scenario};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const MEETINGS: u32 = 32;
const LANES: u32 = 8;
const FILE_LEN: usize = 1 << 20;
/// A file takes long enough to be in the middle of it.
const SETTINGS: [(&str, &str); 1] = [("MAX_RATE", "2MiB/s")];
/// The server gives the frozen one 2 s to answer.
const THAWS_WITHIN: Duration = Duration::from_secs(4);

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let lanes = (0..LANES.min(trial.times(MEETINGS))).map(|n| lane(trial, n));
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, n: u32) -> anyhow::Result<()> {
    let name = format!("r12-machines-{n}");
    let mut stage = Scenario::set(trial, &[]).await?;
    stage.start_server().await?;
    let first = stage.add_client(CLIENT, FILE_LEN, &SETTINGS)?;
    let second = stage.add_twin(first, "image", &SETTINGS)?;
    let tried = meetings(trial, &mut stage, [first, second], &mut trial.dice(&name)).await;
    stage.explain(&name, tried)?;
    stage.audit(true).await?;
    stage.strike().await
}

async fn meetings(
    trial: &Trial,
    stage: &mut Scenario,
    machines: [usize; 2],
    dice: &mut Rng,
) -> anyhow::Result<()> {
    stage.connect(machines[0]).await?;
    let mut present = machines[0];
    for n_before in 0..trial.share(MEETINGS, LANES) {
        let newcomer = machines[0] + machines[1] - present;
        let met = meet(stage, present, newcomer, n_before as usize, dice).await;
        let winner = met.with_context(|| format!("meeting {n_before}"))?;
        trial.tally.fault(if winner == present {
            "newcomers refused"
        } else {
            "machines taken over"
        });
        present = winner;
    }
    Ok(())
}

/// The newcomer meets the one that is present, in the middle of its file; who remains.
async fn meet(
    stage: &mut Scenario,
    present: usize,
    newcomer: usize,
    n_before: usize,
    dice: &mut Rng,
) -> anyhow::Result<usize> {
    stage.new_version(present)?;
    stage.new_version(newcomer)?;
    let id = stage.order(present).await?;
    let halfway = dice.u64(1..FILE_LEN as u64 / 2);
    let begun = |transfer: &Value| halfway <= transfer["bytes_done"].as_u64().unwrap_or(0);
    stage.until(&format!("/api/v1/transfers/{id}"), begun).await?;
    stage.agent(present)?.signal(Signal::STOP)?;
    if dice.bool() {
        copy(&stage.state(present), &stage.state(newcomer))?;
    }
    stage.start_agent(newcomer)?;
    sleep(THAWS_WITHIN.mul_f64(dice.f64())).await;
    stage.agent(present)?.signal(Signal::CONT)?;

    let done = stage.done(&id).await?;
    let saved = done["download"]["name"].as_str().context("a download has a name")?;
    let saved = fs::read(stage.data_dir().join(CLIENT).join(saved))?;
    let found = TestPattern::read(CLIENT, &saved).map_err(|flaw| anyhow::anyhow!("{flaw}"))?;
    let owners = [(present, newcomer), (newcomer, present)];
    let owner = owners.into_iter().find(|&(winner, _)| stage.cells(winner) == found);
    let (winner, loser) = owner.with_context(|| format!("nobody has {found:?}"))?;

    let told = stage.agent(loser)?.says("is connected right now from another machine");
    timeout(PATIENCE, told).await.context("the loser is not told")??;
    let alarm = stage.bed.server()?.says_times("client.duplicate_id", n_before + 1);
    timeout(PATIENCE, alarm).await.context("the operator is not told")??;
    stage.kill_agent(loser).await;
    stage.audit(false).await?;
    Ok(winner)
}

/// An image of a machine: what the other one's agent keeps is what this one's keeps.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to.to_owned());
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}
