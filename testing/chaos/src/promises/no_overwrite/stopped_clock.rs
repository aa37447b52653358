//! 64 clients and a stopped clock: every file of a client wants the same name.

use crate::clock::Clock;
use crate::scenario::Scenario;
use crate::trial::Trial;

const CLIENTS: usize = 64;
const PUBLISHES: u32 = 512;

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[("MAX_RUNNING", "64")]).await?;
    let _clock = Clock::install(&mut scenario, "2026-03-29 01:59:59")?;
    let publishes = trial.times(PUBLISHES) as usize;
    let tried = pulls(trial, &mut scenario, CLIENTS.min(publishes), publishes).await;
    scenario.explain("with a stopped clock", tried)
}

async fn pulls(
    trial: &Trial,
    scenario: &mut Scenario,
    n_clients: usize,
    publishes: usize,
) -> anyhow::Result<()> {
    scenario.start_server().await?;
    for n in 0..n_clients {
        scenario.add_client(&format!("client{n}"), 20_000 + n * 100, &[])?;
        scenario.start_agent(n)?;
    }
    for n in 0..n_clients {
        scenario.connect(n).await?;
    }
    let mut published = 0;
    while published < publishes {
        let now = n_clients.min(publishes - published);
        let mut ids = Vec::new();
        for n in 0..now {
            scenario.new_version(n)?;
            ids.push(scenario.trigger(n).await?);
        }
        for id in ids {
            scenario.wait_until_done(&id).await?;
        }
        published += now;
        trial.counters.faults("publishes at one instant", now as u64);
    }
    scenario.audit(true).await?;
    let found = scenario.oracle.n_downloads();
    anyhow::ensure!(found == publishes, "{publishes} transfers created {found} files");
    scenario.end().await
}
