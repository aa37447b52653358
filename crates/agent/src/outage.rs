//! Decides which failed dials are logged: the first, then one after 10 min, after 1 h, and each
//! day. The log of a site that is offline for a week must not fill its disk.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// The time without a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outage {
    current: Option<CurrentOutage>,
}

#[derive(Clone, Copy, Debug)]
struct CurrentOutage {
    since: Instant,
    /// The next message is due when the outage has lasted this long.
    next: Duration,
    rejected: bool,
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutageCause {
    /// The network or the server failed.
    Lost,
    /// The server rejects this agent. A person must act, so the first rejection is always logged.
    Rejected,
}

/// The message to log about an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutageMessage {
    /// The outage starts, or the server has started to reject the agent.
    Started,
    /// The outage has lasted for this long.
    Lasting(Duration),
}

impl Outage {
    /// Counts a session that was lost or not opened. Returns the message to log, if one is due.
    pub(crate) fn failed(&mut self, cause: OutageCause, now: Instant) -> Option<OutageMessage> {
        let rejected = cause == OutageCause::Rejected;
        let Some(current) = &mut self.current else {
            self.current = Some(CurrentOutage { since: now, next: MINUTE * 10, rejected });
            return Some(OutageMessage::Started);
        };
        if rejected && !current.rejected {
            current.rejected = true;
            return Some(OutageMessage::Started);
        }
        let lasted = now.duration_since(current.since);
        if lasted < current.next {
            return None;
        }
        while current.next <= lasted {
            current.next = match current.next {
                next if next < MINUTE * 60 => MINUTE * 60,
                next if next < DAY => DAY,
                next => next + DAY,
            };
        }
        Some(OutageMessage::Lasting(lasted))
    }

    /// Ends the outage, because a session is open. Returns how long there was none.
    pub(crate) fn end(&mut self, now: Instant) -> Option<Duration> {
        Some(now.duration_since(self.current.take()?.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_without_a_server_is_nine_messages() {
        let start = Instant::now();
        let mut outage = Outage::default();
        let logged: Vec<u64> = (0..7 * 24 * 60)
            .filter(|&minute| outage.failed(OutageCause::Lost, start + MINUTE * minute).is_some())
            .map(u64::from)
            .collect();
        assert_eq!(logged, [0, 10, 60, 1440, 2880, 4320, 5760, 7200, 8640]);
        assert_eq!(outage.end(start + DAY * 7), Some(DAY * 7));
        assert_eq!(outage.end(start), None);
    }

    #[test]
    fn a_rejection_is_logged_once_whenever_it_occurs() {
        let start = Instant::now();
        let mut outage = Outage::default();
        let mut failed = |cause, minute| outage.failed(cause, start + MINUTE * minute);
        assert_eq!(failed(OutageCause::Lost, 0), Some(OutageMessage::Started));
        assert_eq!(failed(OutageCause::Rejected, 1), Some(OutageMessage::Started));
        assert_eq!(failed(OutageCause::Rejected, 2), None);
        assert_eq!(failed(OutageCause::Lost, 11), Some(OutageMessage::Lasting(MINUTE * 11)));
    }
}
