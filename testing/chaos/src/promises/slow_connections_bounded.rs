//! S7: 2,000 connections that send nothing, half of a handshake, or a byte now and then, against a server that
//! may open 256 files.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::fleet::make_room;
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::promise::Promise;
use crate::report::print_line;
use crate::scenario::Scenario;
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S7",
    statement: "Idle and slow connections are bounded: each ends within 10 s, and triggers are answered.",
    requirements: &[Requirement::Program("prlimit", "util-linux")],
    limit: Duration::from_secs(90),
    run: |trial| run(trial).boxed_local(),
};

const CONNECTIONS: u32 = 2000;
const FILE_LIMIT: &str = "--nofile=256:256";
/// From the moment at which the server accepts a connection.
const DROP_LIMIT: Duration = Duration::from_secs(10);
/// Timers of the server and of this machine.
const TOLERANCE: Duration = Duration::from_secs(2);
const TRIGGER_LIMIT: Duration = Duration::from_secs(1);
const TRIGGER_EVERY: Duration = Duration::from_millis(500);
const MAX_CPU_PERCENT: f64 = 20.0;
const BYTE_EVERY: Duration = Duration::from_secs(5);

/// What a slow connection sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slowness {
    /// Nothing, to the listener for agents.
    SilentAgent,
    /// Nothing, to the listener for operators.
    SilentOperator,
    /// The first half of a TLS ClientHello.
    HalfHello,
    /// A byte of an HTTP header every five seconds.
    SlowHeader,
}

const KINDS: [Slowness; 4] =
    [Slowness::SilentAgent, Slowness::SilentOperator, Slowness::HalfHello, Slowness::SlowHeader];

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let count = trial.times(CONNECTIONS);
    make_room(count)?;
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    let launcher = ["prlimit", FILE_LIMIT].map(str::to_owned).to_vec();
    scenario.server.launch_server_by(launcher);
    scenario.start_server().await?;
    let index = scenario.add_invited_client("honest", 1000, &[]).await?;
    scenario.connect(index).await?;
    let tried = under_slow_connections(trial, &mut scenario, count).await;
    scenario.explain("slow connections", tried)?;
    scenario.teardown().await
}

async fn under_slow_connections(
    trial: &Trial,
    scenario: &mut Scenario,
    count: u32,
) -> anyhow::Result<()> {
    let grpc = scenario.server.grpc();
    let http = scenario.server.http();
    let cpu_before = scenario.server_process()?.usage()?.cpu;
    let began = Instant::now();
    let slow = (0..count).map(|n| {
        let kind = KINDS[n as usize % KINDS.len()];
        let is_agent = matches!(kind, Slowness::SilentAgent | Slowness::HalfHello);
        hold(kind, if is_agent { grpc } else { http })
    });
    #[allow(clippy::disallowed_methods, reason = "awaited below")]
    let slow = tokio::spawn(join_all(slow.collect::<Vec<_>>()));
    let mut slowest = Duration::ZERO;
    let mut n_triggers = 0;
    while !slow.is_finished() && began.elapsed() < DROP_LIMIT + TOLERANCE {
        let took = trigger(scenario).await?;
        slowest = slowest.max(took);
        n_triggers += 1;
        sleep(TRIGGER_EVERY).await;
    }
    let held = timeout(DROP_LIMIT + TOLERANCE, slow).await.context("connections stay open")??;
    let elapsed = began.elapsed();
    let cpu = scenario.server_process()?.usage()?.cpu - cpu_before;
    let percent = cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    let longest = held.iter().max().copied().unwrap_or_default();
    print_line(format!(
        "    the last connection ended after {:.1} s, {n_triggers} triggers within {:.3} s, CPU {percent:.1} %",
        longest.as_secs_f64(),
        slowest.as_secs_f64()
    ));
    trial.counters.faults("slow connections", u64::from(count));
    anyhow::ensure!(longest <= DROP_LIMIT + TOLERANCE, "a connection was open for {longest:?}");
    anyhow::ensure!(percent < MAX_CPU_PERCENT, "the server used {percent:.0} % of a core");
    Ok(())
}

/// Triggers as an operator does. Returns the time to the answer.
///
/// While hundreds of connections arrive in one moment, the newest may push out one whose request was not read
/// yet. The operator tries again; the limit covers all tries.
async fn trigger(scenario: &Scenario) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        let answer = scenario.server.get("/trigger?id=honest&fresh").await;
        let took = began.elapsed();
        anyhow::ensure!(took < TRIGGER_LIMIT, "no answer to a trigger within {took:?}: {answer:?}");
        if let Ok(answer) = answer {
            let done = matches!(answer.status, 200 | 202);
            anyhow::ensure!(done, "{}: {}", answer.status, answer.text());
            return Ok(took);
        }
    }
}

/// Opens a connection, sends slowly, and returns how long the server kept it open.
async fn hold(kind: Slowness, server: SocketAddr) -> Duration {
    let began = Instant::now();
    // A connection that is rejected at once is not slow.
    let Ok(mut stream) = TcpStream::connect(server).await else { return began.elapsed() };
    let first: &[u8] = match kind {
        Slowness::SilentAgent | Slowness::SilentOperator => b"",
        // A record of 512 bytes with a ClientHello, of which 32 bytes arrive.
        Slowness::HalfHello => &[
            0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
            15, 16, 17, 18, 19, 20, 21,
        ],
        Slowness::SlowHeader => b"GET / HTTP/1.1\r\nX-Slow: ",
    };
    let _ = stream.write_all(first).await;
    let mut bytes = [0; 512];
    loop {
        match timeout(BYTE_EVERY, stream.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return began.elapsed(),
            Ok(Ok(_)) => {}
            Err(_) if kind == Slowness::SlowHeader => {
                if stream.write_all(b"x").await.is_err() {
                    return began.elapsed();
                }
            }
            Err(_) => {}
        }
    }
}
