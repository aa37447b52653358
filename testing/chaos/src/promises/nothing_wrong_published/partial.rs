//! One bit of a partial flips on the disk of the server, behind its back.

use anyhow::Context as _;
use filepull_testkit::ScriptedAgent;

use super::hand::{CHUNK_LEN, CLIENT, ScriptedScenario, is_stored};
use crate::scenario::PATIENCE;
use crate::trial::Trial;

/// Every byte has come, the commit has not.
pub(super) async fn before_the_commit(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut hand = ScriptedScenario::set(trial, &format!("r5-commit-{n}")).await?;
    for flip in 0..count {
        let tried = at_the_end(&mut hand).await.with_context(|| format!("flip {flip}"));
        hand.stage.explain("flips before the commit", tried)?;
        trial.tally.fault("flips before the commit");
    }
    hand.stage.audit(true).await?;
    hand.stage.strike().await
}

async fn at_the_end(hand: &mut ScriptedScenario) -> anyhow::Result<()> {
    let (id, order) = hand.ordered().await?;
    let len = hand.file.len();
    let upload = hand.sent(&order, 0, hand.chunks(0, len)).await?;
    let partial = hand.partial(len).await?;
    hand.flip(&partial, len)?;
    upload.trailer(&hand.file).await?;
    anyhow::ensure!(!is_stored(upload).await, "a partial with a flipped bit was stored");
    let again = hand.order(&id).await?;
    anyhow::ensure!(hand.honest(&again).await?, "an honest upload was not stored");
    hand.ends_well(&id).await
}

/// A part has come, and the rest follows in another upload to the same server.
pub(super) async fn before_a_resume(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut hand = ScriptedScenario::set(trial, &format!("r5-resume-{n}")).await?;
    for flip in 0..count {
        let tried = in_the_middle(&mut hand).await.with_context(|| format!("flip {flip}"));
        hand.stage.explain("flips before a resume", tried)?;
        trial.tally.fault("flips before a resume");
    }
    hand.stage.audit(true).await?;
    hand.stage.strike().await
}

async fn in_the_middle(hand: &mut ScriptedScenario) -> anyhow::Result<()> {
    let id = half_and_flipped(hand).await?;
    let mut again = hand.order(&id).await?;
    // If it is noticed late, the file is sent once more.
    if !hand.honest(&again).await? {
        again = hand.order(&id).await?;
        anyhow::ensure!(hand.honest(&again).await?, "an honest upload was not stored");
    }
    hand.ends_well(&id).await
}

/// Some chunks are in the partial, their upload is over, and one bit of them is another.
async fn half_and_flipped(hand: &mut ScriptedScenario) -> anyhow::Result<String> {
    let (id, order) = hand.ordered().await?;
    let n_chunks = hand.dice.usize(1..hand.file.len() / CHUNK_LEN);
    let len = n_chunks * CHUNK_LEN;
    let upload = hand.sent(&order, 0, hand.chunks(0, len)).await?;
    let partial = hand.partial(len).await?;
    drop(upload);
    hand.flip(&partial, len)?;
    Ok(id)
}

/// A part has come and is on record, and the server is started anew.
pub(super) async fn before_a_restart(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut hand = ScriptedScenario::set(trial, &format!("r5-restart-{n}")).await?;
    for flip in 0..count {
        let tried = across_a_restart(&mut hand).await.with_context(|| format!("flip {flip}"));
        hand.stage.explain("flips before a restart", tried)?;
        trial.tally.fault("flips before a restart");
    }
    hand.stage.audit(true).await?;
    hand.stage.strike().await
}

async fn across_a_restart(hand: &mut ScriptedScenario) -> anyhow::Result<()> {
    let (id, order) = hand.ordered().await?;
    let len = hand.dice.usize(1..hand.file.len() / CHUNK_LEN) * CHUNK_LEN;
    let _upload = hand.sent(&order, 0, hand.chunks(0, len)).await?;
    let partial = hand.partial(len).await?;
    // It puts on record how far it is before it goes.
    hand.stage.bed.server()?.terminate()?;
    hand.stage.server_ended().await?;
    hand.flip(&partial, len)?;
    hand.stage.start_server().await?;
    hand.agent = ScriptedAgent::connect(hand.stage.bed.grpc(), CLIENT, PATIENCE).await?;
    let again = hand.order(&id).await?;
    anyhow::ensure!(again.offset == 0, "{} bytes are taken for what was sent", again.offset);
    anyhow::ensure!(hand.honest(&again).await?, "an honest upload was not stored");
    hand.ends_well(&id).await
}
