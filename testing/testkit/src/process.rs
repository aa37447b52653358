//! The processes this program starts: each in a group of its own, logged to a file, killed with all
//! its children when its [`Running`] is dropped, whatever the reason.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::proc_files::{self, TreeUse};

/// Nothing that starts here takes as long, even on a busy machine.
pub const START_LIMIT: Duration = Duration::from_secs(20);

/// Between two looks at something that tells nobody when it changes.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A process that runs until it is dropped.
#[derive(Debug)]
pub struct ChildProcess {
    name: &'static str,
    child: Child,
    pid: u32,
    log: PathBuf,
}

/// A command that knows nothing of our environment: settings of whoever runs this must not change
/// what is measured.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/nonexistent");
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    command
}

/// Where the system's programs are.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program is installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// A program of ours, in the folder where it was built.
pub fn built(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    anyhow::ensure!(
        path.is_file(),
        "no {name} in {}; build it first: cargo build --release -p filepull-cli -p \
         filepull-agent",
        folder.display()
    );
    Ok(path)
}

/// Is a process alive and one of ours? The number of one that has ended may have been given to
/// another.
pub fn is_ours(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("filepull-"))
}

/// Runs a command to its end, at most for `limit`; its output, of both kinds.
pub async fn finish(mut command: Command, limit: Duration) -> anyhow::Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.as_std().get_program().to_owned();
    let output = async { command.spawn()?.wait_with_output().await };
    let output = timeout(limit, output).await.with_context(|| format!("{program:?} hangs"))?;
    let output = output.with_context(|| format!("{program:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    anyhow::ensure!(output.status.success(), "{program:?} failed: {}: {text}", output.status);
    Ok(text)
}

impl ChildProcess {
    /// Starts a process. Its standard error goes to `NAME.log` in `folder`; its standard output is
    /// returned.
    pub fn start(
        name: &'static str,
        mut command: Command,
        folder: &Path,
    ) -> anyhow::Result<(Self, ChildStdout)> {
        let log = folder.join(format!("{name}.log"));
        let log_file = File::create(&log).with_context(|| log.display().to_string())?;
        command.stdout(Stdio::piped()).stderr(log_file);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let pid = child.id().context("it has just been started")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        Ok((Self { name, child, pid, log }, stdout))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU of the process and its descendants so far.
    pub fn usage(&self) -> anyhow::Result<TreeUse> {
        proc_files::tree(self.pid).with_context(|| self.last_words())
    }

    /// The most memory it ever had resident, in bytes.
    pub fn peak_rss(&self) -> anyhow::Result<u64> {
        proc_files::peak_rss(self.pid).with_context(|| self.last_words())
    }

    /// The memory it has resident now, in bytes.
    pub fn rss(&self) -> anyhow::Result<u64> {
        proc_files::rss(self.pid).with_context(|| self.last_words())
    }

    /// Its standard input, if the command has it piped.
    pub fn stdin(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().context("its input is not piped")
    }

    /// What it has logged so far.
    pub fn log(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// How many lines of its log contain `text`.
    pub fn count_in_log(&self, text: &str) -> anyhow::Result<usize> {
        Ok(self.log()?.lines().filter(|line| line.contains(text)).count())
    }

    /// The first line of its log that contains `text`.
    pub fn find_in_log(&self, text: &str) -> anyhow::Result<Option<String>> {
        let log = fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        Ok(log.lines().find(|line| line.contains(text)).map(str::to_owned))
    }

    /// Waits until a port of this machine answers.
    pub async fn listens_on(&self, port: u16) -> anyhow::Result<()> {
        self.until("listen", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await
    }

    /// Looks again and again until `ready`, or until it is too late.
    pub async fn until(
        &self,
        what: &str,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !ready().await {
            let late = deadline < Instant::now();
            anyhow::ensure!(!late, "{} did not {what} in time; {}", self.name, self.last_words());
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Ends it and waits until it is gone.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.kill_and_wait().await
    }

    /// The same, of one that is to be replaced.
    pub async fn kill_and_wait(&mut self) -> anyhow::Result<()> {
        self.kill();
        let ended = timeout(START_LIMIT, self.child.wait()).await;
        ended.with_context(|| format!("{} does not end", self.name))??;
        Ok(())
    }

    /// The end of its log, for the message of an error.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        format!("{} said last: {last}", self.name)
    }

    fn kill(&self) {
        // Only while it is not reaped is its id certainly still its own.
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        let Some(group) = Pid::from_raw(pid) else { return };
        // An error means that it is gone already.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_program_is_not_ours() {
        assert!(!is_ours(1), "process 1 starts the system");
        assert!(!is_ours(u32::MAX), "there is no such process");
    }
}
