//! Runs this program in its own mount, network and PID namespaces, so that every process it starts
//! ends with it, and no other program sees its mounts and networks.

use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Set in a process that is isolated.
const ISOLATED: &str = "FILEPULL_CHAOS_ALONE";
/// /dev/shm and the names of network namespaces are private. The size is limited to the memory that
/// is free now, because other programs use it too.
const SETUP: &str = "\
    mount -t tmpfs -o \"size=$0,mode=1777\" tmpfs /dev/shm && \
    mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && \
    ip link set lo up && exec \"$@\"";

/// Returns true in an isolated process, and where isolation is not possible (without root).
pub(crate) fn is_isolated() -> bool {
    !rustix::process::geteuid().is_root() || std::env::var_os(ISOLATED).is_some()
}

/// Starts this program again, isolated, and waits for it. Without isolation, a container that
/// starts at the wrong moment keeps a copy of an unmounted disk, and the next mount finds that disk
/// still shut down. A killed run would also leave servers and agents running, and its router rules
/// would affect other programs.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut run = start().context("starting setpriv and unshare (util-linux)")?;
    loop {
        tokio::select! {
            ended = run.wait() => return Ok(exit_code(ended?)),
            _ = interrupt.recv() => forward(&run, Signal::INT),
            _ = terminate.recv() => forward(&run, Signal::TERM),
        }
    }
}

/// `setpriv` kills `unshare` when this process ends, `unshare` kills the first process of the run,
/// and the kernel kills all others in its PID namespace.
fn start() -> anyhow::Result<Child> {
    let memory = rustix::fs::statvfs(Path::new("/dev/shm"));
    let free = memory.map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"]);
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.args(["sh", "-c", SETUP, &free.max(1).to_string()]);
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(ISOLATED, "1");
    // Its own process group: a signal reaches it once, through this process.
    Ok(command.process_group(0).spawn()?)
}

/// Forwards a signal to the run. `unshare` ignores it.
fn forward(run: &Child, signal: Signal) {
    let group = run.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // An error means that the run has ended.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
