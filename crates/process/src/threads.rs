//! The limit on the threads that a process may start.

use std::fs;
use std::io;
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

/// The thread limit of the system is lower than this process needs.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process may start only {started} more threads and needs {needed}. Allow more: \
     TasksMax=64 in a systemd unit, pids_limit: 64 in a compose file, \"ulimit -u\" in a shell"
)]
pub struct TooFewThreads {
    /// How many threads could be started.
    pub started: usize,
    /// How many threads are needed.
    pub needed: usize,
    /// The error of the system.
    pub source: io::Error,
}

/// Checks that `needed` threads can run at once: starts them, then ends them. A runtime that cannot
/// start a thread panics, so this check comes first.
///
/// # Errors
/// Fewer threads can be started.
pub fn require(needed: usize) -> Result<(), TooFewThreads> {
    let before = count();
    let started = start(needed);
    // The kernel counts a thread for a moment after it was joined. Until then a new thread could
    // fail to start.
    let limit = Instant::now() + Duration::from_secs(1);
    while before < count() && Instant::now() < limit {
        thread::yield_now();
    }
    started
}

/// Returns the number of threads of this process, or 0 without `/proc`.
fn count() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn start(needed: usize) -> Result<(), TooFewThreads> {
    // Every thread waits at the gate until all threads have started.
    let gate = RwLock::new(());
    thread::scope(|scope| {
        let closed = gate.write();
        for started in 0..needed {
            let wait = || drop(gate.read());
            if let Err(source) = thread::Builder::new().spawn_scoped(scope, wait) {
                return Err(TooFewThreads { started, needed, source });
            }
        }
        drop(closed);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_threads_can_be_started() {
        assert!(require(0).is_ok());
        assert!(require(16).is_ok());
    }
}
