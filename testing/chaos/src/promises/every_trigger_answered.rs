//! R9: the server is killed at every system call between a trigger and its answer, and triggers go
//! to clients that are unknown, offline or silent.

mod silence;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::{HttpResponse, TestServer};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use hyper::Method;
use serde_json::json;
use tokio::time::timeout;

use crate::attached::{Attached, Point};
use crate::promise::Promise;
use crate::scenario::{PATIENCE, Scenario};
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R9",
    promised: "Honest API: a trigger is answered within 3 s, and what the answer says comes true.",
    needs: &[Requirement::Root, Requirement::Program("strace", "strace")],
    limit: Duration::from_secs(120),
    attempt: |trial| attempt(trial).boxed(),
};

const FILE_LEN: usize = 64 << 10;
const LANES: usize = 8;
/// Rounds over all points.
const ROUNDS: u32 = 10;
/// For each kind of silence.
const SILENCES: u32 = 8;

/// How a transfer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TriggerKind {
    /// In the short form.
    Trigger,
    /// In the form for machines, with a key that may be used again.
    Keyed,
    /// The same, while the client is offline.
    KeyedOffline,
}

impl TriggerKind {
    const ALL: [Self; 3] = [Self::Trigger, Self::Keyed, Self::KeyedOffline];

    async fn send(self, bed: &TestServer, key: &str) -> anyhow::Result<HttpResponse> {
        if self == Self::Trigger {
            return bed.send(Method::POST, "/trigger?id=client1&queue=1h", &[], "").await;
        }
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let order = json!({ "client": "client1", "queue": "1h" }).to_string();
        bed.send(Method::POST, "/api/v1/transfers", &headers, &order).await
    }
}

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut points = Vec::new();
    for ask in TriggerKind::ALL {
        let mut scout = TriggerWorker::set(trial, "scout").await?;
        let seen = scout.listed(ask).await;
        let seen = scout.stage.explain("listing calls", seen)?;
        anyhow::ensure!(8 <= seen.len(), "only {} calls of {ask:?} were seen", seen.len());
        points.extend(seen.into_iter().map(|point| (ask, point)));
    }
    let dealt = trial.deal("r9", points, ROUNDS, LANES).into_iter().enumerate();
    let mut lanes: Vec<BoxFuture<'_, anyhow::Result<()>>> =
        dealt.map(|(n, mine)| lane(trial, n, mine).boxed()).collect();
    // With `--count` it is the points that are counted.
    let silences = trial.count.map_or(trial.times(SILENCES), |_| 1);
    lanes.push(silence::attempt(trial, silences).boxed());
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, n: usize, points: Vec<(TriggerKind, Point)>) -> anyhow::Result<()> {
    let mut lane = TriggerWorker::set(trial, &format!("lane {n}")).await?;
    for (nth, (ask, point)) in points.into_iter().enumerate() {
        let tried = lane.killed_at(ask, &point, &format!("r9-{n}-{nth}")).await;
        let place = format!("{ask:?}, the server killed at {} {}", point.call, point.nth);
        lane.stage.explain(&place, tried)?;
    }
    lane.stage.audit(true).await?;
    lane.stage.strike().await
}

struct TriggerWorker<'a> {
    trial: &'a Trial,
    stage: Scenario,
    /// Transfers of the asks before.
    known: BTreeSet<String>,
}

impl<'a> TriggerWorker<'a> {
    async fn set(trial: &'a Trial, name: &str) -> anyhow::Result<Self> {
        let mut stage = Scenario::set(trial, &[]).await?;
        stage.start_server().await?;
        stage.add_client("client1", FILE_LEN, &[])?;
        stage.connect(0).await.with_context(|| name.to_owned())?;
        Ok(Self { trial, stage, known: BTreeSet::new() })
    }

    /// The calls of the server from before a connection is accepted until its answer is read.
    async fn listed(&mut self, ask: TriggerKind) -> anyhow::Result<Vec<Point>> {
        self.ready_for(ask).await?;
        let (ground, folder) = (&self.trial.ground, self.stage.bed.folder().to_owned());
        let pid = self.stage.bed.server()?.pid();
        let attached = Attached::listing(ground, pid, &folder).await?;
        let reply = ask.send(&self.stage.bed, "scout").await?;
        anyhow::ensure!(matches!(reply.status, 201 | 202), "{}: {}", reply.status, reply.text());
        let (_, points) = attached.detach().await?;
        self.stage.strike().await?;
        Ok(points)
    }

    async fn killed_at(
        &mut self,
        ask: TriggerKind,
        point: &Point,
        key: &str,
    ) -> anyhow::Result<()> {
        self.ready_for(ask).await?;
        self.stage.new_version(0)?;
        let (ground, folder) = (&self.trial.ground, self.stage.bed.folder().to_owned());
        let pid = self.stage.bed.server()?.pid();
        let mut attached = Attached::killing(ground, pid, &folder, point).await?;
        let reply = timeout(PATIENCE, ask.send(&self.stage.bed, key)).await;
        let reply = reply.context("neither an answer nor the end of the connection")?.ok();
        // The call of a late point follows the answer.
        let _ = timeout(Duration::from_millis(20), attached.program_ended()).await;
        let (killed, _) = attached.detach().await?;
        if killed {
            let answered = reply.is_some();
            self.trial.tally.fault(if answered { "kills after answers" } else { "kills before" });
            self.stage.server_ended().await?;
            self.stage.start_server().await?;
        } else {
            self.trial.tally.fault("points not reached this time");
        }
        let answered = reply.as_ref().map(named).transpose()?;
        self.came_true(ask, answered, key).await
    }

    /// What was answered is there, once; a caller who got no answer may repeat what has a key.
    async fn came_true(
        &mut self,
        ask: TriggerKind,
        answered: Option<String>,
        key: &str,
    ) -> anyhow::Result<()> {
        let mut made = self.made().await?;
        anyhow::ensure!(made.len() <= 1, "one trigger made {made:?}");
        if let Some(id) = &answered {
            self.stage.oracle.recorded(id);
            anyhow::ensure!(made.contains(id), "{id} was answered, on record is {made:?}");
        }
        if ask != TriggerKind::Trigger {
            made.insert(self.repeated(ask, key).await?);
        }
        self.stage.connect(0).await?;
        for id in &made {
            self.stage.done(id).await?;
        }
        if ask != TriggerKind::Trigger {
            made.insert(self.repeated(ask, key).await?);
        }
        anyhow::ensure!(made.len() <= 1, "one key made {made:?}");
        let now = self.made().await?;
        anyhow::ensure!(now == made, "on record is {now:?}, not {made:?}");
        self.known.extend(made);
        self.stage.audit(false).await
    }

    async fn repeated(&self, ask: TriggerKind, key: &str) -> anyhow::Result<String> {
        named(&ask.send(&self.stage.bed, key).await?)
    }

    /// Transfers that are new on record.
    async fn made(&self) -> anyhow::Result<BTreeSet<String>> {
        let transfers = self.stage.transfers().await?;
        let ids = transfers.iter().filter_map(|transfer| transfer["id"].as_str());
        Ok(ids.filter(|id| !self.known.contains(*id)).map(str::to_owned).collect())
    }

    async fn ready_for(&mut self, ask: TriggerKind) -> anyhow::Result<()> {
        if ask == TriggerKind::KeyedOffline {
            self.stage.kill_agent(0).await;
            return self.stage.until("/api/v1/clients/client1", offline).await.map(drop);
        }
        self.stage.connect(0).await
    }
}

fn offline(client: &serde_json::Value) -> bool {
    client["online"] == false
}

/// The transfer that an answer names.
fn named(reply: &HttpResponse) -> anyhow::Result<String> {
    let good = matches!(reply.status, 200..=202);
    anyhow::ensure!(good, "refused with {}: {}", reply.status, reply.text());
    let id = reply.header("location").rsplit('/').next().filter(|id| !id.is_empty());
    let in_body = || reply.json().ok()?["id"].as_str().map(str::to_owned);
    id.map(str::to_owned).or_else(in_body).context("an answer names its transfer")
}
