//! An rsync daemon on the host of the agents. The server's host pulls from it, so that its files take
//! the same way as filepull's.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use filepull_testkit::net::{Namespace, Network};
use filepull_testkit::{Process, process};
use tokio::net::TcpStream;

use super::files::WireFile;
use crate::peers::rsync::{MODULE, config};
use crate::peers::{find, version};

/// The names of the measured commands, and their options.
pub(crate) const COMMANDS: [(&str, &[&str]); 3] =
    [("rsync", &[]), ("rsync -z", &["-z"]), ("rsync -z --fsync", &["-z", "--fsync"])];

/// The port of the protocol. It is free in a new network namespace.
const PORT: u16 = 873;

/// An installed rsync.
pub(crate) struct RsyncProgram {
    path: PathBuf,
    pub(crate) version: String,
}

/// A daemon that shares the measured files.
pub(crate) struct RsyncDaemon {
    program: PathBuf,
    process: Process,
    addr: SocketAddr,
    /// The folder of the copies.
    inbox: PathBuf,
}

impl RsyncProgram {
    pub(crate) async fn find() -> anyhow::Result<Self> {
        let path = find("rsync")?;
        let version = version(&path, "--version", 3).await?;
        Ok(Self { path, version })
    }

    /// Starts the daemon for the folder `shared`. Its files are in `home`.
    pub(crate) async fn start(
        self,
        network: &Network,
        shared: &Path,
        home: &Path,
    ) -> anyhow::Result<RsyncDaemon> {
        let inbox = home.join("inbox");
        fs::create_dir_all(&inbox)?;
        let addr = SocketAddr::from((network.agent_addr(), PORT));
        let config_path = home.join("rsyncd.conf");
        fs::write(&config_path, config(addr.ip(), PORT, shared))?;
        let mut command = network.command_in(Namespace::Agent, &self.path);
        command.args(["--daemon", "--no-detach"]);
        command.arg(format!("--config={}", config_path.display()));
        let process = Process::spawn(command)?;
        process.until("a listener", async || TcpStream::connect(addr).await.is_ok()).await?;
        Ok(RsyncDaemon { program: self.path, process, addr, inbox })
    }
}

impl RsyncDaemon {
    /// Creates the state before a pull: a copy of the version that was pulled before, with its time.
    pub(crate) fn prepare(&self, file: &WireFile) -> anyhow::Result<()> {
        let Some(earlier) = &file.earlier else { return Ok(()) };
        let copy = self.copy_path(file);
        fs::copy(earlier, &copy)?;
        File::options()
            .write(true)
            .open(&copy)?
            .set_modified(fs::metadata(earlier)?.modified()?)?;
        Ok(())
    }

    /// Pulls a file and returns the path of its copy, or `None` if the pull was stopped after
    /// `limit`.
    pub(crate) async fn pull(
        &self,
        options: &[&str],
        file: &WireFile,
        limit: Duration,
    ) -> anyhow::Result<Option<PathBuf>> {
        let copy = self.copy_path(file);
        let mut command = process::command(&self.program);
        // With times, so that it recognizes an unchanged file.
        command.arg("--times").args(options);
        command.arg(format!("rsync://{}/{MODULE}/{}", self.addr, file.source.name())).arg(&copy);
        let mut client = Process::spawn(command)?;
        let Some(status) = client.ended_within(limit).await? else {
            client.kill().await?;
            return Ok(None);
        };
        anyhow::ensure!(status.success(), "{status}: {}", client.last_output());
        Ok(Some(copy))
    }

    /// Deletes all copies, also unfinished ones.
    pub(crate) fn delete_copies(&self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.inbox)?;
        Ok(fs::create_dir(&self.inbox)?)
    }

    /// Kills the daemon and waits for its end.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    fn copy_path(&self, file: &WireFile) -> PathBuf {
        self.inbox.join(file.source.name())
    }
}
