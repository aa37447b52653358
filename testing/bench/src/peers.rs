//! The programs filepull is compared to. Each is asked to do the same work on the same disk, in its
//! own throw-away set-up; a file below holds what is particular to it.

mod disk;
mod nginx;
mod rsync;
mod scp;

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
use crate::targets::Target;

/// A program that is ready to copy files.
pub(crate) struct Peer {
    pub(crate) facts: Facts,
    /// Where it puts the copies.
    inbox: PathBuf,
    /// The end that is dialled, if there are two ends.
    daemon: Option<Process>,
    /// The command that copies a source to a new file of that name in the inbox.
    copy: Box<CopyCommand>,
}

type CopyCommand = dyn Fn(&SourceFile, &str) -> Command;

/// What a reader must know of a peer to judge its figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// What is certain about the copy when it says it is done.
    pub(crate) assures: &'static str,
    /// How many times as fast filepull must be in a release (PERFORMANCE.md).
    pub(crate) must: Option<Target>,
}

/// One copy: the time it took, and the CPU of both ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyResult {
    pub(crate) took: Duration,
    /// The end that was dialled.
    pub(crate) server_cpu: Duration,
    /// The end that dialled.
    pub(crate) client_cpu: Duration,
}

/// Starts every peer that is installed; the others, each with the reason why it is missing.
pub(crate) async fn start_all(folder: &Path) -> (Vec<Peer>, Vec<String>) {
    let started = [
        ("write and fsync", disk::start(folder).await),
        ("rsync daemon", rsync::start(folder).await),
        ("scp", scp::start(folder).await),
        ("curl -T to nginx", nginx::start(folder).await),
    ];
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for (name, peer) in started {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(error) => missing.push(format!("{name}: {error:#}")),
        }
    }
    (peers, missing)
}

impl Peer {
    /// Copies the source to a new file. The copy is checked by its size and deleted, both after
    /// the clock has stopped.
    pub(crate) async fn copy(&self, source: &SourceFile) -> anyhow::Result<CopyResult> {
        let name = format!("copy-{}", fastrand::u64(..));
        let command = (self.copy)(source, &name);
        let daemon_before = self.daemon.as_ref().map(Process::usage).transpose()?;
        let client_before = proc_files::reaped_by_us()?;
        let began = Instant::now();
        process::finish(command, source.limit()).await.with_context(|| self.last_words())?;
        let took = began.elapsed();
        let client_cpu = proc_files::reaped_by_us()?.saturating_sub(client_before);
        let server_cpu = match (&self.daemon, daemon_before) {
            (Some(daemon), Some(before)) => {
                at_rest(daemon, before.n_processes).await?.saturating_sub(before.cpu)
            }
            _ => Duration::ZERO,
        };
        let copy = self.inbox.join(name);
        source.check_copy(&copy)?;
        std::fs::remove_file(&copy)?;
        Ok(CopyResult { took, server_cpu, client_cpu })
    }

    /// Ends its daemon and waits until it is gone.
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

/// The CPU of a daemon once the processes it made for a connection have ended and been counted.
async fn at_rest(daemon: &Process, n_processes: usize) -> anyhow::Result<Duration> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let usage = daemon.usage()?;
        if usage.n_processes <= n_processes || deadline < Instant::now() {
            return Ok(usage.cpu);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Where a program is, or that it is not installed.
fn find(program: &str) -> anyhow::Result<PathBuf> {
    process::installed(program).with_context(|| format!("{program} is not installed"))
}

/// The first words of what a program says of itself when asked with `flag`.
async fn version(program: &Path, flag: &str, n_words: usize) -> anyhow::Result<String> {
    let mut command = process::command(program);
    command.arg(flag);
    let said = process::finish(command, DEADLINE).await?;
    let words: Vec<&str> = said.split_whitespace().take(n_words).collect();
    Ok(words.join(" ").trim_end_matches(',').to_owned())
}

/// A folder of its own for a peer, with a folder for the copies in it.
fn folders(parent: &Path, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let home = parent.join(name);
    let inbox = home.join("inbox");
    std::fs::create_dir_all(&inbox)?;
    Ok((home, inbox))
}

/// A port that was free a moment ago. These daemons cannot take port 0 and say which they got.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
