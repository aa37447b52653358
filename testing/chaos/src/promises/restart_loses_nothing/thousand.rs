//! A server that is killed while 1,000 transfers are open is ready again within 2 s.

use std::time::Duration;

use futures::future::try_join_all;
use hyper::Method;
use serde_json::json;

use crate::scenario::Scenario;
use crate::trial::Trial;

const OPEN: usize = 1000;
const KILLS: u32 = 5;
const READY_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let tried = kills(trial, &mut stage).await;
    stage.explain(&format!("with {OPEN} open transfers"), tried)
}

async fn kills(trial: &Trial, stage: &mut Scenario) -> anyhow::Result<()> {
    stage.start_server().await?;
    stage.add_client("client1", 6400, &[])?;
    stage.connect(0).await?;
    stage.kill_agent(0).await;
    stage.until("/api/v1/clients/client1", |client| client["online"] == false).await?;
    for batch in 0..OPEN / 50 {
        let asked = (0..50).map(|n| {
            let bed = &stage.bed;
            async move {
                let order = json!({ "client": "client1", "path": format!("{batch}-{n}.txt"), "queue": "1h" });
                let json = [("content-type", "application/json")];
                bed.send(Method::POST, "/api/v1/transfers", &json, &order.to_string()).await
            }
        });
        for reply in try_join_all(asked).await? {
            anyhow::ensure!(reply.status == 201, "{}: {}", reply.status, reply.text());
            stage.oracle.answered(&reply.json()?)?;
        }
    }
    for _ in 0..trial.times(KILLS) {
        stage.kill_server().await?;
        trial.tally.fault("server kills with 1,000 open");
        let took = stage.start_server().await?;
        anyhow::ensure!(took <= READY_LIMIT, "ready after {took:?}");
        let transfers = stage.transfers().await?;
        stage.oracle.agree(&transfers)?;
        anyhow::ensure!(transfers.len() == OPEN, "{} of {OPEN} are left", transfers.len());
    }
    stage.strike().await
}
