//! How long to wait before dialling again: full jitter, and never giving up.

use std::time::Duration;

/// What the server asks of agents that lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// The first bound.
    pub base: Duration,
    /// The largest bound.
    pub cap: Duration,
    /// The bound of the first try after a healthy line was lost: the server sizes it to its fleet.
    pub spread: Duration,
    /// A line that lived this long was healthy.
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

/// Why the last try or the last line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCause {
    /// No line came about, or it broke after living `lived`.
    Lost {
        /// How long the line lived; zero when none came about.
        lived: Duration,
    },
    /// The server asked to come back within these bounds.
    Drained {
        /// Not sooner.
        min: Duration,
        /// Not later.
        max: Duration,
    },
    /// The server refused, and said when to try again.
    Refused {
        /// Not sooner than this, not later than twice this.
        retry_after: Duration,
    },
}

/// Decides when to dial next. It never says "not at all".
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    policy: ReconnectPolicy,
    failures: u32,
}

impl Backoff {
    /// No wait is shorter than this, so that no fault becomes a busy loop.
    pub const FLOOR: Duration = Duration::from_millis(250);

    /// Takes over what the server of the last line asked for.
    pub fn follow(&mut self, policy: ReconnectPolicy) {
        self.policy = policy;
    }

    /// How long to wait now. `random` is drawn evenly from `0.0..1.0`.
    ///
    /// Jitter is applied after the cap, or at the cap a whole fleet would dial in lock-step
    /// (M. Brooker, "Exponential Backoff And Jitter", 2015: "full jitter").
    pub fn next(&mut self, ended: RetryCause, random: f64) -> Duration {
        let (from, to) = match ended {
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
            RetryCause::Refused { retry_after } => (retry_after, retry_after.saturating_mul(2)),
        };
        let jittered = from + to.saturating_sub(from).mul_f64(random.clamp(0.0, 1.0));
        jittered.max(Self::FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOST_AT_ONCE: RetryCause = RetryCause::Lost { lived: Duration::ZERO };

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u64> = (0..8).map(|_| backoff.next(LOST_AT_ONCE, 1.0).as_secs()).collect();
        assert_eq!(bounds, [2, 4, 8, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn only_a_healthy_line_starts_the_count_anew() {
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
    fn a_refused_agent_waits_at_least_as_long_as_it_was_told() {
        let refused = RetryCause::Refused { retry_after: Duration::from_secs(300) };
        assert_eq!(Backoff::default().next(refused, 0.0), Duration::from_secs(300));
        assert_eq!(Backoff::default().next(refused, 1.0), Duration::from_secs(600));
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_the_floor_or_longer_than_the_cap(
            lives in prop::collection::vec(0u64..60, 1..100),
            random in 0.0f64..1.0,
        ) {
            let mut backoff = Backoff::default();
            for seconds in lives {
                let wait = backoff.next(RetryCause::Lost { lived: Duration::from_secs(seconds) }, random);
                prop_assert!((Backoff::FLOOR..=Duration::from_secs(10)).contains(&wait));
            }
        }
    }
}
