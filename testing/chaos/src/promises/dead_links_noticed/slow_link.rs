//! Ten minutes on a slow and lossy link with a long round trip: no session is lost, and a file
//! arrives.

use std::time::{Duration, Instant};

use filepull_testkit::net::Link;
use futures::FutureExt as _;
use futures::future::try_join_all;
use tokio::time::sleep;

use crate::networked_scenario::NetworkedScenario;
use crate::oracle::is_final;
use crate::promise::Promise;
use crate::report::print_line;
use crate::tool::NETWORKS;
use crate::trial::Trial;

pub(in super::super) const SLOW: Promise = Promise {
    id: "R11-slow",
    statement: "No false alarm: sessions survive ten minutes on a slow, lossy link, and a file arrives.",
    requirements: NETWORKS,
    limit: Duration::from_mins(12),
    run: |trial| run(trial).boxed_local(),
};

/// In minutes, unless `--count` sets it.
const MINUTES: u32 = 10;
/// Round trips of 300 ms, and of 300 ms each way.
const RTTS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(600)];
const RATE: u64 = 1_000_000;
const LOSS_PERCENT: f64 = 10.0;
/// The buffer of the modem for the uplink, as time.
const QUEUE: Duration = Duration::from_millis(300);
/// The first client sends files; the others only keep their sessions.
const CLIENTS: usize = 5;
const FIRST_LEN: usize = 4 << 20;
/// The size of the files after the first one.
const NEXT_LEN: usize = 48 << 10;
const LOST: &str = "connection lost";

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let workers = RTTS.into_iter().zip(40..).map(|(rtt, number)| run_worker(trial, number, rtt));
    try_join_all(workers).await.map(drop)
}

async fn run_worker(trial: &Trial, number: u8, rtt: Duration) -> anyhow::Result<()> {
    let mut networked =
        NetworkedScenario::prepare(trial, number, &[("RECONNECT_CAP", "60s")]).await?;
    for n in 0..CLIENTS {
        let index = networked.add_client(&format!("client{n}"), FIRST_LEN, &[])?;
        networked.scenario.connect(index).await?;
    }
    let link =
        Link { rtt, rate: Some(RATE), downlink: None, loss_percent: LOSS_PERCENT, queue: QUEUE };
    let linked = link.apply(&networked.network).await?;
    let tried = keep_sessions(trial, &mut networked, link).await;
    networked.scenario.explain(&link.to_string(), tried)?;
    // Packets lost by the delaying router itself would be an unintended fault.
    linked.check()?;
    networked.scenario.teardown().await
}

async fn keep_sessions(
    trial: &Trial,
    networked: &mut NetworkedScenario,
    link: Link,
) -> anyhow::Result<()> {
    let measured = round_trip(networked).await?;
    let scenario = &mut networked.scenario;
    let began = Instant::now();
    let duration = Duration::from_mins(trial.count.unwrap_or(MINUTES).into());
    let mut files: Vec<(u64, f64)> = Vec::new();
    let mut interruptions = 0;
    while files.is_empty() || began.elapsed() < duration {
        let ordered = Instant::now();
        let id = scenario.trigger(0).await?;
        let ended = loop {
            sleep(Duration::from_millis(500)).await;
            let transfer = scenario.transfer(&id).await?;
            let late = duration * 2 < began.elapsed();
            anyhow::ensure!(!late, "not finished after {:?}: {transfer}", began.elapsed());
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
        scenario.oracle.check_files(&scenario.data_dir(), true)?;
        scenario.rewrite(0, NEXT_LEN)?;
    }
    let survived = began.elapsed();
    let lost_by_server = scenario.server_process()?.count(r#""client.disconnected""#);
    let mut lost_by_agents = 0;
    for n in 0..CLIENTS {
        lost_by_agents += scenario.agent(n)?.count(LOST);
    }
    trial.counters.faults("sessions on a link that loses 10 % of packets", CLIENTS as u64);
    print_line(format!(
        "    {}, measured {:.0} ms: {CLIENTS} sessions survived {:.0} s, {lost_by_server} lost by the server, \
         {lost_by_agents} by the agents; first file {} bytes in {:.0} s, then {} more, all digests \
         equal, {interruptions} uploads interrupted",
        link,
        measured * 1e3,
        survived.as_secs_f64(),
        files[0].0,
        files[0].1,
        files.len() - 1
    ));
    anyhow::ensure!(lost_by_server + lost_by_agents == 0, "a working session was given up");
    scenario.audit(true).await
}

/// Returns the shortest of five measurements: some are delayed by a lost packet.
async fn round_trip(networked: &NetworkedScenario) -> anyhow::Result<f64> {
    let mut shortest = f64::INFINITY;
    for _ in 0..5 {
        shortest = shortest.min(networked.network.round_trip().await?);
    }
    Ok(shortest)
}
