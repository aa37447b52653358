//! S2: one invite is redeemed by many keys at once, many invites at once, and both programs are killed at
//! their system calls during an enrolment.

mod killed_enrolments;

use std::time::Duration;

use anyhow::Context as _;
use filepull_core::invite::Invite;
use filepull_proto::v1::ErrorCode;
use filepull_testkit::{ScriptedAgent, TestServer, channel_with, enrol};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use futures::FutureExt as _;
use futures::future::{join_all, try_join_all};
use serde_json::json;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S2",
    statement: "An invite works once, and is spent only when the key is on record and the agent knows it.",
    requirements: &[Requirement::Root, Requirement::Program("strace", "strace")],
    limit: Duration::from_secs(90),
    run: |trial| run(trial).boxed_local(),
};

/// Keys that redeem one invite at the same time.
const RIVALS: usize = 64;
/// Invites that are redeemed at the same time.
const INVITES: u32 = 500;
/// The records may not contain this many bytes of a secret in a row.
const SHOWN_LEN: usize = 16;
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    scenario.start_server().await?;
    let tried = redeem_at_once(trial, &mut scenario).await;
    scenario.explain("many redemptions", tried)?;
    let tried = admit_a_group(trial, &scenario.server).await;
    scenario.explain("a group", tried)?;
    scenario.teardown().await?;
    killed_enrolments::run(trial).await
}

/// Redeems an invite with a new key. Returns the code of the rejection.
async fn redeem(
    server: &TestServer,
    invite: &Invite,
    key: &AgentKey,
    client: &str,
) -> anyhow::Result<Option<ErrorCode>> {
    let trust = ServerTrust::Pins(invite.ca_pins().to_vec());
    let channel = channel_with(server.grpc(), client_config(&trust, Some(key))?).await?;
    Ok(enrol(channel, invite, client).await?.err().map(|error| error.code()))
}

async fn redeem_at_once(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<()> {
    let server = &scenario.server;
    let invite = server.invite_client("contested").await?;
    let keys: Vec<AgentKey> = (0..RIVALS).map(|_| AgentKey::generate()).collect();
    let redemptions = keys.iter().map(|key| redeem(server, &invite, key, "contested"));
    let answers = try_join_all(redemptions).await?;
    trial.counters.faults("rival redemptions", RIVALS as u64);
    let winners: Vec<usize> = (0..RIVALS).filter(|&n| answers[n].is_none()).collect();
    anyhow::ensure!(winners.len() == 1, "{} keys redeemed one invite", winners.len());
    let winner = &keys[winners[0]];

    let count = trial.count.unwrap_or(INVITES);
    let list: Vec<_> = (0..count).map(|n| json!({ "client": format!("store{n}") })).collect();
    let invites = server.invites(&json!({ "clients": list })).await?;
    let each = invites.iter().enumerate().map(async |(n, invite)| {
        redeem(server, invite, &AgentKey::generate(), &format!("store{n}")).await
    });
    let failed = join_all(each).await.into_iter().filter(|one| !matches!(one, Ok(None))).count();
    anyhow::ensure!(failed == 0, "{failed} of {count} invites were not redeemed");
    trial.counters.faults("concurrent enrolments", u64::from(count));

    only_hashes_are_stored(scenario, &invite)?;
    scenario.kill_server().await?;
    scenario.start_server().await?;
    let server = &scenario.server;
    trial.counters.fault("replays after a restart");
    let again = redeem(server, &invite, winner, "contested").await?;
    anyhow::ensure!(again.is_none(), "the same key gets {again:?} when it redeems again");
    let thief = redeem(server, &invite, &AgentKey::generate(), "contested").await?;
    anyhow::ensure!(thief == Some(ErrorCode::InviteUsed), "another key gets {thief:?}");
    Ok(())
}

/// No file of the server has the secret of an invite.
fn only_hashes_are_stored(scenario: &Scenario, invite: &Invite) -> anyhow::Result<()> {
    let text = invite.encode();
    let secret = invite.secret().as_bytes();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = scenario.data_dir().join(".filepull");
    for entry in std::fs::read_dir(&folder)?.flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path())?;
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        let has_secret = has(&secret[..SHOWN_LEN]) || has(&hex.as_bytes()[..SHOWN_LEN * 2]);
        let shown = has_secret || has(&text.as_bytes()[text.len() - SHOWN_LEN * 2..]);
        anyhow::ensure!(!shown, "{} contains the secret of an invite", entry.path().display());
    }
    Ok(())
}

/// A client of a group may do nothing before its approval.
async fn admit_a_group(trial: &Trial, server: &TestServer) -> anyhow::Result<()> {
    let group = json!({ "group": "tills", "uses": 2, "approve": true });
    let invite = server.invite(&group).await?;
    let key = AgentKey::generate();
    let trust = ServerTrust::Pins(invite.ca_pins().to_vec());
    let config = client_config(&trust, Some(&key))?;
    let channel = async || channel_with(server.grpc(), config.clone()).await;
    let enrolled = enrol(channel().await?, &invite, "till1").await?;
    anyhow::ensure!(enrolled.is_ok_and(|client| client.pending), "not pending");
    let opened = ScriptedAgent::open(channel().await?, "till1", ANSWER_LIMIT).await?;
    let code = opened.err().map(|error| error.code());
    anyhow::ensure!(code == Some(ErrorCode::Pending), "a pending client gets {code:?}");
    let trigger = server.get("/trigger?id=till1").await?;
    anyhow::ensure!(trigger.status == 409, "{}: {}", trigger.status, trigger.text());
    server.approve("till1").await?.success_json().context("approve")?;
    let opened = ScriptedAgent::open(channel().await?, "till1", ANSWER_LIMIT).await?;
    anyhow::ensure!(opened.is_ok(), "an approved client is rejected");
    for id in ["till2", "till3"] {
        let code = redeem(server, &invite, &AgentKey::generate(), id).await?;
        let expected = (id == "till3").then_some(ErrorCode::InviteUsed);
        anyhow::ensure!(code == expected, "the invite of the group gives {id} {code:?}");
    }
    trial.counters.faults("clients of a group", 3);
    Ok(())
}
