//! The floors of a release, as PERFORMANCE.md sets them.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// CPU-seconds per GB of both ends, plain.
pub(crate) const CPU_PER_GB: Target = Target::AtMost(2.6);

/// Peak memory of the server during one transfer of any size, in MiB.
pub(crate) const SERVER_MIB: Target = Target::AtMost(40.0);

/// Peak memory of the agent during one transfer of any size, in MiB.
pub(crate) const AGENT_MIB: Target = Target::AtMost(16.0);

/// A client at rest, plain: memory of the server, in KiB.
pub(crate) const CLIENT_KIB: Target = Target::AtMost(45.0);

/// [`FLEET`] clients at rest: percent of a core that the server uses.
pub(crate) const REST_PERCENT: Target = Target::AtMost(3.0);

/// Seconds until [`FLEET`] clients that dial at once are all connected.
pub(crate) const CONNECT_SECONDS: Target = Target::AtMost(6.0);

/// Files of 1 KiB per second, one from each of [`FLEET`] clients.
pub(crate) const FILES_PER_SECOND: Target = Target::AtLeast(1500.0);

/// How many times as fast the product must be as with tonic's default window, at [`FAR`].
pub(crate) const OVER_DEFAULT_WINDOW: Target = Target::AtLeast(8.0);

/// The round trip that this floor was set for.
pub(crate) const FAR: Duration = Duration::from_millis(40);

/// How many times as long as at rest the slowest round trip of a hundred may take while a file is
/// sent.
pub(crate) const OVER_REST: Target = Target::AtMost(2.0);

/// [`crate::scale`]: p99 of the request times, in ms.
pub(crate) const ANSWER_MS: Target = Target::AtMost(50.0);

/// Memory of the server for each known client that is offline, in KiB.
pub(crate) const OFFLINE_CLIENT_KIB: Target = Target::AtMost(0.5);

/// Time from the start of a server with this data to its first answer, in s, with a warm cache.
pub(crate) const START_SECONDS: Target = Target::AtMost(2.0);

/// What must never be lost: a line, a transfer.
pub(crate) const NONE_LOST: Target = Target::AtMost(0.0);

/// The number of clients that the floors for fleets were set for.
pub(crate) const FLEET: u32 = 10_000;

/// The size in bytes that the floors for throughput and CPU were set for.
pub(crate) const SIZE: u64 = 100 << 20;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// `(must be 1.3 or more: kept)`
    pub(crate) fn verdict(self, figure: f64) -> String {
        let kept = match self {
            Self::AtLeast(least) => least <= figure,
            Self::AtMost(most) => figure <= most,
        };
        format!("(must be {self}: {})", if kept { "kept" } else { "MISSED" })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "{least:.1} or more"),
            Self::AtMost(most) => write!(f, "{most:.1} or less"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_that_is_missed_is_said_so() {
        assert_eq!(Target::AtLeast(1.3).verdict(1.25), "(must be 1.3 or more: MISSED)");
        assert_eq!(Target::AtLeast(1.3).verdict(1.3), "(must be 1.3 or more: kept)");
        assert_eq!(Target::AtMost(2.6).verdict(2.61), "(must be 2.6 or less: MISSED)");
        assert_eq!(Target::AtMost(2.6).verdict(f64::NAN), "(must be 2.6 or less: MISSED)");
    }
}
