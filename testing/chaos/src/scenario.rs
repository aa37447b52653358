//! One server with a data folder of its own, its clients, and a wire between them: what a promise
//! is tried on. The server may be killed and comes back on other ports; the wire finds it.

mod ask;
mod clients;
mod last_words;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::{Proxy, TestServer};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::oracle::{Oracle, is_final};
use crate::sandbox::Sandbox;
use crate::trial::Trial;
use clients::ScenarioClient;

/// A server, its clients, and what they are asked.
#[derive(Debug)]
pub struct Scenario {
    /// The server and its folders.
    pub bed: TestServer,
    /// Where agents dial.
    pub proxy: Proxy,
    /// What must be true of all this.
    pub oracle: Oracle,
    clients: Vec<ScenarioClient>,
    ground: Arc<Sandbox>,
    /// The last words of programs that have ended.
    past: VecDeque<String>,
}

/// What happens on a machine that is not overloaded happens within this time.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that tells nobody when it changes.
pub const LOOK_AGAIN: Duration = Duration::from_millis(4);

impl Scenario {
    /// A stage whose server has not been started: there is time to mount a disk at its data folder.
    ///
    /// # Errors
    /// The disk failed, or no port is free.
    pub async fn set(trial: &Trial, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(trial.ground.folder())?;
        let mut bed = TestServer::in_folder(folder, trial.programs.clone(), settings);
        let (mark, value) = trial.ground.mark();
        bed.server_setting(mark, &value);
        bed.server_setting("NO_COLOR", "1");
        // A trial may request hundreds of files from one client at once.
        bed.server_setting("MAX_WAITING_PER_CLIENT", "10000");
        let proxy = bed.proxy().await?;
        let (ground, oracle) = (Arc::clone(&trial.ground), Oracle::new(trial.tally.clone()));
        let (clients, past) = (Vec::new(), VecDeque::new());
        Ok(Self { bed, proxy, oracle, clients, ground, past })
    }

    /// The folder of the downloads.
    pub fn data_dir(&self) -> PathBuf {
        self.bed.data_dir()
    }

    /// Starts the server and leads the wire to it; how long it took to be ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start_server(&mut self) -> anyhow::Result<Duration> {
        let took = self.start_server_alone().await?;
        self.let_agents_in();
        Ok(took)
    }

    /// Starts the server; no agent finds it yet.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start_server_alone(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        timeout(PATIENCE, self.bed.start_server()).await.context("the server does not start")??;
        Ok(began.elapsed())
    }

    /// Leads the wire to the server.
    pub fn let_agents_in(&self) {
        self.proxy.retarget(self.bed.grpc());
    }

    /// Kills the server (SIGKILL), if it runs.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill_server(&mut self) -> anyhow::Result<()> {
        if let Ok(server) = self.bed.take_server() {
            self.remember("server", &server);
            let _ = server.kill().await;
        }
        Ok(())
    }

    /// Stops the server (SIGSTOP) and waits until none of its threads runs any more; one that waits
    /// for the disk in the kernel may finish that and no more.
    ///
    /// # Errors
    /// It does not run, or does not stop.
    pub async fn stop_server(&self) -> anyhow::Result<()> {
        let server = self.bed.server()?;
        server.signal(Signal::STOP)?;
        let tasks = PathBuf::from(format!("/proc/{}/task", server.pid()));
        let deadline = Instant::now() + PATIENCE;
        while !is_stopped(&tasks)? {
            anyhow::ensure!(Instant::now() < deadline, "the server does not stop");
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Waits until the server has ended by itself, or was killed by somebody else.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn server_ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut server = self.bed.take_server()?;
        let ended = timeout(PATIENCE, server.ended()).await;
        self.remember("server", &server);
        ended.context("the server does not end")?
    }

    /// Compares disk, answers and memory.
    ///
    /// # Errors
    /// They contradict each other.
    pub async fn audit(&mut self, everything: bool) -> anyhow::Result<()> {
        let transfers = self.transfers().await?;
        self.oracle.look(&self.bed.data_dir(), everything)?;
        self.oracle.agree(&transfers)
    }

    /// After a start without agents: waits until what was sealed is published, and counts partials.
    ///
    /// # Errors
    /// There is one too many or too few, or an answer is wrong.
    pub async fn recovered(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let transfers = self.transfers().await?;
            let counted = self.oracle.partials(&self.bed.data_dir(), &transfers);
            let at_rest = |t: &Value| is_final(t) || t["waiting_for"] == "client";
            if counted.is_ok() && transfers.iter().all(at_rest) {
                self.oracle.look(&self.bed.data_dir(), false)?;
                return self.oracle.agree(&transfers);
            }
            if deadline < Instant::now() {
                counted.context("after recovery")?;
                let restless = transfers.iter().find(|transfer| !at_rest(transfer));
                anyhow::bail!("after recovery nobody goes on with {restless:?}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks the server to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It does not end.
    pub async fn end_server(&mut self) -> anyhow::Result<ExitStatus> {
        self.bed.server()?.terminate()?;
        self.server_ended().await
    }

    /// The same, so that it leaves nothing behind, and ends the rest.
    ///
    /// # Errors
    /// It does not end well.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        let status = self.end_server().await?;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        self.strike().await
    }

    /// Ends every program.
    ///
    /// # Errors
    /// One cannot be killed.
    pub async fn strike(&mut self) -> anyhow::Result<()> {
        for index in 0..self.clients.len() {
            self.kill_agent(index).await;
        }
        self.kill_server().await
    }
}

/// Whether one thread has stopped, so that all have been told to, and no other is running.
fn is_stopped(tasks: &Path) -> anyhow::Result<bool> {
    let mut any = false;
    for task in std::fs::read_dir(tasks)? {
        let stat = std::fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses.
        match stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]) {
            Some(b'T') => any = true,
            Some(b'D') | None => {}
            Some(_) => return Ok(false),
        }
    }
    Ok(any)
}
