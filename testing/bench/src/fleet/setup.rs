//! A server and a process full of agents.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::fleet::Fleet;
use filepull_testkit::{DEADLINE, POLL_INTERVAL};
use tokio::time::sleep;

use crate::http::Http;
use crate::product::Ends;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// How many times as long as the wait so far is it until the next question how many are online.
/// Each costs the server a look at all its clients, which is not theirs.
const ASK_AGAIN: f64 = 0.02;

/// A fleet that is not complete by then will never be.
const COMPLETE_LIMIT: Duration = Duration::from_secs(120);

/// The processes.
#[derive(Debug)]
pub(super) struct FleetSetup {
    pub(super) server: ServerProcess,
    agents: Fleet,
    pub(super) n_clients: u32,
    program: PathBuf,
    folder: PathBuf,
}

impl FleetSetup {
    /// Starts both. The agents do not dial yet.
    pub(super) async fn start(
        program: &Path,
        folder: &Path,
        source: &SourceFile,
        n_clients: u32,
    ) -> anyhow::Result<Self> {
        let server = ServerProcess::start(program, folder).await?;
        let agents = Fleet::start(n_clients, &server.agents, &source.path).await?;
        let (program, folder) = (program.to_owned(), folder.to_owned());
        Ok(Self { server, agents, n_clients, program, folder })
    }

    /// Lets all agents dial.
    pub(super) async fn dial(&mut self) -> anyhow::Result<()> {
        self.agents.dial().await
    }

    /// Waits until the server says that all are online.
    pub(super) async fn complete(&self) -> anyhow::Result<()> {
        let http = Http::keeping(1, self.server.http.clone());
        let began = Instant::now();
        loop {
            let server = http.get("/api/v1/server", DEADLINE).await?.json()?;
            let online = server["clients"]["online"].as_u64().context("clients.online")?;
            if online == u64::from(self.n_clients) {
                return Ok(());
            }
            let late = COMPLETE_LIMIT < began.elapsed();
            anyhow::ensure!(!late, "only {online} are online; {}", self.last_words());
            sleep(began.elapsed().mul_f64(ASK_AGAIN).max(POLL_INTERVAL)).await;
        }
    }

    /// Kills the server and starts another in its place, which is ready when this returns.
    pub(super) async fn replace_server(&mut self) -> anyhow::Result<()> {
        let Self { program, folder, server, .. } = self;
        server.process.kill_and_wait().await?;
        *server = ServerProcess::start_again(&server.http, &server.agents, program, folder).await?;
        Ok(())
    }

    /// Lines that the present server has lost, or has accepted more than once.
    pub(super) fn lost_lines(&self) -> anyhow::Result<usize> {
        let count = |event| self.server.process.count(event);
        let accepted_again =
            count(r#""event":"client.connected""#).saturating_sub(self.n_clients as usize);
        Ok(accepted_again.max(count(r#""event":"client.disconnected""#)))
    }

    /// The CPU both have used so far, in seconds; the server since it was last started.
    pub(super) fn cpu_seconds(&self) -> anyhow::Result<Ends<f64>> {
        let Self { server, agents, .. } = self;
        let cpu =
            Ends { server: server.process.usage()?.cpu, agent: agents.process().usage()?.cpu };
        Ok(cpu.map(|cpu| cpu.as_secs_f64()))
    }

    /// The memory both have resident, in bytes.
    pub(super) fn rss(&self) -> anyhow::Result<Ends<u64>> {
        Ok(Ends { server: self.server.process.rss()?, agent: self.agents.process().rss()? })
    }

    /// The most memory both ever had resident, in bytes; the server since it was last started.
    pub(super) fn peak_rss(&self) -> anyhow::Result<Ends<u64>> {
        Ok(Ends {
            server: self.server.process.peak_rss()?,
            agent: self.agents.process().peak_rss()?,
        })
    }

    /// Ends both and waits until they are gone.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.agents.end().await?;
        self.server.process.kill().await
    }

    pub(super) fn last_words(&self) -> String {
        format!("{}\n{}", self.server.process.last_output(), self.agents.process().last_output())
    }
}
