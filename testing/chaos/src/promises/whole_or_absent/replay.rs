//! The disk of one publish is recorded, and every state in which a power cut could have left it is
//! made again: each prefix of its writes, and any part of those between two flushes.

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
/// Long enough for a checkpoint.
const SLOW: &str = "512KiB/s";
const FAST: &str = "1GiB/s";
const STATES: u32 = 60;

pub(super) async fn lane(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    stage.add_client("client1", FILE_LEN, &[])?;
    let recorded = record(trial, &mut stage).await;
    let publish = stage.explain(NAME, recorded)?;
    let image = trial.ground.folder().join(format!("{NAME}-state"));
    let mut replay = Replay { trial, stage, publish, image };
    let tried = replay.states().await;
    replay.stage.explain(NAME, tried)
}

/// What was recorded of a publish.
struct Publish {
    recording: Recording,
    /// So many steps had been done when the disk was mounted.
    mounted: usize,
    /// Answers, and how many steps had been done when they were there.
    answers: Vec<(usize, Value)>,
}

async fn record(trial: &Trial, stage: &mut Scenario) -> anyhow::Result<Publish> {
    let recorder = Recorder::start(&trial.ground, NAME, &stage.data_dir()).await?;
    let mounted = recorder.now()?;
    stage.start_server().await?;
    stage.client_setting(0, "MAX_RATE", SLOW);
    stage.connect(0).await?;
    let id = stage.order(0).await?;
    let ordered = (recorder.now()?, serde_json::json!({ "id": id }));
    let done = stage.done(&id).await?;
    let done = (recorder.now()?, done);
    stage.end().await?;
    let recording = recorder.stop().await?;
    let place = |(place, answer): (u64, Value)| (recording.steps_until(place), answer);
    let answers = [ordered, done].map(place).to_vec();
    Ok(Publish { mounted: recording.steps_until(mounted), recording, answers })
}

struct Replay<'a> {
    trial: &'a Trial,
    stage: Scenario,
    publish: Publish,
    image: PathBuf,
}

impl Replay<'_> {
    async fn states(&mut self) -> anyhow::Result<()> {
        self.stage.client_setting(0, "MAX_RATE", FAST);
        let Publish { recording, mounted, .. } = &self.publish;
        let mut dice = self.trial.dice(NAME);
        let mut states = Vec::new();
        if self.trial.soak {
            states = recording.prefixes(*mounted);
        }
        states.extend((0..self.trial.times(STATES)).map(|_| recording.any(*mounted, &mut dice)));
        for state in &states {
            let tried = self.state(state).await;
            let len = self.publish.recording.len();
            tried.with_context(|| format!("{state:?} of {len} steps"))?;
        }
        Ok(())
    }

    async fn state(&mut self, state: &CrashState) -> anyhow::Result<()> {
        self.stage.oracle = Oracle::new(self.trial.tally.clone());
        for (steps, answer) in &self.publish.answers {
            if *steps <= state.cut {
                self.stage.oracle.answered(answer)?;
            }
        }
        block_in_place(|| self.publish.recording.make(state, &self.image))?;
        let disk = LoopDisk::of(&self.trial.ground, &self.image, &self.stage.data_dir()).await?;
        self.trial.tally.fault("crash states replayed");
        self.back().await?;
        self.stage.strike().await?;
        disk.unmount().await
    }

    /// The power is back: nothing is wrong, what was answered holds, and the transfer ends well.
    async fn back(&mut self) -> anyhow::Result<()> {
        self.stage.oracle.look(&self.stage.data_dir(), false)?;
        self.stage.start_server_alone().await?;
        self.stage.recovered().await?;
        self.stage.let_agents_in();
        self.stage.connect(0).await?;
        let transfers = self.stage.transfers().await?;
        let mut open: Vec<String> = transfers
            .iter()
            .filter(|transfer| !is_final(transfer))
            .filter_map(|transfer| transfer["id"].as_str().map(str::to_owned))
            .collect();
        if transfers.is_empty() {
            open.push(self.stage.order(0).await?);
        }
        for id in open {
            self.stage.done(&id).await?;
        }
        self.stage.audit(true).await?;
        let said = self.stage.bed.server()?.said().join("\n");
        anyhow::ensure!(!said.contains("panicked"), "it panicked:\n{said}");
        Ok(())
    }
}
