//! One server with its data folder, its clients, and a proxy between them. A promise is tested on
//! it. The server may be killed and restarted on other ports; the proxy follows it.

mod clients;
mod log_tails;
mod requests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::{Process, Proxy, SECURE, TestServer};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::timeout;

use crate::oracle::{Oracle, is_final};
use crate::sandbox::Sandbox;
use crate::trial::Trial;
use clients::ScenarioClient;

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) server: TestServer,
    pub(crate) proxy: Proxy,
    /// Knows what must be true of the data folder and the answers.
    pub(crate) oracle: Oracle,
    clients: Vec<ScenarioClient>,
    sandbox: Arc<Sandbox>,
    /// The last log lines of programs that have ended.
    past: VecDeque<String>,
}

/// Maximum wait for anything that a machine without overload does.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// Polls until `probe` returns a value; fails after [`WAIT_LIMIT`].
pub(crate) async fn poll<T>(
    what: &str,
    probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let polled = timeout(WAIT_LIMIT, filepull_testkit::poll(what, probe)).await;
    polled.with_context(|| format!("timed out waiting for {what}"))?
}

impl Scenario {
    /// Prepares a scenario. The server is not started, so that a disk can be mounted at its data
    /// folder.
    pub(crate) async fn prepare(trial: &Trial, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(trial.sandbox.folder())?;
        let mut server = TestServer::in_folder(folder, trial.programs.clone(), settings);
        let (mark, value) = trial.sandbox.mark();
        server.server_setting(mark, &value);
        server.server_setting("NO_COLOR", "1");
        // A trial may trigger hundreds of files of one client at once.
        server.server_setting("MAX_WAITING_PER_CLIENT", "10000");
        let proxy = server.proxy().await?;
        let sandbox = Arc::clone(&trial.sandbox);
        let oracle = Oracle::new(trial.counters.clone());
        let past = VecDeque::new();
        Ok(Self { server, proxy, oracle, clients: Vec::new(), sandbox, past })
    }

    /// Prepares a scenario whose server admits only enrolled agents, over TLS, and only callers with
    /// a token.
    pub(crate) async fn prepare_secure(
        trial: &Trial,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut scenario = Self::prepare(trial, &[&SECURE, settings].concat()).await?;
        scenario.server.sign_in_as_admin()?;
        Ok(scenario)
    }

    /// Returns the process of the running server.
    pub(crate) fn server_process(&self) -> anyhow::Result<&Process> {
        self.server.server()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.server.data_dir()
    }

    /// Starts the server and connects the proxy to it. Returns the time until it was ready.
    pub(crate) async fn start_server(&mut self) -> anyhow::Result<Duration> {
        let took = self.start_server_without_agents().await?;
        self.accept_agents();
        Ok(took)
    }

    /// Starts the server. The proxy does not forward agents to it yet.
    pub(crate) async fn start_server_without_agents(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        timeout(WAIT_LIMIT, self.server.start_server())
            .await
            .context("the server does not start")??;
        Ok(began.elapsed())
    }

    /// Forwards agents to the server.
    pub(crate) fn accept_agents(&self) {
        self.proxy.retarget(self.server.grpc());
    }

    /// Kills the server (SIGKILL), if it runs.
    pub(crate) async fn kill_server(&mut self) -> anyhow::Result<()> {
        if let Ok(server) = self.server.take_server() {
            self.remember("server", &server);
            let _ = server.kill().await;
        }
        Ok(())
    }

    /// Stops the server (SIGSTOP) and waits until no thread of it runs. A thread that waits in the
    /// kernel for the disk may finish that call.
    pub(crate) async fn stop_server(&self) -> anyhow::Result<()> {
        let server = self.server_process()?;
        server.signal(Signal::STOP)?;
        let tasks = PathBuf::from(format!("/proc/{}/task", server.pid()));
        poll("all threads to stop", async || Ok(is_stopped(&tasks)?.then_some(()))).await
    }

    /// Waits until the server process has ended.
    pub(crate) async fn wait_until_server_ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut server = self.server.take_server()?;
        let ended = timeout(WAIT_LIMIT, server.ended()).await;
        self.remember("server", &server);
        ended.context("timed out waiting for the end of the server")?
    }

    /// Checks the disk and the answers against each other and against all earlier ones.
    /// `everything`: reads the bytes of every file again.
    pub(crate) async fn audit(&mut self, everything: bool) -> anyhow::Result<()> {
        let transfers = self.transfers().await?;
        self.oracle.check_files(&self.data_dir(), everything)?;
        self.oracle.check_transfers(&transfers)
    }

    /// After a start without agents: waits until every sealed transfer is published, then checks
    /// the partials.
    pub(crate) async fn check_recovery(&mut self) -> anyhow::Result<()> {
        let mut problem = None;
        let recovered = poll("the recovery", async || {
            let transfers = self.transfers().await?;
            let at_rest = |t: &&Value| is_final(t) || t["waiting_for"] == "client";
            let restless = transfers.iter().find(|transfer| !at_rest(transfer));
            let restless =
                restless.map(|transfer| format!("this transfer does not continue: {transfer}"));
            let partials = self.oracle.check_partials(&self.data_dir(), &transfers).err();
            problem = partials.map(|error| error.to_string()).or(restless);
            Ok(problem.is_none().then_some(transfers))
        })
        .await;
        let transfers = recovered.with_context(|| problem.unwrap_or_default())?;
        self.oracle.check_files(&self.data_dir(), false)?;
        self.oracle.check_transfers(&transfers)
    }

    /// Stops the server (SIGTERM) and waits for its end.
    pub(crate) async fn end_server(&mut self) -> anyhow::Result<ExitStatus> {
        self.server_process()?.terminate()?;
        self.wait_until_server_ended().await
    }

    /// Stops the server, requires exit code 0, and ends all agents.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        let status = self.end_server().await?;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        self.teardown().await
    }

    pub(crate) async fn teardown(&mut self) -> anyhow::Result<()> {
        for index in 0..self.clients.len() {
            self.kill_agent(index).await;
        }
        self.kill_server().await
    }
}

/// Returns true if at least one thread is stopped and no thread runs. SIGSTOP has then reached the
/// process.
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
