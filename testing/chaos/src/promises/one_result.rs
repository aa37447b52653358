//! R4: server and agent are killed at every system call between the last bytes and the result, and
//! what was committed is committed again.

mod replays;

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use tokio::time::timeout;

use crate::attached::{Attached, Point};
use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R4",
    promised: "Exactly once: a transfer yields at most one file, whoever dies in between.",
    needs: &[Requirement::Root, Requirement::Program("strace", "strace")],
    limit: Duration::from_secs(60),
    attempt: |trial| attempt(trial).boxed(),
};

const FILE_LEN: usize = 384 << 10;
/// The last third of the file takes long enough for strace to be there before it.
const RATE: &str = "1MiB/s";
const LANES: usize = 4;
/// Rounds over all points.
const ROUNDS: u32 = 1;
const REPLAYS: u32 = 50;

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Agent,
}

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut points = Vec::new();
    for side in [Side::Server, Side::Agent] {
        let mut scout = KillPointWorker::set(trial).await?;
        let seen = scout.listed(side).await;
        let seen = scout.stage.explain("listing calls", seen)?;
        anyhow::ensure!(8 <= seen.len(), "only {} calls of {side:?} were seen", seen.len());
        points.extend(seen.into_iter().map(|point| (side, point)));
    }
    let dealt = trial.deal("r4", points, ROUNDS, LANES).into_iter();
    let mut lanes: Vec<BoxFuture<'_, anyhow::Result<()>>> =
        dealt.map(|mine| lane(trial, mine).boxed()).collect();
    lanes.push(replays::attempt(trial, trial.times(REPLAYS)).boxed());
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, points: Vec<(Side, Point)>) -> anyhow::Result<()> {
    let mut lane = KillPointWorker::set(trial).await?;
    for (side, point) in points {
        let tried = lane.killed_at(side, &point).await;
        let place = format!("{side:?} killed at {} {}", point.call, point.nth);
        lane.stage.explain(&place, tried)?;
    }
    lane.stage.audit(true).await?;
    lane.stage.strike().await
}

struct KillPointWorker<'a> {
    trial: &'a Trial,
    stage: Scenario,
}

impl<'a> KillPointWorker<'a> {
    async fn set(trial: &'a Trial) -> anyhow::Result<Self> {
        let mut stage = Scenario::set(trial, &[]).await?;
        stage.start_server().await?;
        stage.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
        Ok(Self { trial, stage })
    }

    /// The calls of one side from the last third of a file on.
    async fn listed(&mut self, side: Side) -> anyhow::Result<Vec<Point>> {
        let id = self.nearly_sent().await?;
        let folder = self.stage.bed.folder().to_owned();
        let attached = Attached::listing(&self.trial.ground, self.pid(side)?, &folder).await?;
        self.stage.proxy.thaw();
        // One request that waits: each look more would be more calls of the server.
        let path = format!("/api/v1/transfers/{id}?wait=20s");
        let transfer = self.stage.bed.json(&path).await?;
        anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
        let (_, points) = attached.detach().await?;
        self.stage.strike().await?;
        Ok(points)
    }

    async fn killed_at(&mut self, side: Side, point: &Point) -> anyhow::Result<()> {
        let id = self.nearly_sent().await?;
        let (ground, folder) = (&self.trial.ground, self.stage.bed.folder().to_owned());
        let mut attached = Attached::killing(ground, self.pid(side)?, &folder, point).await?;
        self.stage.proxy.thaw();
        {
            let path = format!("/api/v1/transfers/{id}?wait=20s");
            // Either comes: the end of the process, or that of the transfer.
            tokio::select! {
                ended = attached.program_ended() => ended?,
                _ = self.stage.bed.json(&path) => {}
            }
        }
        // The call of a late point follows the answer.
        let _ = timeout(Duration::from_millis(50), attached.program_ended()).await;
        let (killed, _) = attached.detach().await?;
        match (side, killed) {
            (Side::Server, true) => {
                self.trial.tally.fault("server kills at a call");
                self.stage.server_ended().await?;
                self.stage.oracle.look(&self.stage.data_dir(), false)?;
                self.stage.start_server().await?;
            }
            (Side::Agent, true) => {
                self.trial.tally.fault("agent kills at a call");
                self.stage.kill_agent(0).await;
            }
            (Side::Server | Side::Agent, false) => {
                self.trial.tally.fault("points not reached this time");
            }
        }
        self.stage.connect(0).await?;
        self.stage.done(&id).await?;
        self.stage.audit(false).await
    }

    /// A transfer whose last third is held back on the wire.
    async fn nearly_sent(&mut self) -> anyhow::Result<String> {
        self.stage.connect(0).await?;
        self.stage.new_version(0)?;
        let before = self.stage.proxy.sent();
        let id = self.stage.order(0).await?;
        self.stage.proxy.sent_at_least(before + FILE_LEN as u64 / 3).await?;
        self.stage.proxy.freeze();
        Ok(id)
    }

    fn pid(&self, side: Side) -> anyhow::Result<u32> {
        let process = match side {
            Side::Server => self.stage.bed.server()?,
            Side::Agent => self.stage.agent(0)?,
        };
        Ok(process.pid())
    }
}
