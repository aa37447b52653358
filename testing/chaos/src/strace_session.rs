//! Attaches strace to a running program: to list its system calls, to kill it at exactly one of
//! them, or to make some of them fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::Process;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::sandbox::Sandbox;
use crate::tool;

/// A system call of a program: the nth call of this name in one thread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallPoint {
    pub(crate) call: String,
    /// From 1, since strace was attached.
    pub(crate) nth: u32,
}

/// strace, attached to a program. Dropping it detaches.
#[derive(Debug)]
pub(crate) struct StraceSession {
    strace: Process,
    log: PathBuf,
}

/// The file name of the trace.
pub(crate) const LOG: &str = "strace";
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Calls that only wait, or that the runtime repeats at will. A few of them are enough.
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
const MAX_IDLE: u32 = 2;

impl StraceSession {
    /// Lists the calls of a process from now on.
    pub(crate) async fn listing(
        sandbox: &Sandbox,
        pid: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        Self::attach(sandbox, pid, folder, &[]).await
    }

    /// Lists the calls of a process that name a file, with the complete names.
    pub(crate) async fn paths(sandbox: &Sandbox, pid: u32, folder: &Path) -> anyhow::Result<Self> {
        let args = ["-y", "-s", "4096", "-e", "trace=%file"];
        Self::attach(sandbox, pid, folder, &args).await
    }

    /// Detaches. Returns the complete trace.
    pub(crate) async fn log_at_end(mut self) -> anyhow::Result<String> {
        timeout(ATTACH_LIMIT, self.interrupt())
            .await
            .context("strace timed out while detaching")??;
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Kills a process (SIGKILL) at this call.
    pub(crate) async fn killing(
        sandbox: &Sandbox,
        pid: u32,
        folder: &Path,
        point: &CallPoint,
    ) -> anyhow::Result<Self> {
        let CallPoint { call, nth } = point;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
        Self::attach(sandbox, pid, folder, &["-e", &trace, "-e", &inject]).await
    }

    /// Makes calls of a process fail, as `inject=` of strace describes.
    pub(crate) async fn failing(
        sandbox: &Sandbox,
        pid: u32,
        folder: &Path,
        fault: &str,
    ) -> anyhow::Result<Self> {
        let named = fault.strip_prefix("inject=").and_then(|rest| rest.split(':').next());
        let call = named.context("a fault starts with `inject=CALL:`")?;
        let trace = format!("trace=fsync,fdatasync,close,{call}");
        Self::attach(sandbox, pid, folder, &["-y", "-e", &trace, "-e", fault]).await
    }

    async fn attach(
        sandbox: &Sandbox,
        pid: u32,
        folder: &Path,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let log = folder.join(LOG);
        let mut command = tool::command(sandbox, "strace");
        command.arg("-f").arg("-o").arg(&log).args(args).arg("-p").arg(pid.to_string());
        let mut strace = Process::spawn(command)?;
        let attached = timeout(ATTACH_LIMIT, strace.ready("attached")).await;
        attached.context("strace timed out while attaching")??;
        Ok(Self { strace, log })
    }

    pub(crate) async fn program_ended(&mut self) -> anyhow::Result<()> {
        self.strace.ended().await.map(drop)
    }

    /// Detaches. Returns whether the program was killed, and the calls that were seen.
    pub(crate) async fn detach(mut self) -> anyhow::Result<(bool, Vec<CallPoint>)> {
        timeout(ATTACH_LIMIT, self.interrupt())
            .await
            .context("strace timed out while detaching")??;
        let log = std::fs::read_to_string(&self.log)?;
        Ok((log.contains("+++ killed by SIGKILL"), points_of(&log)))
    }

    /// Signals strace until it has ended. It can miss a signal just before it waits for the next
    /// call of the program, which may take seconds in an idle program.
    async fn interrupt(&mut self) -> anyhow::Result<()> {
        loop {
            // An error means that strace has ended.
            let _ = self.strace.signal(Signal::INT);
            if let Ok(ended) = timeout(RETRY_INTERVAL, self.strace.ended()).await {
                return ended.map(drop);
            }
        }
    }
}

/// Returns every call of a trace: for each name as many as the busiest thread made.
pub(crate) fn points_of(log: &str) -> Vec<CallPoint> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.is_empty() && call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *counts.entry((call, thread)).or_default() += 1;
        }
    }
    let mut highest: BTreeMap<&str, u32> = BTreeMap::new();
    for ((call, _), count) in counts {
        let cap = if IDLE_CALLS.contains(&call) { MAX_IDLE } else { u32::MAX };
        let entry = highest.entry(call).or_default();
        *entry = (*entry).max(count.min(cap));
    }
    let of_call = |(call, count): (&str, u32)| {
        let call = call.to_owned();
        (1..=count).map(move |nth| CallPoint { call: call.clone(), nth })
    };
    highest.into_iter().flat_map(of_call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_for_each_thread() {
        let log = "7 fsync(3) = 0\n7 fsync(3 <unfinished ...>\n8 fsync(4) = 0\n\
                   7 <... fsync resumed>) = 0\n8 futex(1) = 0\n8 futex(1) = 0\n8 futex(1) = 0\n\
                   7 +++ killed by SIGKILL +++\n";
        let point = |call: &str, nth| CallPoint { call: call.to_owned(), nth };
        let expected = [("fsync", 1), ("fsync", 2), ("futex", 1), ("futex", 2)];
        assert_eq!(points_of(log), expected.map(|(call, nth)| point(call, nth)));
    }
}
