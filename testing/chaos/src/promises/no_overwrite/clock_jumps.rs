//! The clock jumps during transfers: by a month, by the repeated hour, to 1970.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::scenario::Scenario;
use crate::trial::Trial;

const JUMPS: u32 = 48;
const FILE_LEN: usize = 512 << 10;
const TO: [&str; 8] = [
    "+30d",
    "-30d",
    "+1h",
    "-1h",
    "@1970-01-01 00:00:01",
    "@2026-10-25 00:59:59",
    "@2038-01-19 03:14:07",
    "+0",
];

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let clock = Clock::install(&mut scenario, "+0")?;
    let tried = jumps(trial, &mut scenario, &clock).await;
    scenario.explain("with a jumping clock", tried)
}

async fn jumps(trial: &Trial, scenario: &mut Scenario, clock: &Clock) -> anyhow::Result<()> {
    let mut rng = trial.rng("r2-jumps");
    let count = trial.times(JUMPS);
    scenario.start_server().await?;
    scenario.add_client("client1", FILE_LEN, &[("MAX_RATE", "4MiB/s")])?;
    scenario.connect(0).await?;
    for _ in 0..count {
        scenario.new_version(0)?;
        let id = scenario.trigger(0).await?;
        sleep(Duration::from_millis(rng.u64(0..150))).await;
        let to = TO[rng.usize(0..TO.len())];
        clock.set(to)?;
        trial.counters.fault("clock jumps");
        scenario.wait_until_done(&id).await.with_context(|| format!("after a jump to {to}"))?;
    }
    scenario.audit(true).await?;
    let found = scenario.oracle.n_downloads();
    anyhow::ensure!(found == count as usize, "{count} transfers created {found} files");
    scenario.end().await
}
