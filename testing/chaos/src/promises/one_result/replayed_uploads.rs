//! An upload that is committed twice, or sent again when its transfer is done.

use crate::scripted_scenario::{ScriptedScenario, is_stored};
use crate::trial::Trial;

const MIN_LEN: usize = 64;

pub(super) async fn run(trial: &Trial, count: u32) -> anyhow::Result<()> {
    let mut scripted = ScriptedScenario::prepare(trial, "r4-replays", &[]).await?;
    for n in 0..count {
        let tried = replay(&mut scripted).await;
        scripted.scenario.explain(&format!("replay {n}"), tried)?;
        trial.counters.fault("replayed commits");
    }
    scripted.finish().await
}

async fn replay(scripted: &mut ScriptedScenario) -> anyhow::Result<()> {
    let (id, order) = scripted.next_transfer(MIN_LEN).await?;
    let first = scripted.upload_whole(&order).await?;
    let second_trailer = scripted.rng.bool();
    if second_trailer {
        let _ = first.trailer(&scripted.file).await;
    }
    let concurrent = scripted.rng.bool();
    let mut repeated = Vec::new();
    if concurrent {
        repeated.extend(scripted.upload_whole(&order).await.ok());
    }
    anyhow::ensure!(is_stored(first).await, "the first upload was not stored");
    repeated.extend(scripted.upload_whole(&order).await.ok());
    for upload in repeated {
        anyhow::ensure!(!is_stored(upload).await, "a repeated upload was stored");
    }
    scripted.check_end(&id).await
}
