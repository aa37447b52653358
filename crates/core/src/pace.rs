//! Limits the rate of an upload, because the client's connection also has other uses.

use std::time::{Duration, Instant};

/// Decides how long an upload waits before it sends the next bytes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When the next bytes may be sent.
    next_send: Instant,
}

impl Pace {
    /// How much unused time is kept, so that no long burst follows a pause.
    const BURST: Duration = Duration::from_millis(50);

    /// Starts at `now`. A rate of 0 counts as one byte per second.
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next_send: now }
    }

    /// Counts `len_bytes`, and returns how long to wait before they may be sent.
    pub fn wait_for(&mut self, len_bytes: u64, now: Instant) -> Duration {
        let oldest = now.checked_sub(Self::BURST).unwrap_or(now);
        self.next_send = self.next_send.max(oldest);
        let wait = self.next_send.saturating_duration_since(now);
        let nanos = u128::from(len_bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.next_send += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
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
        // The tenth hundred may be sent when the first nine hundred have used up their time.
        assert_eq!(now - start, Duration::from_millis(900));
    }

    #[test]
    fn no_long_burst_follows_a_pause() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.wait_for(1000, later), Duration::ZERO);
        assert_eq!(pace.wait_for(1000, later), Duration::from_millis(950));
    }
}
