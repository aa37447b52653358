//! R9: the server is killed at every system call between a trigger and its answer; triggers also go
//! to clients that are unknown, offline or unresponsive.

mod silent_clients;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::{HttpResponse, TestServer};
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
use hyper::Method;
use serde_json::json;
use tokio::time::timeout;

use crate::promise::Promise;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::strace_session::{CallPoint, StraceSession};
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R9",
    statement: "Honest API: every trigger is answered within 3 s, and the answer comes true.",
    requirements: &[Requirement::Root, Requirement::Program("strace", "strace")],
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

const FILE_LEN: usize = 64 << 10;
const WORKERS: usize = 8;
/// Rounds over all system calls.
const ROUNDS: u32 = 10;
/// Triggers to each kind of unresponsive client.
const UNRESPONSIVE: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TriggerKind {
    /// `/trigger`, as a person uses it.
    Trigger,
    /// The JSON API, with an idempotency key.
    Keyed,
    /// The JSON API with a key, while the client is offline.
    KeyedOffline,
}

impl TriggerKind {
    const ALL: [Self; 3] = [Self::Trigger, Self::Keyed, Self::KeyedOffline];

    async fn send(self, server: &TestServer, key: &str) -> anyhow::Result<HttpResponse> {
        if self == Self::Trigger {
            return server.send(Method::POST, "/trigger?id=client1&queue=1h", &[], "").await;
        }
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let body = json!({ "client": "client1", "queue": "1h" }).to_string();
        server.send(Method::POST, "/api/v1/transfers", &headers, &body).await
    }
}

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut points = Vec::new();
    for kind in TriggerKind::ALL {
        let mut scout = TriggerWorker::prepare(trial, "scout").await?;
        let listed = scout.list_calls(kind).await;
        let seen = scout.scenario.explain("listing calls", listed)?;
        anyhow::ensure!(8 <= seen.len(), "only {} system calls of {kind:?} were seen", seen.len());
        points.extend(seen.into_iter().map(|point| (kind, point)));
    }
    let shares = trial.distribute("r9", points, ROUNDS, WORKERS).into_iter().enumerate();
    let mut workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> =
        shares.map(|(n, mine)| run_worker(trial, n, mine).boxed_local()).collect();
    // `--count` counts the system calls.
    let n_unresponsive = trial.count.map_or(trial.times(UNRESPONSIVE), |_| 1);
    workers.push(silent_clients::run(trial, n_unresponsive).boxed_local());
    try_join_all(workers).await.map(drop)
}

async fn run_worker(
    trial: &Trial,
    n: usize,
    points: Vec<(TriggerKind, CallPoint)>,
) -> anyhow::Result<()> {
    let mut worker = TriggerWorker::prepare(trial, &format!("worker {n}")).await?;
    for (nth, (kind, point)) in points.into_iter().enumerate() {
        let tried = worker.kill_at(kind, &point, &format!("r9-{n}-{nth}")).await;
        let place = format!("{kind:?}, the server killed at {} {}", point.call, point.nth);
        worker.scenario.explain(&place, tried)?;
    }
    worker.scenario.audit(true).await?;
    worker.scenario.teardown().await
}

struct TriggerWorker<'a> {
    trial: &'a Trial,
    scenario: Scenario,
    /// Ids of the transfers of earlier triggers.
    known: BTreeSet<String>,
}

impl<'a> TriggerWorker<'a> {
    async fn prepare(trial: &'a Trial, name: &str) -> anyhow::Result<Self> {
        let mut scenario = Scenario::prepare(trial, &[]).await?;
        scenario.start_server().await?;
        scenario.add_client("client1", FILE_LEN, &[])?;
        scenario.connect(0).await.with_context(|| name.to_owned())?;
        Ok(Self { trial, scenario, known: BTreeSet::new() })
    }

    /// Returns the system calls of the server while it handles one trigger.
    async fn list_calls(&mut self, kind: TriggerKind) -> anyhow::Result<Vec<CallPoint>> {
        self.set_up(kind).await?;
        let sandbox = &self.trial.sandbox;
        let folder = self.scenario.server.folder().to_owned();
        let pid = self.scenario.server_process()?.pid();
        let session = StraceSession::listing(sandbox, pid, &folder).await?;
        let reply = kind.send(&self.scenario.server, "scout").await?;
        anyhow::ensure!(matches!(reply.status, 201 | 202), "{}: {}", reply.status, reply.text());
        let (_, points) = session.detach().await?;
        self.scenario.teardown().await?;
        Ok(points)
    }

    async fn kill_at(
        &mut self,
        kind: TriggerKind,
        point: &CallPoint,
        key: &str,
    ) -> anyhow::Result<()> {
        self.set_up(kind).await?;
        self.scenario.new_version(0)?;
        let sandbox = &self.trial.sandbox;
        let folder = self.scenario.server.folder().to_owned();
        let pid = self.scenario.server_process()?.pid();
        let mut session = StraceSession::killing(sandbox, pid, &folder, point).await?;
        let result = timeout(WAIT_LIMIT, kind.send(&self.scenario.server, key)).await;
        let reply =
            result.context("timed out waiting for an answer or the end of the connection")?.ok();
        // A late call follows the answer.
        let _ = timeout(Duration::from_millis(20), session.program_ended()).await;
        let (killed, _) = session.detach().await?;
        if killed {
            let answered = reply.is_some();
            self.trial.counters.fault(if answered {
                "kills after answers"
            } else {
                "kills before answers"
            });
            self.scenario.wait_until_server_ended().await?;
            self.scenario.start_server().await?;
        } else {
            self.trial.counters.fault("calls not reached");
        }
        let answered = reply.as_ref().map(transfer_id).transpose()?;
        self.check_answer(kind, answered, key).await
    }

    /// Checks that the answered transfer exists exactly once. A trigger with a key may be repeated.
    async fn check_answer(
        &mut self,
        kind: TriggerKind,
        answered: Option<String>,
        key: &str,
    ) -> anyhow::Result<()> {
        let mut created = self.new_transfers().await?;
        anyhow::ensure!(created.len() <= 1, "one trigger created {created:?}");
        if let Some(id) = &answered {
            self.scenario.oracle.record_id(id);
            anyhow::ensure!(created.contains(id), "answered {id}, but on record is {created:?}");
        }
        if kind != TriggerKind::Trigger {
            created.insert(self.repeat(kind, key).await?);
        }
        self.scenario.connect(0).await?;
        for id in &created {
            self.scenario.wait_until_done(id).await?;
        }
        if kind != TriggerKind::Trigger {
            created.insert(self.repeat(kind, key).await?);
        }
        anyhow::ensure!(created.len() <= 1, "one key created {created:?}");
        let now = self.new_transfers().await?;
        anyhow::ensure!(now == created, "on record is {now:?}, expected {created:?}");
        self.known.extend(created);
        self.scenario.audit(false).await
    }

    async fn repeat(&self, kind: TriggerKind, key: &str) -> anyhow::Result<String> {
        transfer_id(&kind.send(&self.scenario.server, key).await?)
    }

    /// Returns the transfers on record that are new.
    async fn new_transfers(&self) -> anyhow::Result<BTreeSet<String>> {
        let transfers = self.scenario.transfers().await?;
        let ids = transfers.iter().filter_map(|transfer| transfer["id"].as_str());
        Ok(ids.filter(|id| !self.known.contains(*id)).map(str::to_owned).collect())
    }

    async fn set_up(&mut self, kind: TriggerKind) -> anyhow::Result<()> {
        if kind == TriggerKind::KeyedOffline {
            self.scenario.kill_agent(0).await;
            return self.scenario.wait_until("/api/v1/clients/client1", offline).await.map(drop);
        }
        self.scenario.connect(0).await
    }
}

fn offline(client: &serde_json::Value) -> bool {
    client["online"] == false
}

/// Returns the id of the transfer in an answer.
fn transfer_id(reply: &HttpResponse) -> anyhow::Result<String> {
    let good = matches!(reply.status, 200..=202);
    anyhow::ensure!(good, "rejected with {}: {}", reply.status, reply.text());
    let id = reply.header("location").rsplit('/').next().filter(|id| !id.is_empty());
    let in_body = || reply.json().ok()?["id"].as_str().map(str::to_owned);
    id.map(str::to_owned).or_else(in_body).context("the answer has no transfer id")
}
