//! One agent, as a process.

use std::path::Path;

use filepull_testkit::{HttpClient, Process};
use tokio::process::Command;

use crate::server::ServerProcess;
use crate::source::SourceFile;

#[derive(Debug)]
pub(crate) struct AgentProcess {
    pub(crate) process: Process,
}

impl AgentProcess {
    /// Starts an agent with `program`, a command without arguments, and waits until it is online.
    /// It shares the files beside `source`; `source` is its default file. Its state is in `folder`.
    pub(crate) async fn start(
        mut program: Command,
        client: &str,
        server: &ServerProcess,
        source: &SourceFile,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        program.args(["run", "--client-id", client]);
        if server.uses_tls {
            program.env("INVITE", server.invite(client).await?);
        } else {
            program.args(["--server-addr", &format!("http://{}", server.agents)]);
        }
        program.arg("--file-path").arg(&source.path).args(["--share", "*.bin"]);
        program.arg("--state-dir").arg(folder).env("LOG_FORMAT", "json");
        let agent = Self { process: Process::spawn(program)? };
        let http = HttpClient::new(server.http);
        agent
            .process
            .until("the agent's session", async || is_connected(&http, client).await)
            .await?;
        Ok(agent)
    }
}

async fn is_connected(http: &HttpClient, client: &str) -> bool {
    let answer = http.get(&format!("/api/v1/clients/{client}")).await;
    answer.and_then(|answer| answer.success_json()).is_ok_and(|client| client["online"] == true)
}
