//! An upload that is committed twice, or sent once more when its transfer is done.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::{ScriptedAgent, ScriptedUpload};
use serde_json::json;

use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const CLIENT: &str = "hand";
const LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn run(trial: &Trial, count: u32) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let mut rng = trial.rng("r4-replays");
    scenario.start_server().await?;
    scenario.add_client(CLIENT, 1, &[])?;
    let mut agent = ScriptedAgent::connect(scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
    for n in 0..count {
        let file = TestPattern::new(CLIENT, n + 1, rng.usize(64..200_000)).bytes();
        let tried = replay(&mut scenario, &mut agent, &file.into(), &mut rng).await;
        scenario.explain(&format!("replay {n}"), tried)?;
        trial.counters.fault("replayed commits");
    }
    scenario.audit(true).await?;
    let n_files = scenario.oracle.n_downloads();
    anyhow::ensure!(n_files == count as usize, "{count} transfers made {n_files} files");
    scenario.teardown().await
}

async fn replay(
    scenario: &mut Scenario,
    agent: &mut ScriptedAgent,
    file: &Bytes,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    let id = scenario.trigger_with(&json!({ "client": CLIENT, "queue": "1h" })).await?;
    let order = agent.order().await?;
    anyhow::ensure!(order.transfer_id == id, "ordered {}, not {id}", order.transfer_id);
    let mut first = sent(agent, &order, file).await?;
    // A second trailer right behind the first, and a second upload beside it.
    if rng.bool() {
        let _ = first.trailer(file).await;
    }
    let beside = if rng.bool() { sent(agent, &order, file).await.ok() } else { None };
    let stored = final_answer(&mut first).await;
    anyhow::ensure!(matches!(stored, Some(Answer::Stored(_))), "not stored: {stored:?}");
    let after = sent(agent, &order, file).await.ok();
    for mut again in beside.into_iter().chain(after) {
        let answer = final_answer(&mut again).await;
        anyhow::ensure!(!matches!(answer, Some(Answer::Stored(_))), "stored again: {answer:?}");
    }
    scenario.wait_until_done(&id).await?;
    scenario.audit(false).await
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
async fn final_answer(upload: &mut ScriptedUpload) -> Option<Answer> {
    let mut last = None;
    while let Ok(Some(answer)) = upload.response(LIMIT).await {
        last = Some(answer);
        if matches!(last, Some(Answer::Stored(_) | Answer::Error(_))) {
            break;
        }
    }
    last
}
