//! How long the server waits for an agent that only reads its file: signs of life buy time, within
//! a bound.

use tokio::time::{Duration, Instant};

/// A disk that reads more slowly is not worth a turn, in bytes per second.
const SLOWEST_DISK: u64 = 256 * 1024;

/// What is left of the server's patience.
#[derive(Clone, Copy, Debug)]
pub(super) struct StallTimer {
    stall_timeout: Duration,
    last_sign: Instant,
    /// A sign of life costs an agent nothing, so they do not count for ever.
    ends_at: Instant,
}

impl StallTimer {
    /// For an agent that has just shown that it lives, and may have `len` bytes to read.
    pub(super) fn new(len: u64, stall_timeout: Duration, now: Instant) -> Self {
        let reading = Duration::from_secs(len / SLOWEST_DISK);
        Self { stall_timeout, last_sign: now, ends_at: now + stall_timeout + reading }
    }

    /// The agent has shown that it lives.
    pub(super) fn sign(&mut self, now: Instant) {
        self.last_sign = now;
    }

    /// When it is over.
    pub(super) fn deadline(&self) -> Instant {
        self.ends_at.min(self.last_sign + self.stall_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn signs_of_life_buy_time_as_long_as_a_slow_disk_may_read() {
        let start = Instant::now();
        let mut patience = StallTimer::new(100 << 20, MINUTE, start);
        assert_eq!(patience.deadline(), start + MINUTE);
        // A disk with 2 MiB/s needs 50 s for it; one with 1 MiB/s is waited for as well.
        for seconds in (5..100).step_by(5) {
            let now = start + Duration::from_secs(seconds);
            assert!(now < patience.deadline(), "after {seconds} s");
            patience.sign(now);
        }
        patience.sign(start + MINUTE * 60);
        assert_eq!(patience.deadline(), start + MINUTE + Duration::from_secs(400));
    }

    #[test]
    fn without_anything_to_read_a_sign_of_life_buys_nothing() {
        let start = Instant::now();
        let mut patience = StallTimer::new(0, MINUTE, start);
        patience.sign(start + MINUTE / 2);
        assert_eq!(patience.deadline(), start + MINUTE);
    }
}
