//! R7: the file changes just before each trigger, while an earlier transfer may be in any phase.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R7",
    statement: "Fresh, or marked `joined`: a file is never older than its trigger without notice.",
    requirements: &[],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

const TRIGGERS: u32 = 2_000;
const WORKERS: u32 = 4;
const FILE_LEN: usize = 128 << 10;
/// A file takes about 30 ms, so that most triggers find a running transfer.
const RATE: &str = "4MiB/s";
const LONGEST_PAUSE_US: u64 = 20_000;
/// With this many triggers, a worker must have joined some transfers; otherwise it has tested
/// nothing.
const MANY: u32 = 50;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let workers = (0..WORKERS).map(|n| run_worker(trial, n));
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, n: u32) -> anyhow::Result<()> {
    let name = format!("r7-{n}");
    let scenario = Scenario::prepare(trial, &[]).await?;
    let rng = trial.rng(&name);
    let mut worker =
        FreshFileWorker { trial, rng, scenario, history: Vec::new(), triggers: Vec::new() };
    let tried = worker.run(trial.share(TRIGGERS, WORKERS)).await;
    worker.scenario.explain(&name, tried)
}

struct FreshFileWorker<'a> {
    trial: &'a Trial,
    rng: Rng,
    scenario: Scenario,
    /// Each version of the file, and a time at which it existed.
    history: Vec<(DateTime<Utc>, u32)>,
    triggers: Vec<TriggerCheck>,
}

/// A trigger and its answer.
struct TriggerCheck {
    id: String,
    fresh: bool,
    joined: bool,
    /// The oldest version that the promise allows.
    oldest: u32,
}

impl FreshFileWorker<'_> {
    async fn run(&mut self, count: u32) -> anyhow::Result<()> {
        self.scenario.start_server().await?;
        self.scenario.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
        self.scenario.connect(0).await?;
        for _ in 0..count {
            self.scenario.new_version(0)?;
            self.history.push((Utc::now(), self.scenario.pattern(0).version));
            self.trial.counters.fault("new versions just before a trigger");
            self.trigger().await?;
            sleep(Duration::from_micros(self.rng.u64(0..LONGEST_PAUSE_US))).await;
        }
        let n_joined =
            self.triggers.iter().filter(|trigger| trigger.joined && !trigger.fresh).count();
        anyhow::ensure!(count < MANY || 0 < n_joined, "none of {count} triggers joined a transfer");
        self.compare().await?;
        self.scenario.audit(true).await?;
        self.scenario.end().await
    }

    /// Sends one trigger, in one of its two forms.
    async fn trigger(&mut self) -> anyhow::Result<()> {
        let fresh = self.rng.u8(0..4) == 0;
        let short_form = self.rng.u8(0..4) == 0;
        let server = &self.scenario.server;
        let reply = if short_form {
            let path = if fresh { "/trigger?id=client1&fresh" } else { "/trigger?id=client1" };
            server.send(Method::GET, path, &[("accept", "application/json")], "").await?
        } else {
            let body = json!({ "client": "client1", "fresh": fresh }).to_string();
            let headers = [("content-type", "application/json")];
            server.send(Method::POST, "/api/v1/transfers", &headers, &body).await?
        };
        anyhow::ensure!(matches!(reply.status, 200..=202), "{}: {}", reply.status, reply.text());
        let answer = reply.json()?;
        self.scenario.oracle.record_answer(&answer)?;
        let id = answer["id"].as_str().context("a transfer has an id")?.to_owned();
        let joined = answer["joined"] == true;
        let known = self.triggers.iter().any(|trigger| trigger.id == id);
        anyhow::ensure!(known == joined, "transfer known before: {known}; the answer: {answer}");
        let oldest = self.oldest(fresh, &answer)?;
        self.triggers.push(TriggerCheck { id, fresh, joined, oldest });
        Ok(())
    }

    /// The current version, unless the answer says that the trigger joined an older transfer.
    fn oldest(&self, fresh: bool, answer: &Value) -> anyhow::Result<u32> {
        let now = self.scenario.pattern(0).version;
        let (true, false, Some(since)) =
            (answer["joined"] == true, fresh, answer["started_at"].as_str())
        else {
            return Ok(now);
        };
        let started_at = DateTime::parse_from_rfc3339(since)?.to_utc();
        let there = self.history.iter().rev().find(|(at, _)| *at <= started_at);
        Ok(there.map_or(0, |(_, version)| *version))
    }

    /// Compares the published files with the triggers.
    async fn compare(&mut self) -> anyhow::Result<()> {
        let mut downloads = HashMap::new();
        for TriggerCheck { id, fresh, joined, oldest } in std::mem::take(&mut self.triggers) {
            if !downloads.contains_key(&id) {
                let transfer = self.scenario.wait_until_done(&id).await?;
                let name =
                    transfer["download"]["name"].as_str().context("a download has a name")?;
                let path = self.scenario.data_dir().join("client1").join(name);
                downloads.insert(id.clone(), std::fs::read(path)?);
            }
            if let Err(flaw) = TestPattern::read_since("client1", oldest, &downloads[&id]) {
                self.trial.counters.wrong_file();
                anyhow::bail!("{id}: {flaw}; fresh: {fresh}, joined: {joined}");
            }
        }
        Ok(())
    }
}
