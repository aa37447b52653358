//! The product under test: one server and one agent, as processes, as an operator would start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::{DEADLINE, process};
use serde::Serialize;
use serde_json::json;
use tokio::process::Command;

use crate::agent::AgentProcess;
use crate::http::Http;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// The client that is asked for its files.
pub(crate) const CLIENT: &str = "client1";

/// The programs under test.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) agent: PathBuf,
}

/// One figure for each end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Ends<T> {
    pub(crate) server: T,
    pub(crate) agent: T,
}

impl<T> Ends<T> {
    /// The same of both.
    pub(crate) fn map<U>(self, change: impl Fn(T) -> U) -> Ends<U> {
        Ends { server: change(self.server), agent: change(self.agent) }
    }
}

impl Ends<f64> {
    /// What came on top of `before`.
    pub(crate) fn less(self, before: Self) -> Self {
        Self { server: self.server - before.server, agent: self.agent - before.agent }
    }
}

/// A server and an agent that is connected to it.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) server: ServerProcess,
    agent: AgentProcess,
    pub(crate) http: Http,
    downloads: PathBuf,
}

impl Programs {
    /// Finds them in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let find = |name| process::built(folder, name);
        Ok(Self { server: find("filepull")?, agent: find("filepull-agent")? })
    }

    /// Both versions, as the programs say them.
    pub(crate) async fn versions(&self) -> anyhow::Result<Vec<String>> {
        let mut versions = Vec::new();
        for program in [&self.server, &self.agent] {
            let mut command = process::command(program);
            command.arg("version");
            versions.push(process::finish(command, DEADLINE).await?);
        }
        Ok(versions)
    }
}

impl Product {
    /// Starts both in `folder`, and waits until the agent is connected. The agent shares the files
    /// beside `source`; what it is asked for without a path is `source`.
    pub(crate) async fn start(
        programs: &Programs,
        folder: &Path,
        source: &SourceFile,
    ) -> anyhow::Result<Self> {
        let server = ServerProcess::start(&programs.server, folder).await?;
        Self::join(server, process::command(&programs.agent), source, folder).await
    }

    /// The same, of a server that runs and an agent that is started by `program`.
    pub(crate) async fn join(
        server: ServerProcess,
        program: Command,
        source: &SourceFile,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let agent = AgentProcess::start(program, CLIENT, &server, source, folder).await?;
        let (http, downloads) = (Http::new(server.http.clone()), server.data_dir.join(CLIENT));
        Ok(Self { server, agent, http, downloads })
    }

    /// Pulls a file: the time from the request to the answer that says `done`.
    pub(crate) async fn pull(&self, source: &SourceFile) -> anyhow::Result<Duration> {
        pull(&self.server, CLIENT, source, source.limit()).await
    }

    /// Deletes what has arrived, so that no later transfer has to look for a free name.
    pub(crate) fn delete_downloads(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.downloads)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("download-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The CPU both have used so far, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<Ends<Duration>> {
        Ok(Ends {
            server: self.server.process.usage()?.cpu,
            agent: self.agent.process.usage()?.cpu,
        })
    }

    /// The most memory both ever had resident, in bytes.
    pub(crate) fn peak_rss(&self) -> anyhow::Result<Ends<u64>> {
        Ok(Ends { server: self.server.process.peak_rss()?, agent: self.agent.process.peak_rss()? })
    }

    /// Ends both and waits until they are gone.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.agent.process.kill().await?;
        self.server.process.kill().await
    }
}

/// Pulls a file from a client: the time from the request to the answer that says `done`. The file
/// that came is checked by its size and deleted, both after the clock has stopped.
pub(crate) async fn pull(
    server: &ServerProcess,
    client: &str,
    source: &SourceFile,
    limit: Duration,
) -> anyhow::Result<Duration> {
    let order = json!({ "client": client, "path": source.name() });
    let http = Http::new(server.http.clone());
    let began = Instant::now();
    let answer = http.post("/api/v1/transfers?wait=10m", &order, limit).await;
    let took = began.elapsed();
    let answer = answer.with_context(|| server.process.last_output())?;
    let transfer = answer.json()?;
    anyhow::ensure!(transfer["state"] == "done", "the transfer is not done: {transfer:#}");
    let path = transfer["download"]["path"].as_str().context("a download has a path")?;
    source.check_copy(Path::new(path))?;
    fs::remove_file(path).with_context(|| path.to_owned())?;
    Ok(took)
}
