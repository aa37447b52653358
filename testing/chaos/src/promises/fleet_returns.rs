//! R15: the server is killed under a whole fleet, and the whole fleet starts anew under a server.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::fleet::{Fleet, client, make_room};
use filepull_testkit::proc_files::rss;
use futures::FutureExt as _;
use serde_json::json;
use tokio::time::sleep;

use crate::promise::Promise;
use crate::report::tell;
use crate::scenario::Scenario;
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R15",
    promised: "Many agents reconnect at once: within 60 s, no trigger lost, nothing leaked.",
    needs: &[],
    limit: Duration::from_secs(120),
    attempt: |trial| attempt(trial).boxed(),
};

/// Files that a process may open bound both.
const AGENTS: u32 = 2_000;
const MANY_AGENTS: u32 = 9_700;
/// Half of them lose the server, half of them start anew.
const CYCLES: u32 = 4;
const MANY_CYCLES: u32 = 10;
/// Asked for in each cycle, one half before it and one in the middle of it.
const PULLS: u32 = 100;
const FILE_LEN: usize = 640;
const BACK_WITHIN: Duration = Duration::from_secs(60);
const BUDGET_KIB: u64 = 45;
/// What is open besides one line for each agent.
const OTHER_FILES: usize = 128;
const SETTLE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let usual = if trial.soak { MANY_AGENTS } else { AGENTS };
    let n_agents = trial.count.unwrap_or(usual);
    make_room(n_agents)?;
    let mut stage = Scenario::set(trial, &[("RECONNECT_CAP", "60s")]).await?;
    let tried = storms(trial, &mut stage, n_agents).await;
    stage.explain(&format!("with {n_agents} agents"), tried)
}

async fn storms(trial: &Trial, stage: &mut Scenario, n_agents: u32) -> anyhow::Result<()> {
    stage.start_server().await?;
    let addr = stage.bed.grpc().to_string();
    stage.bed.server_setting("GRPC_ADDR", &addr);
    let empty = rss(stage.bed.server()?.pid())?;
    let files = stage.bed.folder().join("files");
    fs::create_dir(&files)?;
    for n in 0..n_agents {
        let id = client(n)?;
        fs::write(files.join(id.as_str()), TestPattern::new(id.as_str(), 1, FILE_LEN).bytes())?;
    }
    let file = files.join("{id}");
    let mut fleet = Fleet::start(n_agents, &addr, &file).await?;
    fleet.dial().await?;
    let first = all_back(stage, n_agents).await?;
    sleep(SETTLE).await;
    let kib = (rss(stage.bed.server()?.pid())?.saturating_sub(empty) >> 10) / u64::from(n_agents);
    anyhow::ensure!(kib <= BUDGET_KIB, "{kib} KiB for each idle agent, {BUDGET_KIB} are allowed");
    let mut took = vec![first];
    let mut dice = trial.dice("r15");
    for cycle in 0..if trial.soak { MANY_CYCLES } else { CYCLES } {
        let mut asked = Vec::new();
        ask(stage, &mut dice, n_agents, &mut asked).await?;
        if cycle % 2 == 0 {
            stage.kill_server().await?;
            stage.start_server_alone().await?;
            trial.tally.fault("server kills under all agents");
        } else {
            fleet.end().await?;
            fleet = Fleet::start(n_agents, &addr, &file).await?;
            fleet.dial().await?;
            trial.tally.fault("starts of all agents anew");
        }
        ask(stage, &mut dice, n_agents, &mut asked).await?;
        took.push(all_back(stage, n_agents).await.with_context(|| format!("cycle {cycle}"))?);
        for id in &asked {
            stage.done(id).await.with_context(|| format!("cycle {cycle}"))?;
        }
        stage.audit(false).await?;
        sleep(SETTLE).await;
        let most = n_agents as usize + OTHER_FILES;
        for (who, pid) in [("server", stage.bed.server()?.pid()), ("fleet", fleet.process().pid())]
        {
            let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            anyhow::ensure!(open <= most, "after cycle {cycle} the {who} has {open} files open");
        }
    }
    let took: Vec<String> = took.iter().map(|took| format!("{:.1}", took.as_secs_f64())).collect();
    tell(format!("    {n_agents} agents, {kib} KiB each, all there after {} s", took.join(", ")));
    fleet.end().await?;
    stage.strike().await
}

/// Asks some of the agents for their file.
async fn ask(
    stage: &mut Scenario,
    dice: &mut fastrand::Rng,
    n_agents: u32,
    asked: &mut Vec<String>,
) -> anyhow::Result<()> {
    for _ in 0..PULLS / 2 {
        let id = client(dice.u32(0..n_agents))?;
        asked.push(stage.order_as(&json!({ "client": id.as_str(), "queue": "1h" })).await?);
    }
    Ok(())
}

/// Waits until every agent is online; how long that took.
async fn all_back(stage: &Scenario, n_agents: u32) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        let server = stage.bed.json("/api/v1/server").await?;
        let online = server["clients"]["online"].as_u64().context("clients.online")?;
        if online == u64::from(n_agents) {
            return Ok(began.elapsed());
        }
        let late = BACK_WITHIN < began.elapsed();
        anyhow::ensure!(!late, "after 60 s only {online} of {n_agents} are back");
        sleep(LOOK_AGAIN).await;
    }
}
