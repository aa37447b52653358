//! A process: starts it, watches its output, signals it, measures it and kills it.
//!
//! Each process has a process group of its own, so that a kill also reaches its children.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::proc_files::{self, TreeUse};
use crate::{poll, soon};

/// The folders of the system's programs: `PATH` of every process.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lines of output that an error shows.
const SHOWN_LINES: usize = 20;

/// A running process and the lines that it has printed.
///
/// A drop kills the process and its children, and waits until they have released their files,
/// ports and locks.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    output: Output,
}

/// Lines of standard output and standard error, in the order in which they were read.
#[derive(Clone, Debug, Default)]
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    n_lines: Arc<watch::Sender<usize>>,
    n_open_pipes: Arc<watch::Sender<usize>>,
}

/// Returns a command with an empty environment except for `PATH`, `LC_ALL` and `HOME`: settings of
/// the caller must not change a result.
pub fn command(program: impl AsRef<Path>) -> Command {
    command_by(&[], program)
}

/// Returns a command that runs `program` through a `launcher`, such as `prlimit --nofile=128`. The
/// program is the last argument of the launcher.
pub fn command_by(launcher: &[String], program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    let mut command = match launcher {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/nonexistent");
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    command
}

/// Runs a command and returns its output, standard error included. Fails if the exit code is not 0,
/// or after `limit`.
pub async fn finish(mut command: Command, limit: Duration) -> anyhow::Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.as_std().get_program().to_owned();
    let running = async { command.spawn()?.wait_with_output().await };
    let finished = timeout(limit, running).await.with_context(|| format!("{program:?} hangs"))?;
    let output = finished.with_context(|| format!("{program:?}"))?;
    let bytes = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    anyhow::ensure!(output.status.success(), "{program:?} failed: {}: {text}", output.status);
    Ok(text)
}

/// Returns the path of a program in [`PATH`].
pub fn installed(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// Returns the path of a program of this workspace in the build folder `folder`.
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

/// Returns the path of a program that cargo built for the running test: one folder above the test.
pub fn test_program(name: impl AsRef<Path>) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("the test has no build folder")?;
    Ok(folder.join(name))
}

/// Whether the process lives and is one of this workspace. The id of an ended process may belong to
/// another program now.
pub fn is_ours(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("filepull-"))
}

impl Process {
    /// Starts `program arg` through a `launcher`, with `settings` as its environment. A program
    /// without a folder is a [`test_program`].
    pub fn start(
        launcher: &[String],
        program: impl AsRef<Path>,
        arg: &str,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut command = command_by(launcher, test_program(program)?);
        command.arg(arg).envs(settings.iter().map(|(key, value)| (key, value)));
        Self::spawn(command)
    }

    /// Starts a [`command`] and collects its output.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.as_std().get_program().to_owned();
        let mut child = command.spawn().with_context(|| format!("starting {program:?}"))?;
        let pid = child.id().context("a process that has just started has an id")?;
        let output = Output::default();
        output.follow(child.stdout.take());
        output.follow(child.stderr.take());
        Ok(Self { child, pid, output })
    }

    /// Waits for a line that contains `text` and returns it. The line may be older than the call.
    pub async fn says(&self, text: &str) -> anyhow::Result<String> {
        self.says_times(text, 1).await
    }

    /// Waits until `times` lines contain `text`, and returns the last of them.
    pub async fn says_times(&self, text: &str, times: usize) -> anyhow::Result<String> {
        let line = async {
            tokio::select! {
                line = self.output.line(text, times) => Some(line),
                () = self.output.closed() => self.output.nth(text, times),
            }
        };
        let line = soon(&format!("the line {text:?}"), line).await;
        let missing = || format!("no line {text:?}; {}", self.last_output());
        line.with_context(missing)?.with_context(missing)
    }

    /// Waits for a line that contains `text`. Fails if the process ends without it.
    pub async fn ready(&mut self, text: &str) -> anyhow::Result<String> {
        let output = self.output.clone();
        let started = async {
            tokio::select! {
                line = output.line(text, 1) => Ok(line),
                status = self.child.wait() => Err(status),
            }
        };
        match soon(&format!("the line {text:?}"), started).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(status)) => {
                let status = status?;
                self.output.closed().await;
                let missing = || format!("the process ended with {status}; {}", self.last_output());
                // The process may print the line and end before the line is read.
                self.output.nth(text, 1).with_context(missing)
            }
            Err(late) => Err(late).with_context(|| self.last_output()),
        }
    }

    /// Polls until `ready` returns true.
    pub async fn until(
        &self,
        what: &str,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let polled = poll(what, async || Ok(ready().await.then_some(()))).await;
        polled.with_context(|| self.last_output())
    }

    /// Waits until a port of this machine accepts connections.
    pub async fn listens_on(&self, port: u16) -> anyhow::Result<()> {
        self.until("a listener", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok())
            .await
    }

    /// Returns all lines printed so far.
    pub fn said(&self) -> Vec<String> {
        self.output.lines()
    }

    /// Returns the number of lines that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.output.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// Returns the first line that contains `text`.
    pub fn find(&self, text: &str) -> Option<String> {
        self.output.lines().into_iter().find(|line| line.contains(text))
    }

    /// Returns the last lines printed, for the message of an error.
    pub fn last_output(&self) -> String {
        let lines = self.output.lines();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("output of process {}:\n{}", self.pid, last.join("\n"))
    }

    /// Returns the process id, also after the end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process runs, as far as an earlier wait has seen.
    pub fn is_running(&self) -> bool {
        self.child.id().is_some()
    }

    /// Takes the standard input, which the command must have piped.
    pub fn stdin(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().context("the standard input is not piped")
    }

    /// Returns the CPU time of the process and its descendants.
    pub fn usage(&self) -> anyhow::Result<TreeUse> {
        proc_files::tree(self.pid).with_context(|| self.last_output())
    }

    /// Returns the resident memory in bytes.
    pub fn rss(&self) -> anyhow::Result<u64> {
        proc_files::rss(self.pid).with_context(|| self.last_output())
    }

    /// Returns the maximum of the resident memory so far, in bytes.
    pub fn peak_rss(&self) -> anyhow::Result<u64> {
        proc_files::peak_rss(self.pid).with_context(|| self.last_output())
    }

    /// Kills the process group (SIGKILL) and waits for the end.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.kill_and_wait().await
    }

    /// Kills the process group (SIGKILL) and waits for the end.
    pub async fn kill_and_wait(&mut self) -> anyhow::Result<()> {
        self.kill_group();
        self.ended().await.map(drop)
    }

    /// Kills the process group and returns its id. Returns `None` once the process is reaped: the
    /// id may belong to another group then.
    fn kill_group(&self) -> Option<Pid> {
        let group = Pid::from_raw(i32::try_from(self.child.id()?).ok()?)?;
        // An error means that the group has ended.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        Some(group)
    }

    /// Sends SIGTERM. Fails if the process has ended.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends a signal. Fails if the process has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let raw_pid = self.child.id().context("the process has ended")?;
        let pid = Pid::from_raw(i32::try_from(raw_pid)?).context("no process has the id 0")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = soon("the end of the process", self.child.wait()).await;
        Ok(ended.with_context(|| self.last_output())??)
    }

    /// Waits for the end, at most `limit`. Returns `None` if the process still runs.
    pub async fn ended_within(&mut self, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
        match timeout(limit, self.child.wait()).await {
            Ok(ended) => Ok(Some(ended.with_context(|| self.last_output())?)),
            Err(_) => Ok(None),
        }
    }

    /// Waits for the end, and checks the exit code and that a line contains `text`. Returns the line.
    pub async fn fails_with(mut self, code: i32, text: &str) -> anyhow::Result<String> {
        let status = self.ended().await?;
        let output = self.last_output();
        anyhow::ensure!(status.code() == Some(code), "{status} instead of {code}; {output}");
        self.says(text).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.kill_group() {
            // The runtime reaps the zombie later. An error means that it is reaped already.
            let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }
}

impl Output {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn nth(&self, text: &str, times: usize) -> Option<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).nth(times - 1)
    }

    /// Waits until `times` lines contain `text`, and returns the last of them.
    async fn line(&self, text: &str, times: usize) -> String {
        let mut n_lines = self.n_lines.subscribe();
        loop {
            n_lines.borrow_and_update();
            if let Some(line) = self.nth(text, times) {
                return line;
            }
            if n_lines.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until both pipes are closed.
    async fn closed(&self) {
        let _ = self.n_open_pipes.subscribe().wait_for(|n_open| *n_open == 0).await;
    }

    fn follow(&self, pipe: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let Some(pipe) = pipe else { return };
        let output = self.clone();
        output.n_open_pipes.send_modify(|n_open| *n_open += 1);
        let mut lines = BufReader::new(pipe).lines();
        #[allow(
            clippy::disallowed_methods,
            reason = "the task ends when the process closes the pipe"
        )]
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                output.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                output.n_lines.send_modify(|n_lines| *n_lines += 1);
            }
            output.n_open_pipes.send_modify(|n_open| *n_open -= 1);
        });
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

    #[tokio::test]
    async fn the_last_line_of_a_process_that_has_ended_counts_as_ready() -> anyhow::Result<()> {
        for _ in 0..16 {
            let mut command = Command::new("echo");
            command.arg("attached");
            let mut process = Process::spawn(command)?;
            process.output.closed().await;
            assert_eq!(process.ready("attached").await?, "attached");
            assert!(process.ready("detached").await.is_err());
        }
        Ok(())
    }
}
