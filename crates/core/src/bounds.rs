//! The bounds of every number that another machine or an operator chooses.
//!
//! A number from the wire is clamped where it is received: no server keeps an agent away for days,
//! and no agent makes a server store more than these limits. A setting outside its range is
//! rejected at the start instead, because a person can correct it.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::CHUNK_LEN;
use crate::backoff::ReconnectPolicy;

/// Maximum time for which a server may keep an agent away: by its policy, a `Drain` or a rejection.
pub const MAX_AWAY: Duration = Duration::from_mins(2);

/// How often the server may ping an agent.
pub const HEARTBEAT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_mins(5);

/// How long a session may be silent. At least twice the heartbeat; otherwise one late answer would
/// end the session.
pub const DEAD_AFTER: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(15);

/// The range of the maximum wait between two dials.
pub const RECONNECT_CAP: RangeInclusive<Duration> = Duration::from_millis(100)..=MAX_AWAY;

/// The heartbeat if the server sends 0.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// The maximum silence if the server sends 0.
pub const DEFAULT_DEAD_AFTER: Duration = Duration::from_secs(45);

/// The shortest chunk that a server may request, in bytes. The overhead of a shorter one is too
/// high.
const MIN_CHUNK_LEN: u32 = 4096;

/// The lowest rate that a server may set for an upload, in bytes per second. With a lower one a
/// transfer of the largest file would not end.
pub const MIN_UPLOAD_RATE: u64 = 1024;

/// Maximum number of shares that a client may announce.
pub const MAX_SHARES: usize = 32;

/// Maximum number of running uploads that an agent may announce.
pub const MAX_ACTIVE_UPLOADS: usize = 16;

/// Returns the value in `range` that is nearest to `value`.
pub fn clamp(value: Duration, range: &RangeInclusive<Duration>) -> Duration {
    value.clamp(*range.start(), *range.end())
}

/// Clamps the heartbeat and the maximum silence that a server sends, in milliseconds. 0 is the
/// default.
pub fn heartbeats(heartbeat_ms: u32, dead_after_ms: u32) -> (Duration, Duration) {
    let or = |ms: u32, default| if ms == 0 { default } else { Duration::from_millis(ms.into()) };
    let heartbeat = clamp(or(heartbeat_ms, DEFAULT_HEARTBEAT), &HEARTBEAT);
    let dead_after = clamp(or(dead_after_ms, DEFAULT_DEAD_AFTER), &DEAD_AFTER);
    (heartbeat, dead_after.max(heartbeat * 2))
}

/// Clamps the maximum chunk length that a server sends, in bytes. 0 is the default.
pub fn chunk_len(max_chunk_bytes: u32) -> u32 {
    let max = u32::try_from(CHUNK_LEN).unwrap_or(u32::MAX);
    match max_chunk_bytes {
        0 => max,
        len => len.clamp(MIN_CHUNK_LEN, max),
    }
}

/// Clamps the rate that a server allows an upload, in bytes per second. 0 is no limit.
pub fn upload_rate(max_bytes_per_s: u64) -> Option<u64> {
    (max_bytes_per_s != 0).then_some(max_bytes_per_s.max(MIN_UPLOAD_RATE))
}

/// Clamps the range of the wait that a drained agent was sent.
pub fn drain(min: Duration, max: Duration) -> (Duration, Duration) {
    let max = max.min(MAX_AWAY);
    (min.min(max), max)
}

/// Clamps the minimum wait that a rejected agent was sent. The agent waits up to twice as long.
pub fn retry_after(requested: Duration) -> Duration {
    requested.min(MAX_AWAY / 2)
}

impl ReconnectPolicy {
    /// Clamps every time of a policy from another machine.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self {
            base: self.base.min(MAX_AWAY),
            cap: clamp(self.cap, &RECONNECT_CAP),
            spread: self.spread.min(MAX_AWAY),
            stable: self.stable.min(MAX_AWAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backoff::{Backoff, RetryCause};

    fn time(ms: u32) -> Duration {
        Duration::from_millis(ms.into())
    }

    proptest! {
        #[test]
        fn no_server_keeps_an_agent_away_for_longer_than_the_bound(
            policy in any::<[u32; 4]>(),
            drained in any::<[u32; 2]>(),
            requested in any::<u32>(),
            uptime in any::<u32>(),
            random in 0.0f64..1.0,
        ) {
            let [base, cap, spread, stable] = policy.map(time);
            let mut backoff = Backoff::default();
            backoff.follow(ReconnectPolicy { base, cap, spread, stable }.clamped());
            let (min, max) = drain(time(drained[0]), time(drained[1]));
            for cause in [
                RetryCause::Lost { lived: time(uptime) },
                RetryCause::Lost { lived: Duration::ZERO },
                RetryCause::Drained { min, max },
                RetryCause::Rejected { retry_after: retry_after(time(requested)) },
            ] {
                prop_assert!(backoff.next(cause, random) <= MAX_AWAY);
            }
        }

        #[test]
        fn no_server_makes_a_session_fail_at_once_or_never(
            heartbeat_ms in any::<u32>(),
            dead_after_ms in any::<u32>(),
        ) {
            let (heartbeat, dead_after) = heartbeats(heartbeat_ms, dead_after_ms);
            prop_assert!(HEARTBEAT.contains(&heartbeat) && DEAD_AFTER.contains(&dead_after));
            prop_assert!(heartbeat * 2 <= dead_after);
        }
    }

    #[test]
    fn a_number_inside_its_bounds_stays_as_it_is() {
        assert_eq!(heartbeats(0, 0), (DEFAULT_HEARTBEAT, DEFAULT_DEAD_AFTER));
        assert_eq!(heartbeats(500, 2000), (time(500), time(2000)));
        assert_eq!([0, 1, 65_536, u32::MAX].map(chunk_len), [65_536, 4096, 65_536, 65_536]);
        assert_eq!([0, 1, 1 << 20].map(upload_rate), [None, Some(1024), Some(1 << 20)]);
        assert_eq!(ReconnectPolicy::default().clamped(), ReconnectPolicy::default());
    }
}
