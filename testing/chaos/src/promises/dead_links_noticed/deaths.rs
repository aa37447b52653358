//! Ten agents behind one router; each has a beat of its own, so that a fault meets ten lines in ten
//! phases. All settings that the promise speaks of are the defaults.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::net::Namespace;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout_at};

use crate::networked_scenario::NetworkedScenario;
use crate::scenario::Scenario;
use crate::trial::Trial;

/// Of each kind.
const DEATHS: u32 = 20;
const AGENTS: usize = 10;
const FILE_LEN: usize = 16 << 10;
/// What is promised, and a second for the machine, which does all of this at once.
const NOTICED_WITHIN: Duration = Duration::from_secs(46);
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// A line is heard at least this often; then the router forgets it.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);
/// How long a router remembers a line that is idle, in seconds, unless it is told otherwise.
const USUAL: u32 = 432_000;
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOST: &str = "connection lost";

/// What the router does with lines; a word of nft each.
const ROUTER: &str = "\
    add rule ip line forward ct state invalid drop; \
    add chain ip line out { type nat hook postrouting priority 100; }; \
    add rule ip line out oifname to-server masquerade";

/// How a line dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SilentFault {
    /// The router forgets lines that are idle for a second.
    Forgotten,
    /// What agents send does not come.
    AgentUnheard,
    /// What the server sends does not come.
    ServerUnheard,
    /// Nothing comes, either way.
    Cut,
    /// SIGSTOP of the agents.
    AgentFrozen,
    /// SIGSTOP of the server.
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
            Self::Forgotten => "lines forgotten by NAT",
            Self::AgentUnheard => "dropped to the server",
            Self::ServerUnheard => "dropped to the agent",
            Self::Cut => "dropped both ways",
            Self::AgentFrozen => "under a frozen agent",
            Self::ServerFrozen => "under a frozen server",
        }
    }
}

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let lanes =
        SilentFault::ALL.into_iter().zip(0..).map(|(fault, number)| lane(trial, number, fault));
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, number: u8, fault: SilentFault) -> anyhow::Result<()> {
    // The bed of tests is in a hurry: here the cap is what it is without any setting.
    let mut outpost = NetworkedScenario::set(trial, number, &[("RECONNECT_CAP", "60s")]).await?;
    outpost.prepare_faults(ROUTER).await?;
    for setting in ["tcp_loose=0", "tcp_be_liberal=0"] {
        let setting = format!("net.netfilter.nf_conntrack_{setting}");
        outpost.network.sysctl(Namespace::Router, &setting).await?;
    }
    for n in 0..AGENTS {
        outpost.add_client(&format!("client{n}"), FILE_LEN, &[])?;
        outpost.stage.start_agent(n)?;
    }
    let name = format!("r11-{}", fault.name());
    let mut lane = SilentLinkWorker { trial, fault, dice: trial.dice(&name), outpost };
    let tried = lane.rounds().await;
    lane.outpost.stage.explain(&name, tried)
}

struct SilentLinkWorker<'a> {
    trial: &'a Trial,
    fault: SilentFault,
    dice: Rng,
    outpost: NetworkedScenario,
}

/// The lines before a fault: since when each is there, and how many its agent has lost before.
struct Before {
    connected_at: Vec<Value>,
    lost: Vec<usize>,
}

impl SilentLinkWorker<'_> {
    async fn rounds(&mut self) -> anyhow::Result<()> {
        for n in 0..AGENTS {
            self.outpost.stage.connect(n).await?;
        }
        let n_rounds = self.trial.times(DEATHS).div_ceil(u32::try_from(AGENTS)?);
        for round in 0..n_rounds {
            self.round().await.with_context(|| format!("round {round}"))?;
            self.trial.tally.faults(self.fault.name(), AGENTS as u64);
        }
        self.outpost.stage.audit(true).await?;
        self.outpost.stage.strike().await
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        sleep(Duration::from_millis(self.dice.u64(0..3_000))).await;
        let before = self.before().await?;
        self.break_line().await?;
        let broken = Instant::now();
        let both: [BoxFuture<'_, anyhow::Result<()>>; 2] = [
            self.server_notices(&before, broken).boxed(),
            self.agents_notice(&before, broken).boxed(),
        ];
        try_join_all(both).await?;
        self.mend_line().await?;
        self.back(&before, Instant::now()).await?;
        for n in 0..AGENTS {
            let id = self.outpost.stage.order(n).await?;
            self.outpost.stage.done(&id).await?;
        }
        // One death, one line lost: none that was alive.
        for (n, lost) in before.lost.iter().enumerate() {
            let now = self.n_lost(n)?;
            let expected =
                lost + usize::from(self.fault != SilentFault::AgentFrozen || *lost < now);
            anyhow::ensure!(now == expected, "client{n} has lost {} lines at once", now - lost);
        }
        Ok(())
    }

    async fn before(&self) -> anyhow::Result<Before> {
        let clients = clients(&self.outpost.stage).await?;
        let connected_at = clients.iter().map(|client| client["connected_at"].clone()).collect();
        let online = clients.iter().all(|client| client["online"] == true);
        anyhow::ensure!(online && clients.len() == AGENTS, "not all are online: {clients:?}");
        let lost = (0..AGENTS).map(|n| self.n_lost(n)).collect::<anyhow::Result<_>>()?;
        Ok(Before { connected_at, lost })
    }

    fn n_lost(&self, n: usize) -> anyhow::Result<usize> {
        let said = self.outpost.stage.agent(n)?.said();
        Ok(said.iter().filter(|line| line.contains(LOST)).count())
    }

    /// When this returns every line is dead.
    async fn break_line(&self) -> anyhow::Result<()> {
        let (stage, outpost) = (&self.outpost.stage, &self.outpost);
        match self.fault {
            SilentFault::Forgotten => {
                self.remember_for(1).await?;
                self.all_forgotten().await?;
                // The next lines are those of a router that is well again: these stay forgotten.
                self.remember_for(USUAL).await
            }
            SilentFault::AgentUnheard => {
                outpost.rules("add rule ip line faults oifname to-server drop").await
            }
            SilentFault::ServerUnheard => {
                outpost.rules("add rule ip line faults oifname to-agent drop").await
            }
            SilentFault::Cut => outpost.rules("add rule ip line faults drop").await,
            SilentFault::AgentFrozen => self.signal_agents(Signal::STOP),
            SilentFault::ServerFrozen => stage.stop_server().await,
        }
    }

    async fn mend_line(&self) -> anyhow::Result<()> {
        match self.fault {
            SilentFault::Forgotten => Ok(()),
            SilentFault::AgentUnheard | SilentFault::ServerUnheard | SilentFault::Cut => {
                self.outpost.rules("flush chain ip line faults").await
            }
            SilentFault::AgentFrozen => self.signal_agents(Signal::CONT),
            SilentFault::ServerFrozen => self.outpost.stage.bed.server()?.signal(Signal::CONT),
        }
    }

    fn signal_agents(&self, signal: Signal) -> anyhow::Result<()> {
        (0..AGENTS).try_for_each(|n| self.outpost.stage.agent(n)?.signal(signal))
    }

    async fn remember_for(&self, seconds: u32) -> anyhow::Result<()> {
        let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_established={seconds}");
        self.outpost.network.sysctl(Namespace::Router, &setting).await
    }

    /// A line is forgotten a second after the next beat on it.
    async fn all_forgotten(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + FORGOTTEN_WITHIN;
        loop {
            let table = ["/proc/net/nf_conntrack"];
            let table = self.outpost.network.run_in(Namespace::Router, "cat", &table).await?;
            if !table.contains("ESTABLISHED") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the router does not forget: {table}");
            sleep(LOOK_AGAIN * 4).await;
        }
    }

    async fn server_notices(&self, before: &Before, broken: Instant) -> anyhow::Result<()> {
        if self.fault == SilentFault::ServerFrozen {
            return Ok(());
        }
        loop {
            let found = clients(&self.outpost.stage).await?;
            let same = |(client, before): &(&Value, &Value)| {
                client["online"] == true && client["connected_at"] == **before
            };
            let unnoticed = found.iter().zip(&before.connected_at).filter(same).count();
            if unnoticed == 0 {
                return Ok(());
            }
            let late = NOTICED_WITHIN < broken.elapsed();
            anyhow::ensure!(!late, "after 45 s the server takes {unnoticed} of the dead for alive");
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn agents_notice(&self, before: &Before, broken: Instant) -> anyhow::Result<()> {
        if self.fault == SilentFault::AgentFrozen {
            return Ok(());
        }
        for (n, lost) in before.lost.iter().enumerate() {
            let noticed = self.outpost.stage.agent(n)?.says_times(LOST, lost + 1);
            let noticed = timeout_at((broken + NOTICED_WITHIN).into(), noticed).await;
            noticed.with_context(|| format!("after 45 s client{n} takes its line for alive"))??;
        }
        Ok(())
    }

    async fn back(&self, before: &Before, mended: Instant) -> anyhow::Result<()> {
        loop {
            let found = clients(&self.outpost.stage).await?;
            let is_back = |(client, before): &(&Value, &Value)| {
                client["online"] == true && client["connected_at"] != **before
            };
            let n_back = found.iter().zip(&before.connected_at).filter(is_back).count();
            if n_back == AGENTS {
                return Ok(());
            }
            let late = BACK_WITHIN < mended.elapsed();
            anyhow::ensure!(!late, "15 s after the fault only {n_back} are back");
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// All clients, in the order of their ids.
async fn clients(stage: &Scenario) -> anyhow::Result<Vec<Value>> {
    let page = stage.bed.json("/api/v1/clients?limit=1000").await?;
    Ok(page["items"].as_array().context("a list has items")?.clone())
}
