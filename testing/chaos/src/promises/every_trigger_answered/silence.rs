//! Triggers to clients that are unknown, offline, or silent on a line that is still open.

use std::time::{Duration, Instant};

use filepull_testkit::HttpResponse;
use hyper::Method;
use rustix::process::Signal;
use serde_json::json;

use super::{FILE_LEN, offline};
use crate::scenario::Scenario;
use crate::trial::Trial;

/// The promise itself: two seconds for the agent, and one for everything else.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Why a client says nothing.
#[derive(Clone, Copy, Debug)]
enum Silence {
    AgentStopped,
    WireFrozen,
}

pub(super) async fn attempt(trial: &Trial, count: u32) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    stage.start_server().await?;
    stage.add_client("client1", FILE_LEN, &[])?;
    for n in 0..count {
        for silence in [Silence::AgentStopped, Silence::WireFrozen] {
            let tried = silent(trial, &mut stage, silence).await;
            stage.explain(&format!("{silence:?}, {n}"), tried)?;
        }
        let tried = not_shared(trial, &mut stage).await;
        stage.explain(&format!("not shared {n}"), tried)?;
        let tried = refused(trial, &mut stage).await;
        stage.explain(&format!("refusals {n}"), tried)?;
    }
    stage.audit(true).await?;
    stage.end().await
}

/// The agent cannot have taken the order: no answer may say that it has.
async fn silent(trial: &Trial, stage: &mut Scenario, silence: Silence) -> anyhow::Result<()> {
    stage.connect(0).await?;
    stage.new_version(0)?;
    match silence {
        Silence::AgentStopped => stage.agent(0)?.signal(Signal::STOP)?,
        Silence::WireFrozen => stage.proxy.freeze(),
    }
    trial.tally.fault("triggers into silence");
    let reply = in_time(stage, "/trigger?id=client1", "").await;
    match silence {
        Silence::AgentStopped => stage.agent(0)?.signal(Signal::CONT)?,
        Silence::WireFrozen => stage.proxy.thaw(),
    }
    let reply = reply?;
    let said = reply.first_line();
    let honest = reply.status == 202 && said.starts_with("Asked client1, no answer yet.");
    anyhow::ensure!(honest, "answered {}: {said}", reply.status);
    let id = super::named(&reply)?;
    stage.oracle.recorded(&id);
    stage.done(&id).await?;
    stage.audit(false).await
}

/// What an agent gives is for its own settings to say, whatever the server asks for.
async fn not_shared(trial: &Trial, stage: &mut Scenario) -> anyhow::Result<()> {
    stage.connect(0).await?;
    let secret = stage.bed.folder().join("secret.txt");
    std::fs::write(&secret, "not for the server")?;
    let link = stage.files(0).join("link.txt");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(&secret, &link)?;
    }
    let before = stage.bed.downloads("client1")?;
    for path in [&secret, &link] {
        let path = path.display();
        let reply = stage.bed.get(&format!("/trigger?id=client1&path={path}&wait=20s")).await?;
        anyhow::ensure!(reply.status == 403, "{path}: {}, {}", reply.status, reply.text());
        trial.tally.fault("paths not shared");
    }
    anyhow::ensure!(stage.bed.downloads("client1")? == before, "a file came that is not shared");
    Ok(())
}

/// A refusal leaves nothing behind.
async fn refused(trial: &Trial, stage: &mut Scenario) -> anyhow::Result<()> {
    stage.kill_agent(0).await;
    stage.until("/api/v1/clients/client1", offline).await?;
    let before = stage.transfers().await?;
    for (client, status) in [("client2", 404), ("client1", 409)] {
        let order = json!({ "client": client }).to_string();
        let short = format!("/trigger?id={client}");
        for (path, body) in [(short.as_str(), ""), ("/api/v1/transfers", &order)] {
            let reply = in_time(stage, path, body).await?;
            let text = reply.text();
            anyhow::ensure!(reply.status == status, "{path} {body}: {}, {text}", reply.status);
            trial.tally.fault("refused triggers");
        }
    }
    let after = stage.transfers().await?;
    anyhow::ensure!(before == after, "a refusal left a record: {before:?}, now {after:?}");
    Ok(())
}

async fn in_time(stage: &Scenario, path: &str, body: &str) -> anyhow::Result<HttpResponse> {
    let json = [("content-type", "application/json")];
    let headers = if body.is_empty() { &[][..] } else { &json[..] };
    let began = Instant::now();
    let reply = stage.bed.send(Method::POST, path, headers, body).await?;
    let took = began.elapsed();
    anyhow::ensure!(took < ANSWER_LIMIT, "{path} {body} was answered after {took:?}");
    Ok(reply)
}
