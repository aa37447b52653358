//! Server and agent are killed at their system calls during an enrolment. The same invite must then enrol
//! the same machine, and no other key.

use std::time::Duration;

use anyhow::Context as _;
use filepull_core::invite::Invite;
use filepull_trust::AgentKey;
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
use tokio::time::timeout;

use super::redeem;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::strace_session::{CallPoint, StraceSession, points_of};
use crate::trial::Trial;

/// Calls that are tried of each program.
const POINTS: u32 = 24;
const WORKERS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EnrolmentSide {
    Server,
    Agent,
}

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scout = KilledEnrolments::prepare(trial).await?;
    let listed = scout.list_calls().await;
    let [server, agent] = scout.scenario.explain("listing calls", listed)?;
    let mut all = Vec::new();
    for (side, points) in [(EnrolmentSide::Server, server), (EnrolmentSide::Agent, agent)] {
        anyhow::ensure!(8 <= points.len(), "{side:?} made {} system calls only", points.len());
        let mut points: Vec<_> = points.into_iter().map(|point| (side, point)).collect();
        trial.rng(&format!("s2-{side:?}")).shuffle(&mut points);
        // `--soak` tries every call.
        points.truncate(if trial.soak { usize::MAX } else { trial.times(POINTS) as usize });
        all.extend(points);
    }
    let mut shares = vec![Vec::new(); WORKERS];
    for (n, point) in all.into_iter().enumerate() {
        shares[n % WORKERS].push(point);
    }
    let workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> =
        shares.into_iter().map(|points| run_worker(trial, points).boxed_local()).collect();
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, points: Vec<(EnrolmentSide, CallPoint)>) -> anyhow::Result<()> {
    let mut worker = KilledEnrolments::prepare(trial).await?;
    for (side, point) in points {
        let tried = worker.kill_at(side, &point).await;
        let place = format!("{side:?} killed at {} {}", point.call, point.nth);
        worker.scenario.explain(&place, tried)?;
    }
    worker.scenario.teardown().await
}

struct KilledEnrolments<'a> {
    trial: &'a Trial,
    scenario: Scenario,
    n_clients: u32,
}

impl<'a> KilledEnrolments<'a> {
    async fn prepare(trial: &'a Trial) -> anyhow::Result<Self> {
        let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
        scenario.start_server().await?;
        Ok(Self { trial, scenario, n_clients: 0 })
    }

    /// Adds the next client. Returns its index and its invite.
    async fn next_client(&mut self) -> anyhow::Result<(usize, Invite)> {
        self.n_clients += 1;
        let id = format!("client{}", self.n_clients);
        let index = self.scenario.add_client(&id, 1000, &[])?;
        let invite = self.scenario.server.invite_client(&id).await?;
        self.scenario.client_setting(index, "INVITE", &invite.encode());
        Ok((index, invite))
    }

    /// Returns the system calls of both programs during one enrolment.
    async fn list_calls(&mut self) -> anyhow::Result<[Vec<CallPoint>; 2]> {
        let (index, _) = self.next_client().await?;
        let folder = self.scenario.server.folder().to_owned();
        let pid = self.scenario.server_process()?.pid();
        let session = StraceSession::listing(&self.trial.sandbox, pid, &folder).await?;
        let log = folder.join("agent-strace");
        let launcher = ["strace", "-f", "-o", &log.display().to_string()].map(str::to_owned);
        self.scenario.launch_client_by(index, launcher.to_vec());
        self.scenario.start_agent(index)?;
        self.scenario.agent(index)?.says("connected in").await?;
        let (_, server) = session.detach().await?;
        self.scenario.kill_agent(index).await;
        let agent = points_of(&std::fs::read_to_string(&log)?);
        self.scenario.teardown().await?;
        Ok([server, agent])
    }

    async fn kill_at(&mut self, side: EnrolmentSide, point: &CallPoint) -> anyhow::Result<()> {
        let (index, invite) = self.next_client().await?;
        let killed = match side {
            EnrolmentSide::Server => self.kill_server_at(index, point).await?,
            EnrolmentSide::Agent => self.kill_agent_at(index, point).await?,
        };
        self.trial.counters.fault(match (side, killed) {
            (EnrolmentSide::Server, true) => "server kills during an enrolment",
            (EnrolmentSide::Agent, true) => "agent kills during an enrolment",
            (EnrolmentSide::Server | EnrolmentSide::Agent, false) => "calls not reached",
        });
        // The same machine still enrols with its invite, and no other key does.
        self.scenario.connect(index).await?;
        let id = self.scenario.id(index);
        let thief = redeem(&self.scenario.server, &invite, &AgentKey::generate(), &id).await?;
        anyhow::ensure!(thief.is_some(), "a second key redeemed the invite of {id}");
        self.scenario.kill_agent(index).await;
        Ok(())
    }

    async fn kill_server_at(&mut self, index: usize, point: &CallPoint) -> anyhow::Result<bool> {
        let folder = self.scenario.server.folder().to_owned();
        let pid = self.scenario.server_process()?.pid();
        let sandbox = &self.trial.sandbox;
        let mut session = StraceSession::killing(sandbox, pid, &folder, point).await?;
        self.scenario.start_agent(index)?;
        let agent = self.scenario.agent(index)?;
        tokio::select! {
            ended = session.program_ended() => ended?,
            said = timeout(WAIT_LIMIT, agent.says("connected in")) => {
                said.context("neither connected nor killed")??;
            }
        }
        let _ = timeout(Duration::from_millis(50), session.program_ended()).await;
        let (killed, _) = session.detach().await?;
        if killed {
            self.scenario.wait_until_server_ended().await?;
            self.scenario.start_server().await?;
        }
        Ok(killed)
    }

    async fn kill_agent_at(&mut self, index: usize, point: &CallPoint) -> anyhow::Result<bool> {
        let CallPoint { call, nth } = point;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
        let words = ["strace", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let launcher = words.map(str::to_owned).to_vec();
        self.scenario.launch_client_by(index, launcher);
        self.scenario.start_agent(index)?;
        let connected = self.scenario.agent(index)?.says("connected in").await.is_ok();
        self.scenario.launch_client_by(index, Vec::new());
        self.scenario.kill_agent(index).await;
        Ok(!connected)
    }
}
