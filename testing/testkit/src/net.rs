//! Network namespaces in a row, agent, router and server, and what lies between them: for lines
//! that loopback is too good for.
//!
//! This program sits in the namespace of the server, and so does whatever it starts, unless it is
//! told to start it elsewhere. Several networks may lie beside each other, each with an agent and a
//! router of its own. The namespaces are gone when the [`Network`] is dropped; those of a run that
//! was killed are removed by the next one.

pub mod delay;
mod link;
pub mod plain;

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
pub use link::{Link, LinkedNetwork, parse_rate};

/// Where something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Behind the router.
    Agent,
    /// Between both.
    Router,
    /// Where this program is.
    Server,
}

/// Three namespaces in a row.
#[derive(Debug)]
pub struct Network {
    /// Of the process that made it.
    pid: u32,
    /// Tells it from others of the same process.
    number: u8,
}

/// The router's two interfaces.
pub const TO_AGENT: &str = "to-agent";
/// The other one.
pub const TO_SERVER: &str = "to-server";

const NAME: &str = "filepull-testkit";

/// More than any line here has under way: what a host allows a connection by default, 4 MiB on
/// most, would be less than the window that is measured.
pub const TCP_BUFFER: u64 = 64 << 20;

/// The kernel of a host as it is found, or with room for long lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum TcpBuffers {
    /// Up to 64 MiB for a connection.
    Large,
    /// Whatever the kernel allows by default.
    Kernel,
}

/// What the ends of the line are set to.
#[derive(Clone, Debug, clap::Args, serde::Serialize)]
pub struct Hosts {
    /// Congestion control of both ends.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// How much both kernels keep for one connection.
    #[arg(long, value_enum, default_value = "large")]
    tcp_buffers: TcpBuffers,
}

impl Hosts {
    /// Hosts as most people have them.
    pub fn usual() -> Self {
        Self { congestion: "cubic".to_owned(), tcp_buffers: TcpBuffers::Kernel }
    }
}

impl Network {
    /// Makes the namespaces and moves this program, which must have one thread only, into that of
    /// the server.
    pub async fn make(hosts: &Hosts) -> anyhow::Result<Self> {
        let network = Self::begin(0).await?;
        let name = network.name(Namespace::Server);
        ip(&format!("netns add {name}")).await?;
        let server = File::open(Path::new("/run/netns").join(name))?;
        move_into_link_name_space(server.as_fd(), Some(LinkNameSpaceType::Network))?;
        ip("link set lo up").await?;
        network.lay_out(hosts).await
    }

    /// Makes the namespaces of an agent and a router beside that of this program, which becomes the
    /// server's.
    pub async fn beside(number: u8, hosts: &Hosts) -> anyhow::Result<Self> {
        Self::begin(number).await?.lay_out(hosts).await
    }

    async fn begin(number: u8) -> anyhow::Result<Self> {
        anyhow::ensure!(getuid().is_root(), "network namespaces need root: run this with sudo");
        for tool in ["ip", "tc", "iptables", "sysctl"] {
            let found = process::installed(tool);
            found.with_context(|| {
                format!("{tool} is missing: apt-get install iproute2 iptables procps")
            })?;
        }
        remove_leftovers().await?;
        Ok(Self { pid: std::process::id(), number })
    }

    async fn lay_out(self, hosts: &Hosts) -> anyhow::Result<Self> {
        self.add().await.context("making network namespaces")?;
        self.connect(hosts).await.context("connecting network namespaces")?;
        Ok(self)
    }

    /// Where the server listens for this network's agents.
    pub fn server_addr(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number * 2 + 2, 2)
    }

    /// Where the agents are.
    pub fn agent_addr(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number * 2 + 1, 2)
    }

    /// The words that start a program there.
    pub fn launcher(&self, place: Namespace) -> Vec<String> {
        match place {
            Namespace::Server => Vec::new(),
            Namespace::Agent | Namespace::Router => {
                let name = self.name(place);
                ["ip", "netns", "exec", &name].map(str::to_owned).to_vec()
            }
        }
    }

    /// A command that runs there.
    pub fn command_in(&self, place: Namespace, program: &Path) -> Command {
        match self.launcher(place).as_slice() {
            [] => process::command(program),
            [first, rest @ ..] => {
                let mut command = process::command(first);
                command.args(rest).arg(program);
                command
            }
        }
    }

    /// Runs a tool there to its end; what it printed.
    pub async fn run_in(
        &self,
        place: Namespace,
        tool: &str,
        args: &[&str],
    ) -> anyhow::Result<String> {
        let mut command = self.command_in(place, Path::new(tool));
        command.args(args);
        process::finish(command, START_LIMIT).await
    }

    /// Changes a setting of the kernel there.
    pub async fn sysctl(&self, place: Namespace, setting: &str) -> anyhow::Result<()> {
        self.run_in(place, "sysctl", &["-qw", setting]).await.map(drop)
    }

    /// How long the line takes there and back, in seconds: a host refuses a connection at once.
    pub async fn round_trip(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let dialled = TcpStream::connect((self.agent_addr(), 9)).await;
        anyhow::ensure!(dialled.is_err(), "somebody listens on the discard port");
        Ok(began.elapsed().as_secs_f64())
    }

    async fn add(&self) -> anyhow::Result<()> {
        for place in [Namespace::Agent, Namespace::Router] {
            ip(&format!("netns add {}", self.name(place))).await?;
            ip(&format!("-n {} link set lo up", self.name(place))).await?;
        }
        Ok(())
    }

    async fn connect(&self, hosts: &Hosts) -> anyhow::Result<()> {
        let (router, number) = (self.name(Namespace::Router), self.number);
        let [to_agent, to_server] = [1, 2].map(|n| Ipv4Addr::new(10, 77, number * 2 + n, 1));
        let congestion = &hosts.congestion;
        // By route: a namespace may not choose another congestion control for all its connections.
        let ends = [
            (Namespace::Agent, self.agent_addr(), TO_AGENT, to_agent, "default".to_owned()),
            (Namespace::Server, self.server_addr(), TO_SERVER, to_server, self.beyond()),
        ];
        for (place, host_addr, port, router_addr, beyond) in ends {
            let link = format!("line{number}");
            let (netns, at) = match place {
                // Where the first thread of this process is.
                Namespace::Server => (self.pid.to_string(), String::new()),
                Namespace::Agent | Namespace::Router => {
                    (self.name(place), format!("-n {} ", self.name(place)))
                }
            };
            ip(&format!("-n {router} link add {port} type veth peer name {link} netns {netns}"))
                .await?;
            ip(&format!("-n {router} addr add {router_addr}/24 dev {port}")).await?;
            ip(&format!("-n {router} link set {port} up")).await?;
            ip(&format!("{at}addr add {host_addr}/24 dev {link}")).await?;
            ip(&format!("{at}link set {link} up")).await?;
            ip(&format!("{at}route add {beyond} via {router_addr} congctl {congestion}")).await?;
            if hosts.tcp_buffers == TcpBuffers::Large {
                for buffer in ["tcp_rmem=4096 131072", "tcp_wmem=4096 16384"] {
                    self.sysctl(place, &format!("net.ipv4.{buffer} {TCP_BUFFER}")).await?;
                }
            }
        }
        self.sysctl(Namespace::Router, "net.ipv4.ip_forward=1").await
    }

    /// The agents, as the server's host sees them.
    fn beyond(&self) -> String {
        format!("10.77.{}.0/24", self.number * 2 + 1)
    }

    fn name(&self, place: Namespace) -> String {
        let place = match place {
            Namespace::Agent => "agent",
            Namespace::Router => "router",
            Namespace::Server => "server",
        };
        format!("{NAME}-{}-{}-{place}", self.pid, self.number)
    }
}

const PLACES: [Namespace; 3] = [Namespace::Agent, Namespace::Router, Namespace::Server];

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
    for name in names.filter(|name| maker(name).is_some_and(|pid| !process::is_ours(pid))) {
        let pids = ip(&format!("netns pids {name}")).await.unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // An error means that it has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        // Another one who cleans up may have been faster.
        let _ = ip(&format!("netns del {name}")).await;
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
        let network = Network { pid: 42, number: 7 };
        let names = PLACES.map(|place| network.name(place));
        // Not dropped: it was never made.
        std::mem::forget(network);
        assert_eq!(names.each_ref().map(|name| maker(name)), [Some(42); 3]);
        for other in
            ["agent", "filepull-testkit", "filepull-testkit-x-agent", "filepull-testkits-1-a"]
        {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
