//! R6: the file changes while it is read, in every way that a program can change it.

mod single_version;
mod source_writer;

use std::path::PathBuf;
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
use single_version::check_single_version;
use source_writer::{SourceWriter, Versions, WriteMethod};

pub(super) const PROMISE: Promise = Promise {
    id: "R6",
    statement: "One version of the source: a changing file is sent as it once was, or rejected.",
    requirements: &[Requirement::Program("python3", "python3")],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

const TRANSFERS: u32 = 200;
/// More than the agent reads ahead, so that the end is read later than the beginning.
const FILE_LEN: usize = 2 << 20;
const RATE: &str = "32MiB/s";
const CHANGES_PER_SECOND: [u32; 3] = [1, 10, 1_000];

async fn run(trial: &Trial) -> anyhow::Result<()> {
    try_join_all(WriteMethod::ALL.map(|method| run_worker(trial, method))).await.map(drop)
}

async fn run_worker(trial: &Trial, method: WriteMethod) -> anyhow::Result<()> {
    let name = format!("r6-{method:?}").to_lowercase();
    let scenario = Scenario::prepare(trial, &[]).await?;
    let mut worker = ChangingSourceWorker {
        trial,
        method,
        rng: trial.rng(&name),
        scenario,
        n_published: 0,
        base: None,
    };
    let workers = u32::try_from(WriteMethod::ALL.len() * CHANGES_PER_SECOND.len())?;
    let tried = worker.run(&name, trial.share(TRANSFERS, workers)).await;
    worker.scenario.explain(&name, tried)
}

struct ChangingSourceWorker<'a> {
    trial: &'a Trial,
    method: WriteMethod,
    rng: Rng,
    scenario: Scenario,
    n_published: u32,
    /// The last download.
    base: Option<PathBuf>,
}

impl ChangingSourceWorker<'_> {
    async fn run(&mut self, name: &str, at_each_rate: u32) -> anyhow::Result<()> {
        self.scenario.start_server().await?;
        self.scenario.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
        self.scenario.connect(0).await?;
        let file = self.scenario.files(0).join("data.txt");
        let versions = Versions::make("client1", FILE_LEN);
        let mut rates = CHANGES_PER_SECOND;
        self.rng.shuffle(&mut rates);
        for rate in rates {
            let beside = self.scenario.server.folder().join(name);
            let writer = SourceWriter::start(
                &self.trial.sandbox,
                self.method,
                &versions,
                &file,
                &beside,
                rate,
            )?;
            for n in 0..at_each_rate {
                let tried = self.transfer().await;
                tried.with_context(|| format!("transfer {n} at {rate} Hz"))?;
            }
            self.trial.counters.faults("changes of the source", writer.stop().await?);
        }
        anyhow::ensure!(0 < self.n_published, "no file was published");
        self.scenario.teardown().await
    }

    /// Runs one transfer. Sometimes its upload is cut: bytes of two versions must not be mixed.
    async fn transfer(&mut self) -> anyhow::Result<()> {
        let cut_at = self.rng.u64(0..4 * FILE_LEN as u64);
        let id = self.scenario.trigger(0).await?;
        let Scenario { server, proxy, .. } = &self.scenario;
        let sent = proxy.sent();
        let cut = async {
            proxy.sent_at_least(sent + cut_at).await?;
            proxy.cut_uploads();
            self.trial.counters.fault("uploads cut");
            std::future::pending::<anyhow::Result<Value>>().await
        };
        let path = format!("/api/v1/transfers/{id}?wait=30s");
        let transfer = tokio::select! {
            finished = server.json(&path) => finished?,
            cut = cut => cut?,
        };
        self.scenario.oracle.record_answer(&transfer)?;
        match (transfer["state"].as_str(), transfer["error"]["code"].as_str()) {
            (Some("done"), _) => self.published(&transfer),
            // These writers do not change the file that was opened.
            (Some("failed"), Some("file-changed")) if !self.method.keeps_what_was_opened() => {
                Ok(())
            }
            _ => anyhow::bail!("{transfer}"),
        }
    }

    fn published(&mut self, transfer: &Value) -> anyhow::Result<()> {
        self.n_published += 1;
        let name = transfer["download"]["name"].as_str().context("a download has a name")?;
        let path = self.scenario.data_dir().join("client1").join(name);
        let bytes = std::fs::read(&path)?;
        if let Err(flaw) = check_single_version(self.method, "client1", FILE_LEN, &bytes) {
            self.trial.counters.wrong_file();
            anyhow::bail!("{name} does not match any version of the client's file: {flaw}");
        }
        self.trial.counters.right_file();
        // The last one stays, because the next upload may copy from it. All of them would fill the
        // memory.
        match self.base.replace(path) {
            Some(checked) => Ok(std::fs::remove_file(checked)?),
            None => Ok(()),
        }
    }
}
