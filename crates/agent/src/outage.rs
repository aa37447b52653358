//! Decides which failed dials are worth a line in the log: the first, then after 10 min, 1 h, and
//! each day. A site that is offline for a week must not fill its disk with it.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// The time without a line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outage {
    current: Option<CurrentOutage>,
}

#[derive(Clone, Copy, Debug)]
struct CurrentOutage {
    since: Instant,
    /// The next line is due when it lasts this long.
    next: Duration,
    refused: bool,
}

/// Why there is no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The network, or the server is away.
    Lost,
    /// The server will not have us: a person must act, so its first word is always told.
    Refused,
}

/// What to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutageLog {
    /// It begins, or has a new cause.
    Begins,
    /// It lasts.
    Lasts(Duration),
}

impl Outage {
    /// A line was lost or did not come about.
    pub(crate) fn failed(&mut self, cause: Cause, now: Instant) -> Option<OutageLog> {
        let refused = cause == Cause::Refused;
        let Some(current) = &mut self.current else {
            self.current = Some(CurrentOutage { since: now, next: MINUTE * 10, refused });
            return Some(OutageLog::Begins);
        };
        if refused && !current.refused {
            current.refused = true;
            return Some(OutageLog::Begins);
        }
        let lasts = now.duration_since(current.since);
        if lasts < current.next {
            return None;
        }
        while current.next <= lasts {
            current.next = match current.next {
                next if next < MINUTE * 60 => MINUTE * 60,
                next if next < DAY => DAY,
                next => next + DAY,
            };
        }
        Some(OutageLog::Lasts(lasts))
    }

    /// A line is there: how long there was none.
    pub(crate) fn over(&mut self, now: Instant) -> Option<Duration> {
        Some(now.duration_since(self.current.take()?.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_without_a_server_is_nine_lines() {
        let start = Instant::now();
        let mut outage = Outage::default();
        let told: Vec<u64> = (0..7 * 24 * 60)
            .filter(|&minute| outage.failed(Cause::Lost, start + MINUTE * minute).is_some())
            .map(u64::from)
            .collect();
        assert_eq!(told, [0, 10, 60, 1440, 2880, 4320, 5760, 7200, 8640]);
        assert_eq!(outage.over(start + DAY * 7), Some(DAY * 7));
        assert_eq!(outage.over(start), None);
    }

    #[test]
    fn a_refusal_is_told_once_whenever_it_comes() {
        let start = Instant::now();
        let mut outage = Outage::default();
        assert_eq!(outage.failed(Cause::Lost, start), Some(OutageLog::Begins));
        assert_eq!(outage.failed(Cause::Refused, start + MINUTE), Some(OutageLog::Begins));
        assert_eq!(outage.failed(Cause::Refused, start + MINUTE * 2), None);
        let long = outage.failed(Cause::Lost, start + MINUTE * 11);
        assert_eq!(long, Some(OutageLog::Lasts(MINUTE * 11)));
    }
}
