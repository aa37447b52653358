//! A server, and a process with many agents.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::fleet::{Fleet, FleetKeys};
use filepull_testkit::{HttpClient, POLL_INTERVAL};
use tokio::time::sleep;

use crate::product::BothEnds;
use crate::server::{ServerProcess, TLS};
use crate::source::SourceFile;

/// Time between two polls, as a part of the wait so far. Each poll costs the server a count of all
/// its clients.
const POLL_RATIO: f64 = 0.02;

/// Maximum time until all clients are online.
const COMPLETE_LIMIT: Duration = Duration::from_secs(120);

/// Maximum time until all clients have enrolled. Each makes the server write a key to its disk, and a
/// rejected burst backs off.
const ENROL_LIMIT: Duration = Duration::from_mins(15);

#[derive(Debug)]
pub(super) struct FleetSetup {
    pub(super) server: ServerProcess,
    agents: Fleet,
    pub(super) n_clients: u32,
    program: PathBuf,
    folder: PathBuf,
}

impl FleetSetup {
    /// Starts both processes. The agents do not dial yet.
    pub(super) async fn start(
        program: &Path,
        folder: &Path,
        source: &SourceFile,
        n_clients: u32,
        uses_tls: bool,
    ) -> anyhow::Result<Self> {
        let program = program.to_owned();
        let folder = folder.to_owned();
        if !uses_tls {
            let server = ServerProcess::start(&program, &folder).await?;
            let agents = Fleet::start(n_clients, &server.agents.to_string(), &source.path).await?;
            return Ok(Self { server, agents, n_clients, program, folder });
        }
        let server = ServerProcess::start_with(&[TLS], &program, &folder).await?;
        let addr = server.agents.to_string();
        let keys = FleetKeys::create(&HttpClient::new(server.http), n_clients, &folder).await?;
        let mut agents = Fleet::start_enrolled(n_clients, &addr, &source.path, &keys).await?;
        // Enrols all, then begins again: with new processes, and with the keys on disk.
        agents.dial().await?;
        let enrolled = Self { server, agents, n_clients, program, folder };
        enrolled.wait_until_online_for(ENROL_LIMIT).await?;
        let Self { mut server, agents, program, folder, .. } = enrolled;
        agents.end().await?;
        server.process.kill_and_wait().await?;
        let server = server.start_again(&program, &folder).await?;
        let agents = Fleet::start_enrolled(n_clients, &addr, &source.path, &keys).await?;
        Ok(Self { server, agents, n_clients, program, folder })
    }

    pub(super) async fn dial(&mut self) -> anyhow::Result<()> {
        self.agents.dial().await
    }

    /// Waits until all clients are online.
    pub(super) async fn wait_until_online(&self) -> anyhow::Result<()> {
        self.wait_until_online_for(COMPLETE_LIMIT).await
    }

    async fn wait_until_online_for(&self, limit: Duration) -> anyhow::Result<()> {
        let http = HttpClient::keep_alive(self.server.http, 1);
        let began = Instant::now();
        loop {
            let server = http.get("/api/v1/server").await?.success_json()?;
            let online = server["clients"]["online"].as_u64().context("clients.online")?;
            if online == u64::from(self.n_clients) {
                return Ok(());
            }
            let late = limit < began.elapsed();
            anyhow::ensure!(!late, "only {online} clients are online; {}", self.last_words());
            sleep(began.elapsed().mul_f64(POLL_RATIO).max(POLL_INTERVAL)).await;
        }
    }

    /// Kills the server and starts another one in its place. Waits until it is ready.
    pub(super) async fn replace_server(&mut self) -> anyhow::Result<()> {
        let Self { program, folder, server, .. } = self;
        server.process.kill_and_wait().await?;
        *server = server.start_again(program, folder).await?;
        Ok(())
    }

    /// Returns how many sessions this server lost or accepted twice.
    pub(super) fn lost_sessions(&self) -> anyhow::Result<usize> {
        let count = |event| self.server.process.count(event);
        let accepted_again =
            count(r#""event":"client.connected""#).saturating_sub(self.n_clients as usize);
        Ok(accepted_again.max(count(r#""event":"client.disconnected""#)))
    }

    /// Returns the CPU seconds of both processes; of the server since its last start.
    pub(super) fn cpu_seconds(&self) -> anyhow::Result<BothEnds<f64>> {
        let Self { server, agents, .. } = self;
        let cpu =
            BothEnds { server: server.process.usage()?.cpu, agent: agents.process().usage()?.cpu };
        Ok(cpu.map(|cpu| cpu.as_secs_f64()))
    }

    /// Returns the resident memory of both processes, in bytes.
    pub(super) fn rss(&self) -> anyhow::Result<BothEnds<u64>> {
        Ok(BothEnds { server: self.server.process.rss()?, agent: self.agents.process().rss()? })
    }

    /// Returns the peak resident memory of both processes, in bytes; of the server since its last
    /// start.
    pub(super) fn peak_rss(&self) -> anyhow::Result<BothEnds<u64>> {
        Ok(BothEnds {
            server: self.server.process.peak_rss()?,
            agent: self.agents.process().peak_rss()?,
        })
    }

    /// Kills both processes and waits for their end.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.agents.end().await?;
        self.server.process.kill().await
    }

    pub(super) fn last_words(&self) -> String {
        format!("{}\n{}", self.server.process.last_output(), self.agents.process().last_output())
    }
}
