//! The product under test: one server and one agent, as processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::{DEADLINE, HttpClient, Programs, process};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::agent::AgentProcess;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// The client that sends the file.
pub(crate) const CLIENT: &str = "client1";

/// One value for the server and one for the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct BothEnds<T> {
    pub(crate) server: T,
    pub(crate) agent: T,
}

impl<T> BothEnds<T> {
    pub(crate) fn map<U>(self, change: impl Fn(T) -> U) -> BothEnds<U> {
        BothEnds { server: change(self.server), agent: change(self.agent) }
    }
}

impl BothEnds<f64> {
    /// Returns the difference to `before`.
    pub(crate) fn less(self, before: Self) -> Self {
        Self { server: self.server - before.server, agent: self.agent - before.agent }
    }
}

/// A server and its connected agent.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) server: ServerProcess,
    agent: AgentProcess,
    pub(crate) http: HttpClient,
    downloads: PathBuf,
}

/// Returns the versions of both programs.
pub(crate) async fn versions(programs: &Programs) -> anyhow::Result<Vec<String>> {
    let mut versions = Vec::new();
    for program in [&programs.server, &programs.agent] {
        let mut command = process::command(program);
        command.arg("version");
        versions.push(process::finish(command, DEADLINE).await?);
    }
    Ok(versions)
}

impl Product {
    /// Starts both programs in `folder` and waits until the agent is online. The agent shares the
    /// files beside `source`; `source` is its default file.
    pub(crate) async fn start(
        programs: &Programs,
        folder: &Path,
        source: &SourceFile,
    ) -> anyhow::Result<Self> {
        Self::start_with(&[], programs, folder, source).await
    }

    /// Starts both programs, the server with these settings.
    pub(crate) async fn start_with(
        settings: &[(&str, &str)],
        programs: &Programs,
        folder: &Path,
        source: &SourceFile,
    ) -> anyhow::Result<Self> {
        let server = ServerProcess::start_with(settings, &programs.server, folder).await?;
        Self::join(server, process::command(&programs.agent), source, folder).await
    }

    /// Starts an agent with `program` for a running server.
    pub(crate) async fn join(
        server: ServerProcess,
        program: Command,
        source: &SourceFile,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let agent = AgentProcess::start(program, CLIENT, &server, source, folder).await?;
        let downloads = server.data_dir.join(CLIENT);
        let http = HttpClient::new(server.http);
        Ok(Self { server, agent, http, downloads })
    }

    /// Pulls a file. Returns the time from the request to the answer `done`.
    pub(crate) async fn pull(&self, source: &SourceFile) -> anyhow::Result<Duration> {
        pull(&self.server, CLIENT, source, source.limit()).await
    }

    /// Deletes the downloads, so that a later transfer gets its name at once.
    pub(crate) fn delete_downloads(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.downloads)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("download-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns the CPU time of both programs, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<BothEnds<Duration>> {
        Ok(BothEnds {
            server: self.server.process.usage()?.cpu,
            agent: self.agent.process.usage()?.cpu,
        })
    }

    /// Returns the peak resident memory of both programs, in bytes.
    pub(crate) fn peak_rss(&self) -> anyhow::Result<BothEnds<u64>> {
        Ok(BothEnds {
            server: self.server.process.peak_rss()?,
            agent: self.agent.process.peak_rss()?,
        })
    }

    /// Kills both programs and waits for their end.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.agent.process.kill().await?;
        self.server.process.kill().await
    }
}

/// Pulls a file from a client. Returns the time from the request to the answer `done`. Afterwards
/// checks the size of the download and deletes it.
pub(crate) async fn pull(
    server: &ServerProcess,
    client: &str,
    source: &SourceFile,
    limit: Duration,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let transfer = request(server, client, source, limit).await?;
    let duration = began.elapsed();
    anyhow::ensure!(transfer["state"] == "done", "the transfer is not done: {transfer:#}");
    let path = download_path(&transfer)?;
    source.check_copy(&path)?;
    fs::remove_file(&path).with_context(|| path.display().to_string())?;
    Ok(duration)
}

/// Requests a file from a client. Returns the transfer once it is final, or as it is after `limit`.
pub(crate) async fn request(
    server: &ServerProcess,
    client: &str,
    source: &SourceFile,
    limit: Duration,
) -> anyhow::Result<Value> {
    let body = json!({ "client": client, "path": source.name() });
    let http = HttpClient::new(server.http).limit(limit + DEADLINE);
    let path = format!("/api/v1/transfers?wait={}s", limit.as_secs());
    let answer = http.post(&path, &body).await;
    answer.with_context(|| server.process.last_output())?.success_json()
}

/// Returns the path of the download of a transfer that is done.
pub(crate) fn download_path(transfer: &Value) -> anyhow::Result<PathBuf> {
    let path = transfer["download"]["path"].as_str().context("a download has a path")?;
    Ok(PathBuf::from(path))
}
