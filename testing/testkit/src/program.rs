//! A program under test: a task of the test, or a process of its own.

use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::process::{self, Process};
use crate::soon;

/// The paths of both programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `filepull`, the program with the server.
    pub server: PathBuf,
    /// `filepull-agent`, the program on a client.
    pub agent: PathBuf,
}

impl Programs {
    /// Returns the programs in the build folder `folder`. Fails if one is missing.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let find = |name| anyhow::Ok(process::built(folder, name)?.canonicalize()?);
        Ok(Self { server: find("filepull")?, agent: find("filepull-agent")? })
    }
}

impl Default for Programs {
    /// The programs that cargo builds for the tests in `testing/e2e`.
    fn default() -> Self {
        Self { server: "e2e-filepull".into(), agent: "e2e-filepull-agent".into() }
    }
}

/// Where the programs of a test run.
#[derive(Clone, Debug)]
pub(crate) enum Host {
    /// As tasks of the test, through their libraries.
    Test,
    /// As processes of their own.
    Processes(Programs),
}

#[derive(Debug)]
pub(crate) enum Program {
    Task(ProgramTask),
    Process(Box<Process>),
}

/// A program that runs as a task of the test. A drop stops it as SIGTERM does, without waiting.
#[derive(Debug)]
pub(crate) struct ProgramTask {
    stop: oneshot::Sender<()>,
    done: JoinHandle<anyhow::Result<()>>,
}

impl ProgramTask {
    /// Starts the future that `run` returns. It must end soon after the future that it gets.
    pub(crate) fn start<F>(run: impl FnOnce(StopFuture) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        #[allow(clippy::disallowed_methods, reason = "the task ends with the runtime of the test")]
        let done = tokio::spawn(run(Box::pin(async { drop(stopped.await) })));
        Self { stop, done }
    }
}

type StopFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Program {
    /// Stops the program as an operator would, and waits for its end. Fails if it reports an error.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Task(ProgramTask { stop, done }) => {
                drop(stop);
                soon("the end of the program", done).await??
            }
            Self::Process(mut process) => {
                process.terminate()?;
                let status = process.ended().await?;
                anyhow::ensure!(status.success(), "{status}; {}", process.last_output());
                Ok(())
            }
        }
    }

    pub(crate) fn process(&self) -> anyhow::Result<&Process> {
        match self {
            Self::Process(process) => Ok(process),
            Self::Task(_) => anyhow::bail!("the program runs inside the test"),
        }
    }

    pub(crate) fn into_process(self) -> anyhow::Result<Process> {
        match self {
            Self::Process(process) => Ok(*process),
            Self::Task(_) => anyhow::bail!("the program runs inside the test"),
        }
    }
}

/// Returns the command line for these settings: `--http-addr=127.0.0.1:0` for `HTTP_ADDR`. The last
/// of several values of a setting counts.
pub(crate) fn flags<'a>(
    program: &str,
    settings: impl DoubleEndedIterator<Item = (&'a str, &'a str)>,
) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let last = settings.rev().filter(|(key, _)| seen.insert(*key));
    let flag =
        |(key, value): (&str, &str)| format!("--{}={value}", key.to_lowercase().replace('_', "-"));
    std::iter::once(program.to_owned()).chain(last.map(flag)).collect()
}
