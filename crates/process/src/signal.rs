//! The signals that ask a process to end.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from this call on, and resolves at the first Ctrl-C, SIGTERM or SIGHUP.
///
/// A second Ctrl-C or SIGTERM ends the process at once. The signal handler itself does that: it needs
/// no thread and no runtime, so it works in a process that hangs.
///
/// A SIGHUP never counts as the second signal, because a terminal that closes sends two: one comes
/// from the kernel and one from the shell. A process that was started to ignore SIGHUP (`nohup`)
/// still ignores it.
///
/// # Errors
/// The system does not let this process listen to signals.
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let asked = Arc::new(AtomicBool::new(false));
    for ends in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset, and sets it.
        // 128 and the number of the signal is what a shell reports for a process that a signal ended.
        flag::register_conditional_shutdown(ends, 128 + ends, Arc::clone(&asked))?;
        flag::register(ends, Arc::clone(&asked))?;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = if ignores_hang_up() {
        None
    } else {
        flag::register(SIGHUP, asked)?;
        Some(signal(SignalKind::hangup())?)
    };
    Ok(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            () = received(hang_up.as_mut()) => "SIGHUP",
        };
        tracing::info!(
            "stopping after {name}; a second SIGINT or SIGTERM ends the process at once"
        );
    })
}

/// Resolves when the signal arrives; never without a `signal`.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Returns whether the parent process made this one ignore SIGHUP, as `nohup` does. Linux only:
/// false elsewhere.
fn ignores_hang_up() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, SIGHUP))
}

/// Reads the line `SigIgn:` of `/proc/PID/status`, a mask in which signal 1 is the lowest bit.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let check = |mask: &str, hang_up, interrupt| {
            let status = format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
            assert_eq!((ignores(&status, SIGHUP), ignores(&status, SIGINT)), (hang_up, interrupt));
        };
        check("0000000000001001", true, false);
        check("0000000000001002", false, true);
        check("0000000000000000", false, false);
        assert!(!ignores("", SIGHUP));
    }
}
