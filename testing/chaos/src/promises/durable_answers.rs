//! R3: the power fails right after an answer, and the answer must still be true. File systems do
//! more than they guarantee, so the order of the system calls before an answer is checked too.

mod call_order;
mod durable_offsets;

use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
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
    statement: "Acknowledged means durable: no power cut invalidates an answer.",
    requirements: LOOP_DISKS,
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

/// Power cuts on each file system.
const POWER_CUTS: u32 = 380;
/// Additional power cuts during an upload with acknowledged bytes: 400 in total.
const ACKS: u32 = 20;
/// One of the workers has the records on a separate disk: on a shared disk, the sync of the records
/// would hide a missing sync of a folder.
const WORKERS: u32 = 2;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> =
        vec![call_order::run(trial).boxed_local()];
    for file_system in FileSystem::ALL {
        workers
            .push(durable_offsets::run_worker(trial, file_system, trial.times(ACKS)).boxed_local());
        for n in 0..WORKERS {
            workers.push(
                run_worker(trial, file_system, n, trial.share(POWER_CUTS, WORKERS)).boxed_local(),
            );
        }
    }
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, kind: FileSystem, n: u32, count: u32) -> anyhow::Result<()> {
    let name = format!("r3-{}-{n}", kind.name());
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let separate_records = n.is_multiple_of(2);
    let disks =
        LoopDisks::make(&trial.sandbox, kind, &name, &scenario.data_dir(), separate_records)
            .await?;
    scenario.add_client("client1", 1, &[])?;
    let mut worker = DurableAnswerWorker { trial, kind, rng: trial.rng(&name), scenario, disks };
    let tried = worker.rounds(count).await;
    worker.scenario.explain(&format!("{name}, separate records: {separate_records}"), tried)
}

struct DurableAnswerWorker<'a> {
    trial: &'a Trial,
    kind: FileSystem,
    rng: Rng,
    scenario: Scenario,
    disks: LoopDisks,
}

impl DurableAnswerWorker<'_> {
    async fn rounds(&mut self, count: u32) -> anyhow::Result<()> {
        self.scenario.start_server().await?;
        for round in 0..count {
            self.round().await.with_context(|| format!("round {round}"))?;
            self.scenario.oracle.delete_old_downloads(&self.scenario.data_dir(), 3)?;
        }
        self.scenario.audit(true).await?;
        self.scenario.teardown().await
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.scenario.connect(0).await?;
        // Finishes transfers of earlier rounds: a trigger would only join them.
        for open in self.scenario.transfers().await?.iter().filter(|transfer| !is_final(transfer)) {
            self.scenario.wait_until_done(open["id"].as_str().unwrap_or_default()).await?;
        }
        let largest = if self.rng.u8(0..12) == 0 { 9 << 20 } else { 256 << 10 };
        self.scenario.resize(0, self.rng.usize(1..largest))?;
        let switches = self.disks.switches()?;
        let answered = self.rng.u8(0..8);
        let id = self.scenario.trigger(0).await?;
        let cancelled = match answered {
            0 => false, // the record alone
            1 => self.cancel(&id).await?,
            _ => {
                let path = format!("/api/v1/transfers/{id}?wait=20s");
                let transfer = self.scenario.server.json(&path).await?;
                anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
                self.scenario.oracle.record_answer(&transfer)?;
                false
            }
        };
        sleep(Duration::from_micros(self.rng.u64(0..5_000))).await;
        cut(&mut self.scenario, switches).await?;
        self.trial.counters.fault(self.kind.cut_name());
        self.disks.remount().await?;
        check_after_power_cut(&mut self.scenario).await?;
        let state = self.scenario.transfer(&id).await?["state"].clone();
        anyhow::ensure!(
            !cancelled || state == "cancelled",
            "{id} was cancelled and is now {state}"
        );
        self.scenario.accept_agents();
        Ok(())
    }

    /// Returns false if the transfer was already final.
    async fn cancel(&mut self, id: &str) -> anyhow::Result<bool> {
        let path = format!("/api/v1/transfers/{id}/cancel");
        let response = self.scenario.server.send(Method::POST, &path, &[], "").await?;
        anyhow::ensure!(response.status == 200, "{}", response.text());
        let transfer = response.json()?;
        self.scenario.oracle.record_answer(&transfer)?;
        Ok(transfer["state"] == "cancelled")
    }
}

/// Cuts the power of all disks at the same moment, then kills the programs.
async fn cut(scenario: &mut Scenario, switches: Vec<DiskSwitch>) -> anyhow::Result<()> {
    if 1 < switches.len() {
        // The server must not run between two cuts.
        scenario.stop_server().await?;
    }
    for switch in switches {
        switch.cut().await?;
    }
    scenario.kill_agent(0).await;
    scenario.kill_server().await
}

/// After the power cut: checks the disk before the server starts, then the answers of the server.
async fn check_after_power_cut(scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.oracle.after_power_cut();
    scenario.oracle.check_files(&scenario.data_dir(), false)?;
    scenario.start_server_without_agents().await?;
    scenario.check_recovery().await
}
