//! Watches a line for silence, and the machine for sleep. No clock of its own: `now` comes in.

use std::time::{Duration, Instant, SystemTime};

use filepull_core::bounds;

/// What is known of a line's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    heartbeat: Duration,
    dead_after: Duration,
    heard: Instant,
    looked: (Instant, SystemTime),
}

/// Why a line is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LivenessError {
    /// Nothing was heard for too long.
    Silence(Duration),
    /// The machine was suspended: whatever the line was, it is not any more.
    Slept,
}

impl Liveness {
    /// A line that was heard just now. A server that names no times means the usual ones.
    pub(crate) fn new(heartbeat_ms: u32, dead_after_ms: u32, now: (Instant, SystemTime)) -> Self {
        let (heartbeat, dead_after) = bounds::heartbeats(heartbeat_ms, dead_after_ms);
        Self { heartbeat, dead_after, heard: now.0, looked: now }
    }

    /// Something was heard.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When to [`look`](Self::look) next, if nothing is heard before.
    pub(crate) fn next_look(&self) -> Instant {
        (self.heard + self.dead_after).min(self.looked.0 + self.heartbeat)
    }

    /// Is the line over?
    pub(crate) fn look(&mut self, now: (Instant, SystemTime)) -> Option<LivenessError> {
        // The one clock stands still while the machine sleeps, the other does not. A clock that
        // was set looks the same and costs one dial.
        let awake = now.0.duration_since(self.looked.0);
        let passed = now.1.duration_since(self.looked.1).unwrap_or_default();
        self.looked = now;
        if self.heartbeat * 2 < passed.saturating_sub(awake) {
            Some(LivenessError::Slept)
        } else if self.dead_after <= now.0.duration_since(self.heard) {
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
    fn a_line_that_is_silent_for_too_long_is_dead() {
        let start = (Instant::now(), SystemTime::now());
        let at = |seconds| (start.0 + SECOND * seconds, start.1 + SECOND * seconds);
        let mut pulse = Liveness::new(0, 0, start);
        assert_eq!(pulse.next_look(), at(15).0);
        assert_eq!(pulse.look(at(15)), None);
        pulse.heard(at(16).0);
        assert_eq!(pulse.look(at(60)), None);
        assert_eq!(pulse.next_look(), at(61).0);
        assert_eq!(pulse.look(at(61)), Some(LivenessError::Silence(SECOND * 45)));
    }

    #[test]
    fn a_machine_that_slept_has_lost_its_line() {
        let start = (Instant::now(), SystemTime::now());
        let mut pulse = Liveness::new(15_000, 45_000, start);
        assert_eq!(
            pulse.look((start.0 + SECOND, start.1 + SECOND * 3600)),
            Some(LivenessError::Slept)
        );
        let mut pulse = Liveness::new(15_000, 45_000, start);
        assert_eq!(pulse.look((start.0 + SECOND, start.1 - SECOND * 3600)), None);
    }
}
