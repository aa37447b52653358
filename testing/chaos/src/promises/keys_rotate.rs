//! The certificate authority, the certificate of the server and the keys of all agents are replaced, while
//! files arrive. One agent is off meanwhile.

use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::fleet::{Fleet, FleetKeys, client, make_room};
use futures::FutureExt as _;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::promise::Promise;
use crate::report::print_line;
use crate::scenario::{Scenario, poll};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S-keys",
    statement: "Every key can be replaced without a visit: no transfer fails, and no client is lost.",
    requirements: &[],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

/// `--count 200` for a fleet.
const AGENTS: u32 = 30;
/// RotationPulls before and after each step.
const PULLS: u32 = 20;
const FILE_LEN: usize = 64 << 10;
const ABSENT: &str = "absent";
/// Rotations are requested within the limit of requests of the server.
const PAUSE: Duration = Duration::from_millis(20);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let n_agents = trial.times(AGENTS);
    make_room(n_agents)?;
    let mut scenario = Scenario::prepare_secure(trial, &[("RECONNECT_CAP", "2s")]).await?;
    scenario.start_server().await?;
    let tried = rotate_everything(trial, &mut scenario, n_agents).await;
    scenario.explain(&format!("with {n_agents} agents"), tried)?;
    scenario.teardown().await
}

async fn rotate_everything(
    trial: &Trial,
    scenario: &mut Scenario,
    n_agents: u32,
) -> anyhow::Result<()> {
    let addr = scenario.server.grpc().to_string();
    scenario.server.server_setting("GRPC_ADDR", &addr);
    let files = scenario.server.folder().join("files");
    std::fs::create_dir(&files)?;
    for n in 0..n_agents {
        let id = client(n)?;
        let bytes = TestPattern::new(id.as_str(), 1, FILE_LEN).bytes();
        std::fs::write(files.join(id.as_str()), bytes)?;
    }
    let folder = scenario.server.folder().to_owned();
    let keys = FleetKeys::create(&scenario.server.operator(), n_agents, &folder).await?;
    let mut fleet = Fleet::start_enrolled(n_agents, &addr, &files.join("{id}"), &keys).await?;
    fleet.dial().await?;
    let absent = scenario.add_invited_client(ABSENT, FILE_LEN, &[]).await?;
    scenario.connect(absent).await?;
    scenario.kill_agent(absent).await;
    online(scenario, n_agents).await?;

    let mut pulls = RotationPulls::default();
    let mut rng = trial.rng("keys");
    pulls.start(scenario, &mut rng, n_agents).await?;
    step(scenario, "rotate").await?;
    pulls.start(scenario, &mut rng, n_agents).await?;
    // All that are online get the pin of the successor. The absent one is named.
    let ca = poll("the pins of the successor", async || {
        let ca = scenario.server.json("/api/v1/ca").await?;
        Ok((ca["clients"]["without_pin"] == 1).then_some(ca))
    })
    .await?;
    anyhow::ensure!(ca["clients"]["without"] == json!([ABSENT]), "not named: {ca}");
    step(scenario, "switch?force=1").await?;
    trial.counters.fault("authorities replaced");
    pulls.start(scenario, &mut rng, n_agents).await?;
    pulls.all_done(scenario).await.context("after the switch")?;

    // Each start of the server makes a new certificate: its key is never on disk.
    scenario.kill_server().await?;
    scenario.start_server().await?;
    trial.counters.fault("certificates renewed");
    pulls.start(scenario, &mut rng, n_agents).await?;
    online(scenario, n_agents).await?;
    pulls.all_done(scenario).await.context("after the renewal")?;

    let before = fingerprints(scenario, n_agents).await?;
    pulls.start(scenario, &mut rng, n_agents).await?;
    for n in 0..n_agents {
        let path = format!("/api/v1/clients/{}/rotate", client(n)?);
        let answer = scenario.server.send(Method::POST, &path, &[], "").await?;
        anyhow::ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
        sleep(PAUSE).await;
    }
    pulls.start(scenario, &mut rng, n_agents).await?;
    poll("the new keys", async || {
        let after = fingerprints(scenario, n_agents).await?;
        let kept = before.iter().zip(&after).filter(|(before, after)| before == after).count();
        Ok((kept == 0).then_some(()))
    })
    .await?;
    trial.counters.faults("keys replaced", u64::from(n_agents));
    pulls.all_done(scenario).await.context("after the new keys")?;

    // During the overlap the absent agent comes back with its old pin, and gets the new one.
    scenario.connect(absent).await.context("the agent that was off")?;
    let id = scenario.trigger(absent).await?;
    scenario.wait_until_done(&id).await?;
    poll("the pin of the absent agent", async || {
        let ca = scenario.server.json("/api/v1/ca").await?;
        Ok((ca["clients"]["without_pin"] == 0).then_some(()))
    })
    .await?;
    step(scenario, "retire").await?;
    // After a restart of all, each proves itself with what it has stored.
    fleet.end().await?;
    scenario.kill_server().await?;
    scenario.start_server().await?;
    let mut fleet = Fleet::start_enrolled(n_agents, &addr, &files.join("{id}"), &keys).await?;
    fleet.dial().await?;
    online(scenario, n_agents + 1).await?;
    pulls.start(scenario, &mut rng, n_agents).await?;
    pulls.all_done(scenario).await.context("after the retirement")?;
    print_line(format!("    {} transfers during the rotations, none failed", pulls.n_done));
    scenario.audit(true).await?;
    fleet.end().await
}

/// The transfers that run during the steps.
#[derive(Debug, Default)]
struct RotationPulls {
    open: Vec<String>,
    n_done: usize,
}

impl RotationPulls {
    async fn start(
        &mut self,
        scenario: &mut Scenario,
        rng: &mut fastrand::Rng,
        n_agents: u32,
    ) -> anyhow::Result<()> {
        for _ in 0..PULLS {
            let id = client(rng.u32(0..n_agents))?;
            let body = json!({ "client": id.as_str(), "queue": "1h" });
            self.open.push(scenario.trigger_with(&body).await?);
        }
        Ok(())
    }

    async fn all_done(&mut self, scenario: &mut Scenario) -> anyhow::Result<()> {
        for id in std::mem::take(&mut self.open) {
            scenario.wait_until_done(&id).await?;
            self.n_done += 1;
        }
        Ok(())
    }
}

async fn step(scenario: &Scenario, step: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/ca/{step}");
    let answer = scenario.server.send(Method::POST, &path, &[], "").await?;
    answer.success_json().with_context(|| step.to_owned())
}

/// Waits until this number of clients is online.
async fn online(scenario: &Scenario, n: u32) -> anyhow::Result<()> {
    poll("all agents to be online", async || {
        let server = scenario.server.json("/api/v1/server").await?;
        Ok((server["clients"]["online"] == n).then_some(()))
    })
    .await
}

/// Returns the key of each client.
async fn fingerprints(scenario: &Scenario, n_agents: u32) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for n in 0..n_agents {
        let shown = scenario.server.json(&format!("/api/v1/clients/{}", client(n)?)).await?;
        found.push(shown["fingerprint"].as_str().context("no fingerprint")?.to_owned());
    }
    Ok(found)
}
