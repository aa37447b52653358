//! How long an agent waits before it dials again: exponential backoff with full jitter, without
//! end.

use std::time::Duration;

/// How agents reconnect, as the server requests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// The maximum wait before the first failure; each failure doubles it.
    pub base: Duration,
    /// The limit of the doubled wait.
    pub cap: Duration,
    /// The maximum wait after a healthy session was lost. The server sets it by the size of its
    /// fleet.
    pub spread: Duration,
    /// A session that was open for this long was healthy.
    pub stable: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(10),
            spread: Duration::from_secs(5),
            stable: Duration::from_secs(30),
        }
    }
}

/// Why the agent has no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCause {
    /// The session was lost, or could not be opened.
    Lost {
        /// How long the session was open; zero if it could not be opened.
        lived: Duration,
    },
    /// The server requested a new session within this range.
    Drained {
        /// The minimum wait until the agent dials.
        min: Duration,
        /// The maximum wait until the agent dials.
        max: Duration,
    },
    /// The server rejected the agent, and named a time to try again.
    Rejected {
        /// The minimum wait. The maximum is twice as long.
        retry_after: Duration,
    },
}

/// Decides when to dial next.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    policy: ReconnectPolicy,
    failures: u32,
}

impl Backoff {
    /// Minimum wait, so that no failure becomes a busy loop.
    pub const FLOOR: Duration = Duration::from_millis(250);

    /// Replaces the policy by the one of the current server.
    pub fn follow(&mut self, policy: ReconnectPolicy) {
        self.policy = policy;
    }

    /// Returns how long to wait now. `random` is uniform in `0.0..1.0`.
    ///
    /// Jitter is applied after the cap. Otherwise a whole fleet would dial in lock-step at the cap
    /// (M. Brooker, "Exponential Backoff And Jitter", 2015: "full jitter").
    pub fn next(&mut self, cause: RetryCause, random: f64) -> Duration {
        let (min, max) = match cause {
            RetryCause::Lost { lived } if self.policy.stable <= lived => {
                self.failures = 0;
                (Duration::ZERO, self.policy.spread)
            }
            RetryCause::Lost { .. } => {
                self.failures = self.failures.saturating_add(1);
                let doubled = 2u32.saturating_pow(self.failures.min(16));
                (Duration::ZERO, self.policy.base.saturating_mul(doubled).min(self.policy.cap))
            }
            RetryCause::Drained { min, max } => {
                self.failures = 0;
                (min, max)
            }
            RetryCause::Rejected { retry_after } => (retry_after, retry_after.saturating_mul(2)),
        };
        let jittered = min + max.saturating_sub(min).mul_f64(random.clamp(0.0, 1.0));
        jittered.max(Self::FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOST_AT_ONCE: RetryCause = RetryCause::Lost { lived: Duration::ZERO };

    #[test]
    fn the_maximum_wait_doubles_up_to_the_cap() {
        let mut backoff = Backoff::default();
        let max_waits: Vec<u64> =
            (0..8).map(|_| backoff.next(LOST_AT_ONCE, 1.0).as_secs()).collect();
        assert_eq!(max_waits, [2, 4, 8, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn only_a_healthy_session_resets_the_count() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.next(LOST_AT_ONCE, 1.0);
        }
        let short = RetryCause::Lost { lived: Duration::from_secs(29) };
        assert_eq!(backoff.next(short, 1.0), Duration::from_secs(10));
        let healthy = RetryCause::Lost { lived: Duration::from_secs(30) };
        assert_eq!(backoff.next(healthy, 1.0), Duration::from_secs(5));
        assert_eq!(backoff.next(LOST_AT_ONCE, 1.0), Duration::from_secs(2));
    }

    #[test]
    fn a_rejected_agent_waits_at_least_as_long_as_requested() {
        let rejected = RetryCause::Rejected { retry_after: Duration::from_secs(300) };
        assert_eq!(Backoff::default().next(rejected, 0.0), Duration::from_secs(300));
        assert_eq!(Backoff::default().next(rejected, 1.0), Duration::from_secs(600));
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_the_minimum_or_longer_than_the_cap(
            uptimes in prop::collection::vec(0u64..60, 1..100),
            random in 0.0f64..1.0,
        ) {
            let mut backoff = Backoff::default();
            for seconds in uptimes {
                let lost = RetryCause::Lost { lived: Duration::from_secs(seconds) };
                let wait = backoff.next(lost, random);
                prop_assert!((Backoff::FLOOR..=Duration::from_secs(10)).contains(&wait));
            }
        }
    }
}
