//! One server, as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_testkit::{HttpClient, Process, process};
use serde_json::{Value, json};

/// A server that is ready.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) agents: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// Its agents enrol with an invite, and use TLS.
    pub(crate) uses_tls: bool,
}

/// The setting of a server whose agents use TLS.
pub(crate) const TLS: (&str, &str) = ("AGENT_AUTH", "invite");

impl ServerProcess {
    /// Starts a server on free ports. Its files are in `server-data` in `folder`.
    pub(crate) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(&[], program, folder).await
    }

    /// Starts a server with these settings, which override the defaults of the bench.
    pub(crate) async fn start_with(
        settings: &[(&str, &str)],
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let ports = [("HTTP_ADDR", "127.0.0.1:0"), ("GRPC_ADDR", "127.0.0.1:0")];
        Self::start_on(&[&ports, settings].concat(), program, folder).await
    }

    /// Starts a server that replaces an earlier one: same ports, same files.
    pub(crate) async fn start_again(&self, program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let http = self.http.to_string();
        let agents = self.agents.to_string();
        let mut settings = vec![("HTTP_ADDR", http.as_str()), ("GRPC_ADDR", agents.as_str())];
        settings.extend(self.uses_tls.then_some(TLS));
        Self::start_on(&settings, program, folder).await
    }

    /// Makes an invite for a client.
    pub(crate) async fn invite(&self, client: &str) -> anyhow::Result<String> {
        let http = HttpClient::new(self.http);
        let response = http.post("/api/v1/invites", &json!({ "client": client })).await?;
        let answer = response.success_json()?;
        Ok(answer["invite"].as_str().context("no invite")?.to_owned())
    }

    /// Of several values for one setting the last counts.
    async fn start_on(
        settings: &[(&str, &str)],
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let data_dir = folder.join("server-data");
        let mut command = process::command(program);
        command.arg("server").arg("--data-dir").arg(&data_dir).env("LOG_FORMAT", "json");
        command.envs(settings.iter().copied());
        let mut process = Process::spawn(command)?;
        process.ready("Ready.").await?;
        let ready: Value = serde_json::from_str(&process.says("\"server.ready\"").await?)?;
        let addr = |key: &str| {
            let text = ready[key].as_str().with_context(|| format!("no {key} in {ready}"))?;
            anyhow::Ok(text.parse::<SocketAddr>()?)
        };
        let uses_tls = settings.contains(&TLS);
        let http = addr("http_addr")?;
        let agents = addr("grpc_addr")?;
        Ok(Self { http, agents, process, data_dir, uses_tls })
    }
}
