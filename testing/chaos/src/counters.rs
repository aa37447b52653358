//! What a trial has done so far: faults injected, files looked at, files found wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of one trial; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    counts: Arc<Mutex<CounterValues>>,
}

#[derive(Debug, Default)]
struct CounterValues {
    faults: BTreeMap<&'static str, u64>,
    files: u64,
    wrong: u64,
}

impl Counters {
    /// A fault of this kind was injected.
    pub fn fault(&self, kind: &'static str) {
        self.faults(kind, 1);
    }

    /// So many faults of this kind were injected.
    pub fn faults(&self, kind: &'static str, n: u64) {
        *self.counts().faults.entry(kind).or_default() += n;
    }

    /// A published file was read and found right.
    pub fn right_file(&self) {
        self.counts().files += 1;
    }

    /// A published file was found wrong.
    pub fn wrong_file(&self) {
        self.counts().wrong += 1;
    }

    /// Faults of all kinds.
    pub fn n_faults(&self) -> u64 {
        self.counts().faults.values().sum()
    }

    /// How often a published file was read and found right.
    pub fn n_files(&self) -> u64 {
        self.counts().files
    }

    /// How many files were found wrong.
    pub fn n_wrong(&self) -> u64 {
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
        for (n, (kind, count)) in counts.faults.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {kind}")?;
        }
        Ok(())
    }
}
