//! Statistics of a series of measurements.

/// Measurements, sorted in ascending order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SortedSamples(Vec<f64>);

impl SortedSamples {
    /// Without measurements every statistic is NaN.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(crate) fn min(&self) -> f64 {
        self.at(0)
    }

    pub(crate) fn max(&self) -> f64 {
        self.at(self.0.len().wrapping_sub(1))
    }

    /// The middle value, or the mean of the two middle values.
    pub(crate) fn median(&self) -> f64 {
        let n_values = self.0.len();
        self.at(n_values.wrapping_sub(1) / 2).midpoint(self.at(n_values / 2))
    }

    /// The smallest value that at least `percent` % of all values do not exceed (nearest rank). It
    /// is always a measured value.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.at(rank.saturating_sub(1))
    }

    fn at(&self, idx: usize) -> f64 {
        self.0.get(idx).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_the_order() {
        let check = |values: &[f64], median: f64| {
            assert_eq!(SortedSamples::of(values.iter().copied()).median(), median, "{values:?}");
        };
        check(&[7.0], 7.0);
        check(&[9.0, 1.0, 5.0], 5.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5);
    }

    #[test]
    fn a_percentile_is_a_measured_value() {
        let hundred = SortedSamples::of((1..=100).rev().map(f64::from));
        assert_eq!(hundred.percentile(50), 50.0);
        assert_eq!(hundred.percentile(99), 99.0);
        assert_eq!(hundred.percentile(100), 100.0);
        assert_eq!(hundred.percentile(0), 1.0);
        assert_eq!(SortedSamples::of([1.0, 2.0, 3.0]).percentile(99), 3.0);
    }

    #[test]
    fn the_extremes_are_the_smallest_and_the_largest() {
        let sorted = SortedSamples::of([3.0, 1.0, 2.0]);
        assert_eq!((sorted.min(), sorted.max()), (1.0, 3.0));
    }

    #[test]
    fn a_series_without_measurements_is_nan() {
        let none = SortedSamples::of([]);
        assert!(none.median().is_nan() && none.max().is_nan() && none.percentile(50).is_nan());
    }
}
