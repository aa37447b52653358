//! A copy of a machine, with its key: while the original is alive, the copy is rejected and named.

use anyhow::Context as _;
use filepull_core::fingerprint::Fingerprint;
use filepull_proto::v1::ErrorCode;
use filepull_testkit::{ScriptedAgent, channel_with};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use serde_json::Value;
use tokio::time::timeout;

use super::ANSWER_LIMIT;
use crate::scenario::Scenario;
use crate::trial::Trial;

/// The event of the alarm.
const ALARM: &str = "client.duplicate_id";

/// Tries to replace the real agent of this client by a clone with the same key.
pub(super) async fn run(trial: &Trial, scenario: &Scenario, index: usize) -> anyhow::Result<()> {
    let id = scenario.id(index);
    let pem = std::fs::read_to_string(scenario.state(index).join("key"))?;
    let raw_identity = std::fs::read_to_string(scenario.state(index).join("identity.json"))?;
    let identity: Value = serde_json::from_str(&raw_identity)?;
    let pins: Vec<Fingerprint> = serde_json::from_value(identity["ca_pins"].clone())?;
    let config = client_config(&ServerTrust::Pins(pins), Some(&AgentKey::from_pem(&pem)?))?;
    let channel = channel_with(scenario.server.grpc(), config).await?;
    let n_sessions = scenario.server_process()?.count("\"client.connected\"");
    let opened = ScriptedAgent::open(channel, &id, ANSWER_LIMIT).await?;
    let code = opened.err().map(|error| error.code());
    anyhow::ensure!(code == Some(ErrorCode::DuplicateId), "a clone of {id} gets {code:?}");
    let said = timeout(ANSWER_LIMIT, scenario.server_process()?.says(ALARM)).await;
    let alarm = said.context("no alarm about a clone")??;
    anyhow::ensure!(alarm.contains("127.0.0.1"), "the alarm has no address: {alarm}");
    let now = scenario.server_process()?.count("\"client.connected\"");
    anyhow::ensure!(now == n_sessions, "the clone disturbed the session of the original");
    trial.counters.fault("clones with the key");
    Ok(())
}
