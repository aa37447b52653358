//! S3: a client is forgotten in the middle of a file. Its session, its upload and its key end, also for a
//! TLS session that began before, and also after a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::{ScriptedAgent, channel_with};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use futures::FutureExt as _;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::oracle::{is_final, is_partial};
use crate::promise::Promise;
use crate::scenario::{Scenario, poll};
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S3",
    statement: "A forgotten client is cut off within 5 s, in the middle of a file too, and stays out.",
    requirements: &[],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

const ROUNDS: u32 = 5;
const FILE_LEN: usize = 2 << 20;
const RATE: &str = "1MiB/s";
/// What the agent logs when it connects again without a session.
const OUT: &str = "does not know the key";
const CUT_OFF_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    scenario.start_server().await?;
    for round in 0..trial.times(ROUNDS) {
        let tried = forget_one(trial, &mut scenario, round).await;
        scenario.explain(&format!("round {round}"), tried)?;
    }
    scenario.teardown().await
}

async fn forget_one(trial: &Trial, scenario: &mut Scenario, round: u32) -> anyhow::Result<()> {
    let id = format!("client{round}");
    let index = scenario.add_invited_client(&id, FILE_LEN, &[("MAX_RATE", RATE)]).await?;
    scenario.connect(index).await?;
    let ticket = ticket_holder(scenario, index).await?;
    let before = scenario.proxy.sent();
    let transfer = scenario.trigger(index).await?;
    scenario.proxy.sent_at_least(before + FILE_LEN as u64 / 2).await?;

    let began = Instant::now();
    let forgotten = scenario.server.forget(&id).await?;
    anyhow::ensure!(forgotten.status == 204, "{}: {}", forgotten.status, forgotten.text());
    let folder = scenario.data_dir().join(&id);
    poll("the end of the upload", async || {
        let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let partials = names.filter(|name| is_partial(&name.file_name().to_string_lossy())).count();
        Ok((partials == 0).then_some(()))
    })
    .await?;
    let cut_off = timeout(CUT_OFF_LIMIT * 2, scenario.agent(index)?.says(OUT)).await;
    cut_off.context("the session of a forgotten client continues")??;
    let took = began.elapsed();
    anyhow::ensure!(took <= CUT_OFF_LIMIT, "cut off after {took:?}");
    trial.counters.fault("clients forgotten in the middle of a file");

    is_out(scenario, index, &ticket).await.context("after the forget")?;
    let ended = scenario.server.json(&format!("/api/v1/transfers/{transfer}")).await?;
    let known = ended["status"] == 404 || is_final(&ended) && ended["state"] != "done";
    anyhow::ensure!(known, "the transfer of a forgotten client: {ended}");
    scenario.kill_server().await?;
    scenario.start_server().await?;
    is_out(scenario, index, &ticket).await.context("after a restart")?;
    scenario.kill_agent(index).await;
    Ok(())
}

/// Returns the configuration of a TLS session that began before the forget: later connections resume it.
async fn ticket_holder(scenario: &Scenario, index: usize) -> anyhow::Result<Arc<ClientConfig>> {
    let pem = std::fs::read_to_string(scenario.state(index).join("key"))?;
    let raw_identity = std::fs::read_to_string(scenario.state(index).join("identity.json"))?;
    let identity: serde_json::Value = serde_json::from_str(&raw_identity)?;
    let pins: Vec<_> = serde_json::from_value(identity["ca_pins"].clone())?;
    let config = client_config(&ServerTrust::Pins(pins), Some(&AgentKey::from_pem(&pem)?))?;
    let channel = channel_with(scenario.server.grpc(), Arc::clone(&config)).await?;
    // The real agent is online: this clone of it is rejected, and has the ticket then.
    let _ = ScriptedAgent::open(channel, &scenario.id(index), ANSWER_LIMIT).await?;
    Ok(config)
}

async fn is_out(
    scenario: &Scenario,
    index: usize,
    ticket: &Arc<ClientConfig>,
) -> anyhow::Result<()> {
    let id = scenario.id(index);
    let channel = channel_with(scenario.server.grpc(), Arc::clone(ticket)).await?;
    let opened = ScriptedAgent::open(channel, &id, ANSWER_LIMIT).await?;
    anyhow::ensure!(opened.is_err(), "a forgotten client opens a session");
    let trigger = scenario.server.get(&format!("/trigger?id={id}")).await?;
    anyhow::ensure!(trigger.status == 404, "a trigger: {}, {}", trigger.status, trigger.text());
    Ok(())
}
