//! S15: each act is answered, then the server is killed at once. After the restart the act is in the audit.
//! Then records of a copy are changed, removed and added.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use filepull_server::access::Role;
use filepull_testkit::{HttpClient, HttpResponse, ScriptedAgent, channel_with, enrol};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use futures::FutureExt as _;
use hyper::Method;
use rusqlite::Connection;
use serde_json::json;

use crate::promise::Promise;
use crate::scenario::{Scenario, poll};
use crate::tool;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S15",
    statement: "Every act is on record before its answer, and no record changes without notice.",
    requirements: &[],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

const ROUNDS: u32 = 2;
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What a caller or an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Trigger,
    Retrieve,
    Cancel,
    Invite,
    Enrol,
    Approve,
    RequestRotation,
    RotateAuthority,
    RejectRequest,
    RejectAgent,
    RejectTrigger,
    ChangeTokens,
    ChangeSettings,
    Forget,
}

const ACTS: [(Act, &str); 14] = [
    (Act::Trigger, "transfer.requested"),
    (Act::Retrieve, "download.retrieved"),
    (Act::Cancel, "transfer.cancelled"),
    (Act::Invite, "invite.created"),
    (Act::Enrol, "client.enrolled"),
    (Act::Approve, "client.approved"),
    (Act::RequestRotation, "key.rotation_requested"),
    (Act::RotateAuthority, "ca.rotated"),
    (Act::RejectRequest, "request.rejected"),
    (Act::RejectAgent, "agent.rejected"),
    (Act::RejectTrigger, "transfer.rejected"),
    (Act::ChangeTokens, "tokens.changed"),
    (Act::ChangeSettings, "settings.changed"),
    (Act::Forget, "client.forgotten"),
];

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    scenario.start_server().await?;
    for round in 0..trial.times(ROUNDS) {
        let mut index = 0;
        for (act, action) in ACTS {
            let tried = act_and_kill(&mut scenario, act, action, round, &mut index).await;
            scenario.explain(&format!("{act:?}, round {round}"), tried)?;
            trial.counters.fault("server kills after an act");
        }
        scenario.kill_agent(index).await;
    }
    scenario.kill_server().await?;
    damage_the_chain(trial, &scenario).await?;
    scenario.teardown().await
}

async fn act_and_kill(
    scenario: &mut Scenario,
    act: Act,
    action: &str,
    round: u32,
    index: &mut usize,
) -> anyhow::Result<()> {
    let path = format!("/api/v1/audit?action={action}");
    let before = count(scenario, &path).await?;
    perform(scenario, act, round, index).await?;
    scenario.kill_server().await?;
    scenario.start_server().await?;
    let after = count(scenario, &path).await?;
    anyhow::ensure!(before < after, "{action}: {before} records before the act, {after} after it");
    Ok(())
}

async fn count(scenario: &Scenario, path: &str) -> anyhow::Result<u64> {
    let page = scenario.server.json(path).await?;
    page["total"].as_u64().with_context(|| format!("no total in {page}"))
}

/// Performs an act and waits for its answer only.
async fn perform(
    scenario: &mut Scenario,
    act: Act,
    round: u32,
    index: &mut usize,
) -> anyhow::Result<()> {
    let id = format!("client{round}");
    match act {
        Act::Trigger => {
            *index = scenario.add_invited_client(&id, 1000, &[]).await?;
            scenario.connect(*index).await?;
            scenario.trigger(*index).await?;
        }
        Act::Retrieve => {
            let transfers = scenario.transfers().await?;
            let own = transfers.iter().find(|transfer| transfer["client"] == id.as_str());
            let transfer =
                own.context("no transfer")?["id"].as_str().unwrap_or_default().to_owned();
            scenario.connect(*index).await?;
            scenario.wait_until_done(&transfer).await?;
            ok(&scenario.server.get(&format!("/api/v1/transfers/{transfer}/file")).await?)?;
        }
        Act::Cancel => {
            scenario.kill_agent(*index).await;
            poll("offline", async || {
                let client = scenario.server.json(&format!("/api/v1/clients/{id}")).await?;
                Ok((client["online"] == false).then_some(()))
            })
            .await?;
            scenario.new_version(*index)?;
            let transfer = scenario.trigger(*index).await?;
            ok(&scenario.server.cancel(&format!("/api/v1/transfers/{transfer}")).await?)?;
            scenario.connect(*index).await?;
        }
        Act::Invite => drop(scenario.server.invite_client(&format!("new{round}")).await?),
        Act::Enrol | Act::Approve => enrol_pending(scenario, act, round).await?,
        Act::RequestRotation => {
            scenario.connect(*index).await?;
            let path = format!("/api/v1/clients/{id}/rotate");
            ok(&scenario.server.send(Method::POST, &path, &[], "").await?)?;
        }
        Act::RotateAuthority => {
            let path = "/api/v1/ca/rotate";
            let first = scenario.server.send(Method::POST, path, &[], "").await?;
            if first.status == 409 {
                // The rotation of the round before ends first.
                for step in ["switch?force=1", "retire?force=1", "rotate"] {
                    let path = format!("/api/v1/ca/{step}");
                    ok(&scenario.server.send(Method::POST, &path, &[], "").await?)?;
                }
            } else {
                ok(&first)?;
            }
        }
        Act::RejectRequest => {
            let stranger = HttpClient::new(scenario.server.http()).with_token("fp_wrong");
            let answer = stranger.get("/api/v1/clients").await?;
            anyhow::ensure!(answer.status == 401, "a wrong token gets {}", answer.status);
        }
        Act::RejectAgent => {
            let invite = scenario.server.invite_client(&format!("none{round}")).await?;
            let trust = ServerTrust::Pins(invite.ca_pins().to_vec());
            let config = client_config(&trust, Some(&AgentKey::generate()))?;
            let channel = channel_with(scenario.server.grpc(), config).await?;
            let opened = ScriptedAgent::open(channel, &id, ANSWER_LIMIT).await?;
            anyhow::ensure!(opened.is_err(), "a stranger opens a session");
        }
        Act::RejectTrigger => {
            let answer = scenario.server.get("/trigger?id=unknown-client").await?;
            anyhow::ensure!(answer.status == 404, "an unknown client: {}", answer.status);
        }
        Act::ChangeTokens => {
            let name = format!("viewer{round}");
            let token = scenario.server.create_token(&name, Role::Viewer, &[], None)?;
            let viewer = HttpClient::new(scenario.server.http()).with_token(&token);
            // The server reads the file again within a second; then the token works.
            poll("the new token", async || {
                Ok((viewer.get("/api/v1/whoami").await?.status == 200).then_some(()))
            })
            .await?;
        }
        Act::ChangeSettings => {
            scenario.server.server_setting("MAX_RUNNING", &(21 + round).to_string());
            scenario.kill_server().await?;
            scenario.start_server().await?;
        }
        Act::Forget => {
            let answer = scenario.server.forget(&id).await?;
            anyhow::ensure!(answer.status == 204, "{}: {}", answer.status, answer.text());
        }
    }
    Ok(())
}

/// Enrols a client of a group, and approves it.
async fn enrol_pending(scenario: &Scenario, act: Act, round: u32) -> anyhow::Result<()> {
    let id = format!("till{round}");
    if act == Act::Approve {
        return ok(&scenario.server.approve(&id).await?);
    }
    let group = json!({ "group": "tills", "uses": 1, "approve": true });
    let invite = scenario.server.invite(&group).await?;
    let trust = ServerTrust::Pins(invite.ca_pins().to_vec());
    let config = client_config(&trust, Some(&AgentKey::generate()))?;
    let channel = channel_with(scenario.server.grpc(), config).await?;
    let enrolled = enrol(channel, &invite, &id).await?;
    enrolled.map(drop).map_err(|error| anyhow::anyhow!("not enrolled: {error:?}"))
}

fn ok(answer: &HttpResponse) -> anyhow::Result<()> {
    let good = (200..300).contains(&answer.status);
    anyhow::ensure!(good, "{}: {}", answer.status, answer.text());
    Ok(())
}

/// Changes one record in a copy of the records, removes one, and adds one. `audit verify` names each.
async fn damage_the_chain(trial: &Trial, scenario: &Scenario) -> anyhow::Result<()> {
    let data_dir = scenario.data_dir();
    let intact = verify(trial, &data_dir).await?;
    anyhow::ensure!(intact.0, "the audit of this run is not intact: {}", intact.1);
    let copy = scenario.server.folder().join("copy");
    for (what, sql) in [
        ("changed", "UPDATE audit SET actor = 'intruder' WHERE seq = ?1"),
        ("removed", "DELETE FROM audit WHERE seq = ?1"),
        (
            "added",
            "INSERT INTO audit SELECT (SELECT max(seq) + 1 FROM audit), at, actor, address, action, \
             subject, detail, request, previous, digest FROM audit WHERE seq = ?1",
        ),
    ] {
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir_all(copy.join(".filepull"))?;
        for entry in std::fs::read_dir(data_dir.join(".filepull"))?.flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), copy.join(".filepull").join(entry.file_name()))?;
            }
        }
        let records = Connection::open(copy.join(".filepull/records.db"))?;
        let last: i64 = records.query_row("SELECT max(seq) FROM audit", [], |row| row.get(0))?;
        let seq = last / 2;
        records.execute(sql, [seq])?;
        drop(records);
        let (is_intact, said) = verify(trial, &copy).await?;
        let named = if what == "added" { last + 1 } else { seq };
        let is_named = said.contains(&named.to_string()) || said.contains(&(named + 1).to_string());
        anyhow::ensure!(
            !is_intact && is_named,
            "record {named} was {what}, and verify says: {said}"
        );
        trial.counters.fault("records of the audit changed");
    }
    Ok(())
}

/// Runs `filepull audit verify`. Returns whether the chain is intact, and the output.
async fn verify(trial: &Trial, data_dir: &Path) -> anyhow::Result<(bool, String)> {
    let mut command = tool::command(&trial.sandbox, &trial.programs.server.display().to_string());
    command.args(["audit", "verify", "--data-dir"]).arg(data_dir);
    let output = command.output().await?;
    let text = [&output.stdout[..], &output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}
