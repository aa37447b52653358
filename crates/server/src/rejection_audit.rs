//! Records rejected requests and rejected agents, and bounds their number: a stranger must not fill the
//! disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use filepull_core::audit::AuditAction;
use filepull_core::human::chain;
use filepull_process::Lifecycle;
use tokio::time::sleep;
use tracing::error;

use crate::records::{Actor, AuditEntry, Records};

/// Maximum number of rejections that are recorded one by one in one second.
const MAX_PER_SECOND: u32 = 10;

/// Maximum number of rejections that are recorded one by one in a flood. About 500 KiB.
const MAX_IN_FLOOD: u32 = 1000;

/// After a flood, one more rejection may be recorded for each interval of this length: a flood of a year
/// adds about 2 GiB.
const REFILL_INTERVAL: Duration = Duration::from_secs(10);

/// The omitted rejections of this time become one record.
const SECOND: Duration = Duration::from_secs(1);

/// The same, while only [`REFILL_INTERVAL`] admits rejections.
const MINUTE: Duration = Duration::from_mins(1);

/// Writes the audit records of rejections. Clones share the bound.
#[derive(Clone, Debug)]
pub(crate) struct RejectionAudit {
    records: Records,
    lifecycle: Lifecycle,
    budget: Arc<Mutex<RejectionBudget>>,
}

impl RejectionAudit {
    /// Returns an audit whose tasks are tracked by `lifecycle`.
    pub(crate) fn new(records: Records, lifecycle: Lifecycle) -> Self {
        let budget = Arc::new(Mutex::new(RejectionBudget::new(Instant::now())));
        Self { records, lifecycle, budget }
    }

    /// Records a rejection, or counts it in a flood. Returns when the record is durable. If the
    /// records fail, the rejection stays a rejection.
    pub(crate) async fn record(&self, entry: AuditEntry) {
        let verdict =
            self.budget.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        match verdict {
            BudgetVerdict::Record => self.write(entry).await,
            BudgetVerdict::CountFirst { delay } => {
                self.lifecycle.spawn(self.clone().record_omitted(delay));
            }
            BudgetVerdict::Count => {}
        }
    }

    /// Records the number of omitted rejections, once. Ends after `delay`, or when the server stops.
    async fn record_omitted(self, delay: Duration) {
        let _ = self.lifecycle.stop().run_until_cancelled(sleep(delay)).await;
        let count = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take_omitted();
        let entry = Actor::server().did(AuditAction::RejectionsOmitted, "rejections");
        self.write(entry.with("count", count)).await;
    }

    async fn write(&self, entry: AuditEntry) {
        if let Err(error) = self.records.audit(entry).await {
            error!(
                event = "records.failed", error = %chain(&error),
                "a rejection is not on record"
            );
        }
    }
}

/// What happens with a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BudgetVerdict {
    /// It is recorded.
    Record,
    /// It is counted, and is the first one of a new count, which is recorded after `delay`.
    CountFirst { delay: Duration },
    /// It is counted.
    Count,
}

/// How many rejections may still be recorded.
#[derive(Debug)]
struct RejectionBudget {
    /// The beginning of the current second.
    since: Instant,
    n_recorded: u32,
    /// How many may be recorded before the flood is only counted.
    left: u32,
    refilled: Instant,
    n_omitted: u64,
}

impl RejectionBudget {
    fn new(now: Instant) -> Self {
        Self { since: now, n_recorded: 0, left: MAX_IN_FLOOD, refilled: now, n_omitted: 0 }
    }

    fn admit(&mut self, now: Instant) -> BudgetVerdict {
        if SECOND <= now.duration_since(self.since) {
            self.since = now;
            self.n_recorded = 0;
        }
        let intervals = now.duration_since(self.refilled).as_secs() / REFILL_INTERVAL.as_secs();
        if let Ok(refill @ 1..) = u32::try_from(intervals) {
            self.left = self.left.saturating_add(refill).min(MAX_IN_FLOOD);
            self.refilled = now;
        }
        if self.n_recorded < MAX_PER_SECOND && 0 < self.left {
            self.n_recorded += 1;
            self.left -= 1;
            return BudgetVerdict::Record;
        }
        self.n_omitted += 1;
        if self.n_omitted == 1 {
            BudgetVerdict::CountFirst { delay: if self.left == 0 { MINUTE } else { SECOND } }
        } else {
            BudgetVerdict::Count
        }
    }

    fn take_omitted(&mut self) -> u64 {
        std::mem::take(&mut self.n_omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n_recorded(budget: &mut RejectionBudget, n: usize, now: Instant) -> usize {
        (0..n).filter(|_| budget.admit(now) == BudgetVerdict::Record).count()
    }

    #[test]
    fn ten_rejections_a_second_are_recorded_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut budget = RejectionBudget::new(start);
        assert_eq!(n_recorded(&mut budget, 10, start), 10);
        assert_eq!(budget.admit(start), BudgetVerdict::CountFirst { delay: SECOND });
        assert_eq!(n_recorded(&mut budget, 989, start), 0);
        assert_eq!(budget.take_omitted(), 990);
        assert_eq!(n_recorded(&mut budget, 99, start + SECOND), 10);
    }

    #[test]
    fn a_flood_of_a_day_records_a_bounded_number() {
        let start = Instant::now();
        let mut budget = RejectionBudget::new(start);
        let recorded: usize =
            (0..24 * 3600).map(|second| n_recorded(&mut budget, 11, start + SECOND * second)).sum();
        assert!((9_500..=9_700).contains(&recorded), "{recorded}");
        budget.take_omitted();
        let later = start + SECOND * 24 * 3600;
        assert_eq!(budget.admit(later), BudgetVerdict::Record);
        assert_eq!(budget.admit(later), BudgetVerdict::CountFirst { delay: MINUTE });
    }
}
