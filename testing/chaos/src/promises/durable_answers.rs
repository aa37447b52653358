//! R3: the power fails right after an answer, and what was answered is still true. And, because
//! disks are kinder than they promise, the order of the system calls that lead to an answer.

mod acks;
mod calls;

use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use hyper::Method;
use tokio::time::sleep;

use crate::disk::{DiskSwitch, FileSystem, LoopDisks};
use crate::oracle::is_final;
use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::LOOP_DISKS;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R3",
    promised: "Acknowledged means durable: no power cut takes back what an answer has said.",
    needs: LOOP_DISKS,
    limit: Duration::from_secs(120),
    attempt: |trial| attempt(trial).boxed(),
};

/// On each file system.
const POWER_CUTS: u32 = 380;
/// And these with an upload of which a part has been acknowledged as durable: 400 in all.
const ACKS: u32 = 20;
/// Half of them with the records on a disk of their own: one disk's journal, synced for the
/// records, would hide that a folder was not.
const LANES: u32 = 2;

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut lanes: Vec<BoxFuture<'_, anyhow::Result<()>>> = vec![calls::attempt(trial).boxed()];
    for file_system in FileSystem::ALL {
        lanes.push(acks::lane(trial, file_system, trial.times(ACKS)).boxed());
        for n in 0..LANES {
            lanes.push(lane(trial, file_system, n, trial.share(POWER_CUTS, LANES)).boxed());
        }
    }
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, kind: FileSystem, n: u32, count: u32) -> anyhow::Result<()> {
    let name = format!("r3-{}-{n}", kind.name());
    let mut stage = Scenario::set(trial, &[]).await?;
    let apart = n.is_multiple_of(2);
    let disks = LoopDisks::make(&trial.ground, kind, &name, &stage.data_dir(), apart).await?;
    stage.add_client("client1", 1, &[])?;
    let mut lane = DurableAnswerWorker { trial, kind, dice: trial.dice(&name), stage, disks };
    let tried = lane.rounds(count).await;
    lane.stage.explain(&format!("{name}, records apart: {apart}"), tried)
}

struct DurableAnswerWorker<'a> {
    trial: &'a Trial,
    kind: FileSystem,
    dice: Rng,
    stage: Scenario,
    disks: LoopDisks,
}

impl DurableAnswerWorker<'_> {
    async fn rounds(&mut self, count: u32) -> anyhow::Result<()> {
        self.stage.start_server().await?;
        for round in 0..count {
            self.round().await.with_context(|| format!("round {round}"))?;
            self.stage.oracle.retire(&self.stage.data_dir(), 3)?;
        }
        self.stage.audit(true).await?;
        self.stage.strike().await
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.stage.connect(0).await?;
        // What an earlier round left open goes first, or this one would only join it.
        for open in self.stage.transfers().await?.iter().filter(|transfer| !is_final(transfer)) {
            self.stage.done(open["id"].as_str().unwrap_or_default()).await?;
        }
        let largest = if self.dice.u8(0..12) == 0 { 9 << 20 } else { 256 << 10 };
        self.stage.resize(0, self.dice.usize(1..largest))?;
        let switches = self.disks.switches()?;
        let answered = self.dice.u8(0..8);
        let id = self.stage.order(0).await?;
        let cancelled = match answered {
            0 => false, // the record alone
            1 => self.cancel(&id).await?,
            _ => {
                let path = format!("/api/v1/transfers/{id}?wait=20s");
                let transfer = self.stage.bed.json(&path).await?;
                anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
                self.stage.oracle.answered(&transfer)?;
                false
            }
        };
        sleep(Duration::from_micros(self.dice.u64(0..5_000))).await;
        cut(&mut self.stage, switches).await?;
        self.trial.tally.fault(self.kind.cut_name());
        self.disks.remount().await?;
        back(&mut self.stage).await?;
        let state = self.stage.transfer(&id).await?["state"].clone();
        anyhow::ensure!(!cancelled || state == "cancelled", "{id} was cancelled, and is {state}");
        self.stage.let_agents_in();
        Ok(())
    }

    /// Cancels; false if it was too late.
    async fn cancel(&mut self, id: &str) -> anyhow::Result<bool> {
        let path = format!("/api/v1/transfers/{id}/cancel");
        let reply = self.stage.bed.send(Method::POST, &path, &[], "").await?;
        anyhow::ensure!(reply.status == 200, "{}", reply.text());
        let transfer = reply.json()?;
        self.stage.oracle.answered(&transfer)?;
        Ok(transfer["state"] == "cancelled")
    }
}

/// Cuts the power of all disks at one instant of the server's life, and ends it.
async fn cut(stage: &mut Scenario, switches: Vec<DiskSwitch>) -> anyhow::Result<()> {
    if 1 < switches.len() {
        // Between two switches nothing may happen: one plug has only one instant.
        stage.stop_server().await?;
    }
    for switch in switches {
        switch.cut().await?;
    }
    stage.kill_agent(0).await;
    stage.kill_server().await
}

/// The power is back: looks at the disk before the server does, then at what the server says.
async fn back(stage: &mut Scenario) -> anyhow::Result<()> {
    stage.oracle.power_cut();
    stage.oracle.look(&stage.data_dir(), false)?;
    stage.start_server_alone().await?;
    stage.recovered().await
}
