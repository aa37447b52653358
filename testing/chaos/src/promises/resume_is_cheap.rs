//! R10: 100 MB over a slow line, interrupted thirty times, and what the agent's wire carries for it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::net::{Link, Namespace};
use futures::FutureExt as _;
use tokio::time::sleep;

use crate::networked_scenario::NetworkedScenario;
use crate::oracle::is_partial;
use crate::promise::Promise;
use crate::report::tell;
use crate::scenario::PATIENCE;
use crate::tool::NETWORKS;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R10",
    promised: "Cheap interruption: what was received is not sent again, but for what was under way.",
    needs: NETWORKS,
    limit: Duration::from_secs(90),
    attempt: |trial| attempt(trial).boxed(),
};

const FILE_LEN: usize = 100_000_000;
/// 10 MB/s.
const RATE: u64 = 80_000_000;
/// Smaller than the default, so that the promise leaves less room for what is sent twice.
const WINDOW: u64 = 1 << 20;
/// What the server may lose of its transfer when it is killed: two seconds.
const TWO_SECONDS: u64 = 20_000_000;
const RESETS: u32 = 20;
const KILLS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The router resets the connection of the upload, not that of the session, which carries less: the
/// agent hears it, the server does not. By the counter of the connection alone it could only be
/// reset at a byte of the connection; with the rule put in when the partial has grown so far it is
/// at a byte of the file, whatever was sent twice.
const RESET: &str = "add rule ip line faults ct original bytes > 100000 reject with tcp reset";
const ROUTER: &str = "add rule ip line forward ct state established accept";

/// What happens at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkFault {
    Reset,
    KillServer,
    KillAgent,
}

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let window = WINDOW.to_string();
    let mut outpost = NetworkedScenario::set(trial, 30, &[("STREAM_WINDOW", &window)]).await?;
    outpost.network.sysctl(Namespace::Router, "net.netfilter.nf_conntrack_acct=1").await?;
    outpost.prepare_faults(ROUTER).await?;
    let (rtt, queue) = (Duration::ZERO, Duration::from_millis(20));
    let line = Link { rtt, rate: Some(RATE), loss_percent: 0.0, queue };
    line.apply_rate(&outpost.network).await?;
    outpost.add_client("client1", FILE_LEN, &[])?;
    outpost.stage.connect(0).await?;
    let tried = interrupted(trial, &mut outpost).await;
    outpost.stage.explain("interrupted", tried)?;
    outpost.stage.audit(true).await?;
    outpost.stage.strike().await
}

async fn interrupted(trial: &Trial, outpost: &mut NetworkedScenario) -> anyhow::Result<()> {
    let size = outpost.stage.cells(0).len();
    let faults = faults(trial, size);
    let before = sent(outpost).await?;
    let began = Instant::now();
    let id = outpost.stage.order(0).await?;
    for &(at, fault) in &faults {
        grown_to(outpost, at).await.with_context(|| format!("before {fault:?} at byte {at}"))?;
        interrupt(outpost, fault).await.with_context(|| format!("{fault:?} at byte {at}"))?;
        trial.tally.fault(match fault {
            LinkFault::Reset => "connection resets",
            LinkFault::KillServer => "server kills",
            LinkFault::KillAgent => "agent kills",
        });
    }
    outpost.stage.done(&id).await?;
    let wire = sent(outpost).await? - before;
    let n_kills = faults.iter().filter(|(_, fault)| *fault == LinkFault::KillServer).count() as u64;
    let n_others = faults.len() as u64 - n_kills;
    let allowed = size + n_others * WINDOW + n_kills * (TWO_SECONDS + WINDOW);
    tell(format!(
        "    {size} bytes took {wire} on the wire, headers included, of {allowed} allowed, in {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    anyhow::ensure!(wire <= allowed, "{wire} bytes were sent, {allowed} are allowed");
    Ok(())
}

/// What happens, and at which byte of the file.
fn faults(trial: &Trial, size: u64) -> Vec<(u64, LinkFault)> {
    let mut dice: Rng = trial.dice("r10");
    let n_kills = (trial.times(RESETS) * KILLS).div_ceil(RESETS) as usize;
    let mut kinds = vec![LinkFault::Reset; trial.times(RESETS) as usize];
    kinds.extend(vec![LinkFault::KillServer; n_kills]);
    kinds.extend(vec![LinkFault::KillAgent; n_kills]);
    dice.shuffle(&mut kinds);
    let mut places: Vec<u64> = kinds.iter().map(|_| dice.u64(1..size * 19 / 20)).collect();
    places.sort_unstable();
    places.into_iter().zip(kinds).collect()
}

/// Waits until so many bytes of the file have come.
async fn grown_to(outpost: &NetworkedScenario, at: u64) -> anyhow::Result<()> {
    let folder = outpost.stage.data_dir().join("client1");
    // What a server loses when it is killed has to come again, at 10 MB/s.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let partials = entries.filter(|entry| is_partial(&entry.file_name().to_string_lossy()));
        let longest = partials.filter_map(|entry| Some(entry.metadata().ok()?.len())).max();
        if longest.is_some_and(|len| at <= len) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "only {longest:?} bytes have come");
        sleep(LOOK_AGAIN).await;
    }
}

async fn interrupt(outpost: &mut NetworkedScenario, fault: LinkFault) -> anyhow::Result<()> {
    match fault {
        LinkFault::Reset => {
            let broken = "could not send";
            let agent = outpost.stage.agent(0)?;
            let n_broken = agent.said().iter().filter(|line| line.contains(broken)).count();
            outpost.rules(RESET).await?;
            outpost.stage.agent(0)?.says_times(broken, n_broken + 1).await?;
            outpost.rules("flush chain ip line faults").await
        }
        LinkFault::KillServer => {
            outpost.stage.kill_server().await?;
            outpost.stage.start_server_alone().await.map(drop)
        }
        LinkFault::KillAgent => {
            outpost.stage.kill_agent(0).await;
            outpost.stage.connect(0).await
        }
    }
}

/// What the agent has put on the wire so far.
async fn sent(outpost: &NetworkedScenario) -> anyhow::Result<u64> {
    let counter = ["/sys/class/net/to-agent/statistics/rx_bytes"];
    let bytes = outpost.network.run_in(Namespace::Router, "cat", &counter).await?;
    Ok(bytes.trim().parse()?)
}
