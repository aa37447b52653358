//! R4: server and agent are killed at every system call between the last bytes and the result, and
//! a finished upload is sent again.

mod replayed_uploads;

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
use tokio::time::timeout;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::strace_session::{CallPoint, StraceSession};
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R4",
    statement: "Exactly once: a transfer creates at most one file, even if a program is killed.",
    requirements: &[Requirement::Root, Requirement::Program("strace", "strace")],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

const FILE_LEN: usize = 384 << 10;
/// The last third of the file takes long enough to attach strace.
const RATE: &str = "1MiB/s";
const WORKERS: usize = 4;
/// Rounds over all system calls.
const ROUNDS: u32 = 1;
const REPLAYS: u32 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Agent,
}

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut points = Vec::new();
    for side in [Side::Server, Side::Agent] {
        let mut scout = KillPointWorker::prepare(trial).await?;
        let listed = scout.list_calls(side).await;
        let seen = scout.scenario.explain("listing calls", listed)?;
        anyhow::ensure!(8 <= seen.len(), "only {} system calls of {side:?} were seen", seen.len());
        points.extend(seen.into_iter().map(|point| (side, point)));
    }
    let shares = trial.distribute("r4", points, ROUNDS, WORKERS).into_iter();
    let mut workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> =
        shares.map(|mine| run_worker(trial, mine).boxed_local()).collect();
    workers.push(replayed_uploads::run(trial, trial.times(REPLAYS)).boxed_local());
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, points: Vec<(Side, CallPoint)>) -> anyhow::Result<()> {
    let mut worker = KillPointWorker::prepare(trial).await?;
    for (side, point) in points {
        let tried = worker.kill_at(side, &point).await;
        let place = format!("{side:?} killed at {} {}", point.call, point.nth);
        worker.scenario.explain(&place, tried)?;
    }
    worker.scenario.audit(true).await?;
    worker.scenario.teardown().await
}

struct KillPointWorker<'a> {
    trial: &'a Trial,
    scenario: Scenario,
}

impl<'a> KillPointWorker<'a> {
    async fn prepare(trial: &'a Trial) -> anyhow::Result<Self> {
        let mut scenario = Scenario::prepare(trial, &[]).await?;
        scenario.start_server().await?;
        scenario.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
        Ok(Self { trial, scenario })
    }

    /// Returns the system calls of one program during the last third of a file.
    async fn list_calls(&mut self, side: Side) -> anyhow::Result<Vec<CallPoint>> {
        let id = self.send_two_thirds().await?;
        let folder = self.scenario.server.folder().to_owned();
        let session = StraceSession::listing(&self.trial.sandbox, self.pid(side)?, &folder).await?;
        self.scenario.proxy.thaw();
        // One waiting request: polls would add system calls to the server.
        let path = format!("/api/v1/transfers/{id}?wait=20s");
        let transfer = self.scenario.server.json(&path).await?;
        anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
        let (_, points) = session.detach().await?;
        self.scenario.teardown().await?;
        Ok(points)
    }

    async fn kill_at(&mut self, side: Side, point: &CallPoint) -> anyhow::Result<()> {
        let id = self.send_two_thirds().await?;
        let sandbox = &self.trial.sandbox;
        let folder = self.scenario.server.folder().to_owned();
        let mut session = StraceSession::killing(sandbox, self.pid(side)?, &folder, point).await?;
        self.scenario.proxy.thaw();
        {
            let path = format!("/api/v1/transfers/{id}?wait=20s");
            // Waits for the end of the process or of the transfer.
            tokio::select! {
                ended = session.program_ended() => ended?,
                _ = self.scenario.server.json(&path) => {}
            }
        }
        // A late call follows the answer.
        let _ = timeout(Duration::from_millis(50), session.program_ended()).await;
        let (killed, _) = session.detach().await?;
        match (side, killed) {
            (Side::Server, true) => {
                self.trial.counters.fault("server kills at a call");
                self.scenario.wait_until_server_ended().await?;
                self.scenario.oracle.check_files(&self.scenario.data_dir(), false)?;
                self.scenario.start_server().await?;
            }
            (Side::Agent, true) => {
                self.trial.counters.fault("agent kills at a call");
                self.scenario.kill_agent(0).await;
            }
            (Side::Server | Side::Agent, false) => {
                self.trial.counters.fault("calls not reached");
            }
        }
        self.scenario.connect(0).await?;
        self.scenario.wait_until_done(&id).await?;
        self.scenario.audit(false).await
    }

    /// Starts a transfer and freezes the connection after two thirds of the file.
    async fn send_two_thirds(&mut self) -> anyhow::Result<String> {
        self.scenario.connect(0).await?;
        self.scenario.rewrite(0, FILE_LEN)?;
        let before = self.scenario.proxy.sent();
        let id = self.scenario.trigger(0).await?;
        self.scenario.proxy.sent_at_least(before + FILE_LEN as u64 / 3).await?;
        self.scenario.proxy.freeze();
        Ok(id)
    }

    fn pid(&self, side: Side) -> anyhow::Result<u32> {
        let process = match side {
            Side::Server => self.scenario.server_process()?,
            Side::Agent => self.scenario.agent(0)?,
        };
        Ok(process.pid())
    }
}
