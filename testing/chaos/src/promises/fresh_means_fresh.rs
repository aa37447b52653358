//! R7: the file changes just before each trigger, at any phase of a transfer that runs.

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
    promised: "Fresh, or says so: a file is not older than its trigger, or that was `joined`.",
    needs: &[],
    limit: Duration::from_secs(30),
    attempt: |trial| attempt(trial).boxed(),
};

const TRIGGERS: u32 = 2_000;
const LANES: u32 = 4;
const FILE_LEN: usize = 128 << 10;
/// A file takes about 30 ms, so that most triggers find one under way.
const RATE: &str = "4MiB/s";
const LONGEST_PAUSE_US: u64 = 20_000;
/// Of a lane with so many triggers some have joined others, or it has tried nothing.
const MANY: u32 = 50;

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let lanes = (0..LANES).map(|n| lane(trial, n));
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, n: u32) -> anyhow::Result<()> {
    let (name, stage) = (format!("r7-{n}"), Scenario::set(trial, &[]).await?);
    let dice = trial.dice(&name);
    let mut lane = FreshFileWorker { trial, dice, stage, history: Vec::new(), asked: Vec::new() };
    let tried = lane.run(trial.share(TRIGGERS, LANES)).await;
    lane.stage.explain(&name, tried)
}

struct FreshFileWorker<'a> {
    trial: &'a Trial,
    dice: Rng,
    stage: Scenario,
    /// Each version of the file, and when it was certainly there.
    history: Vec<(DateTime<Utc>, u32)>,
    asked: Vec<TriggerCheck>,
}

/// A trigger and its answer.
struct TriggerCheck {
    id: String,
    fresh: bool,
    joined: bool,
    /// The oldest version that keeps the promise.
    oldest: u32,
}

impl FreshFileWorker<'_> {
    async fn run(&mut self, count: u32) -> anyhow::Result<()> {
        self.stage.start_server().await?;
        self.stage.add_client("client1", FILE_LEN, &[("MAX_RATE", RATE)])?;
        self.stage.connect(0).await?;
        for _ in 0..count {
            self.stage.new_version(0)?;
            self.history.push((Utc::now(), self.stage.cells(0).version));
            self.trial.tally.fault("new versions just before a trigger");
            self.ask().await?;
            sleep(Duration::from_micros(self.dice.u64(0..LONGEST_PAUSE_US))).await;
        }
        let n_joined = self.asked.iter().filter(|asked| asked.joined && !asked.fresh).count();
        anyhow::ensure!(count < MANY || 0 < n_joined, "no trigger of {count} has joined another");
        self.compare().await?;
        self.stage.audit(true).await?;
        self.stage.end().await
    }

    /// One trigger, in one of its two forms.
    async fn ask(&mut self) -> anyhow::Result<()> {
        let (fresh, in_words) = (self.dice.u8(0..4) == 0, self.dice.u8(0..4) == 0);
        let bed = &self.stage.bed;
        let reply = if in_words {
            let path = if fresh { "/trigger?id=client1&fresh" } else { "/trigger?id=client1" };
            bed.send(Method::GET, path, &[("accept", "application/json")], "").await?
        } else {
            let order = json!({ "client": "client1", "fresh": fresh }).to_string();
            let headers = [("content-type", "application/json")];
            bed.send(Method::POST, "/api/v1/transfers", &headers, &order).await?
        };
        anyhow::ensure!(matches!(reply.status, 200..=202), "{}: {}", reply.status, reply.text());
        let answer = reply.json()?;
        self.stage.oracle.answered(&answer)?;
        let id = answer["id"].as_str().context("a transfer has an id")?.to_owned();
        let joined = answer["joined"] == true;
        let known = self.asked.iter().any(|asked| asked.id == id);
        anyhow::ensure!(known == joined, "known before: {known}; the answer: {answer}");
        let oldest = self.oldest(fresh, &answer)?;
        self.asked.push(TriggerCheck { id, fresh, joined, oldest });
        Ok(())
    }

    /// The version that is there now, unless the answer says that it joined what was begun before.
    fn oldest(&self, fresh: bool, answer: &Value) -> anyhow::Result<u32> {
        let now = self.stage.cells(0).version;
        let (true, false, Some(since)) =
            (answer["joined"] == true, fresh, answer["started_at"].as_str())
        else {
            return Ok(now);
        };
        let since = DateTime::parse_from_rfc3339(since)?.to_utc();
        let there = self.history.iter().rev().find(|(at, _)| *at <= since);
        Ok(there.map_or(0, |(_, version)| *version))
    }

    /// Holds what was published against what was asked for.
    async fn compare(&mut self) -> anyhow::Result<()> {
        let mut downloads = HashMap::new();
        for TriggerCheck { id, fresh, joined, oldest } in std::mem::take(&mut self.asked) {
            if !downloads.contains_key(&id) {
                let transfer = self.stage.done(&id).await?;
                let name = transfer["download"]["name"].as_str().context("it has a name")?;
                let path = self.stage.data_dir().join("client1").join(name);
                downloads.insert(id.clone(), std::fs::read(path)?);
            }
            if let Err(flaw) = TestPattern::read_since("client1", oldest, &downloads[&id]) {
                self.trial.tally.wrong_file();
                anyhow::bail!("{id}: {flaw}; asked with fresh: {fresh}, joined: {joined}");
            }
        }
        Ok(())
    }
}
