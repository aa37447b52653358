//! R1: files of 16 MiB, while the power fails at random bytes and programs are killed. And a file
//! of 1 MiB, with every disk state that a power cut could leave.

mod crash_states;

use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
use tokio::time::{sleep, timeout};

use crate::dir_watcher::DirWatcher;
use crate::disk::{FileSystem, LoopDisks};
use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::{LOOP_DISKS, RECORDED_DISKS, Requirement, both};
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R1",
    statement: "Whole or absent: no crash or power cut ever exposes an incomplete file.",
    requirements: NEEDS,
    limit: Duration::from_secs(180),
    run: |trial| run(trial).boxed_local(),
};

const NEEDS: &[Requirement] =
    &both::<{ LOOP_DISKS.len() + RECORDED_DISKS.len() }>(LOOP_DISKS, RECORDED_DISKS);
const FILE_LEN: usize = 16 << 20;
/// The maximum by which a file is shorter. The server starts early to write received bytes to the
/// disk, except the last ones.
const MAX_SHORTER: usize = 7 << 20;
/// Power cuts on each file system.
const POWER_CUTS: u32 = 300;
const KILLS: u32 = 60;
/// Concurrent workers: a power cut is mostly waiting.
const WORKERS: u32 = 3;
/// One agent in six is slow, so that the server makes checkpoints.
const SLOW: &str = "8MiB/s";
const FAST: &str = "1GiB/s";

/// The fault at a random byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PowerFault {
    PowerCut(FileSystem),
    KillServer,
    KillAgent,
}

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> =
        vec![crash_states::run_worker(trial).boxed_local()];
    for n in 0..WORKERS {
        for file_system in FileSystem::ALL {
            let count = trial.share(POWER_CUTS, WORKERS);
            workers
                .push(run_worker(trial, PowerFault::PowerCut(file_system), n, count).boxed_local());
        }
    }
    workers.push(run_worker(trial, PowerFault::KillServer, 0, trial.times(KILLS)).boxed_local());
    workers.push(run_worker(trial, PowerFault::KillAgent, 0, trial.times(KILLS)).boxed_local());
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, fault: PowerFault, n: u32, count: u32) -> anyhow::Result<()> {
    let name = format!("r1-{fault:?}-{n}").to_lowercase().replace(['(', ')'], "-");
    let mut worker = WholeOrAbsentWorker {
        trial,
        fault,
        rng: trial.rng(&name),
        scenario: Scenario::prepare(trial, &[]).await?,
        disks: None,
        unfinished: None,
    };
    if let PowerFault::PowerCut(file_system) = fault {
        let at = worker.scenario.data_dir();
        worker.disks = Some(LoopDisks::make(&trial.sandbox, file_system, &name, &at, false).await?);
    }
    worker.scenario.add_client("client1", FILE_LEN, &[])?;
    let tried = worker.rounds(count).await;
    worker.scenario.explain(&name, tried)
}

struct WholeOrAbsentWorker<'a> {
    trial: &'a Trial,
    fault: PowerFault,
    rng: Rng,
    scenario: Scenario,
    disks: Option<LoopDisks>,
    unfinished: Option<String>,
}

impl WholeOrAbsentWorker<'_> {
    async fn rounds(&mut self, count: u32) -> anyhow::Result<()> {
        self.scenario.start_server().await?;
        for round in 0..count {
            let watcher = DirWatcher::start(&self.scenario.data_dir())?;
            self.wait_for_random_byte().await?;
            let injected = match self.fault {
                PowerFault::PowerCut(file_system) => self.cut_power(file_system, watcher).await,
                PowerFault::KillServer => self.kill_server(watcher).await,
                PowerFault::KillAgent => self.kill_agent(watcher).await,
            };
            injected.with_context(|| format!("round {round}"))?;
            self.scenario.oracle.delete_old_downloads(&self.scenario.data_dir(), 3)?;
        }
        // Without more faults the unfinished transfer must be done.
        self.begin().await?;
        if let Some(transfer) = self.unfinished.take() {
            self.scenario.wait_until_done(&transfer).await?;
        }
        self.scenario.audit(true).await?;
        self.scenario.teardown().await
    }

    /// Waits until a random byte of the file was sent, or a short time after the last byte.
    async fn wait_for_random_byte(&mut self) -> anyhow::Result<()> {
        let before = self.scenario.proxy.sent();
        self.begin().await?;
        let id = self.unfinished.clone().context("there is a transfer")?;
        let at = before + self.rng.u64(0..self.scenario.n_new_bytes(0) * 5 / 4);
        let late = Duration::from_micros(self.rng.u64(0..20_000));
        let Scenario { proxy, .. } = &self.scenario;
        let path = format!("/api/v1/transfers/{id}?wait=20s");
        let finished = tokio::select! {
            sent = proxy.sent_at_least(at) => sent.map(|()| None),
            finished = self.scenario.server.json(&path) => finished.map(Some),
        }?;
        if let Some(transfer) = finished {
            anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
            self.scenario.oracle.record_answer(&transfer)?;
            self.unfinished = None;
            sleep(late).await;
        }
        Ok(())
    }

    /// Starts what does not run, and a transfer if none is unfinished.
    async fn begin(&mut self) -> anyhow::Result<()> {
        if self.scenario.agent(0).is_err() {
            let slow = self.rng.u8(0..6) == 0;
            self.scenario.client_setting(0, "MAX_RATE", if slow { SLOW } else { FAST });
            self.scenario.connect(0).await?;
        }
        if let Some(id) = &self.unfinished {
            let transfer = self.scenario.transfer(id).await?;
            anyhow::ensure!(transfer["state"] != "failed", "failed: {transfer}");
            if transfer["state"] == "done" {
                self.unfinished = None;
            }
        }
        if self.unfinished.is_none() {
            self.scenario.resize(0, FILE_LEN - self.rng.usize(0..MAX_SHORTER))?;
            self.unfinished = Some(self.scenario.trigger(0).await?);
        }
        Ok(())
    }

    async fn cut_power(&mut self, kind: FileSystem, watcher: DirWatcher) -> anyhow::Result<()> {
        let disks = self.disks.as_ref().context("there is a disk")?;
        let data_dir = self.scenario.data_dir();
        for switch in disks.switches()? {
            switch.cut().await?;
        }
        self.trial.counters.fault(kind.cut_name());
        self.scenario.kill_server().await?;
        watcher.stop()?;
        disks.remount().await?;
        self.scenario.oracle.after_power_cut();
        self.scenario.oracle.check_files(&data_dir, false)?;
        self.check_restart().await
    }

    async fn kill_server(&mut self, watcher: DirWatcher) -> anyhow::Result<()> {
        self.scenario.kill_server().await?;
        self.trial.counters.fault("server kills");
        self.scenario.oracle.check_files(&self.scenario.data_dir(), false)?;
        self.check_restart().await?;
        watcher.stop()
    }

    async fn kill_agent(&mut self, watcher: DirWatcher) -> anyhow::Result<()> {
        self.scenario.kill_agent(0).await;
        self.trial.counters.fault("agent kills");
        self.scenario.audit(false).await?;
        watcher.stop()
    }

    /// Restarts the server, first without agents, so that the recovered partials can be counted.
    async fn check_restart(&mut self) -> anyhow::Result<()> {
        // In half of the cases the agent keeps running and finds the server again.
        if self.rng.bool() {
            self.scenario.kill_agent(0).await;
        }
        let started =
            timeout(Duration::from_secs(10), self.scenario.start_server_without_agents()).await;
        started.context("timed out waiting for the restart")??;
        self.scenario.check_recovery().await?;
        self.scenario.accept_agents();
        Ok(())
    }
}
