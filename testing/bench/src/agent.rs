//! One agent, as a process, as an operator would start it.

use std::path::Path;

use filepull_testkit::process::{ChildProcess, START_LIMIT};
use tokio::io::BufReader;
use tokio::process::{ChildStdout, Command};

use crate::http::Http;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// An agent that is connected.
#[derive(Debug)]
pub(crate) struct AgentProcess {
    pub(crate) process: ChildProcess,
    /// Output that nobody reads must not end the agent by a broken pipe.
    _output: BufReader<ChildStdout>,
}

impl AgentProcess {
    /// Starts one by `program`, a command without any arguments of its own, and waits until it is
    /// connected. It shares the files beside `source`; what it is asked for without a path is
    /// `source`. Its state and its log go to `folder`.
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
        let (process, output) = ChildProcess::start("agent", program, folder)?;
        let agent = Self { process, _output: BufReader::new(output) };
        let http = Http::new(server.http.clone());
        agent.process.until("connect", async || is_connected(&http, client).await).await?;
        Ok(agent)
    }
}

async fn is_connected(http: &Http, client: &str) -> bool {
    let answer = http.get(&format!("/api/v1/clients/{client}"), START_LIMIT).await;
    answer.and_then(|answer| answer.json()).is_ok_and(|client| client["online"] == true)
}
