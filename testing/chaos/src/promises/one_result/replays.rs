//! An upload that is committed twice, or sent once more when its transfer is done.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::{ScriptedAgent, ScriptedUpload};
use serde_json::json;

use crate::scenario::{PATIENCE, Scenario};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const CLIENT: &str = "hand";
const LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn attempt(trial: &Trial, count: u32) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let mut dice = trial.dice("r4-replays");
    stage.start_server().await?;
    stage.add_client(CLIENT, 1, &[])?;
    let mut agent = ScriptedAgent::connect(stage.bed.grpc(), CLIENT, PATIENCE).await?;
    for n in 0..count {
        let file = TestPattern::new(CLIENT, n + 1, dice.usize(64..200_000)).bytes();
        let tried = replay(&mut stage, &mut agent, &file.into(), &mut dice).await;
        stage.explain(&format!("replay {n}"), tried)?;
        trial.tally.fault("replayed commits");
    }
    stage.audit(true).await?;
    let n_files = stage.oracle.n_downloads();
    anyhow::ensure!(n_files == count as usize, "{count} transfers made {n_files} files");
    stage.strike().await
}

async fn replay(
    stage: &mut Scenario,
    agent: &mut ScriptedAgent,
    file: &Bytes,
    dice: &mut Rng,
) -> anyhow::Result<()> {
    let id = stage.order_as(&json!({ "client": CLIENT, "queue": "1h" })).await?;
    let order = agent.order().await?;
    anyhow::ensure!(order.transfer_id == id, "ordered {}, not {id}", order.transfer_id);
    let mut first = sent(agent, &order, file).await?;
    // A second trailer right behind the first, and a second upload beside it.
    if dice.bool() {
        let _ = first.trailer(file).await;
    }
    let beside = if dice.bool() { sent(agent, &order, file).await.ok() } else { None };
    let stored = last_word(&mut first).await;
    anyhow::ensure!(matches!(stored, Some(Answer::Stored(_))), "not stored: {stored:?}");
    let after = sent(agent, &order, file).await.ok();
    for mut again in beside.into_iter().chain(after) {
        let answer = last_word(&mut again).await;
        anyhow::ensure!(!matches!(answer, Some(Answer::Stored(_))), "stored again: {answer:?}");
    }
    stage.done(&id).await?;
    stage.audit(false).await
}

async fn sent(
    agent: &ScriptedAgent,
    order: &StartTransfer,
    file: &Bytes,
) -> anyhow::Result<ScriptedUpload> {
    let upload = agent.upload(order, 0, file.len() as u64).await?;
    for (chunk, n) in file.chunks(64 << 10).zip(0_u64..) {
        let _ = upload.chunk(n * (64 << 10), file.slice_ref(chunk)).await;
    }
    let _ = upload.trailer(file).await;
    Ok(upload)
}

/// What the server said last before it ended the upload.
async fn last_word(upload: &mut ScriptedUpload) -> Option<Answer> {
    let mut last = None;
    while let Ok(Some(answer)) = upload.response(LIMIT).await {
        last = Some(answer);
        if matches!(last, Some(Answer::Stored(_) | Answer::Error(_))) {
            break;
        }
    }
    last
}
