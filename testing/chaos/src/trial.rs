//! One try of one promise: what it may use, and what it counts.

use std::sync::Arc;

use fastrand::Rng;
use filepull_testkit::Programs;

use crate::counters::Counters;
use crate::sandbox::Sandbox;

/// What a promise is given to be tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The programs under test.
    pub programs: Programs,
    /// Where everything goes, and what takes it away.
    pub ground: Arc<Sandbox>,
    /// What is counted.
    pub tally: Counters,
    /// Where all chance comes from.
    pub seed: u64,
    /// How often, if not as often as CI does it.
    pub count: Option<u32>,
    /// Many times as often as CI does it.
    pub soak: bool,
}

/// A soak does everything this many times as often as CI.
pub const SOAK: u32 = 60;

impl Trial {
    /// How often to do what CI does `ci` times.
    pub fn times(&self, ci: u32) -> u32 {
        self.count.unwrap_or(if self.soak { ci * SOAK } else { ci })
    }

    /// The share of one of `n` lanes that work side by side; at least one.
    pub fn share(&self, ci: u32, n: u32) -> u32 {
        self.times(ci).div_ceil(n)
    }

    /// Deals `all` out to so many lanes, in random order: `--count` of them, or each as often as
    /// there are `rounds`.
    pub fn deal<T: Clone>(
        &self,
        part: &str,
        mut all: Vec<T>,
        rounds: u32,
        lanes: usize,
    ) -> Vec<Vec<T>> {
        self.dice(part).shuffle(&mut all);
        let n = self.count.map_or(all.len() * self.times(rounds) as usize, |count| count as usize);
        let mut dealt = vec![Vec::new(); lanes];
        for (index, one) in all.iter().cycle().take(n).enumerate() {
            dealt[index % lanes].push(one.clone());
        }
        dealt
    }

    /// Chance for one part of the trial: the same for the same seed, whatever the others do.
    pub fn dice(&self, part: &str) -> Rng {
        let mixed = part.bytes().fold(self.seed, |mixed, byte| {
            (mixed ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
        });
        Rng::with_seed(mixed)
    }
}
