//! The clients of a scenario: their files and agents.

use std::path::PathBuf;

use filepull_testkit::{Process, TestClient};
use tokio::task::block_in_place;

use super::Scenario;
use crate::test_pattern::{CellKind, TestPattern};
use crate::trial_file::TrialFile;

/// A client and its file.
#[derive(Debug)]
pub(super) struct ScenarioClient {
    pub(super) client: TestClient,
    pub(super) trial_file: TrialFile,
    /// About the length of each version, in bytes.
    pub(super) len: usize,
}

/// The first version of the twin's file. The versions of the original stay below it.
const FIRST_TWIN_VERSION: u32 = 1 << 20;

impl Scenario {
    /// Adds a client with a file of `len` bytes. Does not start its agent.
    pub(crate) fn add_client(
        &mut self,
        id: &str,
        len: usize,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        self.add_machine(id, TrialFile::new(id, 1, len), settings)
    }

    /// Adds a client with an invite for a secure scenario, whose server must run. Its agent enrols
    /// at its first start.
    pub(crate) async fn add_invited_client(
        &mut self,
        id: &str,
        len: usize,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let invite = self.server.invite_client(id).await?;
        let index = self.add_client(id, len, settings)?;
        self.client_setting(index, "INVITE", &invite.encode());
        Ok(index)
    }

    /// Adds another machine with the id of client `of` and its own file.
    pub(crate) fn add_twin(
        &mut self,
        of: usize,
        name: &str,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let id = self.id(of);
        let trial_file = TrialFile::new(&id, FIRST_TWIN_VERSION, self.clients[of].len);
        let index = self.add_machine(name, trial_file, settings)?;
        let client = &mut self.clients[index].client;
        client.set("CLIENT_ID", &id);
        client.id = id;
        Ok(index)
    }

    fn add_machine(
        &mut self,
        name: &str,
        trial_file: TrialFile,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let (mark, value) = self.sandbox.mark();
        let bytes = block_in_place(|| trial_file.pattern.bytes());
        let mut client = self.server.client(name, &bytes)?.dialling(self.proxy.addr());
        client = client.setting(mark, &value).setting("NO_COLOR", "1");
        for &(key, value) in settings {
            client.set(key, value);
        }
        self.clients.push(ScenarioClient { client, len: bytes.len(), trial_file });
        Ok(self.clients.len() - 1)
    }

    /// Changes a setting of a client, from the next start of its agent.
    pub(crate) fn client_setting(&mut self, index: usize, key: &'static str, value: &str) {
        self.clients[index].client.set(key, value);
    }

    /// Starts the agent through this launcher, from its next start.
    pub(crate) fn launch_client_by(&mut self, index: usize, launcher: Vec<String>) {
        self.clients[index].client.launch_by(launcher);
    }

    pub(crate) fn id(&self, index: usize) -> String {
        self.clients[index].client.id.clone()
    }

    pub(crate) fn files(&self, index: usize) -> PathBuf {
        self.clients[index].client.files.clone()
    }

    /// The folder of the agent's state.
    pub(crate) fn state(&self, index: usize) -> PathBuf {
        self.clients[index].client.state()
    }

    /// The current file of a client.
    pub(crate) fn pattern(&self, index: usize) -> TestPattern {
        self.clients[index].trial_file.pattern
    }

    /// Returns about how many bytes of the current file must be sent, if the version before it was
    /// pulled.
    pub(crate) fn n_new_bytes(&self, index: usize) -> u64 {
        self.clients[index].trial_file.n_new
    }

    /// Returns the lowest version of a client's file. Two machines with one id have two files.
    pub(crate) fn lowest_version(&self, id: &str) -> u32 {
        let same = self.clients.iter().filter(|known| known.client.id == id);
        same.map(|known| known.trial_file.pattern.version).min().unwrap_or(0)
    }

    /// Gives a client a new version of its file, which has parts of the version before it or not.
    pub(crate) fn new_version(&mut self, index: usize) -> anyhow::Result<()> {
        self.resize(index, self.clients[index].len)
    }

    /// Like [`new_version`](Self::new_version), with about `len` bytes.
    pub(crate) fn resize(&mut self, index: usize, len: usize) -> anyhow::Result<()> {
        let ScenarioClient { client, trial_file, .. } = &mut self.clients[index];
        Ok(block_in_place(|| trial_file.change(&client.data(), len))?)
    }

    /// Gives a client a new version of its file that has nothing of the version before it: a pull
    /// sends about `len` bytes.
    pub(crate) fn rewrite(&mut self, index: usize, len: usize) -> anyhow::Result<()> {
        let ScenarioClient { client, trial_file, .. } = &mut self.clients[index];
        Ok(block_in_place(|| trial_file.rewrite(&client.data(), len, CellKind::Random))?)
    }

    /// Starts an agent, unless it runs.
    pub(crate) fn start_agent(&mut self, index: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[index].client;
        let running = client.agent().is_ok_and(|agent| agent.is_running());
        if running { Ok(()) } else { client.start() }
    }

    /// Starts an agent and waits until it is online.
    pub(crate) async fn connect(&mut self, index: usize) -> anyhow::Result<()> {
        self.start_agent(index)?;
        let path = format!("/api/v1/clients/{}", self.id(index));
        self.wait_until(&path, |client| client["online"] == true).await.map(drop)
    }

    /// Kills an agent (SIGKILL), if it runs.
    pub(crate) async fn kill_agent(&mut self, index: usize) {
        if let Ok(agent) = self.clients[index].client.take_agent() {
            self.remember(&format!("agent {}", self.id(index)), &agent);
            let _ = agent.kill().await;
        }
    }

    pub(crate) fn agent(&self, index: usize) -> anyhow::Result<&Process> {
        self.clients[index].client.agent()
    }
}
