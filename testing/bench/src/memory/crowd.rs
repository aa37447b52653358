//! A server and several agents, each a process, that send at once.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::{DEADLINE, process};
use futures::future::try_join_all;
use serde_json::json;

use crate::agent::AgentProcess;
use crate::http::Http;
use crate::product::{Ends, Programs, pull};
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// All of them, connected.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) server: ServerProcess,
    agents: Vec<AgentProcess>,
}

impl Crowd {
    /// Starts all; the files of the server go to `disk`, whatever the agents write to `folder`.
    pub(super) async fn start(
        programs: &Programs,
        (disk, folder): (&Path, &Path),
        source: &SourceFile,
        n_clients: u32,
        data_conn: &str,
    ) -> anyhow::Result<Self> {
        let at_once = n_clients.to_string();
        let settings = [("MAX_RUNNING", at_once.as_str())];
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

    /// Brings the file over from all agents at once.
    pub(super) async fn pull_all(&self, source: &SourceFile) -> anyhow::Result<()> {
        let limit = source.limit() * self.n_clients();
        let names: Vec<String> = clients(self.n_clients()).collect();
        try_join_all(names.iter().map(|client| pull(&self.server, client, source, limit))).await?;
        Ok(())
    }

    /// Starts a transfer from each agent; their ids.
    pub(super) async fn begin_all(&self) -> anyhow::Result<Vec<String>> {
        let http = Http::new(self.server.http.clone());
        let mut ids = Vec::new();
        for client in clients(self.n_clients()) {
            let order = json!({ "client": client });
            let transfer = http.post("/api/v1/transfers", &order, DEADLINE).await?.json()?;
            ids.push(transfer["id"].as_str().context("a transfer has an id")?.to_owned());
        }
        Ok(ids)
    }

    /// How much of each transfer has been written.
    pub(super) async fn written(&self, ids: &[String]) -> anyhow::Result<Vec<u64>> {
        let http = Http::new(self.server.http.clone());
        let mut written = Vec::new();
        for id in ids {
            let path = format!("/api/v1/transfers/{id}");
            let transfer = http.get(&path, Duration::from_secs(2)).await?.json()?;
            anyhow::ensure!(transfer["state"] == "running", "it does not run: {transfer:#}");
            written.push(transfer["bytes_done"].as_u64().context("a transfer has bytes")?);
        }
        Ok(written)
    }

    /// The most memory that the server, and any of the agents, ever had resident, in bytes.
    pub(super) fn peak_rss(&self) -> anyhow::Result<Ends<u64>> {
        let mut peak = Ends { server: self.server.process.peak_rss()?, agent: 0 };
        for agent in &self.agents {
            peak.agent = peak.agent.max(agent.process.peak_rss()?);
        }
        Ok(peak)
    }

    /// Ends all and waits until they are gone.
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
