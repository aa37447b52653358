//! One run of one promise: its tools, its counts and its random choices.

use std::sync::Arc;

use fastrand::Rng;
use filepull_testkit::Programs;

use crate::counters::Counters;
use crate::sandbox::Sandbox;

/// What the test of a promise gets.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) programs: Programs,
    /// Holds all files of the trial.
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) counters: Counters,
    /// The source of all random choices.
    pub(crate) seed: u64,
    /// Replaces the counts of CI.
    pub(crate) count: Option<u32>,
    /// Multiplies the counts of CI by [`SOAK`].
    pub(crate) soak: bool,
}

pub(crate) const SOAK: u32 = 60;

impl Trial {
    /// Returns how often to do what CI does `ci` times.
    pub(crate) fn times(&self, ci: u32) -> u32 {
        self.count.unwrap_or(if self.soak { ci * SOAK } else { ci })
    }

    /// Returns the share of one of `n` concurrent workers, at least 1.
    pub(crate) fn share(&self, ci: u32, n: u32) -> u32 {
        self.times(ci).div_ceil(n)
    }

    /// Distributes `all` to `n_workers` workers in random order: `--count` items, or each item once
    /// per round.
    pub(crate) fn distribute<T: Clone>(
        &self,
        part: &str,
        mut all: Vec<T>,
        rounds: u32,
        n_workers: usize,
    ) -> Vec<Vec<T>> {
        self.rng(part).shuffle(&mut all);
        let n = self.count.map_or(all.len() * self.times(rounds) as usize, |count| count as usize);
        let mut shares = vec![Vec::new(); n_workers];
        for (index, one) in all.iter().cycle().take(n).enumerate() {
            shares[index % n_workers].push(one.clone());
        }
        shares
    }

    /// Returns the random generator of one part of the trial. The other parts do not affect it.
    pub(crate) fn rng(&self, part: &str) -> Rng {
        let mixed = part.bytes().fold(self.seed, |mixed, byte| {
            (mixed ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
        });
        Rng::with_seed(mixed)
    }
}
