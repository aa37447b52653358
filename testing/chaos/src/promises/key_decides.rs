//! S1: agents with every wrong key, and with the right key in unexpected certificates. On the other side,
//! servers with every wrong key.

mod clones;
mod wrong_servers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use filepull_core::invite::Invite;
use filepull_proto::v1::ErrorCode;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::{
    AgentCertificate, ScriptedAgent, ScriptedUpload, TestServer, channel_with, config_with, enrol,
    trusted_channel,
};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use futures::FutureExt as _;
use rustls::ClientConfig;
use serde_json::json;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::scripted_scenario::final_answer;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S1",
    statement: "An id is a key: only the enrolled key opens a session or sends a file of a client.",
    requirements: &[],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

const ROUNDS: u32 = 2;
/// A server answers a first message within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const FORMS: [AgentCertificate; 5] = [
    AgentCertificate::Usual,
    AgentCertificate::NamedAfter("victim"),
    AgentCertificate::Expired,
    AgentCertificate::NotYetValid,
    AgentCertificate::OtherIssuer,
];

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    scenario.start_server().await?;
    for round in 0..trial.times(ROUNDS) {
        let tried = try_keys(trial, &scenario.server).await;
        scenario.explain("wrong keys", tried)?;
        let tried = wrong_servers::run(trial, &mut scenario, round).await;
        scenario.explain("wrong servers", tried)?;
    }
    scenario.teardown().await
}

/// The clients of one round.
struct Keys {
    /// An enrolled client.
    victim: (Invite, AgentKey),
    /// Another enrolled client.
    other: AgentKey,
    /// A client that waits for its approval.
    pending: AgentKey,
    /// A client that was forgotten.
    forgotten: AgentKey,
}

async fn try_keys(trial: &Trial, server: &TestServer) -> anyhow::Result<()> {
    let keys = enrol_clients(server).await?;
    let pins = keys.victim.0.ca_pins();
    let stranger = AgentKey::generate();
    for form in FORMS {
        let config = |key| config_with(pins, key, form);
        for (key, id) in [
            (&stranger, "victim"),
            (&keys.other, "victim"),
            (&keys.forgotten, "victim"),
            (&keys.forgotten, "forgotten"),
            (&keys.pending, "pending"),
            (&keys.victim.1, "other"),
            (&keys.victim.1, "unused-id"),
        ] {
            let config = config(key)?;
            // The second connection resumes the TLS session of the first.
            for _ in 0..2 {
                must_be_rejected(server, &config, id).await.with_context(|| format!("{form:?}"))?;
                trial.counters.fault("wrong keys");
            }
        }
        must_be_accepted(server, &config(&keys.victim.1)?).await?;
        trial.counters.fault("right keys in unexpected certificates");
    }
    let keyless = client_config(&ServerTrust::Pins(pins.to_vec()), None)?;
    must_be_rejected(server, &keyless, "victim").await?;
    let plain = ScriptedAgent::connect(server.grpc(), "victim", ANSWER_LIMIT).await;
    anyhow::ensure!(plain.is_err(), "the server opened a session without TLS");
    trial.counters.faults("agents without a key", 2);
    foreign_uploads(trial, server, &keys).await?;
    for id in ["victim", "other", "pending"] {
        server.forget(id).await?;
    }
    Ok(())
}

async fn enrol_clients(server: &TestServer) -> anyhow::Result<Keys> {
    let victim = server.enrol("victim").await?;
    let (_, other) = server.enrol("other").await?;
    let (_, forgotten) = server.enrol("forgotten").await?;
    server.forget("forgotten").await?;
    let group = json!({ "group": "tills", "uses": 1, "approve": true });
    let invite = server.invite(&group).await?;
    let pending = AgentKey::generate();
    let enrolled =
        enrol(trusted_channel(&invite, Some(&pending)).await?, &invite, "pending").await?;
    let enrolled = enrolled.map_err(|error| anyhow::anyhow!("not enrolled: {error:?}"))?;
    anyhow::ensure!(enrolled.pending, "a client of a group is not pending");
    Ok(Keys { victim, other, pending, forgotten })
}

async fn must_be_rejected(
    server: &TestServer,
    config: &Arc<ClientConfig>,
    id: &str,
) -> anyhow::Result<()> {
    let Ok(channel) = channel_with(server.grpc(), Arc::clone(config)).await else { return Ok(()) };
    let opened = ScriptedAgent::open(channel, id, ANSWER_LIMIT).await?;
    let code = opened.err().map(|error| error.code());
    let is_known = matches!(
        code,
        Some(ErrorCode::Unauthenticated | ErrorCode::Forbidden | ErrorCode::Pending)
    );
    anyhow::ensure!(is_known, "a session as {id} with a wrong key: {code:?}");
    let client = server.json(&format!("/api/v1/clients/{id}")).await?;
    anyhow::ensure!(client["online"] != true, "{id} is online with a wrong key");
    Ok(())
}

async fn must_be_accepted(server: &TestServer, config: &Arc<ClientConfig>) -> anyhow::Result<()> {
    let channel = channel_with(server.grpc(), Arc::clone(config)).await?;
    let opened = ScriptedAgent::open(channel, "victim", ANSWER_LIMIT).await?;
    let opened =
        opened.map_err(|error| anyhow::anyhow!("the right key was rejected: {error:?}"))?;
    drop(opened);
    server.until_offline("victim").await
}

/// Another client knows the whole order of the victim, its secret token included.
async fn foreign_uploads(trial: &Trial, server: &TestServer, keys: &Keys) -> anyhow::Result<()> {
    let (invite, key) = &keys.victim;
    let channel = trusted_channel(invite, Some(key)).await?;
    let opened = ScriptedAgent::open(channel, "victim", ANSWER_LIMIT).await?;
    let mut victim = opened.map_err(|error| anyhow::anyhow!("rejected: {error:?}"))?;
    let file = [7; 1000];
    let body = json!({ "client": "victim", "queue": "1h" });
    let id = server.post("/api/v1/transfers", &body).await?.success_json()?["id"].clone();
    let order = victim.order().await?;
    for key in [Some(&keys.other), Some(&keys.pending), Some(&keys.forgotten), None] {
        trial.counters.fault("uploads with another key");
        let channel = trusted_channel(invite, key).await?;
        let Ok(mut upload) = ScriptedUpload::start(channel, &order, 0, 1000).await else {
            continue;
        };
        let _ = upload.chunk(0, file.to_vec().into()).await;
        // The server may have ended the upload.
        drop(upload.trailer(&file).await);
        let answer = final_answer(&mut upload, ANSWER_LIMIT).await;
        let stored = matches!(answer, Some(Answer::Stored(_)));
        anyhow::ensure!(!stored, "the server stored a file of another key");
    }
    let path = format!("/api/v1/transfers/{}", id.as_str().unwrap_or_default());
    let transfer = server.json(&path).await?;
    anyhow::ensure!(transfer["bytes_done"] == 0, "another key sent bytes: {transfer}");
    server.cancel(&path).await?;
    drop(victim);
    server.until_offline("victim").await
}
