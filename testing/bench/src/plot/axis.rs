//! What stands where on an axis, and which places are named.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// How figures become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From nought.
    Linear,
    /// Each power of ten is as long as the one below it.
    Log,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Axis {
    /// Names the places where something was measured, and no others.
    pub(super) fn of_places(mut places: Vec<f64>) -> Self {
        places.sort_by(f64::total_cmp);
        places.dedup();
        let first = places.first().copied().unwrap_or(1.0);
        let last = places.last().copied().filter(|&last| first < last).unwrap_or(first * 10.0);
        Self { scale: Scale::Log, range: first..last, ticks: places }
    }

    /// Has room for all figures and names round ones.
    pub(super) fn of_figures(scale: Scale, figures: &[f64]) -> Self {
        let most = figures.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let least = figures.iter().copied().fold(most, f64::min);
        let (range, ticks): (_, Vec<f64>) = match scale {
            Scale::Linear => {
                let step = step(most);
                (0.0..most * 1.1, (0..=10).map(|n| f64::from(n) * step).collect())
            }
            Scale::Log => {
                let first = 10_f64.powf(least.log10().floor());
                (first..most * 1.3, (0..=20).map(|n| first * 10_f64.powi(n)).collect())
            }
        };
        let ticks = ticks.into_iter().take_while(|tick| *tick < range.end).collect();
        Self { scale, range, ticks }
    }

    /// Where a figure stands: 0 is the beginning, 1 the end.
    fn share(&self, figure: f64) -> f64 {
        let Range { start, end } = self.range;
        match self.scale {
            Scale::Linear => (figure - start) / (end - start),
            Scale::Log => (figure / start).ln() / (end / start).ln(),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let place = f64::from(from) + f64::from(to - from) * self.share(*value);
        #[allow(clippy::cast_possible_truncation, reason = "a picture has a few hundred pixels")]
        let place = place.round() as i32;
        place
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Such that at most eight of it, each 1, 2 or 5 times a power of ten, make up the whole.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 8.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    steps.into_iter().find(|step| most / step <= 8.0).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([step(50.0), step(8.0), step(2165.0)], [10.0, 1.0, 500.0]);
    }

    #[test]
    fn figures_stand_between_the_ends() {
        let linear = Axis::of_figures(Scale::Linear, &[30.0, 45.0]);
        assert_eq!(linear.ticks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(linear.map(&0.0, (200, 0)), 200);
        assert_eq!(linear.map(&(45.0 * 1.1), (200, 0)), 0);
        let log = Axis::of_figures(Scale::Log, &[30.0, 2000.0]);
        assert_eq!(log.ticks, [10.0, 100.0, 1000.0]);
        let places = Axis::of_places(vec![1000.0, 10.0, 100.0, 10.0]);
        assert_eq!(places.ticks, [10.0, 100.0, 1000.0]);
        assert_eq!(places.map(&100.0, (0, 100)), 50);
    }
}
