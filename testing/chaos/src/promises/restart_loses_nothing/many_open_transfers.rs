//! A server that is killed with 1,000 unfinished transfers is ready again within 2 s.

use std::time::Duration;

use futures::future::try_join_all;
use hyper::Method;
use serde_json::json;

use crate::scenario::Scenario;
use crate::trial::Trial;

const OPEN: usize = 1000;
const KILLS: u32 = 5;
const READY_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let tried = kills(trial, &mut scenario).await;
    scenario.explain(&format!("with {OPEN} unfinished transfers"), tried)
}

async fn kills(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.start_server().await?;
    scenario.add_client("client1", 6400, &[])?;
    scenario.connect(0).await?;
    scenario.kill_agent(0).await;
    scenario.wait_until("/api/v1/clients/client1", |client| client["online"] == false).await?;
    for batch in 0..OPEN / 50 {
        let asked = (0..50).map(|n| {
            let server = &scenario.server;
            async move {
                let body = json!({ "client": "client1", "path": format!("{batch}-{n}.txt"), "queue": "1h" });
                let json = [("content-type", "application/json")];
                server.send(Method::POST, "/api/v1/transfers", &json, &body.to_string()).await
            }
        });
        for reply in try_join_all(asked).await? {
            anyhow::ensure!(reply.status == 201, "{}: {}", reply.status, reply.text());
            scenario.oracle.record_answer(&reply.json()?)?;
        }
    }
    for _ in 0..trial.times(KILLS) {
        scenario.kill_server().await?;
        trial.counters.fault("server kills with 1,000 unfinished transfers");
        let took = scenario.start_server().await?;
        anyhow::ensure!(took <= READY_LIMIT, "ready after {took:?}");
        let transfers = scenario.transfers().await?;
        scenario.oracle.check_transfers(&transfers)?;
        anyhow::ensure!(
            transfers.len() == OPEN,
            "{} of {OPEN} transfers are left",
            transfers.len()
        );
    }
    scenario.teardown().await
}
