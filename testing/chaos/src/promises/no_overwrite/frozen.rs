//! 64 clients, and a clock that stands still: every file of a client wants the same name.

use crate::clock::Clock;
use crate::scenario::Scenario;
use crate::trial::Trial;

const CLIENTS: usize = 64;
const PUBLISHES: u32 = 512;

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[("MAX_RUNNING", "64")]).await?;
    let _clock = Clock::give(&mut stage, "2026-03-29 01:59:59")?;
    let publishes = trial.times(PUBLISHES) as usize;
    let tried = pulls(trial, &mut stage, CLIENTS.min(publishes), publishes).await;
    stage.explain("with a clock that stands still", tried)
}

async fn pulls(
    trial: &Trial,
    stage: &mut Scenario,
    n_clients: usize,
    publishes: usize,
) -> anyhow::Result<()> {
    stage.start_server().await?;
    for n in 0..n_clients {
        stage.add_client(&format!("client{n}"), 20_000 + n * 100, &[])?;
        stage.start_agent(n)?;
    }
    for n in 0..n_clients {
        stage.connect(n).await?;
    }
    let mut published = 0;
    while published < publishes {
        let now = n_clients.min(publishes - published);
        let mut ids = Vec::new();
        for n in 0..now {
            stage.new_version(n)?;
            ids.push(stage.order(n).await?);
        }
        for id in ids {
            stage.done(&id).await?;
        }
        published += now;
        trial.tally.faults("publishes at one instant", now as u64);
    }
    stage.audit(true).await?;
    let found = stage.oracle.n_downloads();
    anyhow::ensure!(found == publishes, "{publishes} transfers made {found} files");
    stage.end().await
}
