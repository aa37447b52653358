//! R1: files of 16 MiB, while the power fails at random bytes and the programs are killed. And one of
//! 1 MiB, with the disk in every state in which the power could have left it.

mod replay;

use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use tokio::time::{sleep, timeout};

use crate::dir_watcher::DirWatcher;
use crate::disk::{FileSystem, LoopDisks};
use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::{LOOP_DISKS, RECORDED_DISKS, Requirement, both};
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R1",
    promised: "Whole or absent: no crash or power cut ever shows a file that is not complete.",
    needs: NEEDS,
    limit: Duration::from_secs(180),
    attempt: |trial| attempt(trial).boxed(),
};

const NEEDS: &[Requirement] =
    &both::<{ LOOP_DISKS.len() + RECORDED_DISKS.len() }>(LOOP_DISKS, RECORDED_DISKS);
const FILE_LEN: usize = 16 << 20;
/// So much shorter a file may be: the server asks the system early to write what has come, but for
/// the last of it.
const SHORTER: usize = 7 << 20;
/// On each file system.
const POWER_CUTS: u32 = 300;
const KILLS: u32 = 60;
/// Lanes side by side: much of a power cut is waiting.
const LANES: u32 = 3;
/// One agent in six is so slow that the server makes checkpoints.
const SLOW: &str = "8MiB/s";
const FAST: &str = "1GiB/s";

/// What happens at a random byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PowerFault {
    PowerCut(FileSystem),
    KillServer,
    KillAgent,
}

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut lanes: Vec<BoxFuture<'_, anyhow::Result<()>>> = vec![replay::lane(trial).boxed()];
    for n in 0..LANES {
        for file_system in FileSystem::ALL {
            let count = trial.share(POWER_CUTS, LANES);
            lanes.push(lane(trial, PowerFault::PowerCut(file_system), n, count).boxed());
        }
    }
    lanes.push(lane(trial, PowerFault::KillServer, 0, trial.times(KILLS)).boxed());
    lanes.push(lane(trial, PowerFault::KillAgent, 0, trial.times(KILLS)).boxed());
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, fault: PowerFault, n: u32, count: u32) -> anyhow::Result<()> {
    let name = format!("r1-{fault:?}-{n}").to_lowercase().replace(['(', ')'], "-");
    let mut lane = WholeOrAbsentWorker {
        trial,
        fault,
        dice: trial.dice(&name),
        stage: Scenario::set(trial, &[]).await?,
        disks: None,
        transfer: None,
    };
    if let PowerFault::PowerCut(file_system) = fault {
        let at = lane.stage.data_dir();
        lane.disks = Some(LoopDisks::make(&trial.ground, file_system, &name, &at, false).await?);
    }
    lane.stage.add_client("client1", FILE_LEN, &[])?;
    let tried = lane.rounds(count).await;
    lane.stage.explain(&name, tried)
}

struct WholeOrAbsentWorker<'a> {
    trial: &'a Trial,
    fault: PowerFault,
    dice: Rng,
    stage: Scenario,
    disks: Option<LoopDisks>,
    /// The one under way.
    transfer: Option<String>,
}

impl WholeOrAbsentWorker<'_> {
    async fn rounds(&mut self, count: u32) -> anyhow::Result<()> {
        self.stage.start_server().await?;
        for round in 0..count {
            let watcher = DirWatcher::start(&self.stage.data_dir())?;
            self.until_a_random_byte().await?;
            let struck = match self.fault {
                PowerFault::PowerCut(file_system) => self.cut_power(file_system, watcher).await,
                PowerFault::KillServer => self.kill_server(watcher).await,
                PowerFault::KillAgent => self.kill_agent(watcher).await,
            };
            struck.with_context(|| format!("round {round}"))?;
            self.stage.oracle.retire(&self.stage.data_dir(), 3)?;
        }
        // Everything that is open ends well once nothing fails any more.
        self.begin().await?;
        if let Some(transfer) = self.transfer.take() {
            self.stage.done(&transfer).await?;
        }
        self.stage.audit(true).await?;
        self.stage.strike().await
    }

    /// Lets the agent send, and stops at any byte of the file, or a little after the last.
    async fn until_a_random_byte(&mut self) -> anyhow::Result<()> {
        let before = self.stage.proxy.sent();
        self.begin().await?;
        let id = self.transfer.clone().context("there is a transfer")?;
        let at = before + self.dice.u64(0..self.stage.cells(0).len() * 5 / 4);
        let late = Duration::from_micros(self.dice.u64(0..20_000));
        let Scenario { proxy, .. } = &self.stage;
        let path = format!("/api/v1/transfers/{id}?wait=20s");
        let finished = tokio::select! {
            sent = proxy.sent_at_least(at) => sent.map(|()| None),
            finished = self.stage.bed.json(&path) => finished.map(Some),
        }?;
        if let Some(transfer) = finished {
            anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
            self.stage.oracle.answered(&transfer)?;
            self.transfer = None;
            sleep(late).await;
        }
        Ok(())
    }

    /// Everything runs, and a transfer is under way.
    async fn begin(&mut self) -> anyhow::Result<()> {
        if self.stage.agent(0).is_err() {
            let slow = self.dice.u8(0..6) == 0;
            self.stage.client_setting(0, "MAX_RATE", if slow { SLOW } else { FAST });
            self.stage.connect(0).await?;
        }
        if let Some(id) = &self.transfer {
            let transfer = self.stage.transfer(id).await?;
            anyhow::ensure!(transfer["state"] != "failed", "failed: {transfer}");
            if transfer["state"] == "done" {
                self.transfer = None;
            }
        }
        if self.transfer.is_none() {
            self.stage.resize(0, FILE_LEN - self.dice.usize(0..SHORTER))?;
            self.transfer = Some(self.stage.order(0).await?);
        }
        Ok(())
    }

    async fn cut_power(&mut self, kind: FileSystem, watcher: DirWatcher) -> anyhow::Result<()> {
        let disks = self.disks.as_ref().context("there is a disk")?;
        let data_dir = self.stage.data_dir();
        for switch in disks.switches()? {
            switch.cut().await?;
        }
        self.trial.tally.fault(kind.cut_name());
        self.stage.kill_server().await?;
        watcher.stop()?;
        disks.remount().await?;
        self.stage.oracle.power_cut();
        self.stage.oracle.look(&data_dir, false)?;
        self.back().await
    }

    async fn kill_server(&mut self, watcher: DirWatcher) -> anyhow::Result<()> {
        self.stage.kill_server().await?;
        self.trial.tally.fault("server kills");
        self.stage.oracle.look(&self.stage.data_dir(), false)?;
        self.back().await?;
        watcher.stop()
    }

    async fn kill_agent(&mut self, watcher: DirWatcher) -> anyhow::Result<()> {
        self.stage.kill_agent(0).await;
        self.trial.tally.fault("agent kills");
        self.stage.audit(false).await?;
        watcher.stop()
    }

    /// The server starts again, first without agents, so that what it recovers can be counted.
    async fn back(&mut self) -> anyhow::Result<()> {
        // Half of the time the agent lives on and finds the server again by itself.
        if self.dice.bool() {
            self.stage.kill_agent(0).await;
        }
        let started = timeout(Duration::from_secs(10), self.stage.start_server_alone()).await;
        started.context("the server does not come back")??;
        self.stage.recovered().await?;
        self.stage.let_agents_in();
        Ok(())
    }
}
