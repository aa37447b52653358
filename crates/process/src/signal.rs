//! The signals that end a process: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from this call on. The future resolves at the first Ctrl-C, SIGTERM or SIGHUP.
///
/// A second Ctrl-C or SIGTERM ends the process at once. The signal handler does this without a
/// thread and without the runtime, so it works in a process that hangs.
///
/// A SIGHUP never counts as the second signal, because a terminal that closes sends two: one from
/// the kernel and one from the shell. A process that was started to ignore SIGHUP (`nohup`) still
/// ignores it.
///
/// # Errors
/// The system does not let this process listen to signals.
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let is_first_seen = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM] {
        // In this order, because the first signal must find the flag unset before it sets it.
        // A shell reports 128 + the signal number for a process that a signal ended.
        flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&is_first_seen))?;
        flag::register(number, Arc::clone(&is_first_seen))?;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = if ignores_hang_up() {
        None
    } else {
        flag::register(SIGHUP, is_first_seen)?;
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

/// Resolves when the signal arrives. Without a `signal` it never resolves.
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
    let hex = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_found_in_the_mask() {
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
