//! What is measured of one fleet, in the order of its life.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;

use super::pulls::{Pulls, pull_all};
use super::setup::FleetSetup;
use crate::Bench;
use crate::product::Ends;
use crate::report::{mib, tell};
use crate::source::{self, SourceFile};

/// Between the last connection and the time at rest.
const SETTLE: Duration = Duration::from_secs(3);

/// Long enough for every client to be pinged at least once (every 15 s, give or take 20 %).
pub(super) const REST: Duration = Duration::from_secs(32);

/// One fleet.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FleetMeasurement {
    pub(super) clients: u32,
    /// Before the first agent dialled.
    pub(super) empty_rss_bytes: Ends<u64>,
    pub(super) connect: Connect,
    /// After the time at rest.
    pub(super) rest_rss_bytes: Ends<u64>,
    pub(super) rest_cpu_percent: Ends<f64>,
    /// KiB for each client that a smaller fleet, the one measured before, did not have.
    pub(super) added_kib: Option<Ends<f64>>,
    /// From the word to kill the server until the next one was ready.
    pub(super) restart_seconds: f64,
    pub(super) reconnect: Connect,
    pub(super) pulls: Pulls,
    /// Of the server since its restart, of the agents since their start.
    pub(super) peak_rss_bytes: Ends<u64>,
}

/// All agents coming in.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Connect {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: Ends<f64>,
    /// Lines that broke, or had to be opened twice.
    pub(super) lost_lines: usize,
}

/// Measures one fleet from its start to its end.
pub(super) async fn measure(bench: &Bench, n_clients: u32) -> anyhow::Result<FleetMeasurement> {
    let folder = source::folder(&bench.folder)?;
    let source = SourceFile::make(&folder.path().join("source"), super::SIZE)?;
    let mut rig =
        FleetSetup::start(&bench.programs.server, folder.path(), &source, n_clients).await?;
    let empty_rss_bytes = rig.rss()?;
    tell(format!("{n_clients} clients connect"));
    let before = rig.cpu_seconds()?;
    let began = Instant::now();
    rig.dial().await?;
    let mut connect = completed(&rig, began, before).await?;
    sleep(SETTLE).await;
    tell(format!("{n_clients} clients at rest"));
    let rest_cpu_percent = at_rest(&rig).await?;
    let rest_rss_bytes = rig.rss()?;
    connect.lost_lines = rig.lost_lines()?;

    tell(format!("{n_clients} clients lose the server"));
    let killed = Instant::now();
    rig.replace_server().await?;
    let restart_seconds = killed.elapsed().as_secs_f64();
    let mut reconnect = completed(&rig, Instant::now(), rig.cpu_seconds()?).await?;
    sleep(SETTLE).await;
    reconnect.lost_lines = rig.lost_lines()?;

    tell(format!("{n_clients} clients send a file each"));
    source::settle(folder.path())?;
    let pulls = pull_all(&rig, &source).await?;
    let peak_rss_bytes = rig.peak_rss()?;
    rig.end().await?;
    Ok(FleetMeasurement {
        clients: n_clients,
        empty_rss_bytes,
        connect,
        rest_rss_bytes,
        rest_cpu_percent,
        added_kib: None,
        restart_seconds,
        reconnect,
        pulls,
        peak_rss_bytes,
    })
}

impl FleetMeasurement {
    /// Memory of each client at rest, in KiB.
    pub(super) fn kib(&self) -> Ends<f64> {
        let grown = self.rest_rss_bytes.map(kib).less(self.empty_rss_bytes.map(kib));
        grown.map(|grown| grown / f64::from(self.clients))
    }

    /// Memory at rest of each client that a smaller fleet did not have, in KiB.
    pub(super) fn added_kib(&self, smaller: &Self) -> Ends<f64> {
        let n_added = f64::from(self.clients) - f64::from(smaller.clients);
        let added = self.rest_rss_bytes.map(kib).less(smaller.rest_rss_bytes.map(kib));
        added.map(|added| added / n_added)
    }

    /// What all together took, as milliseconds for each client.
    pub(super) fn each_ms(&self, seconds: f64) -> f64 {
        seconds * 1e3 / f64::from(self.clients)
    }
}

async fn completed(rig: &FleetSetup, began: Instant, before: Ends<f64>) -> anyhow::Result<Connect> {
    rig.complete().await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = rig.cpu_seconds()?.less(before);
    Ok(Connect { seconds, cpu_seconds, lost_lines: 0 })
}

/// Percent of a core while nobody wants anything.
async fn at_rest(rig: &FleetSetup) -> anyhow::Result<Ends<f64>> {
    let (before, began) = (rig.cpu_seconds()?, Instant::now());
    sleep(REST).await;
    let used = rig.cpu_seconds()?.less(before);
    let seconds = began.elapsed().as_secs_f64();
    Ok(used.map(|used| used / seconds * 100.0))
}

fn kib(bytes: u64) -> f64 {
    mib(bytes) * 1024.0
}
