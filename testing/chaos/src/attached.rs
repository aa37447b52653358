//! strace on a program that runs already: to list the system calls of a moment, or to kill the
//! program at exactly one of them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr};
use tokio::time::timeout;

use crate::sandbox::Sandbox;
use crate::tool;

/// A system call of a program: its name, and which of those that one thread makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Such as `fdatasync`.
    pub call: String,
    /// From 1; counted from the moment of the attachment, for each thread by itself.
    pub nth: u32,
}

/// A strace that is attached. Dropping it lets the program go on.
#[derive(Debug)]
pub struct Attached {
    strace: Child,
    said: BufReader<ChildStderr>,
    log: PathBuf,
}

const ATTACH_LIMIT: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Calls that wait, or that a runtime makes as often as it likes: a few of them will do.
const IDLE_CALLS: [&str; 8] = [
    "futex",
    "epoll_wait",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "rt_sigprocmask",
    "sched_yield",
];
const MOST_IDLE: u32 = 2;

impl Attached {
    /// Lists the calls of a process from now on.
    ///
    /// # Errors
    /// It cannot be traced.
    pub async fn listing(ground: &Sandbox, pid: u32, folder: &Path) -> anyhow::Result<Self> {
        Self::attach(ground, pid, folder, &[]).await
    }

    /// Kills a process (SIGKILL) when it makes the call of this point.
    ///
    /// # Errors
    /// It cannot be traced.
    pub async fn killing(
        ground: &Sandbox,
        pid: u32,
        folder: &Path,
        point: &Point,
    ) -> anyhow::Result<Self> {
        let Point { call, nth } = point;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
        Self::attach(ground, pid, folder, &["-e", &trace, "-e", &inject]).await
    }

    /// Makes calls of a process fail, as an `inject=` of strace says.
    ///
    /// # Errors
    /// It cannot be traced.
    pub async fn failing(
        ground: &Sandbox,
        pid: u32,
        folder: &Path,
        fault: &str,
    ) -> anyhow::Result<Self> {
        let call = fault.strip_prefix("inject=").and_then(|rest| rest.split(':').next());
        let call = call.context("a fault names its call")?;
        let trace = format!("trace=fsync,fdatasync,close,{call}");
        Self::attach(ground, pid, folder, &["-y", "-e", &trace, "-e", fault]).await
    }

    async fn attach(
        ground: &Sandbox,
        pid: u32,
        folder: &Path,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let log = folder.join("attached");
        let mut command = tool::command(ground, "strace");
        command.arg("-f").arg("-o").arg(&log).args(args).arg("-p").arg(pid.to_string());
        let mut strace = command.spawn().context("starting strace")?;
        let said = strace.stderr.take().context("its errors are piped")?;
        let mut attached = Self { strace, said: BufReader::new(said), log };
        let mut line = String::new();
        let heard = timeout(ATTACH_LIMIT, attached.said.read_line(&mut line)).await;
        heard.context("strace does not attach")??;
        anyhow::ensure!(line.contains("attached"), "strace: {}", line.trim());
        Ok(attached)
    }

    /// Resolves when the program has ended.
    ///
    /// # Errors
    /// strace has failed.
    pub async fn program_ended(&mut self) -> anyhow::Result<()> {
        self.strace.wait().await?;
        Ok(())
    }

    /// Lets the program go, if it lives: whether it was killed, and the points that were seen.
    ///
    /// # Errors
    /// strace does not end.
    pub async fn detach(mut self) -> anyhow::Result<(bool, Vec<Point>)> {
        let ended_before = self.strace.try_wait()?.is_some();
        timeout(ATTACH_LIMIT, self.interrupt()).await.context("strace does not detach")??;
        let log = std::fs::read_to_string(&self.log)?;
        let killed = ended_before || log.contains("+++ killed by SIGKILL");
        Ok((killed, points(&log)))
    }

    /// Asks strace to end, until it has. Between its look for a signal and its wait for the next
    /// call it does not hear, and of an idle program the next call may come in seconds.
    async fn interrupt(&mut self) -> io::Result<()> {
        loop {
            if let Some(pid) = self.strace.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                // An error means that it is gone already.
                let _ = rustix::process::kill_process(pid, Signal::INT);
            }
            if let Ok(ended) = timeout(ASK_AGAIN, self.strace.wait()).await {
                return ended.map(drop);
            }
        }
    }
}

/// Every point of a trace: for each call as many as the busiest thread made.
fn points(log: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.is_empty() && call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *counts.entry((call, thread)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&str, u32> = BTreeMap::new();
    for ((call, _), count) in counts {
        let cap = if IDLE_CALLS.contains(&call) { MOST_IDLE } else { u32::MAX };
        let entry = most.entry(call).or_default();
        *entry = (*entry).max(count.min(cap));
    }
    let of_call = |(call, count): (&str, u32)| {
        let call = call.to_owned();
        (1..=count).map(move |nth| Point { call: call.clone(), nth })
    };
    most.into_iter().flat_map(of_call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_by_thread() {
        let log = "7 fsync(3) = 0\n7 fsync(3 <unfinished ...>\n8 fsync(4) = 0\n\
                   7 <... fsync resumed>) = 0\n8 futex(1) = 0\n8 futex(1) = 0\n8 futex(1) = 0\n\
                   7 +++ killed by SIGKILL +++\n";
        let point = |call: &str, nth| Point { call: call.to_owned(), nth };
        let expected = [("fsync", 1), ("fsync", 2), ("futex", 1), ("futex", 2)];
        assert_eq!(points(log), expected.map(|(call, nth)| point(call, nth)));
    }
}
