//! A tool: many agents of the real library in one process, apart from the server
//! and from whoever measures both.
//!
//! Each has its own id, its own connections and an address of its own on loopback to dial from:
//! one address has 28,000 ports. They share one file, keep no `status.json`, and log errors only.

use std::io::{Read as _, stdin};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::share::Shares;
use filepull_core::id::ClientId;
use filepull_process::telemetry::{self, LogFormat};
use filepull_process::{Lifecycle, open_files};
use tokio::task::spawn_blocking;

use crate::tool::{complain, say};

/// What the lab types.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many.
    #[arg(long)]
    count: u32,
    /// Whom they dial.
    #[arg(long)]
    server: String,
    /// What they all share; with `{id}` in its name each has a file of its own.
    #[arg(long)]
    file: PathBuf,
}

/// What the process says when a line on its standard input makes its agents dial.
pub(crate) const READY: &str = "ready to dial";

/// Waits for a line, then runs all agents until standard input ends.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    telemetry::start("error", LogFormat::Json)?;
    open_files::raise_limit().context("raising the limit of open files")?;
    let file = args.file.to_str().context("the name of the file is no text")?;
    let shares = |id: &ClientId| Shares::new(Path::new(&file.replace("{id}", id.as_str())), []);
    let common = shares(&client(0)?).map_err(anyhow::Error::msg)?;
    let server = ServerAddr::parse(&args.server)?;
    say(READY);
    spawn_blocking(|| stdin().read_exact(&mut [0])).await??;
    let agents = Lifecycle::new();
    for number in 0..args.count {
        let id = client(number)?;
        let own =
            file.contains("{id}").then(|| shares(&id)).transpose().map_err(anyhow::Error::msg)?;
        let own = own.unwrap_or_else(|| common.clone());
        let config = Config {
            source_addr: Some(source_addr(number)),
            name_in_log: false,
            ..Config::new(id, server.clone(), own)
        };
        let stop = agents.drain().clone();
        agents.spawn(async move {
            if let Err(error) = Agent::new(config).run_until(stop.cancelled_owned()).await {
                complain(format!("{error:#}"));
            }
        });
    }
    spawn_blocking(|| stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// The id of an agent.
pub fn client(number: u32) -> anyhow::Result<ClientId> {
    Ok(ClientId::parse(&format!("client{number}"))?)
}

/// `127.x.y.z`, from 127.1.0.1 on.
fn source_addr(number: u32) -> IpAddr {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    Ipv4Addr::from(first + number % (1 << 23)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_dials_from_an_address_of_its_own() {
        assert_eq!(source_addr(0), IpAddr::from([127, 1, 0, 1]));
        assert_eq!(source_addr(255), IpAddr::from([127, 1, 1, 0]));
        assert_eq!(source_addr(99_999), IpAddr::from([127, 2, 134, 160]));
        assert!(source_addr(u32::MAX).is_loopback());
    }
}
