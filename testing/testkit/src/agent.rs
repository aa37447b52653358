//! A client of the bed: an agent and its machine.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::Process;

/// An agent that is connected, and its machine.
#[derive(Debug)]
pub struct TestClient {
    program: PathBuf,
    /// Its id.
    pub id: String,
    /// The folder of its files; `data.txt` is the default one.
    pub files: PathBuf,
    state: PathBuf,
    settings: Vec<(&'static str, String)>,
    launcher: Vec<String>,
    agent: Option<Process>,
}

impl TestClient {
    /// A machine with this default file in a `folder` of its own; its agent has not been started.
    pub(crate) fn made_in(
        folder: &Path,
        program: PathBuf,
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
        let (id, launcher) = (id.to_owned(), Vec::new());
        Ok(Self { program, id, files, state, settings, launcher, agent: None })
    }

    /// Makes it dial somewhere else, such as a [`Proxy`](crate::Proxy).
    #[must_use]
    pub fn dialling(self, addr: SocketAddr) -> Self {
        self.setting("SERVER_ADDR", &addr.to_string())
    }

    /// Changes or adds a setting of its agent.
    #[must_use]
    pub fn setting(mut self, key: &'static str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    /// Changes or adds a setting of its agent, from its next start on.
    pub fn set(&mut self, key: &'static str, value: &str) {
        self.settings.retain(|(known, _)| *known != key);
        self.settings.push((key, value.to_owned()));
    }

    /// Starts its agent through a launcher, such as `setpriv --reuid=65534`.
    #[must_use]
    pub fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The same, from its agent's next start on.
    pub fn launch_by(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Starts its agent and waits until it is connected.
    ///
    /// # Errors
    /// It does not connect.
    pub async fn connect(&mut self) -> anyhow::Result<()> {
        self.start()?;
        self.agent()?.says("connected in").await?;
        Ok(())
    }

    /// Starts its agent; one that runs is killed.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.agent = None;
        let agent = Process::start(&self.launcher, &self.program, "run", &self.settings)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Its running agent.
    ///
    /// # Errors
    /// It is not running.
    pub fn agent(&self) -> anyhow::Result<&Process> {
        self.agent.as_ref().context("the agent is not running")
    }

    /// Takes its agent: to kill it, or to end it.
    ///
    /// # Errors
    /// It is not running.
    pub fn take_agent(&mut self) -> anyhow::Result<Process> {
        self.agent.take().context("the agent is not running")
    }

    /// The folder where its agent keeps what it keeps.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The path of its default file.
    pub fn data(&self) -> PathBuf {
        self.files.join("data.txt")
    }
}
