//! One bit of a partial flips on the server's disk.

use anyhow::Context as _;
use filepull_testkit::ScriptedAgent;

use super::MIN_LEN;
use crate::scenario::WAIT_LIMIT;
use crate::scripted_scenario::{CHUNK_LEN, CLIENT, ScriptedScenario, is_stored};
use crate::trial::Trial;

/// Without it, bytes that this process received are not read back, and such a flip is the scrubber's.
const READ_BACK: (&str, &str) = ("READ_BACK", "always");

/// After the last byte, before the commit.
pub(super) async fn before_the_commit(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut scripted =
        ScriptedScenario::prepare(trial, &format!("r5-commit-{n}"), &[READ_BACK]).await?;
    for flip in 0..count {
        let tried = flip_before_commit(&mut scripted).await.with_context(|| format!("flip {flip}"));
        scripted.scenario.explain("flips before the commit", tried)?;
        trial.counters.fault("flips before the commit");
    }
    scripted.finish().await
}

async fn flip_before_commit(scripted: &mut ScriptedScenario) -> anyhow::Result<()> {
    let (id, order) = scripted.next_transfer(MIN_LEN).await?;
    let len = scripted.file.len();
    let upload = scripted.upload(&order, 0, scripted.chunks(0, len)).await?;
    let partial = scripted.wait_for_partial(len).await?;
    scripted.flip(&partial, len)?;
    upload.trailer(&scripted.file).await?;
    anyhow::ensure!(!is_stored(upload).await, "a partial with a flipped bit was stored");
    let again = scripted.order(&id).await?;
    anyhow::ensure!(scripted.upload_honestly(&again).await?, "an honest upload was not stored");
    scripted.check_end(&id).await
}

/// After a part of the file; the rest follows in another upload to the same server.
pub(super) async fn before_a_resume(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut scripted =
        ScriptedScenario::prepare(trial, &format!("r5-resume-{n}"), &[READ_BACK]).await?;
    for flip in 0..count {
        let tried = flip_before_resume(&mut scripted).await.with_context(|| format!("flip {flip}"));
        scripted.scenario.explain("flips before a resume", tried)?;
        trial.counters.fault("flips before a resume");
    }
    scripted.finish().await
}

async fn flip_before_resume(scripted: &mut ScriptedScenario) -> anyhow::Result<()> {
    let id = upload_half_and_flip(scripted).await?;
    let mut again = scripted.order(&id).await?;
    // If the server detects the flip late, the file is sent once more.
    if !scripted.upload_honestly(&again).await? {
        again = scripted.order(&id).await?;
        anyhow::ensure!(scripted.upload_honestly(&again).await?, "an honest upload was not stored");
    }
    scripted.check_end(&id).await
}

/// Uploads some chunks, ends the upload and flips one bit of the partial.
async fn upload_half_and_flip(scripted: &mut ScriptedScenario) -> anyhow::Result<String> {
    let (id, order) = scripted.next_transfer(MIN_LEN).await?;
    let n_chunks = scripted.rng.usize(1..scripted.file.len() / CHUNK_LEN);
    let len = n_chunks * CHUNK_LEN;
    let upload = scripted.upload(&order, 0, scripted.chunks(0, len)).await?;
    let partial = scripted.wait_for_partial(len).await?;
    drop(upload);
    scripted.flip(&partial, len)?;
    Ok(id)
}

/// After a part of the file is on record; then the server restarts.
pub(super) async fn before_a_restart(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut scripted = ScriptedScenario::prepare(trial, &format!("r5-restart-{n}"), &[]).await?;
    for flip in 0..count {
        let tried =
            flip_before_restart(&mut scripted).await.with_context(|| format!("flip {flip}"));
        scripted.scenario.explain("flips before a restart", tried)?;
        trial.counters.fault("flips before a restart");
    }
    scripted.finish().await
}

async fn flip_before_restart(scripted: &mut ScriptedScenario) -> anyhow::Result<()> {
    let (id, order) = scripted.next_transfer(MIN_LEN).await?;
    let len = scripted.rng.usize(1..scripted.file.len() / CHUNK_LEN) * CHUNK_LEN;
    let _upload = scripted.upload(&order, 0, scripted.chunks(0, len)).await?;
    let partial = scripted.wait_for_partial(len).await?;
    // The server records its progress before it ends.
    scripted.scenario.server_process()?.terminate()?;
    scripted.scenario.wait_until_server_ended().await?;
    scripted.flip(&partial, len)?;
    scripted.scenario.start_server().await?;
    scripted.agent =
        ScriptedAgent::connect(scripted.scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
    let again = scripted.order(&id).await?;
    anyhow::ensure!(
        again.offset == 0,
        "the server resumes at {}, after a flipped bit",
        again.offset
    );
    anyhow::ensure!(scripted.upload_honestly(&again).await?, "an honest upload was not stored");
    scripted.check_end(&id).await
}
