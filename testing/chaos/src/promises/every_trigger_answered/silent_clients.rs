//! Triggers to clients that are unknown, offline, or unresponsive on an open connection.

use std::time::{Duration, Instant};

use filepull_testkit::HttpResponse;
use hyper::Method;
use rustix::process::Signal;
use serde_json::json;

use super::{FILE_LEN, offline};
use crate::scenario::Scenario;
use crate::trial::Trial;

/// The promised limit: 2 s for the agent, and 1 s for everything else.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
enum Silence {
    AgentStopped,
    ConnectionFrozen,
}

pub(super) async fn run(trial: &Trial, count: u32) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    scenario.start_server().await?;
    scenario.add_client("client1", FILE_LEN, &[])?;
    for n in 0..count {
        for silence in [Silence::AgentStopped, Silence::ConnectionFrozen] {
            let tried = check_unresponsive(trial, &mut scenario, silence).await;
            scenario.explain(&format!("{silence:?}, {n}"), tried)?;
        }
        let tried = check_not_shared(trial, &mut scenario).await;
        scenario.explain(&format!("not shared, {n}"), tried)?;
        let tried = check_rejected(trial, &mut scenario).await;
        scenario.explain(&format!("rejected, {n}"), tried)?;
    }
    scenario.audit(true).await?;
    scenario.end().await
}

/// The agent cannot accept the order, so no answer may say that it did.
async fn check_unresponsive(
    trial: &Trial,
    scenario: &mut Scenario,
    silence: Silence,
) -> anyhow::Result<()> {
    scenario.connect(0).await?;
    scenario.new_version(0)?;
    match silence {
        Silence::AgentStopped => scenario.agent(0)?.signal(Signal::STOP)?,
        Silence::ConnectionFrozen => scenario.proxy.freeze(),
    }
    trial.counters.fault("triggers to unresponsive clients");
    let result = send_in_time(scenario, "/trigger?id=client1", "").await;
    match silence {
        Silence::AgentStopped => scenario.agent(0)?.signal(Signal::CONT)?,
        Silence::ConnectionFrozen => scenario.proxy.thaw(),
    }
    let reply = result?;
    let line = reply.first_line();
    let honest = reply.status == 202 && line.starts_with("Asked client1, no answer yet.");
    anyhow::ensure!(honest, "answered {}: {line}", reply.status);
    let id = super::transfer_id(&reply)?;
    scenario.oracle.record_id(&id);
    scenario.wait_until_done(&id).await?;
    scenario.audit(false).await
}

/// The agent only sends what it shares. Any other path is rejected.
async fn check_not_shared(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.connect(0).await?;
    let secret = scenario.server.folder().join("secret.txt");
    std::fs::write(&secret, "not for the server")?;
    let link = scenario.files(0).join("link.txt");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(&secret, &link)?;
    }
    let before = scenario.server.downloads("client1")?;
    for path in [&secret, &link] {
        let path = path.display();
        let reply =
            scenario.server.get(&format!("/trigger?id=client1&path={path}&wait=20s")).await?;
        anyhow::ensure!(reply.status == 403, "{path}: {}, {}", reply.status, reply.text());
        trial.counters.fault("paths that are not shared");
    }
    anyhow::ensure!(
        scenario.server.downloads("client1")? == before,
        "a file arrived that is not shared"
    );
    Ok(())
}

/// A rejected trigger leaves no record.
async fn check_rejected(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.kill_agent(0).await;
    scenario.wait_until("/api/v1/clients/client1", offline).await?;
    let before = scenario.transfers().await?;
    for (client, status) in [("client2", 404), ("client1", 409)] {
        let body = json!({ "client": client }).to_string();
        let short = format!("/trigger?id={client}");
        for (path, body) in [(short.as_str(), ""), ("/api/v1/transfers", &body)] {
            let reply = send_in_time(scenario, path, body).await?;
            let text = reply.text();
            anyhow::ensure!(reply.status == status, "{path} {body}: {}, {text}", reply.status);
            trial.counters.fault("rejected triggers");
        }
    }
    let after = scenario.transfers().await?;
    anyhow::ensure!(before == after, "a rejected trigger left a record: {before:?}, now {after:?}");
    Ok(())
}

async fn send_in_time(scenario: &Scenario, path: &str, body: &str) -> anyhow::Result<HttpResponse> {
    let json = [("content-type", "application/json")];
    let headers = if body.is_empty() { &[][..] } else { &json[..] };
    let began = Instant::now();
    let reply = scenario.server.send(Method::POST, path, headers, body).await?;
    let took = began.elapsed();
    anyhow::ensure!(took < ANSWER_LIMIT, "{path} {body} was answered after {took:?}");
    Ok(reply)
}
