//! The system calls of a server that answers triggers, on a disk that forgives nothing.

use std::fs;

use anyhow::Context as _;
use serde_json::json;

use crate::scenario::Scenario;
use crate::trial::Trial;
use crate::write_order::{CALLS, WriteOrder};

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let log = stage.bed.folder().join("calls");
    let calls = format!("trace={CALLS}");
    let log_text = log.to_str().context("a path of ours is text")?;
    let strace = ["strace", "-D", "-f", "-yy", "-s", "4096", "-o", log_text, "-e", &calls];
    stage.bed.launch_server_by(strace.map(str::to_owned).into());
    let tried = answers(&mut stage).await;
    stage.explain("under strace", tried)?;
    let order = WriteOrder::read(&fs::read_to_string(&log)?);
    let breaches: Vec<String> = order.breaches.into_iter().take(5).collect();
    anyhow::ensure!(breaches.is_empty(), "system calls: {}", breaches.join("; "));
    anyhow::ensure!(20 <= order.checks, "only {} calls were checked", order.checks);
    trial.tally.faults("calls in order", order.checks);
    Ok(())
}

/// Three downloads, and three transfers that are only recorded.
async fn answers(stage: &mut Scenario) -> anyhow::Result<()> {
    stage.start_server().await?;
    stage.add_client("client1", 1 << 20, &[])?;
    for _ in 0..3 {
        stage.connect(0).await?;
        let id = stage.order(0).await?;
        stage.bed.json(&format!("/api/v1/transfers/{id}?wait=20s")).await?;
        stage.new_version(0)?;
    }
    // For a client that is away, the record is all there is to an answer.
    stage.kill_agent(0).await;
    stage.until("/api/v1/clients/client1", |client| client["online"] == false).await?;
    for n in 0..3 {
        let order = json!({ "client": "client1", "path": format!("{n}.txt"), "queue": "1h" });
        stage.order_as(&order).await?;
    }
    stage.audit(true).await?;
    stage.bed.server()?.terminate()?;
    stage.server_ended().await.map(drop)
}
