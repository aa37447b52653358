//! Three network namespaces, agent, router and server, and what lies between them: for lines that
//! loopback is too good for.
//!
//! This program sits in the namespace of the server, and so does whatever it starts, unless it is
//! told to start it elsewhere. The namespaces are gone when the [`Network`] is dropped; those of a
//! run that was killed are removed by the next one.

pub(crate) mod delay;
mod line;
pub(crate) mod plain;
mod rig;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, getuid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::process::{self, START_LIMIT};
pub(crate) use line::{Line, parse_rate};
pub(crate) use rig::Rig;

/// Where something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Agent,
    Router,
    Server,
}

/// Three namespaces in a row.
#[derive(Debug)]
pub(crate) struct Network {
    /// Of the process that made them.
    pid: u32,
}

/// Where the server listens for agents.
pub(crate) const SERVER_ADDR: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);

const AGENT_ADDR: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);

/// The router's two interfaces.
const TO_AGENT: &str = "to-agent";
const TO_SERVER: &str = "to-server";

const NAME: &str = "filepull-bench";

/// More than any line here has under way: what a host allows a connection by default, 4 MiB on
/// most, would be less than the window that is measured.
pub(crate) const TCP_BUFFER: u64 = 64 << 20;

/// The kernel of a host as it is found, or with room for long lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub(crate) enum TcpBuffers {
    /// Up to 64 MiB for a connection.
    Large,
    /// Whatever the kernel allows by default.
    Kernel,
}

/// What the ends of the line are set to.
#[derive(Clone, Debug, clap::Args, serde::Serialize)]
pub(crate) struct Hosts {
    /// Congestion control of both ends.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// How much both kernels keep for one connection.
    #[arg(long, value_enum, default_value = "large")]
    tcp_buffers: TcpBuffers,
}

impl Network {
    /// Makes the namespaces and moves this program into that of the server.
    pub(crate) async fn make(hosts: &Hosts) -> anyhow::Result<Self> {
        anyhow::ensure!(getuid().is_root(), "network namespaces need root: run this with sudo");
        for tool in ["ip", "tc", "iptables", "sysctl"] {
            let found = process::installed(tool);
            found.with_context(|| {
                format!("{tool} is missing: apt-get install iproute2 iptables procps")
            })?;
        }
        remove_leftovers().await?;
        let network = Self { pid: std::process::id() };
        network.add().await.context("making network namespaces")?;
        network.connect(hosts).await.context("connecting network namespaces")?;
        let server = File::open(Path::new("/run/netns").join(network.name(Place::Server)))?;
        move_into_link_name_space(server.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(network)
    }

    /// A command that runs in another namespace than ours.
    pub(crate) fn command_in(&self, place: Place, program: &Path) -> Command {
        let mut command = process::command("ip");
        command.args(["netns", "exec", &self.name(place)]).arg(program);
        command
    }

    /// How long the line takes there and back, in seconds: a host refuses a connection at once.
    pub(crate) async fn round_trip(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let dialled = TcpStream::connect((AGENT_ADDR, 9)).await;
        anyhow::ensure!(dialled.is_err(), "somebody listens on the discard port");
        Ok(began.elapsed().as_secs_f64())
    }

    async fn add(&self) -> anyhow::Result<()> {
        for place in PLACES {
            ip(&format!("netns add {}", self.name(place))).await?;
            ip(&format!("-n {} link set lo up", self.name(place))).await?;
        }
        Ok(())
    }

    async fn connect(&self, hosts: &Hosts) -> anyhow::Result<()> {
        let router = self.name(Place::Router);
        let ends = [
            (Place::Agent, AGENT_ADDR, TO_AGENT, Ipv4Addr::new(10, 77, 1, 1)),
            (Place::Server, SERVER_ADDR, TO_SERVER, Ipv4Addr::new(10, 77, 2, 1)),
        ];
        for (place, host_addr, port, router_addr) in ends {
            let (host, congestion) = (self.name(place), &hosts.congestion);
            ip(&format!("-n {router} link add {port} type veth peer name line netns {host}"))
                .await?;
            ip(&format!("-n {router} addr add {router_addr}/24 dev {port}")).await?;
            ip(&format!("-n {router} link set {port} up")).await?;
            ip(&format!("-n {host} addr add {host_addr}/24 dev line")).await?;
            ip(&format!("-n {host} link set line up")).await?;
            // By route: a namespace may not choose another one for all of its connections.
            let via = format!("via {router_addr} congctl {congestion}");
            ip(&format!("-n {host} route add default {via}")).await?;
            if hosts.tcp_buffers == TcpBuffers::Large {
                for buffer in ["tcp_rmem=4096 131072", "tcp_wmem=4096 16384"] {
                    self.sysctl(place, &format!("net.ipv4.{buffer} {TCP_BUFFER}")).await?;
                }
            }
        }
        self.sysctl(Place::Router, "net.ipv4.ip_forward=1").await
    }

    async fn sysctl(&self, place: Place, setting: &str) -> anyhow::Result<()> {
        self.run_in(place, "sysctl", &["-qw", setting]).await.map(drop)
    }

    async fn run_in(&self, place: Place, tool: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command_in(place, Path::new(tool));
        command.args(args);
        process::finish(command, START_LIMIT).await
    }

    fn name(&self, place: Place) -> String {
        let place = match place {
            Place::Agent => "agent",
            Place::Router => "router",
            Place::Server => "server",
        };
        format!("{NAME}-{}-{place}", self.pid)
    }
}

const PLACES: [Place; 3] = [Place::Agent, Place::Router, Place::Server];

impl Drop for Network {
    fn drop(&mut self) {
        for place in PLACES {
            // What still runs there keeps it alive, without a name, for a moment longer. One that
            // was never made cannot be deleted, and need not be.
            let mut command = std::process::Command::new("ip");
            let _ = command.args(["netns", "del", &self.name(place)]).output();
        }
    }
}

/// Removes the namespaces of runs that were killed, and ends what still runs in them.
async fn remove_leftovers() -> anyhow::Result<()> {
    let listed = ip("netns list").await?;
    // `NAME (id: 0)`
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| maker(name).is_some_and(|pid| !process::is_bench(pid))) {
        let pids = ip(&format!("netns pids {name}")).await?;
        for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // An error means that it has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        ip(&format!("netns del {name}")).await?;
    }
    Ok(())
}

/// The process that made a namespace of ours.
fn maker(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(NAME)?.strip_prefix('-')?;
    rest.split_once('-')?.0.parse().ok()
}

/// Runs `ip` with these words.
async fn ip(words: &str) -> anyhow::Result<String> {
    let mut command = process::command("ip");
    command.args(words.split(' '));
    process::finish(command, START_LIMIT).await.with_context(|| format!("ip {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_ours_are_leftovers() {
        let network = Network { pid: 42 };
        let names = PLACES.map(|place| network.name(place));
        // Not dropped: it was never made.
        std::mem::forget(network);
        assert_eq!(names.each_ref().map(|name| maker(name)), [Some(42); 3]);
        for other in ["agent", "filepull-bench", "filepull-bench-x-agent", "filepull-benches-1-a"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
