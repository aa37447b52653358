//! A tool: many agents of the library in one process.
//!
//! Each agent has its own id, its own connections, and its own loopback address to dial from: one
//! address has 28,000 ports. The agents share one file and log errors only. Without invites they keep no
//! state.

use std::fs;
use std::io::{Read as _, stdin};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::share::Shares;
use filepull_core::id::ClientId;
use filepull_core::invite::Invite;
use filepull_process::telemetry::{self, LogFormat};
use filepull_process::{Lifecycle, open_files};
use tokio::task::spawn_blocking;

use crate::tool::{log_error, print};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The number of agents to run.
    #[arg(long)]
    count: u32,
    /// The server that the agents dial.
    #[arg(long)]
    server: String,
    /// The default file of all agents. With `{id}` in its name each agent has its own file.
    #[arg(long)]
    file: PathBuf,
    /// A file with an invite for each agent, one in a line. The agents use TLS.
    #[arg(long, requires = "state")]
    invites: Option<PathBuf>,
    /// The parent of the state folders of agents that enrol.
    #[arg(long, requires = "invites")]
    state: Option<PathBuf>,
}

impl Args {
    fn invites(&self) -> anyhow::Result<Vec<Invite>> {
        let Some(path) = &self.invites else { return Ok(Vec::new()) };
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        text.lines().map(|line| Ok(Invite::parse(line)?)).collect()
    }
}

/// Printed when a line on standard input will make the agents dial.
pub(crate) const READY: &str = "ready to dial";

/// Waits for a line, then runs all agents until standard input ends.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    telemetry::start("error", LogFormat::Json)?;
    open_files::raise_limit().context("raising the limit of open files")?;
    let file = args.file.to_str().context("the name of the file is not UTF-8")?;
    let shares = |id: &ClientId| {
        let own_file = file.replace("{id}", id.as_str());
        Shares::new(Path::new(&own_file), []).map_err(anyhow::Error::msg)
    };
    let common = shares(&client(0)?)?;
    let server = ServerAddr::parse(&args.server)?;
    let mut invites = args.invites()?.into_iter();
    print(READY);
    spawn_blocking(|| stdin().read_exact(&mut [0])).await??;
    let agents = Lifecycle::new();
    for number in 0..args.count {
        let id = client(number)?;
        let shares = if file.contains("{id}") { shares(&id)? } else { common.clone() };
        let config = Config {
            source_addr: Some(source_addr(number)),
            name_in_log: false,
            invite: invites.next(),
            state_dir: args.state.as_ref().map(|state| state.join(id.as_str())),
            ..Config::new(id, server.clone(), shares)
        };
        let stop = agents.drain().clone();
        agents.spawn(async move {
            if let Err(error) = Agent::new(config).run_until(stop.cancelled_owned()).await {
                log_error(format!("{error:#}"));
            }
        });
    }
    spawn_blocking(|| stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// Returns the id of the agent with this number: `client0`, `client1`, ...
pub fn client(number: u32) -> anyhow::Result<ClientId> {
    Ok(ClientId::parse(&format!("client{number}"))?)
}

/// Returns the loopback address of an agent, from 127.1.0.1 on.
fn source_addr(number: u32) -> IpAddr {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    Ipv4Addr::from(first + number % (1 << 23)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_dials_from_its_own_address() {
        assert_eq!(source_addr(0), IpAddr::from([127, 1, 0, 1]));
        assert_eq!(source_addr(255), IpAddr::from([127, 1, 1, 0]));
        assert_eq!(source_addr(99_999), IpAddr::from([127, 2, 134, 160]));
        assert!(source_addr(u32::MAX).is_loopback());
    }
}
