//! 50 restarts during 20 running transfers, by SIGKILL and by SIGTERM in turn.

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::time::sleep;

use crate::scenario::Scenario;
use crate::trial::Trial;

const RESTARTS: u32 = 50;
const CLIENTS: usize = 20;
const FILE_LEN: usize = 2 << 20;
/// A file takes about two seconds, so that every restart interrupts it.
const RATE: &str = "1MiB/s";
const READY_LIMIT: Duration = Duration::from_secs(2);
const END_LIMIT: Duration = Duration::from_secs(5);
/// The grace period for running transfers.
const GRACE: &str = "500ms";

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let settings = [("SHUTDOWN_GRACE", GRACE), ("RECONNECT_CAP", "300ms")];
    let mut scenario = Scenario::prepare(trial, &settings).await?;
    let mut rng = trial.rng("r14-restarts");
    let tried = restarts(trial, &mut scenario, &mut rng).await;
    scenario.explain("restarts during transfers", tried)
}

async fn restarts(trial: &Trial, scenario: &mut Scenario, rng: &mut Rng) -> anyhow::Result<()> {
    scenario.start_server().await?;
    for n in 0..CLIENTS {
        scenario.add_client(&format!("client{n}"), FILE_LEN, &[("MAX_RATE", RATE)])?;
        scenario.start_agent(n)?;
    }
    for n in 0..CLIENTS {
        scenario.connect(n).await?;
    }
    for round in 0..trial.times(RESTARTS) {
        for n in 0..CLIENTS {
            // Joins the transfer that still runs.
            scenario.trigger(n).await?;
        }
        sleep(Duration::from_millis(rng.u64(0..1_500))).await;
        if round % 2 == 0 {
            scenario.kill_server().await?;
            trial.counters.fault("server kills");
        } else {
            end(scenario).await?;
            trial.counters.fault("SIGTERMs");
        }
        scenario.oracle.check_files(&scenario.data_dir(), false)?;
        let took = scenario.start_server_without_agents().await?;
        anyhow::ensure!(took <= READY_LIMIT, "ready after {took:?}");
        scenario.check_recovery().await?;
        scenario.accept_agents();
    }
    for transfer in scenario.transfers().await? {
        scenario.wait_until_done(transfer["id"].as_str().unwrap_or_default()).await?;
    }
    scenario.audit(true).await?;
    scenario.teardown().await
}

/// Stops the server (SIGTERM): it accepts no new work and ends in time, without an error.
async fn end(scenario: &mut Scenario) -> anyhow::Result<()> {
    let asked = Instant::now();
    scenario.server_process()?.terminate()?;
    // Most likely rejected. If it is answered, the transfer must be on record afterwards.
    let _ = scenario.trigger(0).await;
    let status = scenario.wait_until_server_ended().await?;
    let took = asked.elapsed();
    anyhow::ensure!(status.success(), "the server ended with {status}");
    anyhow::ensure!(took <= END_LIMIT, "the server took {took:?} to end");
    Ok(())
}
