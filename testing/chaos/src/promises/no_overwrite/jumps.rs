//! The clock jumps while files are on their way: a month, the hour that repeats, back to 1970.

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

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let clock = Clock::give(&mut stage, "+0")?;
    let tried = jumps(trial, &mut stage, &clock).await;
    stage.explain("with a clock that jumps", tried)
}

async fn jumps(trial: &Trial, stage: &mut Scenario, clock: &Clock) -> anyhow::Result<()> {
    let (mut dice, count) = (trial.dice("r2-jumps"), trial.times(JUMPS));
    stage.start_server().await?;
    stage.add_client("client1", FILE_LEN, &[("MAX_RATE", "4MiB/s")])?;
    stage.connect(0).await?;
    for _ in 0..count {
        stage.new_version(0)?;
        let id = stage.order(0).await?;
        sleep(Duration::from_millis(dice.u64(0..150))).await;
        let to = TO[dice.usize(0..TO.len())];
        clock.set(to)?;
        trial.tally.fault("jumps of the clock");
        stage.done(&id).await.with_context(|| format!("after a jump to {to}"))?;
    }
    stage.audit(true).await?;
    let found = stage.oracle.n_downloads();
    anyhow::ensure!(found == count as usize, "{count} transfers made {found} files");
    stage.end().await
}
