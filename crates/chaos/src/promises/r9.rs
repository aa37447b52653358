//! R9: the server is killed at every system call between a trigger and its answer, and asked for
//! what cannot be.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_e2e::Reply;
use futures::FutureExt as _;
use futures::future::try_join_all;
use hyper::Method;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::timeout;

use crate::attached::{Attached, Point};
use crate::promise::Promise;
use crate::stage::Stage;
use crate::tool::Need;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R9",
    promised: "Honest API: what was accepted happens, whoever dies; what was refused does not.",
    needs: &[Need::Root, Need::Program("strace", "strace")],
    limit: Duration::from_secs(90),
    attempt: |trial| attempt(trial).boxed(),
};

const FILE_LEN: usize = 64 << 10;
const LANES: usize = 4;
/// Rounds over all points, with an API call and a short trigger in turn.
const ROUNDS: u32 = 3;
/// Times that a trigger cannot be served.
const REFUSALS: u32 = 20;
/// Every trigger is answered within this time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut scout = Lane::set(trial, 0).await?;
    let seen = scout.listed().await;
    let points = scout.stage.explain("listing calls", seen)?;
    anyhow::ensure!(8 <= points.len(), "only {} calls were seen", points.len());
    // `--count` is a number of points; otherwise all of them are tried.
    let n_points = trial.count.map_or(points.len() * trial.times(ROUNDS) as usize, |n| n as usize);
    let mut all: Vec<Point> = points.into_iter().cycle().take(n_points).collect();
    trial.dice("r9").shuffle(&mut all);
    let lane = |n: usize| lane(trial, n, all.iter().skip(n).step_by(LANES).cloned().collect());
    try_join_all((0..LANES).map(lane)).await?;
    let tried = scout.refusals(trial.times(REFUSALS)).await;
    scout.stage.explain("what cannot be", tried)?;
    scout.stage.audit(true).await?;
    scout.stage.strike().await
}

async fn lane(trial: &Trial, n: usize, points: Vec<Point>) -> anyhow::Result<()> {
    let mut lane = Lane::set(trial, n).await?;
    for (round, point) in points.iter().enumerate() {
        let tried = lane.killed_at(point, round % 2 == 0).await;
        let place = format!("server killed at {} {}", point.call, point.nth);
        lane.stage.explain(&place, tried)?;
    }
    lane.stage.audit(true).await?;
    lane.stage.strike().await
}

struct Lane<'a> {
    trial: &'a Trial,
    stage: Stage,
    /// Of the requests: no two are the same one.
    key: String,
    n_transfers: usize,
}

impl<'a> Lane<'a> {
    async fn set(trial: &'a Trial, n: usize) -> anyhow::Result<Self> {
        let mut stage = Stage::set(trial, &[]).await?;
        stage.start_server().await?;
        stage.add_client("client1", FILE_LEN, &[])?;
        stage.connect(0).await?;
        Ok(Self { trial, stage, key: format!("lane-{n}"), n_transfers: 0 })
    }

    /// The calls of the server between a trigger and its answer.
    async fn listed(&mut self) -> anyhow::Result<Vec<Point>> {
        // Nothing comes from the agent meanwhile.
        self.stage.proxy.freeze();
        let folder = self.stage.bed.folder().to_owned();
        let pid = self.stage.bed.server()?.pid()?;
        let attached = Attached::listing(&self.trial.ground, pid, &folder).await?;
        let reply = self.post("listing").await?;
        let (_, points) = attached.detach().await?;
        self.stage.proxy.thaw();
        self.n_transfers += 1;
        self.stage.done(&id(&reply)?).await?;
        Ok(points)
    }

    async fn killed_at(&mut self, point: &Point, by_api: bool) -> anyhow::Result<()> {
        self.stage.connect(0).await?;
        self.stage.new_version(0)?;
        let key = format!("{}-{}", self.key, self.n_transfers);
        self.stage.proxy.freeze();
        let (ground, folder) = (&self.trial.ground, self.stage.bed.folder().to_owned());
        let pid = self.stage.bed.server()?.pid()?;
        let mut attached = Attached::killing(ground, pid, &folder, point).await?;
        let answer = if by_api { self.post(&key).await } else { self.trigger("client1").await };
        // The call of a late point follows the answer.
        let _ = timeout(Duration::from_millis(50), attached.program_ended()).await;
        let (killed, _) = attached.detach().await?;
        if killed {
            self.trial.tally.fault("server kills at a call");
            self.stage.server_ended().await?;
            self.stage.oracle.look(&self.stage.data_dir(), false)?;
            self.stage.start_server().await?;
        } else {
            self.trial.tally.fault("points not reached this time");
        }
        self.stage.proxy.thaw();
        self.stage.connect(0).await?;
        self.judge(answer, killed, by_api.then_some(&key)).await?;
        self.stage.audit(false).await
    }

    /// Whatever was answered is so; where nothing was answered, nothing is left half done.
    async fn judge(
        &mut self,
        answer: anyhow::Result<Reply>,
        killed: bool,
        key: Option<&String>,
    ) -> anyhow::Result<()> {
        let accepted = match &answer {
            Ok(reply) => Some(id(reply)?),
            Err(_) if killed => None,
            Err(error) => anyhow::bail!("no answer from a living server: {error:#}"),
        };
        // Whoever heard nothing asks again with the same key, and finds the same transfer or makes
        // it: never a second one.
        let again = match key {
            Some(key) => Some(id(&self.post(key).await?)?),
            None => None,
        };
        if let (Some(accepted), Some(again)) = (&accepted, &again) {
            anyhow::ensure!(accepted == again, "one key, two transfers: {accepted} and {again}");
        }
        let transfers = self.stage.transfers().await?;
        let expected = self.n_transfers + 1;
        let most_certain = accepted.is_some() || again.is_some();
        let right = transfers.len() == expected || !most_certain && transfers.len() < expected;
        anyhow::ensure!(right, "{} transfers instead of {expected}", transfers.len());
        self.n_transfers = transfers.len();
        for transfer in transfers.iter().filter(|transfer| transfer["state"] != "done") {
            self.stage.done(transfer["id"].as_str().unwrap_or_default()).await?;
        }
        Ok(())
    }

    /// What cannot be is said at once and leaves nothing; what waits is never told as begun.
    async fn refusals(&mut self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            let unknown = self.trigger("nobody").await?;
            anyhow::ensure!(unknown.status == 404, "{}: {}", unknown.status, unknown.text());
            self.trial.tally.fault("clients unknown");
            self.stage.kill_agent(0).await;
            let path = format!("/api/v1/clients/{}", self.stage.id(0));
            self.stage.until(&path, |client| client["online"] == false).await?;
            let offline = self.trigger("client1").await?;
            anyhow::ensure!(offline.status == 409, "{}: {}", offline.status, offline.text());
            self.trial.tally.fault("clients offline");
            let n_transfers = self.stage.transfers().await?.len();
            anyhow::ensure!(n_transfers == self.n_transfers, "a refused trigger left a record");

            self.stage.connect(0).await?;
            self.stage.agent(0)?.signal(Signal::STOP)?;
            self.trial.tally.fault("agents stopped");
            let waits = self.trigger("client1").await?;
            let waiting = id(&waits)?;
            let transfer = self.stage.transfer(&waiting).await?;
            let told = !transfer["file"].is_null() || transfer["bytes_done"] != 0;
            anyhow::ensure!(!told, "nobody has opened a file: {transfer}");
            self.stage.agent(0)?.signal(Signal::CONT)?;
            self.stage.done(&waiting).await?;
            self.n_transfers += 1;
        }
        Ok(())
    }

    async fn post(&self, key: &str) -> anyhow::Result<Reply> {
        let key = format!("\"{key}\"");
        let headers = [("content-type", "application/json"), ("idempotency-key", &key)];
        let body = json!({ "client": self.stage.id(0) }).to_string();
        let asked = self.stage.bed.send(Method::POST, "/api/v1/transfers", &headers, &body);
        in_time(asked).await
    }

    async fn trigger(&self, client: &str) -> anyhow::Result<Reply> {
        in_time(self.stage.bed.get(&format!("/trigger?id={client}"))).await
    }
}

/// An answer, or none; but never a late one.
async fn in_time(asked: impl Future<Output = anyhow::Result<Reply>>) -> anyhow::Result<Reply> {
    let began = Instant::now();
    let answer = asked.await?;
    let took = began.elapsed();
    anyhow::ensure!(took < ANSWERED_WITHIN, "a trigger was answered after {took:?}");
    Ok(answer)
}

/// The transfer that an answer names.
fn id(reply: &Reply) -> anyhow::Result<String> {
    let accepted = matches!(reply.status, 200..=202);
    anyhow::ensure!(accepted, "{}: {}", reply.status, reply.text());
    let location = reply.header("location");
    let id = location.rsplit('/').next().filter(|id| !id.is_empty());
    id.map(str::to_owned).with_context(|| format!("no transfer is named: {}", reply.text()))
}
