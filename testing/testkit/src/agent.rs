//! A client: a machine with a folder of files, and its agent.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser as _;
use filepull_agent::Agent;
use filepull_agent::config::{Args, Config};
use filepull_core::invite::Invite;
use serde_json::Value;

use crate::program::{Host, Program, ProgramTask, flags};
use crate::{Process, Programs, poll};

/// A client of a [`TestServer`](crate::TestServer).
#[derive(Debug)]
pub struct TestClient {
    host: Host,
    /// The id that the agent sends.
    pub id: String,
    /// The folder of the files that the client shares; `data.txt` is the default one.
    pub files: PathBuf,
    state: PathBuf,
    settings: Vec<(&'static str, String)>,
    launcher: Vec<String>,
    program: Option<Program>,
}

impl TestClient {
    pub(crate) fn new(
        folder: &Path,
        host: Host,
        id: &str,
        data: &[u8],
        server: SocketAddr,
    ) -> anyhow::Result<Self> {
        let files = folder.join("client-data").join(id);
        fs::create_dir_all(&files)?;
        fs::write(files.join("data.txt"), data)?;
        let state = folder.join("state").join(id);
        let settings = vec![
            ("CLIENT_ID", id.to_owned()),
            ("SERVER_ADDR", server.to_string()),
            ("FILE_PATH", files.join("data.txt").display().to_string()),
            ("STATE_DIR", state.display().to_string()),
        ];
        let id = id.to_owned();
        Ok(Self { host, id, files, state, settings, launcher: Vec::new(), program: None })
    }

    /// Makes the agent dial another address, such as a [`Proxy`](crate::Proxy).
    #[must_use]
    pub fn dialling(self, addr: SocketAddr) -> Self {
        self.setting("SERVER_ADDR", &addr.to_string())
    }

    /// Adds or replaces a setting of the agent.
    #[must_use]
    pub fn setting(mut self, key: &'static str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    /// Gives the agent an invite, with which it enrols at its first start.
    #[must_use]
    pub fn invited(self, invite: &Invite) -> Self {
        self.setting("INVITE", &invite.encode())
    }

    /// Adds or replaces a setting of the agent for the next start.
    pub fn set(&mut self, key: &'static str, value: &str) {
        self.settings.retain(|(known, _)| *known != key);
        self.settings.push((key, value.to_owned()));
    }

    /// Runs the agent as a process: for tests that kill or signal it, or read its output.
    #[must_use]
    pub fn as_process(mut self) -> Self {
        if let Host::Test = self.host {
            self.host = Host::Processes(Programs::default());
        }
        self
    }

    /// Runs the agent as a process through a launcher, such as `setpriv --reuid=65534`.
    #[must_use]
    pub fn launched_by(self, launcher: &[&str]) -> Self {
        let mut client = self.as_process();
        client.launch_by(launcher.iter().map(|&word| word.to_owned()).collect());
        client
    }

    /// Sets the launcher of the agent's process for the next start.
    pub fn launch_by(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Starts the agent, waits until it is connected, and returns the client.
    pub async fn connected(mut self) -> anyhow::Result<Self> {
        self.connect().await?;
        Ok(self)
    }

    /// Starts the agent and waits until it is connected.
    pub async fn connect(&mut self) -> anyhow::Result<()> {
        self.start()?;
        if let Some(Program::Process(process)) = &self.program {
            return process.says("connected in").await.map(drop);
        }
        let path = self.state.join("status.json");
        let connected = async || {
            let text = fs::read(&path).unwrap_or_default();
            // The file does not exist until the agent has written it.
            let status: Value = serde_json::from_slice(&text).unwrap_or_default();
            Ok((status["state"] == "connected").then_some(()))
        };
        poll("the agent's session", connected).await
    }

    /// Starts the agent. Kills the process of a running one first.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.program = None;
        let settings = &self.settings;
        self.program = Some(match &self.host {
            Host::Test => {
                // A status of an earlier agent would look like a session of the new one.
                let _ = fs::remove_file(self.state.join("status.json"));
                let settings = settings.iter().map(|(key, value)| (*key, value.as_str()));
                let args = Args::try_parse_from(flags("filepull-agent", settings))?;
                let agent = Agent::new(Config::try_from(args)?);
                Program::Task(ProgramTask::start(|stop| agent.run_until(stop)))
            }
            Host::Processes(programs) => {
                let process = Process::start(&self.launcher, &programs.agent, "run", settings)?;
                Program::Process(Box::new(process))
            }
        });
        Ok(())
    }

    /// Stops the agent as SIGTERM does, and waits for its end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.program.take().context("the agent does not run")?.stop().await
    }

    /// Kills the process of the agent (SIGKILL).
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.take_agent()?.kill().await
    }

    /// Returns the process of the agent. Fails if the agent does not run as a process.
    pub fn agent(&self) -> anyhow::Result<&Process> {
        self.program.as_ref().context("the agent does not run")?.process()
    }

    /// Takes the process of the agent.
    pub fn take_agent(&mut self) -> anyhow::Result<Process> {
        self.program.take().context("the agent does not run")?.into_process()
    }

    /// Returns the state folder of the agent, which holds `status.json`.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// Returns the path of the default file.
    pub fn data(&self) -> PathBuf {
        self.files.join("data.txt")
    }
}
