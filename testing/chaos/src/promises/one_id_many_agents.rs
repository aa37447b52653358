//! R12: several agents with one id. Each is frozen in the middle of a file, another takes over, and
//! then the first continues. Agents here have no key; S1 tries clones with one.

mod real_agents;

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use fastrand::Rng;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::{ScriptedAgent, ScriptedUpload};
use futures::FutureExt as _;
use futures::future::{try_join, try_join_all};
use serde_json::json;

use crate::promise::Promise;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::scripted_scenario::final_answer;
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R12",
    statement: "Two agents, one id, never one file: a replaced agent writes no more bytes.",
    requirements: &[],
    limit: Duration::from_secs(75),
    run: |trial| run(trial).boxed_local(),
};

const TAKEOVERS: u32 = 500;
/// Each takeover waits 2 s for the old agent: most of the time is waiting.
const WORKERS: u32 = 25;
const CLIENT: &str = "twin";
const CHUNK_LEN: usize = 64 << 10;
/// The server ends a finished upload within this time, or never.
const FINAL_ANSWER_LIMIT: Duration = Duration::from_secs(5);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let workers = (0..WORKERS.min(trial.times(TAKEOVERS))).map(|n| run_worker(trial, n));
    try_join(try_join_all(workers), real_agents::run(trial)).await.map(drop)
}

async fn run_worker(trial: &Trial, n: u32) -> anyhow::Result<()> {
    let name = format!("r12-{n}");
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    scenario.start_server().await?;
    let mut rng = trial.rng(&name);
    let tried = takeovers(trial, &mut scenario, &mut rng).await;
    scenario.explain(&name, tried)?;
    scenario.audit(true).await?;
    scenario.teardown().await
}

async fn takeovers(trial: &Trial, scenario: &mut Scenario, rng: &mut Rng) -> anyhow::Result<()> {
    let mut old = ScriptedAgent::connect(scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
    let count = trial.share(TAKEOVERS, WORKERS);
    for round in 0..count {
        let tried = takeover(scenario, old, round, rng).await;
        old = tried.with_context(|| format!("takeover {round}"))?;
        trial.counters.fault("takeovers in the middle of a file");
    }
    let n_files = scenario.oracle.n_downloads();
    anyhow::ensure!(n_files == count as usize, "{count} transfers created {n_files} files");
    Ok(())
}

/// `old` starts a file, a new agent finishes it. Returns the new agent.
async fn takeover(
    scenario: &mut Scenario,
    mut old: ScriptedAgent,
    round: u32,
    rng: &mut Rng,
) -> anyhow::Result<ScriptedAgent> {
    let len = rng.usize(CHUNK_LEN..8 * CHUNK_LEN);
    let [old_pattern, new_pattern] = [1, 2].map(|n| TestPattern::new(CLIENT, round * 2 + n, len));
    let old_file = Bytes::from(old_pattern.bytes());
    let new_file = Bytes::from(new_pattern.bytes());
    let id = scenario.trigger_with(&json!({ "client": CLIENT, "queue": "1h" })).await?;
    let stale = old.order().await?;
    // In half of the rounds it has already sent a part.
    let halfway = rng.usize(0..len / CHUNK_LEN) * CHUNK_LEN;
    let begun = match rng.bool() {
        true => Some(old.upload(&stale, 0, old_file.len() as u64).await?),
        false => None,
    };
    if let Some(upload) = &begun {
        send(upload, &old_file, 0..halfway).await;
    }
    // Here the old agent is frozen: it answers no ping, and the server accepts the new agent.
    let mut new = ScriptedAgent::connect(scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
    let order = new.order().await?;
    anyhow::ensure!(order.transfer_id == id, "the order is for {}, not {id}", order.transfer_id);
    // The old agent continues its upload, and starts others with its order and with the new attempt
    // number.
    let mut late: Vec<ScriptedUpload> = begun.into_iter().collect();
    if let Some(upload) = late.first() {
        send(upload, &old_file, halfway..len).await;
        let _ = upload.trailer(&old_file).await;
    }
    let guessed = StartTransfer { attempt: order.attempt, ..stale.clone() };
    for order in [&stale, &guessed] {
        late.extend(upload_whole(&old, order, &old_file).await.ok());
    }
    let mut upload = upload_whole(&new, &order, &new_file).await?;
    let stored = final_answer(&mut upload, FINAL_ANSWER_LIMIT).await;
    anyhow::ensure!(matches!(stored, Some(Answer::Stored(_))), "not stored: {stored:?}");
    for mut upload in late {
        let answer = final_answer(&mut upload, FINAL_ANSWER_LIMIT).await;
        let stored = matches!(answer, Some(Answer::Stored(_)));
        anyhow::ensure!(!stored, "the server stored the file of a replaced agent: {answer:?}");
    }
    // The server ends the session of the old agent.
    anyhow::ensure!(old.order().await.is_err(), "a replaced agent got an order");
    let done = scenario.wait_until_done(&id).await?;
    let name = done["download"]["name"].as_str().context("a download has a name")?;
    let saved = std::fs::read(scenario.data_dir().join(CLIENT).join(name))?;
    let found = TestPattern::read(CLIENT, &saved).map_err(|flaw| anyhow::anyhow!("{flaw}"))?;
    anyhow::ensure!(
        found == new_pattern,
        "the file is {found:?}, the new agent has {new_pattern:?}"
    );
    scenario.audit(false).await?;
    Ok(new)
}

async fn upload_whole(
    agent: &ScriptedAgent,
    order: &StartTransfer,
    file: &Bytes,
) -> anyhow::Result<ScriptedUpload> {
    let upload = agent.upload(order, 0, file.len() as u64).await?;
    send(&upload, file, 0..file.len()).await;
    let _ = upload.trailer(file).await;
    Ok(upload)
}

/// Sends a range of a file in chunks. The server may have ended the upload.
async fn send(upload: &ScriptedUpload, file: &Bytes, part: std::ops::Range<usize>) {
    for at in part.clone().step_by(CHUNK_LEN) {
        let end = part.end.min(at + CHUNK_LEN).min(file.len());
        let _ = upload.chunk(at as u64, file.slice(at.min(end)..end)).await;
    }
}
