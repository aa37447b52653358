//! One plain TCP connection over the same line: what nobody can be faster than for long.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Namespace, Network};
use crate::process::{ChildProcess, START_LIMIT};
use crate::tool;

/// What the lab types.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Whom to send to.
    to: SocketAddr,
}

/// What arrived.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SendReport {
    /// How many.
    pub bytes: u64,
    /// Since the connection was accepted.
    pub seconds: f64,
}

/// Sends noughts until nobody wants them.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect(args.to).await?;
    let block = vec![0; 256 * 1024];
    while connection.write_all(&block).await.is_ok() {}
    Ok(())
}

/// Lets the agent's host send to the server's until so much has come, or so long has passed.
pub async fn pour(
    network: &Network,
    folder: &Path,
    most_bytes: u64,
    most_time: Duration,
) -> anyhow::Result<SendReport> {
    let listener = TcpListener::bind((network.server_addr(), 0)).await?;
    let mut command = network.command_in(Namespace::Agent, &env::current_exe()?);
    command.args([tool::NAME, "pour", &listener.local_addr()?.to_string()]).stdin(Stdio::null());
    let (sender, _output) = ChildProcess::start("pour", command, folder)?;
    let accepted = timeout(START_LIMIT, listener.accept()).await;
    let (mut connection, _) = accepted.with_context(|| sender.last_words())??;
    let began = Instant::now();
    let mut bytes: u64 = 0;
    let receive = async {
        let mut block = vec![0; 256 * 1024];
        while bytes < most_bytes {
            let n_bytes = connection.read(&mut block).await?;
            anyhow::ensure!(n_bytes != 0, sender.last_words());
            bytes += n_bytes as u64;
        }
        Ok(())
    };
    // Whether it ran out of time does not matter: both are known.
    if let Ok(received) = timeout(most_time, receive).await {
        received?;
    }
    let seconds = began.elapsed().as_secs_f64();
    sender.end().await?;
    Ok(SendReport { bytes, seconds })
}

impl SendReport {
    /// Millions of bytes per second.
    pub fn megabytes_per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 9 PB")]
        let bytes = self.bytes as f64;
        bytes / 1e6 / self.seconds
    }
}
