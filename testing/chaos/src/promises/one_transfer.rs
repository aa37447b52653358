//! R8: a thousand triggers at once for one client, while its agent runs, is stopped, or has just
//! lost its line.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::HttpResponse;
use filepull_testkit::proc_files;
use futures::FutureExt as _;
use futures::future::try_join_all;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R8",
    promised: "1,000 triggers at once for one client cost one transfer, and two with `fresh`.",
    needs: &[],
    limit: Duration::from_secs(20),
    attempt: |trial| attempt(trial).boxed(),
};

const TRIGGERS: u32 = 1_000;
const FILE_LEN: usize = 4 << 20;
/// Half a second: time enough to hold the upload before it ends.
const RATE: &str = "8MiB/s";
/// From here on an upload is held on the wire until every trigger has been answered.
const HELD_AT: u64 = 256 << 10;
/// So much more memory the server may take in a burst than it ever did before.
const GROWTH_LIMIT: u64 = 10 << 20;
/// And in the first, for each of the callers who wait side by side: a connection, a request, and the
/// 8 KiB that hyper reads into at least. That memory serves the callers who come after them.
const CALLER_COST: u64 = 32 << 10;

/// What the agent does when the triggers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentCondition {
    Runs,
    IsStopped,
    LosesItsLine,
}

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let tried = bursts(trial, &mut stage).await;
    stage.explain("triggers at once", tried)
}

async fn bursts(trial: &Trial, stage: &mut Scenario) -> anyhow::Result<()> {
    stage.start_server().await?;
    stage.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
    stage.connect(0).await?;
    let (dice, peak) = (trial.dice("r8"), proc_files::rss(stage.bed.server()?.pid())?);
    let mut bursts = Bursts { trial, stage, dice, peak, n_transfers: 0, n_lines: 1 };
    let callers = CALLER_COST * u64::from(trial.times(TRIGGERS));
    bursts.measured(AgentCondition::IsStopped, false, GROWTH_LIMIT + callers).await?;
    for agent in [AgentCondition::Runs, AgentCondition::IsStopped, AgentCondition::LosesItsLine] {
        for fresh in [false, true] {
            bursts.measured(agent, fresh, GROWTH_LIMIT).await?;
        }
    }
    stage.audit(true).await?;
    stage.end().await
}

struct Bursts<'a> {
    trial: &'a Trial,
    stage: &'a mut Scenario,
    dice: Rng,
    /// The most memory that the server had before a burst. What it has just now is no measure:
    /// whether the allocator keeps what is free is its own affair.
    peak: u64,
    /// Transfers that there must be.
    n_transfers: usize,
    /// Lines that the agent must have opened.
    n_lines: usize,
}

impl Bursts<'_> {
    /// A burst in which the server takes no more than `limit` beyond the most that it ever had.
    async fn measured(
        &mut self,
        agent: AgentCondition,
        fresh: bool,
        limit: u64,
    ) -> anyhow::Result<()> {
        let pid = self.stage.bed.server()?.pid();
        // Lets the peak be that of what follows.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let place = || format!("the agent {agent:?}, fresh: {fresh}");
        self.burst(agent, fresh).await.with_context(place)?;
        let peak = proc_files::peak_rss(pid)?;
        let growth = peak.saturating_sub(self.peak);
        anyhow::ensure!(growth < limit, "{}: {growth} bytes more memory", place());
        self.peak = self.peak.max(peak);
        Ok(())
    }

    /// Triggers at once; with `fresh` every other one does not join a file that may be open.
    async fn burst(&mut self, agent: AgentCondition, fresh: bool) -> anyhow::Result<()> {
        let count = self.trial.times(TRIGGERS);
        self.stage.new_version(0)?;
        if agent == AgentCondition::IsStopped {
            self.stage.agent(0)?.signal(Signal::STOP)?;
            self.trial.tally.fault("agents stopped");
        }
        let replies = self.replies(agent, fresh, count).await?;
        self.stage.proxy.thaw();
        if agent == AgentCondition::IsStopped {
            self.stage.agent(0)?.signal(Signal::CONT)?;
        }
        let wrong = replies.iter().find(|reply| reply.status != 202);
        anyhow::ensure!(wrong.is_none(), "answered: {wrong:?}");
        let named: BTreeSet<_> = replies.iter().map(|reply| reply.header("location")).collect();
        self.trial.tally.faults("triggers at once", count.into());
        // When a line is cut, the order of the second may have gone down with it: its file may be
        // open, and whoever wants a fresh one then needs a third.
        let most = match (fresh, agent) {
            (false, _) => 1,
            (true, AgentCondition::Runs | AgentCondition::IsStopped) => 2,
            (true, AgentCondition::LosesItsLine) => 3,
        };
        let n_named = named.len();
        anyhow::ensure!(n_named <= most, "{count} triggers made {n_named} transfers");
        for location in &named {
            self.stage.done(location.rsplit('/').next().unwrap_or_default()).await?;
        }
        self.n_transfers += n_named;
        let n_transfers = self.stage.transfers().await?.len();
        anyhow::ensure!(n_transfers == self.n_transfers, "there are {n_transfers} transfers");
        let said = self.stage.bed.server()?.said();
        let n_lines = said.iter().filter(|line| line.contains("\"client.connected\"")).count();
        anyhow::ensure!(n_lines == self.n_lines, "the agent has opened {n_lines} lines");
        self.stage.audit(false).await
    }

    /// Holds what is sent until all are answered, so that no trigger comes after the end.
    async fn replies(
        &mut self,
        agent: AgentCondition,
        fresh: bool,
        count: u32,
    ) -> anyhow::Result<Vec<HttpResponse>> {
        let cut_after = (agent == AgentCondition::LosesItsLine).then(|| {
            self.n_lines += 1;
            self.trial.tally.fault("lines cut");
            Duration::from_millis(self.dice.u64(0..100))
        });
        let Scenario { bed, proxy, .. } = &*self.stage;
        let urls = (0..count).map(|n| match (agent, fresh && n % 2 == 1) {
            (AgentCondition::LosesItsLine, false) => "/trigger?id=client1&queue=1h",
            (AgentCondition::LosesItsLine, true) => "/trigger?id=client1&queue=1h&fresh",
            (AgentCondition::Runs | AgentCondition::IsStopped, false) => "/trigger?id=client1",
            (AgentCondition::Runs | AgentCondition::IsStopped, true) => "/trigger?id=client1&fresh",
        });
        let cut = async {
            if let Some(after) = cut_after {
                sleep(after).await;
                proxy.cut();
            }
        };
        let answered = try_join_all(urls.map(|url| bed.get(url)));
        let replies = async { tokio::join!(answered, cut).0 };
        let sent = proxy.sent();
        let hold = async {
            proxy.sent_at_least(sent + HELD_AT).await?;
            proxy.freeze();
            std::future::pending().await
        };
        tokio::select! {
            replies = replies => replies,
            held = hold => held,
        }
    }
}
