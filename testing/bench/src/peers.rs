//! The programs that filepull is compared with. Each does the same work on the same disk, in a
//! temporary setup of its own.

mod checked;
mod disk;
mod nginx;
pub(crate) mod rsync;
mod rsync_ssh;
mod scp;
mod sshd;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_testkit::proc_files;
use filepull_testkit::{DEADLINE, POLL_INTERVAL, Process, process};
use serde::Serialize;
use tokio::process::Command;
use tokio::time::sleep;

use crate::source::SourceFile;
use crate::targets::{self, SizedTarget};

/// A program that is ready to copy files.
pub(crate) struct Peer {
    pub(crate) facts: Facts,
    /// The folder of the copies.
    inbox: PathBuf,
    /// The process that accepts connections, if the program has two processes.
    daemon: Option<Process>,
    /// Returns the command that copies a source to a new file with this name in the inbox.
    copy: Box<CopyCommand>,
}

type CopyCommand = dyn Fn(&SourceFile, &str) -> Command;

/// What a reader needs to compare the figures of a peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// What the program guarantees when it reports success.
    pub(crate) guarantees: &'static str,
    /// Required ratio of filepull's throughput to this program's (PERFORMANCE.md).
    pub(crate) target: Option<SizedTarget>,
}

/// The time and CPU of one copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyResult {
    pub(crate) duration: Duration,
    /// Of the process that accepts the connection.
    pub(crate) server_cpu: Duration,
    /// Of the process that opens the connection.
    pub(crate) client_cpu: Duration,
}

/// The programs that get the guarantees of filepull from others.
const SCP_CHECKED: &str = "scp, sums, sync";
const NGINX_CHECKED: &str = "nginx, sums, sync";

/// Starts every peer that is installed, or only those that encrypt. Also returns why the others are
/// missing.
pub(crate) async fn start_all(folder: &Path, is_encrypted: bool) -> (Vec<Peer>, Vec<String>) {
    let checked_folder = folder.join("checked");
    let checked_scp = scp::start(&checked_folder, is_encrypted).await;
    let mut started = vec![
        ("scp", scp::start(folder, is_encrypted).await),
        (SCP_CHECKED, checked_scp.and_then(|scp| checked::add_sums(scp, SCP_CHECKED, None))),
        ("rsync via ssh", rsync_ssh::start(folder).await),
    ];
    if !is_encrypted {
        let target = Some(targets::OVER_CHECKED_NGINX);
        let nginx = nginx::start(&checked_folder).await;
        started.extend([
            ("rsync daemon", rsync::start(folder).await),
            ("rsync daemon, --fsync", rsync::start_synced(folder).await),
            ("curl -T to nginx", nginx::start(folder).await),
            (
                NGINX_CHECKED,
                nginx.and_then(|nginx| checked::add_sums(nginx, NGINX_CHECKED, target)),
            ),
            ("dd conv=fsync", disk::start(folder).await),
            ("dd oflag=direct", disk::start_direct(folder).await),
        ]);
    }
    let mut peers = Vec::new();
    let mut missing = Vec::new();
    for (name, peer) in started {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(error) => missing.push(format!("{name}: {error:#}")),
        }
    }
    (peers, missing)
}

impl Peer {
    /// Copies the source to a new file. Afterwards checks the size of the copy and deletes it.
    pub(crate) async fn copy(&self, source: &SourceFile) -> anyhow::Result<CopyResult> {
        let name = format!("copy-{}", fastrand::u64(..));
        let command = (self.copy)(source, &name);
        let daemon_before = self.daemon.as_ref().map(Process::usage).transpose()?;
        let client_before = proc_files::reaped_by_us()?;
        let began = Instant::now();
        process::finish(command, source.limit()).await.with_context(|| self.last_words())?;
        let duration = began.elapsed();
        let client_cpu = proc_files::reaped_by_us()?.saturating_sub(client_before);
        let server_cpu = match (&self.daemon, daemon_before) {
            (Some(daemon), Some(before)) => {
                cpu_after_exit(daemon, before.n_processes).await?.saturating_sub(before.cpu)
            }
            _ => Duration::ZERO,
        };
        let copy = self.inbox.join(name);
        source.check_copy(&copy)?;
        std::fs::remove_file(&copy)?;
        Ok(CopyResult { duration, server_cpu, client_cpu })
    }

    /// Kills the daemon and waits for its end.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        match self.daemon {
            Some(daemon) => daemon.kill().await,
            None => Ok(()),
        }
    }

    fn last_words(&self) -> String {
        self.daemon.as_ref().map(Process::last_output).unwrap_or_default()
    }
}

/// Returns the CPU time of a daemon after the processes for its connections have ended.
async fn cpu_after_exit(daemon: &Process, n_processes: usize) -> anyhow::Result<Duration> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let usage = daemon.usage()?;
        if usage.n_processes <= n_processes || deadline < Instant::now() {
            return Ok(usage.cpu);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Returns the path of a program; fails if it is not installed.
pub(crate) fn find(program: &str) -> anyhow::Result<PathBuf> {
    process::installed(program).with_context(|| format!("{program} is not installed"))
}

/// Returns the first words of the version that a program prints for `flag`.
pub(crate) async fn version(program: &Path, flag: &str, n_words: usize) -> anyhow::Result<String> {
    let mut command = process::command(program);
    command.arg(flag);
    let text = process::finish(command, DEADLINE).await?;
    let words: Vec<&str> = text.split_whitespace().take(n_words).collect();
    Ok(words.join(" ").trim_end_matches(',').to_owned())
}

/// Creates a folder for a peer, and a folder for the copies in it.
fn folders(parent: &Path, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let home = parent.join(name);
    let inbox = home.join("inbox");
    std::fs::create_dir_all(&inbox)?;
    Ok((home, inbox))
}

/// Returns a port that is free now. These daemons cannot report which port they got for port 0.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
