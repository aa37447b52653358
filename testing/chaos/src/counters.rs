//! Counts of one trial: faults injected, files checked, files found wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// All clones share one set of counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    counts: Arc<Mutex<CounterValues>>,
}

#[derive(Debug, Default)]
struct CounterValues {
    faults: BTreeMap<&'static str, u64>,
    files: u64,
    wrong: u64,
}

impl Counters {
    pub(crate) fn fault(&self, kind: &'static str) {
        self.faults(kind, 1);
    }

    pub(crate) fn faults(&self, kind: &'static str, n: u64) {
        *self.counts().faults.entry(kind).or_default() += n;
    }

    /// Counts a published file that was read and is correct.
    pub(crate) fn right_file(&self) {
        self.counts().files += 1;
    }

    /// Counts a published file that is wrong.
    pub(crate) fn wrong_file(&self) {
        self.counts().wrong += 1;
    }

    pub(crate) fn n_faults(&self) -> u64 {
        self.counts().faults.values().sum()
    }

    pub(crate) fn n_files(&self) -> u64 {
        self.counts().files
    }

    pub(crate) fn n_wrong(&self) -> u64 {
        self.counts().wrong
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, CounterValues> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        if counts.faults.is_empty() {
            return write!(f, "no faults");
        }
        let texts: Vec<_> =
            counts.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        write!(f, "{}", texts.join(", "))
    }
}
