//! Keeps an upload under a rate: a restaurant's line also takes card payments.

use std::time::{Duration, Instant};

/// Says how long to wait before the next bytes may go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When all bytes so far have been paid for.
    paid_until: Instant,
}

impl Pace {
    /// Unused time older than this is lost, so a pause is never followed by a flood.
    const BURST: Duration = Duration::from_millis(50);

    /// Starts at `now`. A rate of zero counts as one byte per second.
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_until: now }
    }

    /// Takes `len_bytes` into account; they may go after the returned wait.
    pub fn wait_for(&mut self, len_bytes: u64, now: Instant) -> Duration {
        let oldest = now.checked_sub(Self::BURST).unwrap_or(now);
        self.paid_until = self.paid_until.max(oldest);
        let wait = self.paid_until.saturating_duration_since(now);
        let nanos = u128::from(len_bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.paid_until += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        let mut now = start;
        for _ in 0..10 {
            now += pace.wait_for(100, now);
        }
        // The tenth hundred may go once the first nine hundred are paid for.
        assert_eq!(now - start, Duration::from_millis(900));
    }

    #[test]
    fn a_pause_is_not_followed_by_a_flood() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.wait_for(1000, later), Duration::ZERO);
        assert_eq!(pace.wait_for(1000, later), Duration::from_millis(950));
    }
}
