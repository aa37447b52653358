//! How many threads a process may start.

use std::fs;
use std::io;
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

/// The system lets this process start too few threads.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process may start only {started} more threads and needs {needed}. Allow more: \
     TasksMax=64 in a systemd unit, pids_limit: 64 in a compose file, \"ulimit -u\" in a shell"
)]
pub struct TooFewThreads {
    /// How many could be started.
    pub started: usize,
    /// How many are needed.
    pub needed: usize,
    /// What the system said.
    pub source: io::Error,
}

/// Starts `needed` threads at once and ends them again. A runtime that cannot start a thread panics;
/// this is how a process finds out before.
///
/// # Errors
/// Fewer can be started.
pub fn require(needed: usize) -> Result<(), TooFewThreads> {
    let before = count();
    let tried = start(needed);
    // The system counts a thread for a moment after it was joined: whoever starts one now would fail.
    let limit = Instant::now() + Duration::from_secs(1);
    while before < count() && Instant::now() < limit {
        thread::yield_now();
    }
    tried
}

/// How many threads this process has; none where `/proc` does not say.
fn count() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn start(needed: usize) -> Result<(), TooFewThreads> {
    // Nobody passes the gate before it is known how many there are.
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
