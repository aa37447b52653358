//! S6: one agent breaks the rules of HTTP/2 and of the protocol, while honest agents send files.

mod attack;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::FutureExt as _;
use tokio::task::JoinHandle;

use crate::promise::Promise;
use crate::report::print_line;
use crate::scenario::Scenario;
use crate::tool::Requirement;
use crate::trial::Trial;
use attack::{ATTACKS, Attack};

pub(super) const PROMISE: Promise = Promise {
    id: "S6",
    statement: "One bad agent costs only itself: memory stays bounded, and honest files are as fast.",
    requirements: &[Requirement::Program("gzip", "gzip")],
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

/// Honest transfers during each attack, one after another.
const TRANSFERS: u32 = 5;
const FILE_LEN: usize = 256 << 10;
/// The rate decides how long a transfer takes, not the load of this machine.
const RATE: &str = "512KiB/s";
/// Longer than an honest transfer without attack, by this much at most.
const SLOWER_PERCENT: u32 = 20;
/// Scheduling on a machine that the attacker shares.
const TOLERANCE: Duration = Duration::from_millis(150);
/// The memory that a small server has.
const MEMORY_LIMIT: u64 = 256 << 20;
/// Connections of the bad agent.
const CONNECTIONS: usize = 4;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    scenario.start_server().await?;
    scenario.add_client("honest", FILE_LEN, &[("MAX_RATE", RATE)])?;
    scenario.connect(0).await?;
    let undisturbed = honest_transfers(trial, &mut scenario).await?;
    let bomb = attack::gzip_bomb(trial).await?;
    for &kind in ATTACKS {
        let tried = under_attack(trial, &mut scenario, kind, &bomb, undisturbed).await;
        scenario.explain(&format!("{kind:?}"), tried)?;
    }
    let peak = scenario.server_process()?.peak_rss()?;
    print_line(format!("    the memory of the server reached {} MiB", peak >> 20));
    anyhow::ensure!(peak < MEMORY_LIMIT, "the server used {} MiB", peak >> 20);
    scenario.audit(true).await?;
    scenario.teardown().await
}

/// Returns the median time of some honest transfers.
async fn honest_transfers(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..trial.times(TRANSFERS) {
        scenario.rewrite(0, FILE_LEN)?;
        let began = Instant::now();
        let id = scenario.trigger(0).await?;
        scenario.wait_until_done(&id).await?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

async fn under_attack(
    trial: &Trial,
    scenario: &mut Scenario,
    kind: Attack,
    bomb: &[u8],
    undisturbed: Duration,
) -> anyhow::Result<()> {
    let server = scenario.server.grpc();
    let attackers: Vec<JoinHandle<()>> = (0..CONNECTIONS)
        .map(|_| {
            #[allow(clippy::disallowed_methods, reason = "aborted below")]
            tokio::spawn(attack::repeat(kind, server, bomb.to_vec()))
        })
        .collect();
    let took = honest_transfers(trial, scenario).await;
    attackers.iter().for_each(JoinHandle::abort);
    trial.counters.faults("attacking connections", CONNECTIONS as u64);
    let took = took.context("an honest transfer")?;
    let limit = undisturbed * (100 + SLOWER_PERCENT) / 100 + TOLERANCE;
    anyhow::ensure!(took <= limit, "honest transfers take {took:?}, limit {limit:?}");
    scenario.audit(false).await
}
