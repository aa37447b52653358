//! What the server is asked over HTTP.

use std::time::Instant;

use anyhow::Context as _;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{LOOK_AGAIN, PATIENCE, Scenario};
use crate::oracle::is_final;

impl Scenario {
    /// Asks for a client's file; the id of the transfer, which may be one that runs already.
    ///
    /// # Errors
    /// The server refused or did not answer.
    pub async fn order(&mut self, index: usize) -> anyhow::Result<String> {
        let order = json!({ "client": self.id(index), "queue": "1h" });
        self.order_as(&order).await
    }

    /// Asks for a file in the words of the API.
    ///
    /// # Errors
    /// The server refused or did not answer.
    pub async fn order_as(&mut self, order: &Value) -> anyhow::Result<String> {
        let json = [("content-type", "application/json")];
        let body = order.to_string();
        let reply = self.bed.send(Method::POST, "/api/v1/transfers", &json, &body).await?;
        anyhow::ensure!(matches!(reply.status, 200 | 201), "{}: {}", reply.status, reply.text());
        let transfer = reply.json()?;
        self.oracle.answered(&transfer)?;
        Ok(transfer["id"].as_str().context("a transfer has an id")?.to_owned())
    }

    /// A transfer as the server shows it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn transfer(&mut self, id: &str) -> anyhow::Result<Value> {
        let transfer = self.bed.json(&format!("/api/v1/transfers/{id}")).await?;
        self.oracle.answered(&transfer)?;
        Ok(transfer)
    }

    /// Waits until a transfer is final.
    ///
    /// # Errors
    /// It is not in time, or the server does not answer.
    pub async fn finished(&mut self, id: &str) -> anyhow::Result<Value> {
        let transfer = self.until(&format!("/api/v1/transfers/{id}"), is_final).await?;
        self.oracle.answered(&transfer)?;
        Ok(transfer)
    }

    /// Waits until a transfer is done.
    ///
    /// # Errors
    /// It failed, or is not done in time.
    pub async fn done(&mut self, id: &str) -> anyhow::Result<Value> {
        let transfer = self.finished(id).await?;
        anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
        Ok(transfer)
    }

    /// Asks for a resource until it is as wanted.
    ///
    /// # Errors
    /// It is not in time, or the server does not answer.
    pub async fn until(
        &self,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.bed.json(path).await?;
            if wanted(&found) {
                return Ok(found);
            }
            anyhow::ensure!(Instant::now() < deadline, "waited in vain for {path}: {found}");
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Every transfer on record.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn transfers(&self) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut path = "/api/v1/transfers?limit=1000".to_owned();
        loop {
            let page = self.bed.json(&path).await?;
            all.extend(page["items"].as_array().context("a list has items")?.iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { return Ok(all) };
            path = format!("/api/v1/transfers?limit=1000&cursor={cursor}");
        }
    }
}
