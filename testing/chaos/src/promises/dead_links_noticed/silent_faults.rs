//! Ten agents behind one router. Their heartbeats differ in phase, so one fault meets ten sessions
//! in ten phases. All settings that the promise depends on have their defaults.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::net::Namespace;
use filepull_testkit::poll;
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout, timeout_at};

use crate::networked_scenario::NetworkedScenario;
use crate::scenario::Scenario;
use crate::trial::Trial;

const FAULTS: u32 = 20;
const AGENTS: usize = 10;
const FILE_LEN: usize = 16 << 10;
/// The promised 45 s, and one second because the machine is busy.
const NOTICED_WITHIN: Duration = Duration::from_secs(46);
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// Every connection is used at least this often; a second later the router forgets it.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);
/// The default timeout of an idle connection in the router, in seconds.
const DEFAULT_TIMEOUT: u32 = 432_000;
const LOST: &str = "connection lost";

/// The nft rules of the router: NAT, and no packet of an unknown connection.
const ROUTER: &str = "\
    add rule ip faults_table forward ct state invalid drop; \
    add chain ip faults_table out { type nat hook postrouting priority 100; }; \
    add rule ip faults_table out oifname to-server masquerade";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SilentFault {
    /// The router forgets connections that are idle for a second.
    Forgotten,
    /// Packets to the server are dropped.
    AgentUnheard,
    /// Packets to the agents are dropped.
    ServerUnheard,
    /// Packets in both directions are dropped.
    Cut,
    /// The agents are stopped by SIGSTOP.
    AgentFrozen,
    /// The server is stopped by SIGSTOP.
    ServerFrozen,
}

impl SilentFault {
    const ALL: [Self; 6] = [
        Self::Forgotten,
        Self::AgentUnheard,
        Self::ServerUnheard,
        Self::Cut,
        Self::AgentFrozen,
        Self::ServerFrozen,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Forgotten => "connections forgotten by NAT",
            Self::AgentUnheard => "connections without packets to the server",
            Self::ServerUnheard => "connections without packets to the agent",
            Self::Cut => "connections without packets",
            Self::AgentFrozen => "connections of a frozen agent",
            Self::ServerFrozen => "connections of a frozen server",
        }
    }
}

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let workers = SilentFault::ALL
        .into_iter()
        .zip(0..)
        .map(|(fault, number)| run_worker(trial, number, fault));
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, number: u8, fault: SilentFault) -> anyhow::Result<()> {
    // The test server sets a short RECONNECT_CAP; this is the default of the product.
    let mut networked =
        NetworkedScenario::prepare(trial, number, &[("RECONNECT_CAP", "60s")]).await?;
    networked.prepare_faults(ROUTER).await?;
    for setting in ["tcp_loose=0", "tcp_be_liberal=0"] {
        let setting = format!("net.netfilter.nf_conntrack_{setting}");
        networked.network.sysctl(Namespace::Router, &setting).await?;
    }
    for n in 0..AGENTS {
        networked.add_client(&format!("client{n}"), FILE_LEN, &[])?;
        networked.scenario.start_agent(n)?;
    }
    let name = format!("r11-{}", fault.name());
    let mut worker = SilentLinkWorker { trial, fault, rng: trial.rng(&name), networked };
    let tried = worker.rounds().await;
    worker.networked.scenario.explain(&name, tried)
}

struct SilentLinkWorker<'a> {
    trial: &'a Trial,
    fault: SilentFault,
    rng: Rng,
    networked: NetworkedScenario,
}

/// The state before a fault: when each client connected, and how many sessions its agent has lost.
struct Before {
    connected_at: Vec<Value>,
    lost: Vec<usize>,
}

impl SilentLinkWorker<'_> {
    async fn rounds(&mut self) -> anyhow::Result<()> {
        for n in 0..AGENTS {
            self.networked.scenario.connect(n).await?;
        }
        let n_rounds = self.trial.times(FAULTS).div_ceil(u32::try_from(AGENTS)?);
        for round in 0..n_rounds {
            self.round().await.with_context(|| format!("round {round}"))?;
            self.trial.counters.faults(self.fault.name(), AGENTS as u64);
        }
        self.networked.scenario.audit(true).await?;
        self.networked.scenario.teardown().await
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        sleep(Duration::from_millis(self.rng.u64(0..3_000))).await;
        let before = self.before().await?;
        self.inject().await?;
        let broken = Instant::now();
        let both: [LocalBoxFuture<'_, anyhow::Result<()>>; 2] = [
            self.check_server_notices(&before, broken).boxed_local(),
            self.check_agents_notice(&before, broken).boxed_local(),
        ];
        try_join_all(both).await?;
        self.repair().await?;
        self.check_reconnect(&before, Instant::now()).await?;
        for n in 0..AGENTS {
            let id = self.networked.scenario.trigger(n).await?;
            self.networked.scenario.wait_until_done(&id).await?;
        }
        // Each fault costs exactly one session.
        for (n, lost) in before.lost.iter().enumerate() {
            let now = self.n_lost(n)?;
            let expected =
                lost + usize::from(self.fault != SilentFault::AgentFrozen || *lost < now);
            anyhow::ensure!(now == expected, "client{n} lost {} sessions in one fault", now - lost);
        }
        Ok(())
    }

    async fn before(&self) -> anyhow::Result<Before> {
        let clients = clients(&self.networked.scenario).await?;
        let connected_at = clients.iter().map(|client| client["connected_at"].clone()).collect();
        let online = clients.iter().all(|client| client["online"] == true);
        anyhow::ensure!(
            online && clients.len() == AGENTS,
            "not all clients are online: {clients:?}"
        );
        let lost = (0..AGENTS).map(|n| self.n_lost(n)).collect::<anyhow::Result<_>>()?;
        Ok(Before { connected_at, lost })
    }

    fn n_lost(&self, n: usize) -> anyhow::Result<usize> {
        Ok(self.networked.scenario.agent(n)?.count(LOST))
    }

    /// Breaks every connection before it returns.
    async fn inject(&self) -> anyhow::Result<()> {
        let networked = &self.networked;
        match self.fault {
            SilentFault::Forgotten => {
                self.set_forget_timeout(1).await?;
                self.wait_until_forgotten().await?;
                // New connections meet a working router; the old ones stay forgotten.
                self.set_forget_timeout(DEFAULT_TIMEOUT).await
            }
            SilentFault::AgentUnheard => {
                networked.rules("add rule ip faults_table faults oifname to-server drop").await
            }
            SilentFault::ServerUnheard => {
                networked.rules("add rule ip faults_table faults oifname to-agent drop").await
            }
            SilentFault::Cut => networked.rules("add rule ip faults_table faults drop").await,
            SilentFault::AgentFrozen => self.signal_agents(Signal::STOP),
            SilentFault::ServerFrozen => networked.scenario.stop_server().await,
        }
    }

    async fn repair(&self) -> anyhow::Result<()> {
        match self.fault {
            SilentFault::Forgotten => Ok(()),
            SilentFault::AgentUnheard | SilentFault::ServerUnheard | SilentFault::Cut => {
                self.networked.rules("flush chain ip faults_table faults").await
            }
            SilentFault::AgentFrozen => self.signal_agents(Signal::CONT),
            SilentFault::ServerFrozen => {
                self.networked.scenario.server_process()?.signal(Signal::CONT)
            }
        }
    }

    fn signal_agents(&self, signal: Signal) -> anyhow::Result<()> {
        (0..AGENTS).try_for_each(|n| self.networked.scenario.agent(n)?.signal(signal))
    }

    async fn set_forget_timeout(&self, seconds: u32) -> anyhow::Result<()> {
        let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_established={seconds}");
        self.networked.network.sysctl(Namespace::Router, &setting).await
    }

    /// Waits until the router has forgotten every connection, a second after its last heartbeat.
    async fn wait_until_forgotten(&self) -> anyhow::Result<()> {
        let forgotten = poll("the router to forget every connection", async || {
            let file = ["/proc/net/nf_conntrack"];
            let table = self.networked.network.run_in(Namespace::Router, "cat", &file).await?;
            Ok((!table.contains("ESTABLISHED")).then_some(()))
        });
        timeout(FORGOTTEN_WITHIN, forgotten).await.context("the router does not forget")?
    }

    async fn check_server_notices(&self, before: &Before, broken: Instant) -> anyhow::Result<()> {
        if self.fault == SilentFault::ServerFrozen {
            return Ok(());
        }
        let dead = |(client, before): &(&Value, &Value)| {
            client["online"] == true && client["connected_at"] == **before
        };
        let noticed = self.wait_until_none(before, dead);
        let result = timeout_at((broken + NOTICED_WITHIN).into(), noticed).await;
        result.context("after 45 s the server still shows dead sessions as online")?
    }

    async fn check_agents_notice(&self, before: &Before, broken: Instant) -> anyhow::Result<()> {
        if self.fault == SilentFault::AgentFrozen {
            return Ok(());
        }
        for (n, lost) in before.lost.iter().enumerate() {
            let lost_again = self.networked.scenario.agent(n)?.says_times(LOST, lost + 1);
            let noticed = timeout_at((broken + NOTICED_WITHIN).into(), lost_again).await;
            noticed.with_context(|| format!("after 45 s client{n} has not lost its session"))??;
        }
        Ok(())
    }

    async fn check_reconnect(&self, before: &Before, repaired: Instant) -> anyhow::Result<()> {
        let is_away = |(client, before): &(&Value, &Value)| {
            client["online"] != true || client["connected_at"] == **before
        };
        let reconnected = self.wait_until_none(before, is_away);
        let result = timeout_at((repaired + BACK_WITHIN).into(), reconnected).await;
        result.context("15 s after the fault not all clients are online again")?
    }

    /// Polls all clients, each with its time of connection before the fault, until none matches.
    async fn wait_until_none(
        &self,
        before: &Before,
        matches: impl Fn(&(&Value, &Value)) -> bool,
    ) -> anyhow::Result<()> {
        poll("all clients", async || {
            let clients = clients(&self.networked.scenario).await?;
            Ok((!clients.iter().zip(&before.connected_at).any(|pair| matches(&pair))).then_some(()))
        })
        .await
    }
}

/// Returns all clients, ordered by id.
async fn clients(scenario: &Scenario) -> anyhow::Result<Vec<Value>> {
    let page = scenario.server.json("/api/v1/clients?limit=1000").await?;
    Ok(page["items"].as_array().context("a list has items")?.clone())
}
