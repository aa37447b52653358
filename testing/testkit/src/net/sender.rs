//! A plain TCP connection over the link: the upper bound for the throughput of an upload.

use std::env;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Namespace, Network};
use crate::process::Process;
use crate::{soon, tool};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The address of the receiver.
    to: SocketAddr,
}

/// What the receiver has measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SendReport {
    /// Bytes received before the limit.
    pub bytes: u64,
    /// Seconds since the connection was accepted.
    pub seconds: f64,
}

/// Sends zeros until the receiver closes the connection.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect(args.to).await?;
    let block = vec![0; 256 * 1024];
    while connection.write_all(&block).await.is_ok() {}
    Ok(())
}

/// Sends from the agent's host to the server's host, until `max_bytes` have arrived or `max_time`
/// has passed.
pub async fn measure_sender(
    network: &Network,
    max_bytes: u64,
    max_time: Duration,
) -> anyhow::Result<SendReport> {
    let listener = TcpListener::bind((network.server_addr(), 0)).await?;
    let mut command = network.command_in(Namespace::Agent, &env::current_exe()?);
    command.args([tool::NAME, "sender", &listener.local_addr()?.to_string()]);
    let sender = Process::spawn(command)?;
    let accepted = soon("the sender", listener.accept()).await;
    let (mut connection, _) = accepted.with_context(|| sender.last_output())??;
    let began = Instant::now();
    let mut bytes: u64 = 0;
    let receive = async {
        let mut block = vec![0; 256 * 1024];
        while bytes < max_bytes {
            let n_bytes = connection.read(&mut block).await?;
            anyhow::ensure!(n_bytes != 0, sender.last_output());
            bytes += n_bytes as u64;
        }
        Ok(())
    };
    // A timeout is no error: bytes and time are known in either case.
    if let Ok(received) = timeout(max_time, receive).await {
        received?;
    }
    let seconds = began.elapsed().as_secs_f64();
    sender.kill().await?;
    Ok(SendReport { bytes, seconds })
}

impl SendReport {
    /// Returns the throughput in megabytes (10^6 bytes) per second.
    pub fn megabytes_per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 9 PB")]
        let bytes = self.bytes as f64;
        bytes / 1e6 / self.seconds
    }
}
