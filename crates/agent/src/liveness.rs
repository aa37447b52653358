//! Detects a silent session and a machine that was suspended. The caller passes the time in.

use std::time::{Duration, Instant, SystemTime};

use filepull_core::bounds;

/// The state of one session's timeout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    heartbeat: Duration,
    dead_after: Duration,
    last_message: Instant,
    last_check: (Instant, SystemTime),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LivenessError {
    /// No message arrived for this long.
    Silence(Duration),
    /// The machine was suspended, so the session is lost.
    Suspended,
}

impl Liveness {
    /// Starts with a session that has just received a message. The times are in milliseconds;
    /// 0 is the default.
    pub(crate) fn new(heartbeat_ms: u32, dead_after_ms: u32, now: (Instant, SystemTime)) -> Self {
        let (heartbeat, dead_after) = bounds::heartbeats(heartbeat_ms, dead_after_ms);
        Self { heartbeat, dead_after, last_message: now.0, last_check: now }
    }

    pub(crate) fn on_message(&mut self, now: Instant) {
        self.last_message = now;
    }

    /// Returns when to call [`check`](Self::check), if no message arrives before.
    pub(crate) fn next_check(&self) -> Instant {
        (self.last_message + self.dead_after).min(self.last_check.0 + self.heartbeat)
    }

    /// Returns why the session is over, if it is.
    pub(crate) fn check(&mut self, now: (Instant, SystemTime)) -> Option<LivenessError> {
        // The monotonic clock stops while the machine is suspended, the wall clock does not. A wall
        // clock that is set forward looks the same, and costs one reconnect.
        let awake = now.0.duration_since(self.last_check.0);
        let passed = now.1.duration_since(self.last_check.1).unwrap_or_default();
        self.last_check = now;
        if self.heartbeat * 2 < passed.saturating_sub(awake) {
            Some(LivenessError::Suspended)
        } else if self.dead_after <= now.0.duration_since(self.last_message) {
            Some(LivenessError::Silence(self.dead_after))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_session_that_is_silent_for_too_long_is_over() {
        let start = (Instant::now(), SystemTime::now());
        let at = |seconds| (start.0 + SECOND * seconds, start.1 + SECOND * seconds);
        let mut liveness = Liveness::new(0, 0, start);
        assert_eq!(liveness.next_check(), at(15).0);
        assert_eq!(liveness.check(at(15)), None);
        liveness.on_message(at(16).0);
        assert_eq!(liveness.check(at(60)), None);
        assert_eq!(liveness.next_check(), at(61).0);
        assert_eq!(liveness.check(at(61)), Some(LivenessError::Silence(SECOND * 45)));
    }

    #[test]
    fn a_session_does_not_survive_a_suspended_machine() {
        let start = (Instant::now(), SystemTime::now());
        let check = |wall_clock, expected| {
            let mut liveness = Liveness::new(15_000, 45_000, start);
            assert_eq!(liveness.check((start.0 + SECOND, wall_clock)), expected);
        };
        check(start.1 + SECOND * 3600, Some(LivenessError::Suspended));
        check(start.1 - SECOND * 3600, None);
    }
}
