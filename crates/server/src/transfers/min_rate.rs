//! Checks the minimum rate of an upload over a sliding window. No clock, no task.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

/// The window slides in this many steps.
const N_STEPS: u32 = 30;

/// The bytes received at each step of the window.
#[derive(Debug)]
pub(crate) struct MinRate {
    bytes_per_second: u64,
    window: Duration,
    samples: VecDeque<(Instant, u64)>,
}

impl MinRate {
    /// Starts a window for an upload that has received this many bytes. Zero bytes per second: no
    /// minimum.
    pub(crate) fn new(
        bytes_per_second: u64,
        window: Duration,
        received: u64,
        now: Instant,
    ) -> Self {
        Self { bytes_per_second, window, samples: VecDeque::from([(now, received)]) }
    }

    /// Returns when to call [`is_missed`](Self::is_missed) next; `None` without a minimum.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        let (last, _) = self.samples.back()?;
        (self.bytes_per_second != 0).then_some(*last + self.window / N_STEPS)
    }

    /// Adds the number of received bytes, and returns whether the last window was too slow.
    pub(crate) fn is_missed(&mut self, received: u64, now: Instant) -> bool {
        self.samples.push_back((now, received));
        // Keep as the oldest sample the last one that is at least a window old.
        while self.samples.get(1).is_some_and(|(at, _)| self.window <= now - *at) {
            self.samples.pop_front();
        }
        let Some(&(since, before)) = self.samples.front() else { return false };
        let elapsed = now - since;
        let required = u128::from(self.bytes_per_second) * elapsed.as_millis() / 1000;
        self.window <= elapsed && u128::from(received.saturating_sub(before)) < required
    }

    /// Starts a new window. The time before does not count.
    pub(crate) fn restart(&mut self, received: u64, now: Instant) {
        self.samples = VecDeque::from([(now, received)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    /// Returns the second at which an upload misses 1 KiB/s, if it receives `rate(second)` bytes in each
    /// second.
    fn missed_at(rate: impl Fn(u64) -> u64) -> Option<u64> {
        let start = Instant::now();
        let mut min_rate = MinRate::new(1024, WINDOW, 0, start);
        let mut received = 0;
        (1..2000).find(|&second| {
            received += rate(second);
            let now = start + Duration::from_secs(second);
            min_rate.next_check().is_some_and(|at| at <= now) && min_rate.is_missed(received, now)
        })
    }

    #[test]
    fn only_a_whole_window_below_the_rate_counts() {
        assert_eq!(missed_at(|_| 1), Some(300));
        assert_eq!(missed_at(|_| 1024), None);
        assert_eq!(missed_at(|second| if second % 240 == 0 { 1 << 20 } else { 0 }), None);
        let slows_down = |second| if second <= 1000 { 10_000 } else { 1 };
        assert!(missed_at(slows_down).is_some_and(|second| (1270..=1300).contains(&second)));
    }

    #[test]
    fn time_before_a_restart_does_not_count() {
        let start = Instant::now();
        let mut min_rate = MinRate::new(1024, WINDOW, 0, start);
        min_rate.restart(0, start + WINDOW);
        assert!(!min_rate.is_missed(0, start + WINDOW * 2 - Duration::from_secs(1)));
        assert!(min_rate.is_missed(0, start + WINDOW * 2));
    }

    #[test]
    fn a_rate_of_zero_means_no_minimum() {
        let start = Instant::now();
        assert_eq!(MinRate::new(0, WINDOW, 0, start).next_check(), None);
    }
}
