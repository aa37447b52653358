//! 50 restarts under 20 running transfers, half of them asked for and half of them not.

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::time::sleep;

use crate::scenario::Scenario;
use crate::trial::Trial;

const RESTARTS: u32 = 50;
const CLIENTS: usize = 20;
const FILE_LEN: usize = 2 << 20;
/// A file takes about two seconds, so that every restart finds it half sent.
const RATE: &str = "1MiB/s";
const READY_LIMIT: Duration = Duration::from_secs(2);
const END_LIMIT: Duration = Duration::from_secs(5);
/// What running transfers are given to end by themselves.
const GRACE: &str = "500ms";

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let settings = [("SHUTDOWN_GRACE", GRACE), ("RECONNECT_CAP", "300ms")];
    let mut stage = Scenario::set(trial, &settings).await?;
    let mut dice = trial.dice("r14-restarts");
    let tried = restarts(trial, &mut stage, &mut dice).await;
    stage.explain("restarts under transfers", tried)
}

async fn restarts(trial: &Trial, stage: &mut Scenario, dice: &mut Rng) -> anyhow::Result<()> {
    stage.start_server().await?;
    for n in 0..CLIENTS {
        stage.add_client(&format!("client{n}"), FILE_LEN, &[("MAX_RATE", RATE)])?;
        stage.start_agent(n)?;
    }
    for n in 0..CLIENTS {
        stage.connect(n).await?;
    }
    for round in 0..trial.times(RESTARTS) {
        for n in 0..CLIENTS {
            // Joined, if it still runs.
            stage.order(n).await?;
        }
        sleep(Duration::from_millis(dice.u64(0..1_500))).await;
        if round % 2 == 0 {
            stage.kill_server().await?;
            trial.tally.fault("server kills");
        } else {
            end(stage).await?;
            trial.tally.fault("SIGTERMs");
        }
        stage.oracle.look(&stage.data_dir(), false)?;
        let took = stage.start_server_alone().await?;
        anyhow::ensure!(took <= READY_LIMIT, "ready after {took:?}");
        stage.recovered().await?;
        stage.let_agents_in();
    }
    for transfer in stage.transfers().await? {
        stage.done(transfer["id"].as_str().unwrap_or_default()).await?;
    }
    stage.audit(true).await?;
    stage.strike().await
}

/// Asks the server to end: it takes no new work and is gone in time, without a complaint.
async fn end(stage: &mut Scenario) -> anyhow::Result<()> {
    let asked = Instant::now();
    stage.bed.server()?.terminate()?;
    // Refused or not heard, most likely; if it is answered, it must be on record afterwards.
    let _ = stage.order(0).await;
    let status = stage.server_ended().await?;
    let took = asked.elapsed();
    anyhow::ensure!(status.success(), "it ended with {status}");
    anyhow::ensure!(took <= END_LIMIT, "it took {took:?} to end");
    Ok(())
}
