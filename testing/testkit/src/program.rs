//! One of our programs, running.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::soon;

/// A running program and everything it has said so far. It is killed when dropped, with all that
/// it started (a launcher may outlive its program, and a program its launcher), and is gone when
/// the drop returns: what it held, another can take.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: ProcessOutput,
}

/// Lines of standard output and standard error, in the order they came.
#[derive(Clone, Debug, Default)]
struct ProcessOutput {
    lines: Arc<Mutex<Vec<String>>>,
    count: Arc<watch::Sender<usize>>,
    /// Pipes that are still open.
    open: Arc<watch::Sender<usize>>,
}

impl Process {
    /// Starts a program, with these settings in its environment and no others of ours; through a
    /// `launcher`, which takes the program as its last argument. A program without a folder is one
    /// that this package builds.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        launcher: &[String],
        program: impl AsRef<Path>,
        arg: &str,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let program = self::program(program.as_ref())?;
        let mut command = match launcher {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg(arg).env_clear().envs(settings.iter().map(|(key, value)| (key, value)));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.kill_on_drop(true).process_group(0).spawn().context("starting the program")?;
        let said = ProcessOutput::default();
        said.follow(child.stdout.take());
        said.follow(child.stderr.take());
        Ok(Self { child, said })
    }

    /// Waits for a line that contains `text`, said at any time, and returns it.
    ///
    /// # Errors
    /// No such line came in time; the error shows what was said instead.
    pub async fn says(&self, text: &str) -> anyhow::Result<String> {
        self.says_times(text, 1).await
    }

    /// Waits until that many lines contain `text`, and returns the last of them.
    ///
    /// # Errors
    /// As [`says`](Self::says).
    pub async fn says_times(&self, text: &str, times: usize) -> anyhow::Result<String> {
        soon(&format!("the line {text:?}"), self.said.line(text, times))
            .await
            .with_context(|| format!("it said:\n{}", self.said().join("\n")))
    }

    /// Waits for a line that contains `text` and is the sign that the program has started.
    ///
    /// # Errors
    /// It ended instead, or nothing came in time; the error shows what was said.
    pub async fn ready(&mut self, text: &str) -> anyhow::Result<String> {
        let said = self.said.clone();
        let started = async {
            tokio::select! {
                line = said.line(text, 1) => Ok(line),
                status = self.child.wait() => Err(status),
            }
        };
        match soon(&format!("the line {text:?}"), started).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(status)) => {
                self.said.all().await;
                anyhow::bail!("it ended: {}; it said:\n{}", status?, self.said().join("\n"))
            }
            Err(late) => Err(late).with_context(|| format!("it said:\n{}", self.said().join("\n"))),
        }
    }

    /// Everything it has said.
    pub fn said(&self) -> Vec<String> {
        self.said.lines()
    }

    /// Its process id.
    ///
    /// # Errors
    /// It has ended.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the program has ended")
    }

    /// Ends it without a word (SIGKILL).
    ///
    /// # Errors
    /// It has ended already.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.kill_group();
        self.child.kill().await.context("killing the program")
    }

    /// The group that was killed, unless it is reaped: only until then is its id certainly its own.
    fn kill_group(&self) -> Option<Pid> {
        let group = Pid::from_raw(i32::try_from(self.child.id()?).ok()?)?;
        // An error means that it is gone already.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        Some(group)
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// It has ended already.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.context("no process id")?, signal)?;
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(soon("the end of the program", self.child.wait()).await??)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.kill_group() {
            // It is left as a zombie, for the runtime to reap. An error means that it is reaped.
            let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }
}

impl ProcessOutput {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when that many lines contain `text`, with the last of them.
    async fn line(&self, text: &str, times: usize) -> String {
        let mut count = self.count.subscribe();
        loop {
            count.borrow_and_update();
            let nth = self.lines().into_iter().filter(|line| line.contains(text)).nth(times - 1);
            if let Some(line) = nth {
                return line;
            }
            if count.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when nothing more can be said: both pipes are closed.
    async fn all(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    fn follow(&self, from: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let (said, Some(from)) = (self.clone(), from) else { return };
        said.open.send_modify(|open| *open += 1);
        let mut lines = BufReader::new(from).lines();
        #[allow(clippy::disallowed_methods, reason = "it ends with the pipe of the program")]
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                said.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                said.count.send_modify(|count| *count += 1);
            }
            said.open.send_modify(|open| *open -= 1);
        });
    }
}

/// Where a program lies that this package builds: one folder above the tests that start it.
///
/// # Errors
/// The folder is not known.
pub fn program(program: &Path) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(|deps| deps.parent()).context("no folder of programs")?;
    Ok(folder.join(program))
}
