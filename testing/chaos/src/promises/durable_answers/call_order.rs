//! Checks the order of a server's system calls, under the assumption that only an explicit fsync
//! makes data durable.

use std::fs;

use anyhow::Context as _;
use serde_json::json;

use crate::scenario::Scenario;
use crate::trial::Trial;
use crate::write_order::{CALLS, WriteOrder};

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let log = scenario.server.folder().join("calls");
    let calls = format!("trace={CALLS}");
    let log_text = log.to_str().context("the path is not UTF-8")?;
    let strace = ["strace", "-D", "-f", "-yy", "-s", "4096", "-o", log_text, "-e", &calls];
    scenario.server.launch_server_by(strace.map(str::to_owned).into());
    let tried = send_triggers(&mut scenario).await;
    scenario.explain("under strace", tried)?;
    let order = WriteOrder::read(&fs::read_to_string(&log)?);
    let breaches: Vec<String> = order.breaches.into_iter().take(5).collect();
    anyhow::ensure!(breaches.is_empty(), "wrong order of system calls: {}", breaches.join("; "));
    anyhow::ensure!(20 <= order.checks, "only {} calls were checked", order.checks);
    trial.counters.faults("ordered calls", order.checks);
    Ok(())
}

/// Three downloads, and three transfers that are only recorded.
async fn send_triggers(scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.start_server().await?;
    scenario.add_client("client1", 1 << 20, &[])?;
    for _ in 0..3 {
        scenario.connect(0).await?;
        let id = scenario.trigger(0).await?;
        scenario.server.json(&format!("/api/v1/transfers/{id}?wait=20s")).await?;
        scenario.new_version(0)?;
    }
    // For an offline client, the answer depends only on the record.
    scenario.kill_agent(0).await;
    scenario.wait_until("/api/v1/clients/client1", |client| client["online"] == false).await?;
    for n in 0..3 {
        let body = json!({ "client": "client1", "path": format!("{n}.txt"), "queue": "1h" });
        scenario.trigger_with(&body).await?;
    }
    scenario.audit(true).await?;
    scenario.server_process()?.terminate()?;
    scenario.wait_until_server_ended().await.map(drop)
}
