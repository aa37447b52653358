//! The measurement of one fleet, in chronological order.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;

use super::pulls::{Pulls, pull_all};
use super::setup::FleetSetup;
use crate::Bench;
use crate::product::BothEnds;
use crate::report::{log_progress, mib};
use crate::source::{self, SourceFile};

/// Time between the last connection and the idle period.
const SETTLE: Duration = Duration::from_secs(3);

/// Long enough to ping every client at least once (every 15 s, ± 20 %).
pub(super) const IDLE_TIME: Duration = Duration::from_secs(32);

#[derive(Clone, Debug, Serialize)]
pub(super) struct FleetMeasurement {
    pub(super) clients: u32,
    /// Before the first agent dials.
    pub(super) empty_rss_bytes: BothEnds<u64>,
    pub(super) connect: Connect,
    /// At the end of the idle period.
    pub(super) rest_rss_bytes: BothEnds<u64>,
    pub(super) rest_cpu_percent: BothEnds<f64>,
    /// KiB for each client that the previous, smaller fleet did not have.
    pub(super) added_kib: Option<BothEnds<f64>>,
    /// From the kill of the server until the next one was ready.
    pub(super) restart_seconds: f64,
    pub(super) reconnect: Connect,
    pub(super) pulls: Pulls,
    /// Of the server since its restart, of the agents since their start.
    pub(super) peak_rss_bytes: BothEnds<u64>,
}

/// The connections of all agents.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Connect {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: BothEnds<f64>,
    /// Sessions that broke or were opened twice.
    pub(super) lost_sessions: usize,
}

pub(super) async fn measure(
    bench: &Bench,
    n_clients: u32,
    uses_tls: bool,
) -> anyhow::Result<FleetMeasurement> {
    let folder = source::folder(&bench.folder)?;
    let source = SourceFile::create(&folder.path().join("source"), super::SIZE)?;
    let mut setup =
        FleetSetup::start(&bench.programs.server, folder.path(), &source, n_clients, uses_tls)
            .await?;
    let empty_rss_bytes = setup.rss()?;
    log_progress(format!("{n_clients} clients connect"));
    let before = setup.cpu_seconds()?;
    let began = Instant::now();
    setup.dial().await?;
    let mut connect = completed(&setup, began, before).await?;
    sleep(SETTLE).await;
    log_progress(format!("{n_clients} clients idle"));
    let rest_cpu_percent = idle_cpu_percent(&setup).await?;
    let rest_rss_bytes = setup.rss()?;
    connect.lost_sessions = setup.lost_sessions()?;

    log_progress(format!("{n_clients} clients lose the server"));
    let killed = Instant::now();
    setup.replace_server().await?;
    let restart_seconds = killed.elapsed().as_secs_f64();
    let mut reconnect = completed(&setup, Instant::now(), setup.cpu_seconds()?).await?;
    sleep(SETTLE).await;
    reconnect.lost_sessions = setup.lost_sessions()?;

    log_progress(format!("{n_clients} clients send a file each"));
    source::settle(folder.path())?;
    let pulls = pull_all(&setup, &source).await?;
    let peak_rss_bytes = setup.peak_rss()?;
    setup.end().await?;
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
    /// Memory of each idle client, in KiB.
    pub(super) fn kib(&self) -> BothEnds<f64> {
        let grown = self.rest_rss_bytes.map(kib).less(self.empty_rss_bytes.map(kib));
        grown.map(|grown| grown / f64::from(self.clients))
    }

    /// Memory of each idle client that the smaller fleet did not have, in KiB.
    pub(super) fn added_kib(&self, smaller: &Self) -> BothEnds<f64> {
        let n_added = f64::from(self.clients) - f64::from(smaller.clients);
        let added = self.rest_rss_bytes.map(kib).less(smaller.rest_rss_bytes.map(kib));
        added.map(|added| added / n_added)
    }

    /// Returns the milliseconds for each client.
    pub(super) fn each_ms(&self, seconds: f64) -> f64 {
        seconds * 1e3 / f64::from(self.clients)
    }
}

async fn completed(
    setup: &FleetSetup,
    began: Instant,
    before: BothEnds<f64>,
) -> anyhow::Result<Connect> {
    setup.wait_until_online().await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = setup.cpu_seconds()?.less(before);
    Ok(Connect { seconds, cpu_seconds, lost_sessions: 0 })
}

/// Returns the CPU of the idle fleet, in percent of one core.
async fn idle_cpu_percent(setup: &FleetSetup) -> anyhow::Result<BothEnds<f64>> {
    let before = setup.cpu_seconds()?;
    let began = Instant::now();
    sleep(IDLE_TIME).await;
    let used = setup.cpu_seconds()?.less(before);
    let seconds = began.elapsed().as_secs_f64();
    Ok(used.map(|used| used / seconds * 100.0))
}

fn kib(bytes: u64) -> f64 {
    mib(bytes) * 1024.0
}
