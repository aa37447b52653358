//! Divides the open files of this process between connections of agents, connections of operators,
//! and the files of transfers and records. None of the three takes the share of another.

use filepull_process::open_files;
use tracing::{debug, warn};

use crate::connection_limit::ConnectionLimit;

/// The number of clients that a server is designed for. A lower limit is logged as a warning.
const FLEET: usize = 10_000;

/// Reserved for listeners, records and running transfers, at most a quarter of the limit.
const FILES: usize = 512;

/// Maximum number of operator connections, at most an eighth of the limit. Each may use two file
/// descriptors: one for the socket, and one for the file that it downloads.
const OPERATORS: usize = 1024;

/// Assumed when the limit cannot be read.
const DEFAULT_LIMIT: u64 = 1024;

/// The limits of both listeners.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// An idle client uses one connection, and a second one until a minute after it has sent a file.
    pub(crate) agents: ConnectionLimit,
    /// Connections that serve a request or are kept alive.
    pub(crate) operators: ConnectionLimit,
}

impl ConnectionLimits {
    /// Raises the open file limit of this process as far as the system allows, and divides it. Logs a
    /// warning if it is low.
    pub(crate) fn from_open_files() -> Self {
        let open_files = open_files::raise_limit().unwrap_or_else(|error| {
            warn!(event = "open_files.raise_failed", %error, "the open file limit cannot be raised");
            DEFAULT_LIMIT
        });
        let (agents, operators) = shares(open_files);
        if agents < FLEET {
            warn!(
                event = "connection_limit.lowered",
                open_files,
                agents,
                "{}",
                too_few(agents, open_files)
            );
        } else {
            debug!(
                event = "open_files.raised",
                open_files, agents, operators, "open file limit raised"
            );
        }
        // A session counts as busy, so an agent that waits for an order keeps its connection. A busy
        // connection of an operator may be closed for a new one.
        Self {
            agents: ConnectionLimit::new("agents", agents, false),
            operators: ConnectionLimit::new("operators", operators, true),
        }
    }
}

/// Returns the maximum number of connections of agents, and of operators.
fn shares(open_files: u64) -> (usize, usize) {
    // The maximum number of permits of a semaphore.
    let max = usize::MAX >> 3;
    let open_files = usize::try_from(open_files).unwrap_or(max).min(max);
    let operators = OPERATORS.min(open_files / 8).max(1);
    let agents = open_files.saturating_sub(FILES.min(open_files / 4) + 2 * operators).max(1);
    (agents, operators)
}

fn too_few(agents: usize, open_files: u64) -> String {
    format!(
        "room for {agents} clients: the open file limit is {open_files}. Other clients cannot \
         connect. Raise it: LimitNOFILE=65536 in a systemd unit, \"ulimit -n 65536\" in a shell, \
         ulimits: nofile: 65536 in a compose file"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_operators_and_files_have_separate_shares() {
        assert_eq!(shares(65_536), (62_976, 1024));
        assert_eq!(shares(1024), (512, 128));
        assert_eq!(shares(64), (32, 8));
        assert!(FLEET < shares(u64::MAX).0);
        assert_eq!(shares(0), (1, 1));
    }
}
