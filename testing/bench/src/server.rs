//! One server, as a process, as an operator would start it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_testkit::Process;
use filepull_testkit::process;
use serde_json::Value;

/// A server that is ready.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pub(crate) process: Process,
    /// Where operators ask, such as `http://127.0.0.1:8080`.
    pub(crate) http: String,
    /// Where agents dial.
    pub(crate) agents: String,
    pub(crate) data_dir: PathBuf,
}

impl ServerProcess {
    /// Starts one on free ports; its files go to `server-data` in `folder`.
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
        let mut process = Process::spawn(command)?;
        process.ready("Ready.").await?;
        let ready: Value = serde_json::from_str(&process.says("\"server.ready\"").await?)?;
        let addr = |key: &str| {
            let text = ready[key].as_str().with_context(|| format!("no {key} in {ready}"))?;
            anyhow::Ok(text.to_owned())
        };
        let http = format!("http://{}", addr("http_addr")?);
        Ok(Self { process, http, agents: addr("grpc_addr")?, data_dir })
    }
}
