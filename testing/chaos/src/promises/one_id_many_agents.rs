//! R12: one id, several agents: each is frozen in the middle of a file, another takes over, and the
//! first goes on as if nothing had happened. Which key an agent has waits for keys.

mod machines;

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
use crate::scenario::{PATIENCE, Scenario};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R12",
    promised: "Two agents, one id, never one file: who is taken over writes no byte any more.",
    needs: &[],
    limit: Duration::from_secs(75),
    attempt: |trial| attempt(trial).boxed(),
};

const TAKEOVERS: u32 = 500;
/// Each takeover waits 2 s for the old agent to answer: so many do at once.
const LANES: u32 = 25;
const CLIENT: &str = "twin";
const CHUNK_LEN: usize = 64 << 10;
/// What the server says to an upload that is over comes within this time, or never.
const LAST_WORD: Duration = Duration::from_secs(5);

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let lanes = (0..LANES.min(trial.times(TAKEOVERS))).map(|n| lane(trial, n));
    try_join(try_join_all(lanes), machines::attempt(trial)).await.map(drop)
}

async fn lane(trial: &Trial, n: u32) -> anyhow::Result<()> {
    let name = format!("r12-{n}");
    let mut stage = Scenario::set(trial, &[]).await?;
    stage.start_server().await?;
    let mut dice = trial.dice(&name);
    let tried = takeovers(trial, &mut stage, &mut dice).await;
    stage.explain(&name, tried)?;
    stage.audit(true).await?;
    stage.strike().await
}

async fn takeovers(trial: &Trial, stage: &mut Scenario, dice: &mut Rng) -> anyhow::Result<()> {
    let mut old = ScriptedAgent::connect(stage.bed.grpc(), CLIENT, PATIENCE).await?;
    let count = trial.share(TAKEOVERS, LANES);
    for round in 0..count {
        let tried = takeover(stage, old, round, dice).await;
        old = tried.with_context(|| format!("takeover {round}"))?;
        trial.tally.fault("takeovers in the middle of a file");
    }
    let n_files = stage.oracle.n_downloads();
    anyhow::ensure!(n_files == count as usize, "{count} transfers made {n_files} files");
    Ok(())
}

/// A file is begun by `old` and ended by another, who is returned.
async fn takeover(
    stage: &mut Scenario,
    mut old: ScriptedAgent,
    round: u32,
    dice: &mut Rng,
) -> anyhow::Result<ScriptedAgent> {
    let len = dice.usize(CHUNK_LEN..8 * CHUNK_LEN);
    let [olds, news] = [1, 2].map(|n| TestPattern::new(CLIENT, round * 2 + n, len));
    let (olds_file, news_file) = (Bytes::from(olds.bytes()), Bytes::from(news.bytes()));
    let id = stage.order_as(&json!({ "client": CLIENT, "queue": "1h" })).await?;
    let stale = old.order().await?;
    // Half of the time it has sent a part already.
    let halfway = dice.usize(0..len / CHUNK_LEN) * CHUNK_LEN;
    let begun = match dice.bool() {
        true => Some(old.upload(&stale, 0, olds_file.len() as u64).await?),
        false => None,
    };
    if let Some(upload) = &begun {
        send(upload, &olds_file, 0..halfway).await;
    }
    // Here it is frozen: it answers no ping, and the server lets another in.
    let mut new = ScriptedAgent::connect(stage.bed.grpc(), CLIENT, PATIENCE).await?;
    let order = new.order().await?;
    anyhow::ensure!(order.transfer_id == id, "ordered {}, not {id}", order.transfer_id);
    // It thaws: it goes on where it was, and begins what it was ordered, also under the new number.
    let mut late: Vec<ScriptedUpload> = begun.into_iter().collect();
    if let Some(upload) = late.first() {
        send(upload, &olds_file, halfway..len).await;
        let _ = upload.trailer(&olds_file).await;
    }
    let guessed = StartTransfer { attempt: order.attempt, ..stale.clone() };
    for order in [&stale, &guessed] {
        late.extend(whole(&old, order, &olds_file).await.ok());
    }
    let mut upload = whole(&new, &order, &news_file).await?;
    let stored = last_word(&mut upload).await;
    anyhow::ensure!(matches!(stored, Some(Answer::Stored(_))), "not stored: {stored:?}");
    for mut upload in late {
        let answer = last_word(&mut upload).await;
        let taken = matches!(answer, Some(Answer::Stored(_)));
        anyhow::ensure!(!taken, "stored for an agent that was taken over: {answer:?}");
    }
    // It is told.
    anyhow::ensure!(old.order().await.is_err(), "an agent that was taken over got an order");
    let done = stage.done(&id).await?;
    let saved = done["download"]["name"].as_str().context("a download has a name")?;
    let saved = std::fs::read(stage.data_dir().join(CLIENT).join(saved))?;
    let found = TestPattern::read(CLIENT, &saved).map_err(|flaw| anyhow::anyhow!("{flaw}"))?;
    anyhow::ensure!(found == news, "the file is {found:?}, the newest agent has {news:?}");
    stage.audit(false).await?;
    Ok(new)
}

async fn whole(
    agent: &ScriptedAgent,
    order: &StartTransfer,
    file: &Bytes,
) -> anyhow::Result<ScriptedUpload> {
    let upload = agent.upload(order, 0, file.len() as u64).await?;
    send(&upload, file, 0..file.len()).await;
    let _ = upload.trailer(file).await;
    Ok(upload)
}

/// Sends a part of a file that begins with a chunk. The server may have ended the upload.
async fn send(upload: &ScriptedUpload, file: &Bytes, part: std::ops::Range<usize>) {
    for at in part.clone().step_by(CHUNK_LEN) {
        let end = part.end.min(at + CHUNK_LEN).min(file.len());
        let _ = upload.chunk(at as u64, file.slice(at.min(end)..end)).await;
    }
}

/// What the server said last before it ended the upload.
async fn last_word(upload: &mut ScriptedUpload) -> Option<Answer> {
    let mut last = None;
    while let Ok(Some(answer)) = upload.response(LAST_WORD).await {
        last = Some(answer);
        if matches!(last, Some(Answer::Stored(_) | Answer::Error(_))) {
            break;
        }
    }
    last
}
