//! Ten minutes on a far, slow and lossy line: no line is given up that lives, and a file arrives.

use std::time::{Duration, Instant};

use filepull_testkit::Process;
use filepull_testkit::net::Link;
use futures::FutureExt as _;
use futures::future::try_join_all;
use tokio::time::sleep;

use crate::networked_scenario::NetworkedScenario;
use crate::oracle::is_final;
use crate::promise::Promise;
use crate::report::tell;
use crate::tool::NETWORKS;
use crate::trial::Trial;

pub(in super::super) const SLOW: Promise = Promise {
    id: "R11-slow",
    promised: "No false death: a slow and lossy line lives for ten minutes, and a file arrives.",
    needs: NETWORKS,
    limit: Duration::from_mins(12),
    attempt: |trial| attempt(trial).boxed(),
};

/// In minutes; `--count` says another number.
const LASTS: u32 = 10;
/// 300 ms there and back, and 300 ms each way.
const RTTS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(600)];
const RATE: u64 = 1_000_000;
const LOSS_PERCENT: f64 = 10.0;
/// What the modem keeps for the uplink, as time.
const QUEUE: Duration = Duration::from_millis(300);
/// One sends a file; the others only live.
const CLIENTS: usize = 5;
const FIRST_LEN: usize = 4 << 20;
/// What is sent over and over when the first file has arrived.
const NEXT_LEN: usize = 48 << 10;
const LOST: &str = "connection lost";

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let lanes = RTTS.into_iter().zip(40..).map(|(rtt, number)| lane(trial, number, rtt));
    try_join_all(lanes).await.map(drop)
}

async fn lane(trial: &Trial, number: u8, rtt: Duration) -> anyhow::Result<()> {
    let mut outpost = NetworkedScenario::set(trial, number, &[("RECONNECT_CAP", "60s")]).await?;
    for n in 0..CLIENTS {
        let index = outpost.add_client(&format!("client{n}"), FIRST_LEN, &[])?;
        outpost.stage.connect(index).await?;
    }
    let line = Link { rtt, rate: Some(RATE), loss_percent: LOSS_PERCENT, queue: QUEUE };
    let laid = line.apply(&outpost.network).await?;
    let tried = live(trial, &mut outpost, line).await;
    outpost.stage.explain(&line.to_string(), tried)?;
    // A packet that our own router lost would be a fault that nobody asked for.
    laid.check()?;
    outpost.stage.strike().await
}

async fn live(trial: &Trial, outpost: &mut NetworkedScenario, line: Link) -> anyhow::Result<()> {
    let measured = round_trip(outpost).await?;
    let stage = &mut outpost.stage;
    let (began, lasts) = (Instant::now(), Duration::from_mins(trial.count.unwrap_or(LASTS).into()));
    let mut files: Vec<(u64, f64)> = Vec::new();
    let mut interruptions = 0;
    while files.is_empty() || began.elapsed() < lasts {
        let ordered = Instant::now();
        let id = stage.order(0).await?;
        let ended = loop {
            sleep(Duration::from_millis(500)).await;
            let transfer = stage.transfer(&id).await?;
            let late = lasts * 2 < began.elapsed();
            anyhow::ensure!(!late, "after {:?} it is still {transfer}", began.elapsed());
            if is_final(&transfer) {
                break transfer;
            }
        };
        anyhow::ensure!(ended["state"] == "done", "not done: {ended}");
        interruptions += ended["attempt"].as_u64().unwrap_or(1) - 1;
        files.push((
            ended["download"]["size"].as_u64().unwrap_or(0),
            ordered.elapsed().as_secs_f64(),
        ));
        stage.oracle.look(&stage.data_dir(), true)?;
        stage.resize(0, NEXT_LEN)?;
    }
    let lived = began.elapsed();
    let count =
        |process: &Process, text| process.said().iter().filter(|l| l.contains(text)).count();
    let lost_by_server = count(stage.bed.server()?, r#""client.disconnected""#);
    let mut lost_by_agents = 0;
    for n in 0..CLIENTS {
        lost_by_agents += count(stage.agent(n)?, LOST);
    }
    trial.tally.faults("lines of which one packet in ten is lost", CLIENTS as u64);
    tell(format!(
        "    {}, measured {:.0} ms: {CLIENTS} lines lived {:.0} s, {lost_by_server} lost by the server, \
         {lost_by_agents} by the agents; first file {} bytes in {:.0} s, then {} more, all digests \
         equal, {interruptions} uploads interrupted",
        line.to_string(),
        measured * 1e3,
        lived.as_secs_f64(),
        files[0].0,
        files[0].1,
        files.len() - 1
    ));
    anyhow::ensure!(lost_by_server + lost_by_agents == 0, "a line that lived was given up");
    stage.audit(true).await
}

/// Some of the packets are lost that would tell.
async fn round_trip(outpost: &NetworkedScenario) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        least = least.min(outpost.network.round_trip().await?);
    }
    Ok(least)
}
