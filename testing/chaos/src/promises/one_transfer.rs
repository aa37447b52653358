//! R8: a thousand concurrent triggers for one client, while its agent runs, is stopped, or has just
//! lost its session.

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
    statement: "1,000 concurrent triggers for one client cost one transfer, or two with `fresh`.",
    requirements: &[],
    limit: Duration::from_secs(20),
    run: |trial| run(trial).boxed_local(),
};

const TRIGGERS: u32 = 1_000;
const FILE_LEN: usize = 4 << 20;
/// Half a second for a file: long enough to hold the upload.
const RATE: &str = "8MiB/s";
/// After this many bytes the proxy holds the upload until every trigger has been answered.
const HOLD_AFTER: u64 = 256 << 10;
/// Maximum growth of the server's memory in the first burst, and once more in all later ones together:
/// hyper's buffers of 8 KiB are larger than a request or a response, so later callers reuse the
/// buffers of the first ones but touch other pages of them. What one trigger keeps adds up.
const GROWTH_LIMIT: u64 = 10 << 20;
/// Additional growth in the first burst, for each concurrent caller: a connection, a request, and
/// hyper's buffers. Later callers reuse this memory.
const CALLER_COST: u64 = 32 << 10;

/// The state of the agent during the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentCondition {
    Runs,
    IsStopped,
    LosesItsSession,
}

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let tried = bursts(trial, &mut scenario).await;
    scenario.explain("concurrent triggers", tried)
}

async fn bursts(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.start_server().await?;
    scenario.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
    scenario.connect(0).await?;
    let rng = trial.rng("r8");
    let rss = proc_files::rss(scenario.server_process()?.pid())?;
    let mut bursts = Bursts { trial, scenario, rng, n_transfers: 0, n_sessions: 1 };
    let first_limit = rss + GROWTH_LIMIT + CALLER_COST * u64::from(trial.times(TRIGGERS));
    bursts.measured_burst(AgentCondition::IsStopped, false, first_limit).await?;
    for agent in [AgentCondition::Runs, AgentCondition::IsStopped, AgentCondition::LosesItsSession]
    {
        for fresh in [false, true] {
            bursts.measured_burst(agent, fresh, first_limit + GROWTH_LIMIT).await?;
        }
    }
    scenario.audit(true).await?;
    scenario.end().await
}

struct Bursts<'a> {
    trial: &'a Trial,
    scenario: &'a mut Scenario,
    rng: Rng,
    n_transfers: usize,
    /// How many sessions the agent must have opened.
    n_sessions: usize,
}

impl Bursts<'_> {
    /// Runs a burst and checks that the server never has more than `limit` bytes of memory. Its memory
    /// after the burst is no measure: the allocator may keep free memory.
    async fn measured_burst(
        &mut self,
        agent: AgentCondition,
        fresh: bool,
        limit: u64,
    ) -> anyhow::Result<()> {
        let pid = self.scenario.server_process()?.pid();
        // Resets the peak.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let place = || format!("the agent {agent:?}, fresh: {fresh}");
        self.burst(agent, fresh).await.with_context(place)?;
        let peak = proc_files::peak_rss(pid)?;
        anyhow::ensure!(peak < limit, "{}: {peak} bytes of memory, limit {limit}", place());
        Ok(())
    }

    /// Sends concurrent triggers. With `fresh`, every second one does not join a file that may be
    /// open.
    async fn burst(&mut self, agent: AgentCondition, fresh: bool) -> anyhow::Result<()> {
        let count = self.trial.times(TRIGGERS);
        self.scenario.rewrite(0, FILE_LEN)?;
        if agent == AgentCondition::IsStopped {
            self.scenario.agent(0)?.signal(Signal::STOP)?;
            self.trial.counters.fault("agents stopped");
        }
        let responses = self.responses(agent, fresh, count).await?;
        self.scenario.proxy.thaw();
        if agent == AgentCondition::IsStopped {
            self.scenario.agent(0)?.signal(Signal::CONT)?;
        }
        let wrong = responses.iter().find(|response| response.status != 202);
        anyhow::ensure!(wrong.is_none(), "unexpected answer: {wrong:?}");
        let named: BTreeSet<_> =
            responses.iter().map(|response| response.header("location")).collect();
        self.trial.counters.faults("concurrent triggers", count.into());
        // A cut session may lose the second order after its file was opened; a fresh trigger then
        // needs a third transfer.
        let max_transfers = match (fresh, agent) {
            (false, _) => 1,
            (true, AgentCondition::Runs | AgentCondition::IsStopped) => 2,
            (true, AgentCondition::LosesItsSession) => 3,
        };
        let n_named = named.len();
        anyhow::ensure!(n_named <= max_transfers, "{count} triggers created {n_named} transfers");
        for location in &named {
            self.scenario.wait_until_done(location.rsplit('/').next().unwrap_or_default()).await?;
        }
        self.n_transfers += n_named;
        let n_transfers = self.scenario.transfers().await?.len();
        anyhow::ensure!(
            n_transfers == self.n_transfers,
            "there are {n_transfers} transfers, expected {}",
            self.n_transfers
        );
        let n_sessions = self.scenario.server_process()?.count("\"client.connected\"");
        anyhow::ensure!(
            n_sessions == self.n_sessions,
            "the agent has opened {n_sessions} sessions"
        );
        self.scenario.audit(false).await
    }

    /// Holds the upload until all triggers are answered, so that none follows the end of the
    /// transfer.
    async fn responses(
        &mut self,
        agent: AgentCondition,
        fresh: bool,
        count: u32,
    ) -> anyhow::Result<Vec<HttpResponse>> {
        let cut_after = (agent == AgentCondition::LosesItsSession).then(|| {
            self.n_sessions += 1;
            self.trial.counters.fault("connections cut");
            Duration::from_millis(self.rng.u64(0..100))
        });
        let Scenario { server, proxy, .. } = &*self.scenario;
        let urls = (0..count).map(|n| match (agent, fresh && n % 2 == 1) {
            (AgentCondition::LosesItsSession, false) => "/trigger?id=client1&queue=1h",
            (AgentCondition::LosesItsSession, true) => "/trigger?id=client1&queue=1h&fresh",
            (AgentCondition::Runs | AgentCondition::IsStopped, false) => "/trigger?id=client1",
            (AgentCondition::Runs | AgentCondition::IsStopped, true) => "/trigger?id=client1&fresh",
        });
        let cut = async {
            if let Some(after) = cut_after {
                sleep(after).await;
                proxy.cut();
            }
        };
        let answered = try_join_all(urls.map(|url| server.get(url)));
        let responses = async { tokio::join!(answered, cut).0 };
        let sent = proxy.sent();
        let hold = async {
            proxy.sent_at_least(sent + HOLD_AFTER).await?;
            proxy.freeze();
            std::future::pending().await
        };
        tokio::select! {
            responses = responses => responses,
            hold_failed = hold => hold_failed,
        }
    }
}
