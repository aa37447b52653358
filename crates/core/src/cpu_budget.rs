//! Limits the CPU time of the agent, because a till also has other work.

use std::time::{Duration, Instant};

/// A share of one processor core, in percent. More than 100 % is more than one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare(u32);

impl CpuShare {
    /// The minimum. With less, the pauses of several uploads at once would look like a stall.
    const MIN_PERCENT: u32 = 5;

    /// Parses a share such as `50%`.
    ///
    /// # Errors
    /// Names the valid form, or the minimum.
    pub fn parse(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').map(str::trim_end).and_then(|text| text.parse().ok());
        match percent {
            Some(percent) if Self::MIN_PERCENT <= percent => Ok(Self(percent)),
            Some(percent) => Err(format!(
                "{percent}% of a core is too little to send a file. Write at least {}%.",
                Self::MIN_PERCENT
            )),
            None => Err(format!("{text:?} is not a share of a core. Write for example 50%.")),
        }
    }

    /// Returns the time in which this share of a core provides `cpu_time`.
    fn time_for(self, cpu_time: Duration) -> Duration {
        cpu_time.saturating_mul(100) / self.0
    }
}

/// Decides how long a process pauses to keep its share. All uploads of the process have one budget.
#[derive(Clone, Copy, Debug)]
pub struct CpuBudget {
    share: CpuShare,
    /// The CPU time of the process that is counted.
    counted: Duration,
    /// When the share has provided the counted CPU time.
    provided_at: Instant,
}

impl CpuBudget {
    /// How much unused time is kept, so that no long burst follows an idle time.
    const BURST: Duration = Duration::from_millis(100);

    /// Starts at `now`, when the process has used `cpu_time`.
    pub fn new(share: CpuShare, cpu_time: Duration, now: Instant) -> Self {
        Self { share, counted: cpu_time, provided_at: now }
    }

    /// Counts the CPU time that the process has used until `now`, and returns how long to pause.
    pub fn pause(&mut self, cpu_time: Duration, now: Instant) -> Duration {
        let used = cpu_time.saturating_sub(self.counted);
        self.counted = self.counted.max(cpu_time);
        let oldest = now.checked_sub(Self::BURST).unwrap_or(now);
        // An idle time pays for what was used in it, before the rest of it is dropped.
        self.provided_at = (self.provided_at + self.share.time_for(used)).max(oldest);
        self.provided_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_share_is_a_percentage_of_a_core() {
        assert_eq!(CpuShare::parse("50%"), Ok(CpuShare(50)));
        assert_eq!(CpuShare::parse("250 %"), Ok(CpuShare(250)));
        for text in ["", "%", "50", "0.5", "-5%", "half", "50%%", "99999999999%"] {
            let error = CpuShare::parse(text).unwrap_err();
            assert!(error.ends_with("Write for example 50%."), "{error}");
        }
        assert!(CpuShare::parse("4%").is_err_and(|error| error.ends_with("at least 5%.")));
    }

    #[test]
    fn work_in_any_order_gets_its_share_of_the_time() {
        let start = Instant::now();
        let mut budget = CpuBudget::new(CpuShare(20), Duration::ZERO, start);
        let mut cpu_time = Duration::ZERO;
        let mut now = start;
        for work in [1, 7, 30, 2, 60, 100] {
            cpu_time += work * MS;
            now += work * MS;
            now += budget.pause(cpu_time, now);
        }
        assert_eq!((cpu_time, now - start), (200 * MS, 1000 * MS));
    }

    #[test]
    fn uploads_at_once_have_one_budget() {
        let start = Instant::now();
        let mut budget = CpuBudget::new(CpuShare(50), Duration::ZERO, start);
        // Two threads have used 10 ms each, on two cores.
        let now = start + 10 * MS;
        assert_eq!(budget.pause(20 * MS, now), 30 * MS);
        assert_eq!(budget.pause(20 * MS, now), 30 * MS);
        // A thread that reads an older time adds nothing.
        assert_eq!(budget.pause(19 * MS, now), 30 * MS);
    }

    #[test]
    fn an_idle_time_pays_for_its_own_use_and_for_a_short_burst() {
        let start = Instant::now();
        let mut budget = CpuBudget::new(CpuShare(10), Duration::ZERO, start);
        let hour_later = start + Duration::from_hours(1);
        assert_eq!(budget.pause(Duration::from_secs(60), hour_later), Duration::ZERO);
        assert_eq!(budget.pause(Duration::from_secs(60) + 10 * MS, hour_later), Duration::ZERO);
        assert_eq!(budget.pause(Duration::from_secs(60) + 15 * MS, hour_later), 50 * MS);
    }
}
