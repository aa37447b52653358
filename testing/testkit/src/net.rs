//! Network namespaces for agent, router and server, with a link that is slower than loopback.
//!
//! This program and the processes that it starts are in the namespace of the server by default.
//! Several networks may exist at once; each has its own agent and router. A drop of the [`Network`]
//! removes its namespaces. After a kill the next run removes them.

mod counters;
pub(crate) mod delay;
mod link;
pub(crate) mod sender;

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

use crate::{DEADLINE, process};
pub use counters::{PacketCount, RouterCount};
pub use link::{Link, LinkedNetwork, parse_rate};
pub use sender::{SendReport, measure_sender};

/// The namespace of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The host of agents, behind the router.
    Agent,
    /// The router between agents and server.
    Router,
    /// The server and this program.
    Server,
}

/// Three namespaces: agent, router, server.
#[derive(Debug)]
pub struct Network {
    /// The process that created the namespaces.
    pid: u32,
    /// Distinguishes the networks of one process.
    number: u8,
}

/// The interfaces of the router.
const TO_AGENT: &str = "to-agent";
const TO_SERVER: &str = "to-server";

const NAME: &str = "filepull-testkit";

/// Bytes of a large TCP buffer. The usual limit of 4 MiB is less than the measured window.
const TCP_BUFFER: u64 = 64 << 20;

/// The limit of the TCP buffers of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum TcpBuffers {
    /// 64 MiB for each connection.
    Large,
    /// The default of the kernel.
    Kernel,
}

/// The TCP settings of both hosts.
#[derive(Clone, Debug, clap::Args, serde::Serialize)]
pub struct Hosts {
    /// Congestion control of both hosts.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// Maximum TCP buffers of both hosts.
    #[arg(long, value_enum, default_value = "large")]
    tcp_buffers: TcpBuffers,
}

impl Hosts {
    /// Returns the defaults of most systems.
    pub fn usual() -> Self {
        Self { congestion: "cubic".to_owned(), tcp_buffers: TcpBuffers::Kernel }
    }
}

impl Network {
    /// Creates the namespaces and moves this program into the namespace of the server. This program
    /// must have only one thread.
    pub async fn create(hosts: &Hosts) -> anyhow::Result<Self> {
        let network = Self::prepare(0).await?;
        let name = network.name(Namespace::Server);
        ip(&format!("netns add {name}")).await?;
        let server = File::open(Path::new("/run/netns").join(name))?;
        move_into_link_name_space(server.as_fd(), Some(LinkNameSpaceType::Network))?;
        ip("link set lo up").await?;
        network.build(hosts).await
    }

    /// Creates namespaces for an agent and a router. The present namespace of this program is used
    /// for the server.
    pub async fn create_beside(number: u8, hosts: &Hosts) -> anyhow::Result<Self> {
        Self::prepare(number).await?.build(hosts).await
    }

    async fn prepare(number: u8) -> anyhow::Result<Self> {
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

    async fn build(self, hosts: &Hosts) -> anyhow::Result<Self> {
        self.add().await.context("creating network namespaces")?;
        self.connect(hosts).await.context("connecting network namespaces")?;
        Ok(self)
    }

    /// Returns the address at which this network's agents reach the server.
    pub fn server_addr(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number * 2 + 2, 2)
    }

    /// Returns the address of the agents' host.
    pub fn agent_addr(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number * 2 + 1, 2)
    }

    /// Returns the launcher that starts a program in a namespace.
    pub fn launcher(&self, namespace: Namespace) -> Vec<String> {
        match namespace {
            Namespace::Server => Vec::new(),
            Namespace::Agent | Namespace::Router => {
                let name = self.name(namespace);
                ["ip", "netns", "exec", &name].map(str::to_owned).to_vec()
            }
        }
    }

    /// Returns a command that runs in a namespace.
    pub fn command_in(&self, namespace: Namespace, program: &Path) -> Command {
        process::command_by(&self.launcher(namespace), program)
    }

    /// Runs a program in a namespace to its end, and returns its output.
    pub async fn run_in(
        &self,
        namespace: Namespace,
        program: &str,
        args: &[&str],
    ) -> anyhow::Result<String> {
        let mut command = self.command_in(namespace, Path::new(program));
        command.args(args);
        process::finish(command, DEADLINE).await
    }

    /// Changes a kernel setting in a namespace.
    pub async fn sysctl(&self, namespace: Namespace, setting: &str) -> anyhow::Result<()> {
        self.run_in(namespace, "sysctl", &["-qw", setting]).await.map(drop)
    }

    /// Measures the round trip in seconds: the agents' host rejects a connection at once.
    pub async fn round_trip(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let connected = TcpStream::connect((self.agent_addr(), 9)).await;
        anyhow::ensure!(connected.is_err(), "a program listens on the discard port");
        Ok(began.elapsed().as_secs_f64())
    }

    async fn add(&self) -> anyhow::Result<()> {
        for namespace in [Namespace::Agent, Namespace::Router] {
            ip(&format!("netns add {}", self.name(namespace))).await?;
            ip(&format!("-n {} link set lo up", self.name(namespace))).await?;
        }
        Ok(())
    }

    async fn connect(&self, hosts: &Hosts) -> anyhow::Result<()> {
        let router = self.name(Namespace::Router);
        let number = self.number;
        let [to_agent, to_server] = [1, 2].map(|n| Ipv4Addr::new(10, 77, number * 2 + n, 1));
        let congestion = &hosts.congestion;
        // Set for a route: a namespace cannot change the default congestion control.
        let ends = [
            (Namespace::Agent, self.agent_addr(), TO_AGENT, to_agent, "default".to_owned()),
            (Namespace::Server, self.server_addr(), TO_SERVER, to_server, self.agent_subnet()),
        ];
        for (namespace, host_addr, port, router_addr, destination) in ends {
            let link = format!("link{number}");
            let (netns, at) = match namespace {
                // The namespace of the first thread of this process.
                Namespace::Server => (self.pid.to_string(), String::new()),
                Namespace::Agent | Namespace::Router => {
                    (self.name(namespace), format!("-n {} ", self.name(namespace)))
                }
            };
            ip(&format!("-n {router} link add {port} type veth peer name {link} netns {netns}"))
                .await?;
            ip(&format!("-n {router} addr add {router_addr}/24 dev {port}")).await?;
            ip(&format!("-n {router} link set {port} up")).await?;
            ip(&format!("{at}addr add {host_addr}/24 dev {link}")).await?;
            ip(&format!("{at}link set {link} up")).await?;
            ip(&format!("{at}route add {destination} via {router_addr} congctl {congestion}"))
                .await?;
            if hosts.tcp_buffers == TcpBuffers::Large {
                for buffer in ["tcp_rmem=4096 131072", "tcp_wmem=4096 16384"] {
                    self.sysctl(namespace, &format!("net.ipv4.{buffer} {TCP_BUFFER}")).await?;
                }
            }
        }
        self.sysctl(Namespace::Router, "net.ipv4.ip_forward=1").await
    }

    /// Returns the subnet of the agents.
    fn agent_subnet(&self) -> String {
        format!("10.77.{}.0/24", self.number * 2 + 1)
    }

    fn name(&self, namespace: Namespace) -> String {
        let namespace = match namespace {
            Namespace::Agent => "agent",
            Namespace::Router => "router",
            Namespace::Server => "server",
        };
        format!("{NAME}-{}-{}-{namespace}", self.pid, self.number)
    }
}

const NAMESPACES: [Namespace; 3] = [Namespace::Agent, Namespace::Router, Namespace::Server];

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in NAMESPACES {
            // An error means that the namespace was never created. Processes in it keep it alive,
            // without a name, until they end.
            let mut command = std::process::Command::new("ip");
            let _ = command.args(["netns", "del", &self.name(namespace)]).output();
        }
    }
}

/// Removes the namespaces of killed runs, and kills the processes in them.
async fn remove_leftovers() -> anyhow::Result<()> {
    let listed = ip("netns list").await?;
    // `NAME (id: 0)`
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| owner(name).is_some_and(|pid| !process::is_ours(pid))) {
        let pids = ip(&format!("netns pids {name}")).await.unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // An error means that the process has ended.
            let _ = kill_process(pid, Signal::KILL);
        }
        // An error means that another run has removed it.
        let _ = ip(&format!("netns del {name}")).await;
    }
    Ok(())
}

/// Returns the process that created a namespace of this kit.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(NAME)?.strip_prefix('-')?;
    rest.split_once('-')?.0.parse().ok()
}

/// Runs `ip` with arguments that are separated by spaces.
async fn ip(args: &str) -> anyhow::Result<String> {
    let mut command = process::command("ip");
    command.args(args.split(' '));
    process::finish(command, DEADLINE).await.with_context(|| format!("ip {args}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_this_kit_are_leftovers() {
        let network = Network { pid: 42, number: 7 };
        let names = NAMESPACES.map(|namespace| network.name(namespace));
        // A drop would run `ip`.
        std::mem::forget(network);
        assert_eq!(names.each_ref().map(|name| owner(name)), [Some(42); 3]);
        for other in
            ["agent", "filepull-testkit", "filepull-testkit-x-agent", "filepull-testkits-1-a"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
