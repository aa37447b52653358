//! The clients of a stage: their files, and their agents.

use std::path::PathBuf;

use filepull_testkit::{Process, TestClient};
use tokio::task::block_in_place;

use super::Scenario;
use crate::test_pattern::TestPattern;

/// A client and the version of its file.
#[derive(Debug)]
pub(super) struct ScenarioClient {
    pub(super) client: TestClient,
    pub(super) cells: TestPattern,
}

/// The file of a twin begins with this version, to which the other one never comes.
const TWINS_VERSION: u32 = 1 << 20;

impl Scenario {
    /// Adds a client with a file of `len` bytes; its agent has not been started.
    ///
    /// # Errors
    /// The disk failed.
    pub fn add_client(
        &mut self,
        id: &str,
        len: usize,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        self.add_machine(id, TestPattern::new(id, 1, len), settings)
    }

    /// Adds another machine that goes by the id of client `of`, with a file of its own.
    ///
    /// # Errors
    /// The disk failed.
    pub fn add_twin(
        &mut self,
        of: usize,
        name: &str,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let (id, len) = (self.id(of), usize::try_from(self.cells(of).len())?);
        let index = self.add_machine(name, TestPattern::new(&id, TWINS_VERSION, len), settings)?;
        let client = &mut self.clients[index].client;
        client.set("CLIENT_ID", &id);
        client.id = id;
        Ok(index)
    }

    fn add_machine(
        &mut self,
        name: &str,
        cells: TestPattern,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let (mark, value) = self.ground.mark();
        let bytes = block_in_place(|| cells.bytes());
        let client = self.bed.client(name, &bytes)?.dialling(self.proxy.addr());
        let client = client.setting(mark, &value).setting("NO_COLOR", "1");
        let client = settings.iter().fold(client, |c, (key, value)| c.setting(key, value));
        self.clients.push(ScenarioClient { client, cells });
        Ok(self.clients.len() - 1)
    }

    /// Changes a setting of a client from its agent's next start on.
    pub fn client_setting(&mut self, index: usize, key: &'static str, value: &str) {
        self.clients[index].client.set(key, value);
    }

    /// Starts a client's agent through this launcher from now on.
    pub fn launch_client_by(&mut self, index: usize, launcher: Vec<String>) {
        self.clients[index].client.launch_by(launcher);
    }

    /// The id of a client.
    pub fn id(&self, index: usize) -> String {
        self.clients[index].client.id.clone()
    }

    /// The folder of a client's files.
    pub fn files(&self, index: usize) -> PathBuf {
        self.clients[index].client.files.clone()
    }

    /// What a client's agent keeps.
    pub fn state(&self, index: usize) -> PathBuf {
        self.clients[index].client.state()
    }

    /// The file of a client, as it is now.
    pub fn cells(&self, index: usize) -> TestPattern {
        self.clients[index].cells
    }

    /// Gives a client a new version of its file, by a rename as a careful program would.
    ///
    /// # Errors
    /// The disk failed.
    pub fn new_version(&mut self, index: usize) -> anyhow::Result<()> {
        let len = self.clients[index].cells.len();
        self.resize(index, usize::try_from(len)?)
    }

    /// The same, of about this length.
    ///
    /// # Errors
    /// The disk failed.
    pub fn resize(&mut self, index: usize, len: usize) -> anyhow::Result<()> {
        let ScenarioClient { client, cells } = &mut self.clients[index];
        *cells = TestPattern::new(&client.id, cells.version + 1, len);
        let new = client.files.join("data.new");
        block_in_place(|| std::fs::write(&new, cells.bytes()))?;
        std::fs::rename(new, client.data())?;
        Ok(())
    }

    /// Starts an agent, unless it runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_agent(&mut self, index: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[index].client;
        let running = client.agent().is_ok_and(|agent| agent.is_running());
        if running { Ok(()) } else { client.start() }
    }

    /// Starts an agent and waits until the server sees it.
    ///
    /// # Errors
    /// It does not connect.
    pub async fn connect(&mut self, index: usize) -> anyhow::Result<()> {
        self.start_agent(index)?;
        let path = format!("/api/v1/clients/{}", self.id(index));
        self.until(&path, |client| client["online"] == true).await.map(drop)
    }

    /// Kills an agent (SIGKILL), if it runs.
    pub async fn kill_agent(&mut self, index: usize) {
        if let Ok(agent) = self.clients[index].client.take_agent() {
            self.remember(&format!("agent {}", self.id(index)), &agent);
            let _ = agent.kill().await;
        }
    }

    /// A running agent.
    ///
    /// # Errors
    /// It does not run.
    pub fn agent(&self, index: usize) -> anyhow::Result<&Process> {
        self.clients[index].client.agent()
    }
}
