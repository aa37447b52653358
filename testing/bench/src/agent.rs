//! One agent, as a process, as an operator would start it.

use std::path::Path;

use filepull_testkit::{DEADLINE, Process};
use tokio::process::Command;

use crate::http::Http;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// An agent that is connected.
#[derive(Debug)]
pub(crate) struct AgentProcess {
    pub(crate) process: Process,
}

impl AgentProcess {
    /// Starts one by `program`, a command without any arguments of its own, and waits until it is
    /// connected. It shares the files beside `source`; what it is asked for without a path is
    /// `source`. Its state goes to `folder`.
    pub(crate) async fn start(
        mut program: Command,
        client: &str,
        server: &ServerProcess,
        source: &SourceFile,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        program.args(["run", "--client-id", client, "--server-addr", &server.agents]);
        program.arg("--file-path").arg(&source.path).args(["--share", "*.bin"]);
        program.arg("--state-dir").arg(folder).env("LOG_FORMAT", "json");
        let agent = Self { process: Process::spawn(program)? };
        let http = Http::new(server.http.clone());
        agent.process.until("connect", async || is_connected(&http, client).await).await?;
        Ok(agent)
    }
}

async fn is_connected(http: &Http, client: &str) -> bool {
    let answer = http.get(&format!("/api/v1/clients/{client}"), DEADLINE).await;
    answer.and_then(|answer| answer.json()).is_ok_and(|client| client["online"] == true)
}
