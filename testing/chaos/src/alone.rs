//! A run of its own: with mounts and a network that nobody else sees, and with process ids of its
//! own, so that everything it has started ends with it, whatever ended it.

use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Set in a process that is alone.
const ALONE: &str = "FILEPULL_CHAOS_ALONE";
/// Its memory goes with its mounts, and so do the names of its networks. No more memory than what is
/// free now: others use it too.
const BEGIN: &str = "\
    mount -t tmpfs -o \"size=$0,mode=1777\" tmpfs /dev/shm && \
    mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && \
    ip link set lo up && exec \"$@\"";

/// Whether this process is such a run, or cannot make one.
pub fn is_alone() -> bool {
    !rustix::process::geteuid().is_root() || std::env::var_os(ALONE).is_some()
}

/// Runs this program anew, alone, and waits for it. Otherwise a container that somebody starts at
/// the wrong moment keeps a copy of a disk that we have unmounted, and the next mount finds the disk
/// as it was: without power. A killed run would leave servers and agents behind. And what a router
/// does here is nobody else's business.
///
/// # Errors
/// `unshare` or `setpriv`, of util-linux, do not start.
pub async fn run() -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut run = start().context("starting setpriv and unshare, of util-linux")?;
    loop {
        tokio::select! {
            ended = run.wait() => return Ok(exit_code(ended?)),
            _ = interrupt.recv() => pass_on(&run, Signal::INT),
            _ = terminate.recv() => pass_on(&run, Signal::TERM),
        }
    }
}

/// `setpriv` ends `unshare` when this process has ended, `unshare` ends the first process of the
/// run, and the kernel all others.
fn start() -> anyhow::Result<Child> {
    let memory = rustix::fs::statvfs(Path::new("/dev/shm"));
    let free = memory.map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"]);
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.args(["sh", "-c", BEGIN, &free.max(1).to_string()]);
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(ALONE, "1");
    // A group of its own: a signal reaches it once, through us.
    Ok(command.process_group(0).spawn()?)
}

/// `unshare` lets it pass; the run hears it.
fn pass_on(run: &Child, signal: Signal) {
    let group = run.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // An error means that it is gone already.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
