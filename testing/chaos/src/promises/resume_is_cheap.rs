//! R10: a file of 100 MB over a slow link, interrupted thirty times. Counts the bytes on the
//! agent's link.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::net::{Link, Namespace};
use futures::FutureExt as _;

use crate::networked_scenario::NetworkedScenario;
use crate::oracle::is_partial;
use crate::promise::Promise;
use crate::report::print_line;
use crate::scenario::poll;
use crate::tool::NETWORKS;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R10",
    statement: "Cheap interruption: received bytes are not sent again, except those in flight.",
    requirements: NETWORKS,
    limit: Duration::from_secs(90),
    run: |trial| run(trial).boxed_local(),
};

const FILE_LEN: usize = 100_000_000;
/// In bits per second: 10 MB/s.
const RATE: u64 = 80_000_000;
/// Smaller than the default, so that the limit is stricter.
const WINDOW: u64 = 1 << 20;
/// The server may lose two seconds of a transfer when it is killed.
const TWO_SECONDS: u64 = 20_000_000;
const RESETS: u32 = 20;
const KILLS: u32 = 5;

/// The router resets the connection of the upload. The session carries fewer bytes than this and is
/// not affected. The agent receives the reset, the server does not. The rule is added when the
/// partial has reached its length, so the reset hits a byte of the file.
const RESET: &str =
    "add rule ip faults_table faults ct original bytes > 100000 reject with tcp reset";
const ROUTER: &str = "add rule ip faults_table forward ct state established accept";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkFault {
    Reset,
    KillServer,
    KillAgent,
}

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let window = WINDOW.to_string();
    let mut networked =
        NetworkedScenario::prepare(trial, 30, &[("STREAM_WINDOW", &window)]).await?;
    networked.network.sysctl(Namespace::Router, "net.netfilter.nf_conntrack_acct=1").await?;
    networked.prepare_faults(ROUTER).await?;
    let rtt = Duration::ZERO;
    let queue = Duration::from_millis(20);
    let link = Link { rtt, rate: Some(RATE), downlink: None, loss_percent: 0.0, queue };
    link.apply_rate(&networked.network).await?;
    networked.add_client("client1", FILE_LEN, &[])?;
    networked.scenario.connect(0).await?;
    let tried = interrupted(trial, &mut networked).await;
    networked.scenario.explain("interrupted", tried)?;
    networked.scenario.audit(true).await?;
    networked.scenario.teardown().await
}

async fn interrupted(trial: &Trial, networked: &mut NetworkedScenario) -> anyhow::Result<()> {
    let size = networked.scenario.pattern(0).len();
    let faults = faults(trial, size);
    let before = sent(networked).await?;
    let began = Instant::now();
    let id = networked.scenario.trigger(0).await?;
    for &(at, fault) in &faults {
        wait_for_partial(networked, at)
            .await
            .with_context(|| format!("before {fault:?} at byte {at}"))?;
        interrupt(networked, fault).await.with_context(|| format!("{fault:?} at byte {at}"))?;
        trial.counters.fault(match fault {
            LinkFault::Reset => "connection resets",
            LinkFault::KillServer => "server kills",
            LinkFault::KillAgent => "agent kills",
        });
    }
    networked.scenario.wait_until_done(&id).await?;
    let wire = sent(networked).await? - before;
    let n_kills = faults.iter().filter(|(_, fault)| *fault == LinkFault::KillServer).count() as u64;
    let n_others = faults.len() as u64 - n_kills;
    let allowed = size + n_others * WINDOW + n_kills * (TWO_SECONDS + WINDOW);
    print_line(format!(
        "    {size} bytes took {wire} on the wire, headers included, of {allowed} allowed, in {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    anyhow::ensure!(wire <= allowed, "{wire} bytes were sent, only {allowed} are allowed");
    Ok(())
}

/// Returns the faults and the byte of the file for each.
fn faults(trial: &Trial, size: u64) -> Vec<(u64, LinkFault)> {
    let mut rng: Rng = trial.rng("r10");
    let n_kills = (trial.times(RESETS) * KILLS).div_ceil(RESETS) as usize;
    let mut kinds = vec![LinkFault::Reset; trial.times(RESETS) as usize];
    kinds.extend(vec![LinkFault::KillServer; n_kills]);
    kinds.extend(vec![LinkFault::KillAgent; n_kills]);
    rng.shuffle(&mut kinds);
    let mut offsets: Vec<u64> = kinds.iter().map(|_| rng.u64(1..size * 19 / 20)).collect();
    offsets.sort_unstable();
    offsets.into_iter().zip(kinds).collect()
}

/// Waits until the partial has this length.
async fn wait_for_partial(networked: &NetworkedScenario, at: u64) -> anyhow::Result<()> {
    let folder = networked.scenario.data_dir().join("client1");
    // After a kill the server receives the lost bytes again, at 10 MB/s.
    poll(&format!("a partial of {at} bytes"), async || {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let partials = entries.filter(|entry| is_partial(&entry.file_name().to_string_lossy()));
        let longest = partials.filter_map(|entry| Some(entry.metadata().ok()?.len())).max();
        Ok(longest.filter(|len| at <= *len).map(drop))
    })
    .await
}

async fn interrupt(networked: &mut NetworkedScenario, fault: LinkFault) -> anyhow::Result<()> {
    match fault {
        LinkFault::Reset => {
            let broken = "could not send";
            let agent = networked.scenario.agent(0)?;
            let n_broken = agent.count(broken);
            networked.rules(RESET).await?;
            networked.scenario.agent(0)?.says_times(broken, n_broken + 1).await?;
            networked.rules("flush chain ip faults_table faults").await
        }
        LinkFault::KillServer => {
            networked.scenario.kill_server().await?;
            networked.scenario.start_server_without_agents().await.map(drop)
        }
        LinkFault::KillAgent => {
            networked.scenario.kill_agent(0).await;
            networked.scenario.connect(0).await
        }
    }
}

/// Returns how many bytes the agent has sent on its link.
async fn sent(networked: &NetworkedScenario) -> anyhow::Result<u64> {
    let counter = ["/sys/class/net/to-agent/statistics/rx_bytes"];
    let bytes = networked.network.run_in(Namespace::Router, "cat", &counter).await?;
    Ok(bytes.trim().parse()?)
}
