//! R6: the file changes while it is read, in every way a program may do that, and is never blended.

mod instant;
mod writer;

use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::try_join_all;
use serde_json::Value;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::Requirement;
use crate::trial::Trial;
use instant::at_one_instant;
use writer::{SourceWriter, Versions, WriteMethod};

pub(super) const PROMISE: Promise = Promise {
    id: "R6",
    promised: "One version of the source: a file that changes is sent as it once was, or refused.",
    needs: &[Requirement::Program("python3", "python3")],
    limit: Duration::from_secs(60),
    attempt: |trial| attempt(trial).boxed(),
};

const TRANSFERS: u32 = 200;
/// More than the agent reads ahead of the line: the rest of it is read later than its beginning.
const FILE_LEN: usize = 2 << 20;
const RATE: &str = "32MiB/s";
/// Changes in a second.
const PACES: [u32; 3] = [1, 10, 1_000];

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    try_join_all(WriteMethod::ALL.map(|way| lane(trial, way))).await.map(drop)
}

async fn lane(trial: &Trial, way: WriteMethod) -> anyhow::Result<()> {
    let name = format!("r6-{way:?}").to_lowercase();
    let stage = Scenario::set(trial, &[]).await?;
    let mut lane =
        ChangingSourceWorker { trial, way, dice: trial.dice(&name), stage, n_published: 0 };
    let lanes = u32::try_from(WriteMethod::ALL.len() * PACES.len())?;
    let tried = lane.run(&name, trial.share(TRANSFERS, lanes)).await;
    lane.stage.explain(&name, tried)
}

struct ChangingSourceWorker<'a> {
    trial: &'a Trial,
    way: WriteMethod,
    dice: Rng,
    stage: Scenario,
    n_published: u32,
}

impl ChangingSourceWorker<'_> {
    async fn run(&mut self, name: &str, at_each_pace: u32) -> anyhow::Result<()> {
        self.stage.start_server().await?;
        self.stage.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
        self.stage.connect(0).await?;
        let file = self.stage.files(0).join("data.txt");
        let versions = Versions::make("client1", FILE_LEN);
        let mut paces = PACES;
        self.dice.shuffle(&mut paces);
        for pace in paces {
            let beside = self.stage.bed.folder().join(name);
            let writer =
                SourceWriter::start(&self.trial.ground, self.way, &versions, &file, &beside, pace)?;
            for n in 0..at_each_pace {
                let tried = self.transfer().await;
                tried.with_context(|| format!("transfer {n} at {pace} Hz"))?;
            }
            self.trial.tally.faults("changes of the source", writer.stop().await?);
        }
        anyhow::ensure!(0 < self.n_published, "not one file was published");
        self.stage.strike().await
    }

    /// One transfer. Now and then its upload is cut: what came of one version must not be glued to
    /// what comes of another.
    async fn transfer(&mut self) -> anyhow::Result<()> {
        let cut_at = self.dice.u64(0..4 * FILE_LEN as u64);
        let id = self.stage.order(0).await?;
        let Scenario { bed, proxy, .. } = &self.stage;
        let sent = proxy.sent();
        let cut = async {
            proxy.sent_at_least(sent + cut_at).await?;
            proxy.cut_uploads();
            self.trial.tally.fault("uploads cut");
            std::future::pending::<anyhow::Result<Value>>().await
        };
        let path = format!("/api/v1/transfers/{id}?wait=30s");
        let transfer = tokio::select! {
            finished = bed.json(&path) => finished?,
            cut = cut => cut?,
        };
        self.stage.oracle.answered(&transfer)?;
        match (transfer["state"].as_str(), transfer["error"]["code"].as_str()) {
            (Some("done"), _) => self.published(&transfer),
            // What is replaced or appended to is the file that was opened, and has not changed.
            (Some("failed"), Some("file-changed")) if !self.way.keeps_what_was_opened() => Ok(()),
            _ => anyhow::bail!("{transfer}"),
        }
    }

    fn published(&mut self, transfer: &Value) -> anyhow::Result<()> {
        self.n_published += 1;
        let name = transfer["download"]["name"].as_str().context("it has a name")?;
        let path = self.stage.data_dir().join("client1").join(name);
        let bytes = std::fs::read(&path)?;
        if let Err(flaw) = at_one_instant(self.way, "client1", FILE_LEN, &bytes) {
            self.trial.tally.wrong_file();
            anyhow::bail!("{name} was never the file of the client: {flaw}");
        }
        self.trial.tally.right_file();
        // It has been looked at, and the folder would fill the memory.
        Ok(std::fs::remove_file(path)?)
    }
}
