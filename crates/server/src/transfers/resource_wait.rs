//! Waits of transfers until the server's disk or records work again. `/readyz` reports them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use filepull_core::problem::Problem;

use super::Transfers;
use super::active::ViewSender;
use super::view::Activity;

/// The waits of all transfers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResourceWaits(Arc<Mutex<WaitSummary>>);

#[derive(Debug, Default)]
struct WaitSummary {
    n: usize,
    /// The problem of the wait that began last.
    newest: Option<Problem>,
}

impl Transfers {
    /// Returns how many transfers wait until the server's disk or records work again.
    #[cfg(test)]
    pub(crate) fn n_resource_waits(&self) -> usize {
        self.context.resource_waits.lock().n
    }

    /// Returns why the server cannot record or store a file, and what to do next; none if it can.
    pub(crate) fn storing_problem(&self) -> Option<String> {
        self.context.records.file_damage().or_else(|| self.context.resource_waits.finding())
    }
}

impl ResourceWaits {
    /// Counts a wait until the result is dropped.
    pub(crate) fn begin(&self, problem: &Problem) -> ResourceWait {
        let mut summary = self.lock();
        summary.n += 1;
        summary.newest = Some(problem.clone());
        ResourceWait(self.clone())
    }

    /// Returns how many transfers wait, why, and what to do next; none if no transfer waits.
    fn finding(&self) -> Option<String> {
        let summary = self.lock();
        let waits = match summary.n {
            0 => return None,
            1 => "1 transfer waits".to_owned(),
            n => format!("{n} transfers wait"),
        };
        let Problem { detail, hint, .. } = summary.newest.as_ref()?;
        Some(format!("{waits} for the disk or the records. {detail} {hint}"))
    }

    fn lock(&self) -> MutexGuard<'_, WaitSummary> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One wait, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct ResourceWait(ResourceWaits);

impl Drop for ResourceWait {
    fn drop(&mut self) {
        self.0.lock().n -= 1;
    }
}

/// The wait of a transfer whose record cannot be read or written. Callers see it as `waiting` until
/// it is dropped.
pub(crate) struct RecordsWait {
    view: ViewSender,
    before: (Activity, Option<DateTime<Utc>>, Option<String>),
    _counted: ResourceWait,
}

impl RecordsWait {
    /// Shows and counts the wait. It has no deadline: the record is tried until it works.
    pub(crate) fn begin(waits: &ResourceWaits, view: &ViewSender, problem: &Problem) -> Self {
        let before = {
            let view = view.borrow();
            (view.activity, view.expires_at, view.reason.clone())
        };
        view.send_modify(|view| {
            view.wait_for_disk(&problem.detail);
            view.expires_at = None;
        });
        Self { view: view.clone(), before, _counted: waits.begin(problem) }
    }
}

impl Drop for RecordsWait {
    fn drop(&mut self) {
        let (activity, expires_at, reason) = self.before.clone();
        self.view.send_modify(|view| {
            view.activity = activity;
            view.expires_at = expires_at;
            view.reason = reason;
        });
    }
}
