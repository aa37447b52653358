//! A server and several agents, each a process, that send concurrently.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::{HttpClient, Programs, process};
use futures::future::try_join_all;
use serde_json::json;

use crate::agent::AgentProcess;
use crate::product::{BothEnds, pull};
use crate::server::ServerProcess;
use crate::source::SourceFile;

#[derive(Debug)]
pub(super) struct ManyClients {
    pub(super) server: ServerProcess,
    agents: Vec<AgentProcess>,
}

impl ManyClients {
    /// Starts all processes. The server's files are in `disk`, the agents' files in `folder`.
    pub(super) async fn start(
        programs: &Programs,
        (disk, folder): (&Path, &Path),
        source: &SourceFile,
        n_clients: u32,
        data_conn: &str,
    ) -> anyhow::Result<Self> {
        let max_running = n_clients.to_string();
        let settings = [("MAX_RUNNING", max_running.as_str())];
        let server = ServerProcess::start_with(&settings, &programs.server, disk).await?;
        let mut agents = Vec::new();
        for client in clients(n_clients) {
            let folder = folder.join(&client);
            std::fs::create_dir_all(&folder)?;
            let mut program = process::command(&programs.agent);
            program.env("DATA_CONN", data_conn);
            agents.push(AgentProcess::start(program, &client, &server, source, &folder).await?);
        }
        Ok(Self { server, agents })
    }

    /// Pulls the file from all agents concurrently.
    pub(super) async fn pull_all(&self, source: &SourceFile) -> anyhow::Result<()> {
        let limit = source.limit() * self.n_clients();
        let names: Vec<String> = clients(self.n_clients()).collect();
        try_join_all(names.iter().map(|client| pull(&self.server, client, source, limit))).await?;
        Ok(())
    }

    /// Starts a transfer from each agent. Returns the ids.
    pub(super) async fn begin_all(&self) -> anyhow::Result<Vec<String>> {
        let http = HttpClient::new(self.server.http);
        let mut ids = Vec::new();
        for client in clients(self.n_clients()) {
            let order = json!({ "client": client });
            let transfer = http.post("/api/v1/transfers", &order).await?.success_json()?;
            ids.push(transfer["id"].as_str().context("a transfer has an id")?.to_owned());
        }
        Ok(ids)
    }

    /// Returns how many bytes of each transfer are written.
    pub(super) async fn written(&self, ids: &[String]) -> anyhow::Result<Vec<u64>> {
        // The server must answer while its disk does not.
        let http = HttpClient::new(self.server.http).limit(Duration::from_secs(2));
        let mut written = Vec::new();
        for id in ids {
            let path = format!("/api/v1/transfers/{id}");
            let transfer = http.get(&path).await?.success_json()?;
            // After 5 s of a disk that does not respond, the upload waits for it.
            let is_running = transfer["state"] == "running" || transfer["waiting_for"] == "disk";
            anyhow::ensure!(is_running, "it does not run: {transfer:#}");
            written.push(transfer["bytes_done"].as_u64().context("a transfer has bytes")?);
        }
        Ok(written)
    }

    /// Returns the peak resident memory of the server, and the highest of all agents, in bytes.
    pub(super) fn peak_rss(&self) -> anyhow::Result<BothEnds<u64>> {
        let mut peak = BothEnds { server: self.server.process.peak_rss()?, agent: 0 };
        for agent in &self.agents {
            peak.agent = peak.agent.max(agent.process.peak_rss()?);
        }
        Ok(peak)
    }

    /// Kills all processes and waits for their end.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        for agent in self.agents {
            agent.process.kill().await?;
        }
        self.server.process.kill().await
    }

    fn n_clients(&self) -> u32 {
        u32::try_from(self.agents.len()).unwrap_or(u32::MAX)
    }
}

fn clients(n_clients: u32) -> impl Iterator<Item = String> {
    (1..=n_clients).map(|number| format!("client{number}"))
}
