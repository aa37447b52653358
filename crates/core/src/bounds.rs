//! The bounds of every number that another machine or an operator chooses.
//!
//! A number from the wire is clamped where it enters, in both directions: no server keeps an agent
//! away for days, and no agent makes a server hold more than these. A setting outside its range is
//! rejected at the start instead, because a person can correct it.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::CHUNK_LEN;
use crate::backoff::ReconnectPolicy;

/// Maximum time for which a server may keep an agent away: by its policy, a `Drain` or a rejection.
pub const MAX_AWAY: Duration = Duration::from_mins(2);

/// How often the server may ping an agent.
pub const HEARTBEAT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_mins(5);

/// How long a session may be silent. At least twice the heartbeat, or one late answer would end the
/// session.
pub const DEAD_AFTER: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(15);

/// The maximum that an agent may set for the wait between two dials.
pub const RECONNECT_CAP: RangeInclusive<Duration> = Duration::from_millis(100)..=MAX_AWAY;

/// The heartbeat of a peer that names none.
pub const USUAL_HEARTBEAT: Duration = Duration::from_secs(15);

/// The longest silence of a peer that names none.
pub const USUAL_DEAD_AFTER: Duration = Duration::from_secs(45);

/// The shortest chunk that a server may ask for. A shorter one would cost more than it carries.
const MIN_CHUNK_LEN: u32 = 4096;

/// The lowest rate to which a server may slow an upload down, in bytes per second. A transfer of
/// the largest file would not end otherwise.
pub const MIN_UPLOAD_RATE: u64 = 1024;

/// Maximum number of shares that a client may announce.
pub const MAX_SHARES: usize = 32;

/// Maximum number of running uploads that an agent may announce.
pub const MAX_ACTIVE_UPLOADS: usize = 16;

/// Clamps `value` to `range`.
pub fn clamp(value: Duration, range: &RangeInclusive<Duration>) -> Duration {
    value.clamp(*range.start(), *range.end())
}

/// Returns the heartbeat and the maximum silence that a server names, in milliseconds. With 0 the
/// agent decides.
pub fn heartbeats(heartbeat_ms: u32, dead_after_ms: u32) -> (Duration, Duration) {
    let or = |ms: u32, usual| if ms == 0 { usual } else { Duration::from_millis(ms.into()) };
    let heartbeat = clamp(or(heartbeat_ms, USUAL_HEARTBEAT), &HEARTBEAT);
    let dead_after = clamp(or(dead_after_ms, USUAL_DEAD_AFTER), &DEAD_AFTER);
    (heartbeat, dead_after.max(heartbeat * 2))
}

/// Returns the maximum chunk length that a server accepts. With 0 the agent decides.
pub fn chunk_len(max_chunk_bytes: u32) -> u32 {
    let longest = u32::try_from(CHUNK_LEN).unwrap_or(u32::MAX);
    match max_chunk_bytes {
        0 => longest,
        len => len.clamp(MIN_CHUNK_LEN, longest),
    }
}

/// Returns the rate that a server allows an upload, in bytes per second; 0 is no limit.
pub fn upload_rate(max_bytes_per_s: u64) -> Option<u64> {
    (max_bytes_per_s != 0).then_some(max_bytes_per_s.max(MIN_UPLOAD_RATE))
}

/// Returns the range of time in which a disconnected agent dials again.
pub fn drain(min: Duration, max: Duration) -> (Duration, Duration) {
    let max = max.min(MAX_AWAY);
    (min.min(max), max)
}

/// Returns the minimum wait of a rejected agent. The agent waits up to twice as long.
pub fn retry_after(named: Duration) -> Duration {
    named.min(MAX_AWAY / 2)
}

impl ReconnectPolicy {
    /// Returns the policy of another machine with every time clamped.
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
            named in any::<u32>(),
            lived in any::<u32>(),
            random in 0.0f64..1.0,
        ) {
            let [base, cap, spread, stable] = policy.map(time);
            let mut backoff = Backoff::default();
            backoff.follow(ReconnectPolicy { base, cap, spread, stable }.clamped());
            let (min, max) = drain(time(drained[0]), time(drained[1]));
            for ended in [
                RetryCause::Lost { lived: time(lived) },
                RetryCause::Lost { lived: Duration::ZERO },
                RetryCause::Drained { min, max },
                RetryCause::Refused { retry_after: retry_after(time(named)) },
            ] {
                prop_assert!(backoff.next(ended, random) <= MAX_AWAY);
            }
        }

        #[test]
        fn no_server_makes_a_session_fail_at_once_or_never(beat in any::<u32>(), dead in any::<u32>()) {
            let (heartbeat, dead_after) = heartbeats(beat, dead);
            prop_assert!(HEARTBEAT.contains(&heartbeat) && DEAD_AFTER.contains(&dead_after));
            prop_assert!(heartbeat * 2 <= dead_after);
        }
    }

    #[test]
    fn a_number_inside_its_bounds_stays_as_it_is() {
        assert_eq!(heartbeats(0, 0), (USUAL_HEARTBEAT, USUAL_DEAD_AFTER));
        assert_eq!(heartbeats(500, 2000), (time(500), time(2000)));
        assert_eq!([0, 1, 65_536, u32::MAX].map(chunk_len), [65_536, 4096, 65_536, 65_536]);
        assert_eq!([0, 1, 1 << 20].map(upload_rate), [None, Some(1024), Some(1 << 20)]);
        assert_eq!(ReconnectPolicy::default().clamped(), ReconnectPolicy::default());
    }
}
