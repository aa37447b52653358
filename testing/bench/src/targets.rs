//! The targets of a release, from PERFORMANCE.md.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// CPU seconds per GB of server and agent together.
pub(crate) const CPU_PER_GB: Target = Target::AtMost(2.0);

/// CPU seconds per GB of the agent.
pub(crate) const AGENT_CPU_PER_GB: Target = Target::AtMost(0.8);

/// CPU seconds per GB of server and agent together, with TLS.
pub(crate) const TLS_CPU_PER_GB: Target = Target::AtMost(3.4);

/// Ratio of the throughput to an rsync daemon's.
pub(crate) const OVER_RSYNC: SizedTarget = SizedTarget::at_base_size(1.5);

/// Ratio of the throughput to an rsync daemon's, with `--fsync`.
pub(crate) const OVER_SYNCED_RSYNC: SizedTarget = SizedTarget::from_gib(1.2);

/// Ratio of the throughput to scp.
pub(crate) const OVER_SCP: SizedTarget = SizedTarget::at_base_size(3.0);

/// Ratio of the throughput to nginx with SHA-256 at both ends and a sync.
pub(crate) const OVER_CHECKED_NGINX: SizedTarget = SizedTarget::at_any_size(1.3);

/// Ratio of the throughput with TLS to the throughput in plain text.
pub(crate) const TLS_OVER_PLAIN: SizedTarget = SizedTarget::at_base_size(0.75);

/// Ratio of the throughput with TLS to scp.
pub(crate) const TLS_OVER_SCP: SizedTarget = SizedTarget::at_base_size(2.5);

/// Ratio of the throughput with TLS to rsync through ssh.
pub(crate) const TLS_OVER_RSYNC_SSH: SizedTarget = SizedTarget::at_base_size(3.0);

/// Memory of the server for each idle client with TLS, in KiB.
pub(crate) const TLS_CLIENT_KIB: Target = Target::AtMost(70.0);

/// Seconds until [`FLEET`] clients with TLS that dial at the same time are connected.
pub(crate) const TLS_CONNECT_SECONDS: Target = Target::AtMost(15.0);

/// Peak memory of the server during one transfer of any size, in MiB.
pub(crate) const SERVER_MIB: Target = Target::AtMost(40.0);

/// Peak memory of the agent during one transfer of any size, in MiB.
pub(crate) const AGENT_MIB: Target = Target::AtMost(16.0);

/// Memory of the server for each idle client, in KiB.
pub(crate) const CLIENT_KIB: Target = Target::AtMost(45.0);

/// CPU of the server with [`FLEET`] idle clients, in percent of one core.
pub(crate) const REST_PERCENT: Target = Target::AtMost(3.0);

/// Seconds until [`FLEET`] clients that dial at the same time are connected.
pub(crate) const CONNECT_SECONDS: Target = Target::AtMost(6.0);

/// Files of 1 KiB per second, one from each of [`FLEET`] clients.
pub(crate) const FILES_PER_SECOND: Target = Target::AtLeast(1500.0);

/// Ratio of the throughput to the throughput with tonic's default window, at [`FAR`].
pub(crate) const OVER_DEFAULT_WINDOW: Target = Target::AtLeast(8.0);

/// The round trip of this target.
pub(crate) const FAR: Duration = Duration::from_millis(40);

/// Ratio of the 99th percentile of round trips during an upload to the same percentile without an
/// upload.
pub(crate) const OVER_REST: Target = Target::AtMost(2.0);

/// [`crate::wire`]: seconds of a pull over the seconds of plain rsync.
pub(crate) const OVER_RSYNC_SECONDS: Target = Target::AtMost(1.0);

/// Seconds for a sparse file.
pub(crate) const SPARSE_SECONDS: Target = Target::AtMost(2.0);

/// Megabytes of the copy of a sparse file, on the disk.
pub(crate) const SPARSE_DISK_MB: Target = Target::AtMost(1.0);

/// [`crate::scale`]: 99th percentile of the response times, in ms.
pub(crate) const ANSWER_MS: Target = Target::AtMost(50.0);

/// Memory of the server for each offline client, in KiB.
pub(crate) const OFFLINE_CLIENT_KIB: Target = Target::AtMost(0.5);

/// Seconds from the start of a server with this data to its first answer, with a warm cache.
pub(crate) const START_SECONDS: Target = Target::AtMost(2.0);

/// The number of lost sessions, and of lost transfers.
pub(crate) const NONE_LOST: Target = Target::AtMost(0.0);

/// Number of clients for the targets of fleets.
pub(crate) const FLEET: u32 = 10_000;

/// File size in bytes for the targets of CPU, and for most targets of throughput.
pub(crate) const SIZE: u64 = 100 << 20;

/// The target for a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// Returns text such as `(target: at min 1.3: met)`.
    pub(crate) fn verdict(self, figure: f64) -> String {
        let met = match self {
            Self::AtLeast(min) => min <= figure,
            Self::AtMost(max) => figure <= max,
        };
        format!("(target: {self}: {})", if met { "met" } else { "MISSED" })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(min) => write!(f, "at least {min:?}"),
            Self::AtMost(max) => write!(f, "at most {max:?}"),
        }
    }
}

/// A minimum that holds for some file sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SizedTarget {
    min: f64,
    /// Bytes of the smallest and of the largest file.
    sizes: (u64, u64),
}

impl SizedTarget {
    const fn at_base_size(min: f64) -> Self {
        Self { min, sizes: (SIZE, SIZE) }
    }

    const fn from_gib(min: f64) -> Self {
        Self { min, sizes: (1 << 30, u64::MAX) }
    }

    const fn at_any_size(min: f64) -> Self {
        Self { min, sizes: (0, u64::MAX) }
    }

    /// Returns the verdict, or an empty text for a size without a target.
    pub(crate) fn verdict(self, size: u64, figure: f64) -> String {
        let (smallest, largest) = self.sizes;
        let has_target = (smallest..=largest).contains(&size);
        if has_target { Target::AtLeast(self.min).verdict(figure) } else { String::new() }
    }
}

impl Serialize for SizedTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Target::AtLeast(self.min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_shown() {
        assert_eq!(Target::AtLeast(1.3).verdict(1.25), "(target: at least 1.3: MISSED)");
        assert_eq!(Target::AtLeast(1.3).verdict(1.3), "(target: at least 1.3: met)");
        assert_eq!(Target::AtMost(2.6).verdict(2.61), "(target: at most 2.6: MISSED)");
        assert_eq!(Target::AtMost(2.6).verdict(f64::NAN), "(target: at most 2.6: MISSED)");
    }

    #[test]
    fn a_target_is_for_some_sizes() {
        let check = |target: SizedTarget, with: &[u64], without: &[u64]| {
            assert!(with.iter().all(|&size| target.verdict(size, 1.0).contains("target")));
            assert!(without.iter().all(|&size| target.verdict(size, 1.0).is_empty()));
        };
        check(OVER_RSYNC, &[100 << 20], &[10 << 20, 1 << 30]);
        check(OVER_SYNCED_RSYNC, &[1 << 30, 10 << 30], &[100 << 20]);
        check(OVER_CHECKED_NGINX, &[1 << 20, 100 << 20, 10 << 30], &[]);
    }
}
