//! Shares the open files of this process among connections of agents, connections of operators, and
//! the files of transfers and records. None of the three takes the share of another.

use filepull_process::open_files;
use tracing::{debug, warn};

use crate::connection_limit::ConnectionLimit;

/// The number of clients that a server is designed for. With room for fewer, a warning is logged.
const FLEET: usize = 10_000;

/// Reserved for listeners, records and running transfers, at most a quarter of the limit.
const FILES: usize = 512;

/// Maximum number of operator connections, at most an eighth of the limit. Each may take two file
/// descriptors: its own, and one for the file that it downloads.
const OPERATORS: usize = 1024;

/// Assumed when the limit cannot be read.
const USUAL_LIMIT: u64 = 1024;

/// Room for connections.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// At rest each client takes one connection; in the minute after it has sent a file, two.
    pub(crate) agents: ConnectionLimit,
    /// One for each request, and those that are kept alive.
    pub(crate) operators: ConnectionLimit,
}

impl ConnectionLimits {
    /// Raises the limit of open files of this process as far as the system allows, and logs if that
    /// is too low.
    pub(crate) fn make() -> Self {
        let open_files = open_files::raise_limit().unwrap_or_else(|error| {
            warn!(event = "open-files.failed", %error, "the limit of open files cannot be raised");
            USUAL_LIMIT
        });
        let (agents, operators) = shares(open_files);
        if agents < FLEET {
            warn!(event = "open-files.few", open_files, "{}", few(agents));
        } else {
            debug!(event = "open-files", open_files, agents, operators, "room for connections");
        }
        // An agent that waits for an order is not idle. An operator that waits for a file is closed
        // in favour of one that has not been answered at all.
        Self {
            agents: ConnectionLimit::new("agents", agents, false),
            operators: ConnectionLimit::new("operators", operators, true),
        }
    }
}

/// Maximum number of connections of agents and of operators.
fn shares(open_files: u64) -> (usize, usize) {
    // A semaphore cannot hold more permits.
    let max = usize::MAX >> 3;
    let open_files = usize::try_from(open_files).unwrap_or(max).min(max);
    let operators = OPERATORS.min(open_files / 8).max(1);
    let agents = open_files.saturating_sub(FILES.min(open_files / 4) + 2 * operators).max(1);
    (agents, operators)
}

fn few(agents: usize) -> String {
    format!(
        "only about {agents} clients fit, because this process may open so few files; others \
         cannot connect. Allow more: LimitNOFILE=65536 in a systemd unit, \"ulimit -n 65536\" in \
         a shell, ulimits: nofile: 65536 in a compose file"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_operators_and_files_have_shares_of_their_own() {
        assert_eq!(shares(65_536), (62_976, 1024));
        assert_eq!(shares(1024), (512, 128));
        assert_eq!(shares(64), (32, 8));
        assert!(FLEET < shares(u64::MAX).0);
        assert_eq!(shares(0), (1, 1));
    }
}
