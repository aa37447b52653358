//! `MAX_CPU`: pauses the readers, so that the process keeps its share of a core.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use filepull_core::cpu_budget::{CpuBudget, CpuShare};
use rustix::time::{ClockId, clock_gettime};

/// The budget of the process. All readers share it.
#[derive(Clone, Debug)]
pub(crate) struct CpuLimit {
    budget: Arc<Mutex<CpuBudget>>,
}

impl CpuLimit {
    pub(crate) fn new(share: CpuShare) -> Self {
        let budget = CpuBudget::new(share, process_cpu_time(), Instant::now());
        Self { budget: Arc::new(Mutex::new(budget)) }
    }

    /// Counts the CPU time that the process has used, and returns how long a reader pauses.
    pub(crate) fn pause(&self) -> Duration {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.pause(process_cpu_time(), Instant::now())
    }
}

#[cfg(test)]
impl CpuLimit {
    /// Creates a limit under which a reader pauses for hours.
    pub(crate) fn exhausted() -> Self {
        let limit = Self::new(CpuShare::parse("5%").unwrap());
        let spent = Duration::from_hours(1);
        limit.budget.lock().unwrap().pause(spent, Instant::now());
        limit
    }
}

/// Returns the CPU time of all threads of this process.
fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // The kernel returns no negative time.
    Duration::try_from(time).unwrap_or_default()
}
