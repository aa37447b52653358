//! One server, as a process, as an operator would start it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_testkit::process::{self, ChildProcess, START_LIMIT};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::time::timeout;

/// A server that is ready.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pub(crate) process: ChildProcess,
    /// Where operators ask, such as `http://127.0.0.1:8080`.
    pub(crate) http: String,
    /// Where agents dial.
    pub(crate) agents: String,
    pub(crate) data_dir: PathBuf,
    /// A banner that nobody reads must not end the server by a broken pipe.
    _banner: BufReader<ChildStdout>,
}

impl ServerProcess {
    /// Starts one on free ports; its files go to `server-data` in `folder`, its log beside it.
    pub(crate) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(&[], program, folder).await
    }

    /// Starts one with these settings on top of, or instead of, the usual ones.
    pub(crate) async fn start_with(
        settings: &[(&str, &str)],
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let places = [("HTTP_ADDR", "127.0.0.1:0"), ("GRPC_ADDR", "127.0.0.1:0")];
        Self::start_set(&[&places, settings].concat(), program, folder).await
    }

    /// Starts one in the place of an earlier one that has ended: same ports, same files.
    pub(crate) async fn start_again(
        http: &str,
        agents: &str,
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let http = http.strip_prefix("http://").unwrap_or(http);
        Self::start_set(&[("HTTP_ADDR", http), ("GRPC_ADDR", agents)], program, folder).await
    }

    /// The last of several values for one setting counts.
    async fn start_set(
        settings: &[(&str, &str)],
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let data_dir = folder.join("server-data");
        let mut command = process::command(program);
        command.arg("server").arg("--data-dir").arg(&data_dir).env("LOG_FORMAT", "json");
        command.envs(settings.iter().copied());
        let (process, stdout) = ChildProcess::start("server", command, folder)?;
        let mut stdout = BufReader::new(stdout);
        let banner = timeout(START_LIMIT, read_banner(&mut stdout)).await;
        let banner = banner.context("it does not become ready").and_then(|banner| banner);
        let Banner { http, agents } = banner.with_context(|| process.last_words())?;
        Ok(Self { process, http, agents, data_dir, _banner: stdout })
    }
}

/// Where a server listens, as its banner says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Banner {
    http: String,
    agents: String,
}

async fn read_banner(stdout: &mut BufReader<ChildStdout>) -> anyhow::Result<Banner> {
    let mut banner = Banner::default();
    let mut line = String::new();
    while stdout.read_line(&mut line).await? != 0 {
        if line.trim() == "Ready." {
            return Ok(banner);
        }
        banner.take(&line);
        line.clear();
    }
    anyhow::bail!("it ended before it was ready")
}

impl Banner {
    fn take(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("pages"), Some(url)) => self.http = url.to_owned(),
            (Some("agents"), Some(addr)) => self.agents = addr.to_owned(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_where_the_server_listens() {
        let mut banner = Banner::default();
        for line in [
            "filepull server 0.1.0",
            "  pages    http://127.0.0.1:8080",
            "  agents   127.0.0.1:50051  (this machine only)",
            "  files    server-data  (1 GiB free)",
        ] {
            banner.take(line);
        }
        let (http, agents) = ("http://127.0.0.1:8080".into(), "127.0.0.1:50051".into());
        assert_eq!(banner, Banner { http, agents });
    }
}
