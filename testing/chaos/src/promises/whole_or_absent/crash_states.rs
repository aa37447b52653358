//! Records the disk of one publish and recreates states that a power cut could have left: each
//! prefix of its writes, and random subsets of the writes between two flushes.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::Value;
use tokio::task::block_in_place;

use crate::disk::LoopDisk;
use crate::oracle::{Oracle, is_final};
use crate::recorder::{CrashState, Recorder, Recording};
use crate::scenario::Scenario;
use crate::trial::Trial;

const NAME: &str = "r1-replay";
const FILE_LEN: usize = 1 << 20;
/// Slow enough for a checkpoint.
const SLOW: &str = "512KiB/s";
const FAST: &str = "1GiB/s";
const STATES: u32 = 60;

pub(super) async fn run_worker(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    scenario.add_client("client1", FILE_LEN, &[])?;
    let recorded = record(trial, &mut scenario).await;
    let publish = scenario.explain(NAME, recorded)?;
    let image = trial.sandbox.folder().join(format!("{NAME}-state"));
    let mut replay = Replay { trial, scenario, publish, image };
    let tried = replay.states().await;
    replay.scenario.explain(NAME, tried)
}

/// The recording of one publish.
struct Publish {
    recording: Recording,
    /// Steps before the disk was mounted.
    mounted: usize,
    /// The answers, each with the number of earlier steps.
    answers: Vec<(usize, Value)>,
}

async fn record(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<Publish> {
    let recorder = Recorder::start(&trial.sandbox, NAME, &scenario.data_dir()).await?;
    let mounted = recorder.now()?;
    scenario.start_server().await?;
    scenario.client_setting(0, "MAX_RATE", SLOW);
    scenario.connect(0).await?;
    let id = scenario.trigger(0).await?;
    let accepted = (recorder.now()?, serde_json::json!({ "id": id }));
    let transfer = scenario.wait_until_done(&id).await?;
    let done = (recorder.now()?, transfer);
    scenario.end().await?;
    let recording = recorder.stop().await?;
    let place = |(place, answer): (u64, Value)| (recording.steps_until(place), answer);
    let answers = [accepted, done].map(place).to_vec();
    Ok(Publish { mounted: recording.steps_until(mounted), recording, answers })
}

struct Replay<'a> {
    trial: &'a Trial,
    scenario: Scenario,
    publish: Publish,
    image: PathBuf,
}

impl Replay<'_> {
    async fn states(&mut self) -> anyhow::Result<()> {
        self.scenario.client_setting(0, "MAX_RATE", FAST);
        let Publish { recording, mounted, .. } = &self.publish;
        let mut rng = self.trial.rng(NAME);
        let mut states = Vec::new();
        if self.trial.soak {
            states = recording.prefixes(*mounted);
        }
        states.extend((0..self.trial.times(STATES)).map(|_| recording.any(*mounted, &mut rng)));
        for state in &states {
            let tried = self.state(state).await;
            let len = self.publish.recording.len();
            tried.with_context(|| format!("{state:?} of {len} steps"))?;
        }
        Ok(())
    }

    async fn state(&mut self, state: &CrashState) -> anyhow::Result<()> {
        self.scenario.oracle = Oracle::new(self.trial.counters.clone());
        for (steps, answer) in &self.publish.answers {
            if *steps <= state.cut {
                self.scenario.oracle.record_answer(answer)?;
            }
        }
        block_in_place(|| self.publish.recording.make(state, &self.image))?;
        let disk =
            LoopDisk::of(&self.trial.sandbox, &self.image, &self.scenario.data_dir()).await?;
        self.trial.counters.fault("crash states replayed");
        self.check_recovery().await?;
        self.scenario.teardown().await?;
        disk.unmount().await
    }

    /// After the power cut: no file is wrong, the answers hold, and the transfer ends well.
    async fn check_recovery(&mut self) -> anyhow::Result<()> {
        self.scenario.oracle.check_files(&self.scenario.data_dir(), false)?;
        self.scenario.start_server_without_agents().await?;
        self.scenario.check_recovery().await?;
        self.scenario.accept_agents();
        self.scenario.connect(0).await?;
        let transfers = self.scenario.transfers().await?;
        let mut open: Vec<String> = transfers
            .iter()
            .filter(|transfer| !is_final(transfer))
            .filter_map(|transfer| transfer["id"].as_str().map(str::to_owned))
            .collect();
        if transfers.is_empty() {
            open.push(self.scenario.trigger(0).await?);
        }
        for id in open {
            self.scenario.wait_until_done(&id).await?;
        }
        self.scenario.audit(true).await?;
        let log = self.scenario.server_process()?.said().join("\n");
        anyhow::ensure!(!log.contains("panicked"), "the server panicked:\n{log}");
        Ok(())
    }
}
