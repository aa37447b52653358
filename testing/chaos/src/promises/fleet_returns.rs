//! R15: the server of a whole fleet is killed, and a whole fleet is restarted.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::fleet::{Fleet, client, make_room};
use filepull_testkit::poll;
use filepull_testkit::proc_files::rss;
use futures::FutureExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::promise::Promise;
use crate::report::print_line;
use crate::scenario::Scenario;
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R15",
    statement: "Many agents reconnect at once: within 60 s, no trigger lost, nothing leaked.",
    requirements: &[],
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

/// The open file limit bounds both.
const AGENTS: u32 = 2_000;
const MANY_AGENTS: u32 = 9_700;
/// Half of the cycles kill the server, half restart the agents.
const CYCLES: u32 = 4;
const MANY_CYCLES: u32 = 10;
/// Pulls of each cycle: half before it, half during it.
const PULLS: u32 = 100;
const FILE_LEN: usize = 640;
const BACK_WITHIN: Duration = Duration::from_secs(60);
const BUDGET_KIB: u64 = 45;
/// Open files besides one session for each agent.
const OTHER_FILES: usize = 128;
const SETTLE: Duration = Duration::from_secs(3);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let usual = if trial.soak { MANY_AGENTS } else { AGENTS };
    let n_agents = trial.count.unwrap_or(usual);
    make_room(n_agents)?;
    let mut scenario = Scenario::prepare(trial, &[("RECONNECT_CAP", "60s")]).await?;
    let tried = cycles(trial, &mut scenario, n_agents).await;
    scenario.explain(&format!("with {n_agents} agents"), tried)
}

async fn cycles(trial: &Trial, scenario: &mut Scenario, n_agents: u32) -> anyhow::Result<()> {
    scenario.start_server().await?;
    let addr = scenario.server.grpc().to_string();
    scenario.server.server_setting("GRPC_ADDR", &addr);
    let empty = rss(scenario.server_process()?.pid())?;
    let files = scenario.server.folder().join("files");
    fs::create_dir(&files)?;
    for n in 0..n_agents {
        let id = client(n)?;
        fs::write(files.join(id.as_str()), TestPattern::new(id.as_str(), 1, FILE_LEN).bytes())?;
    }
    let file = files.join("{id}");
    let mut fleet = Fleet::start(n_agents, &addr, &file).await?;
    fleet.dial().await?;
    let first = wait_until_online(scenario, n_agents).await?;
    sleep(SETTLE).await;
    let kib =
        (rss(scenario.server_process()?.pid())?.saturating_sub(empty) >> 10) / u64::from(n_agents);
    anyhow::ensure!(kib <= BUDGET_KIB, "{kib} KiB for each idle agent, limit {BUDGET_KIB} KiB");
    let mut took = vec![first];
    let mut rng = trial.rng("r15");
    for cycle in 0..if trial.soak { MANY_CYCLES } else { CYCLES } {
        let mut triggered = Vec::new();
        trigger_some(scenario, &mut rng, n_agents, &mut triggered).await?;
        if cycle % 2 == 0 {
            scenario.kill_server().await?;
            scenario.start_server_without_agents().await?;
            trial.counters.fault("server kills under all agents");
        } else {
            fleet.end().await?;
            fleet = Fleet::start(n_agents, &addr, &file).await?;
            fleet.dial().await?;
            trial.counters.fault("restarts of all agents");
        }
        trigger_some(scenario, &mut rng, n_agents, &mut triggered).await?;
        took.push(
            wait_until_online(scenario, n_agents)
                .await
                .with_context(|| format!("cycle {cycle}"))?,
        );
        for id in &triggered {
            scenario.wait_until_done(id).await.with_context(|| format!("cycle {cycle}"))?;
        }
        scenario.audit(false).await?;
        sleep(SETTLE).await;
        let max_open = n_agents as usize + OTHER_FILES;
        for (name, pid) in
            [("server", scenario.server_process()?.pid()), ("fleet", fleet.process().pid())]
        {
            let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            anyhow::ensure!(
                open <= max_open,
                "after cycle {cycle} the {name} has {open} open files"
            );
        }
    }
    let took: Vec<String> = took.iter().map(|took| format!("{:.1}", took.as_secs_f64())).collect();
    print_line(format!(
        "    {n_agents} agents, {kib} KiB each, all online after {} s",
        took.join(", ")
    ));
    fleet.end().await?;
    scenario.teardown().await
}

/// Triggers pulls from some of the agents.
async fn trigger_some(
    scenario: &mut Scenario,
    rng: &mut fastrand::Rng,
    n_agents: u32,
    triggered: &mut Vec<String>,
) -> anyhow::Result<()> {
    for _ in 0..PULLS / 2 {
        let id = client(rng.u32(0..n_agents))?;
        triggered
            .push(scenario.trigger_with(&json!({ "client": id.as_str(), "queue": "1h" })).await?);
    }
    Ok(())
}

/// Waits until every agent is online. Returns the time that this took.
async fn wait_until_online(scenario: &Scenario, n_agents: u32) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let online = poll("all agents to be online", async || {
        let server = scenario.server.json("/api/v1/server").await?;
        Ok((server["clients"]["online"] == n_agents).then(|| began.elapsed()))
    });
    timeout(BACK_WITHIN, online).await.context("after 60 s not all agents are online")?
}
