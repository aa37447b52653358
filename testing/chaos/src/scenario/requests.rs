//! The HTTP requests of a trial.

use anyhow::Context as _;
use filepull_testkit::HttpResponse;
use hyper::Method;
use serde_json::{Value, json};

use super::{Scenario, poll};
use crate::oracle::is_final;

impl Scenario {
    /// Triggers a pull of a client's file. Returns the id of the transfer, which may be one that it
    /// joined.
    pub(crate) async fn trigger(&mut self, index: usize) -> anyhow::Result<String> {
        let body = json!({ "client": self.id(index), "queue": "1h" });
        self.trigger_with(&body).await
    }

    /// Triggers a pull with this JSON body.
    pub(crate) async fn trigger_with(&mut self, body: &Value) -> anyhow::Result<String> {
        let oldest = self.lowest_version(body["client"].as_str().unwrap_or_default());
        let response = self.post_transfer(body).await?;
        let id = self.record_trigger(&response)?;
        // Another file than the default one has versions of its own.
        if response.json()?["joined"] == false && body["path"].is_null() {
            self.oracle.record_version(&id, oldest);
        }
        Ok(id)
    }

    /// Triggers a pull with this JSON body. Returns any response.
    pub(crate) async fn post_transfer(&self, body: &Value) -> anyhow::Result<HttpResponse> {
        let json = [("content-type", "application/json")];
        self.server.send(Method::POST, "/api/v1/transfers", &json, &body.to_string()).await
    }

    /// Returns the id of the transfer in the response to a trigger. Fails if it was rejected.
    pub(crate) fn record_trigger(&mut self, response: &HttpResponse) -> anyhow::Result<String> {
        anyhow::ensure!(
            matches!(response.status, 200 | 201),
            "{}: {}",
            response.status,
            response.text()
        );
        let transfer = response.json()?;
        self.oracle.record_answer(&transfer)?;
        Ok(transfer["id"].as_str().context("a transfer has an id")?.to_owned())
    }

    pub(crate) async fn transfer(&mut self, id: &str) -> anyhow::Result<Value> {
        let transfer = self.server.json(&format!("/api/v1/transfers/{id}")).await?;
        self.oracle.record_answer(&transfer)?;
        Ok(transfer)
    }

    /// Waits until a transfer is final.
    pub(crate) async fn wait_until_final(&mut self, id: &str) -> anyhow::Result<Value> {
        let transfer = self.wait_until(&format!("/api/v1/transfers/{id}"), is_final).await?;
        self.oracle.record_answer(&transfer)?;
        Ok(transfer)
    }

    /// Waits until a transfer is done; fails if it fails.
    pub(crate) async fn wait_until_done(&mut self, id: &str) -> anyhow::Result<Value> {
        let transfer = self.wait_until_final(id).await?;
        anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
        Ok(transfer)
    }

    /// Polls a resource until it is as wanted.
    pub(crate) async fn wait_until(
        &self,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = poll(path, async || {
            last = self.server.json(path).await?;
            Ok(Some(last.clone()).filter(&wanted))
        })
        .await;
        found.with_context(|| format!("the last response was {last}"))
    }

    /// Returns every transfer on record.
    pub(crate) async fn transfers(&self) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut path = "/api/v1/transfers?limit=1000".to_owned();
        loop {
            let page = self.server.json(&path).await?;
            all.extend(page["items"].as_array().context("a list has items")?.iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { return Ok(all) };
            path = format!("/api/v1/transfers?limit=1000&cursor={cursor}");
        }
    }
}
