//! Transfers in the order of their creation.

use std::collections::VecDeque;

use filepull_core::id::TransferId;

use crate::records::{Cursor, TransferFilter};

/// Positions in ascending order. A position costs a binary search. Most transfers are added last
/// and removed first, and both are cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue(VecDeque<Cursor>);

impl Queue {
    pub(crate) fn insert(&mut self, at: Cursor) {
        if let Err(idx) = self.0.binary_search(&at) {
            self.0.insert(idx, at);
        }
    }

    pub(crate) fn remove(&mut self, at: Cursor) {
        if let Ok(idx) = self.0.binary_search(&at) {
            self.0.remove(idx);
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn oldest(&self) -> Option<Cursor> {
        self.0.front().copied()
    }

    /// Returns the position, counted from 1.
    pub(crate) fn place(&self, at: Cursor) -> Option<usize> {
        self.0.binary_search(&at).ok().map(|idx| idx + 1)
    }

    pub(crate) fn newest_first(&self) -> impl Iterator<Item = TransferId> + '_ {
        self.0.iter().rev().map(|at| at.id())
    }

    /// Returns the queue with only some of its transfers.
    pub(crate) fn only(&self, is_wanted: impl Fn(TransferId) -> bool) -> Self {
        Self(self.0.iter().filter(|at| is_wanted(at.id())).copied().collect())
    }

    /// Returns the ids on a page, newest first, and the cursor of the next page. Uses only the
    /// times, the limit and the cursor of the filter.
    pub(crate) fn page(&self, filter: &TransferFilter) -> (Vec<TransferId>, Option<Cursor>) {
        let TimeRange { start, end } = self.within(filter);
        let end =
            filter.cursor.map_or(end, |cursor| end.min(self.0.partition_point(|at| *at < cursor)));
        let limit = filter.limit.clamp(1, TransferFilter::MAX_LIMIT) as usize;
        let first = start.max(end.saturating_sub(limit));
        let ids = self.0.range(first..end.max(first)).rev().map(|at| at.id()).collect();
        let next = self.0.get(first).filter(|_| start < first).copied();
        (ids, next)
    }

    /// Returns the number of transfers on all pages.
    pub(crate) fn count(&self, filter: &TransferFilter) -> usize {
        let TimeRange { start, end } = self.within(filter);
        end.saturating_sub(start)
    }

    fn within(&self, filter: &TransferFilter) -> TimeRange {
        let since = filter.since.map(|since| since.timestamp_millis());
        let until = filter.until.map(|until| until.timestamp_millis());
        let before = |time| self.0.partition_point(|at| at.created_at_millis() < time);
        TimeRange { start: since.map_or(0, before), end: until.map_or(self.0.len(), before) }
    }
}

/// The indexes of the transfers that were requested within a time range.
struct TimeRange {
    start: usize,
    end: usize,
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    fn time(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    /// One for each minute from 0 on, inserted in this order.
    fn queue(order: &[i64]) -> (Queue, Vec<Cursor>) {
        let new = |minutes| Cursor::new(time(minutes), TransferId::generate());
        let positions: Vec<Cursor> = (0..).take(order.len()).map(new).collect();
        let mut queue = Queue::default();
        for idx in order {
            queue.insert(positions[usize::try_from(*idx).unwrap()]);
        }
        (queue, positions)
    }

    #[test]
    fn a_position_counts_the_transfers_created_before() {
        let (mut queue, positions) = queue(&[3, 0, 4, 1, 2]);
        let places: Vec<_> = positions.iter().map(|at| queue.place(*at)).collect();
        assert_eq!(places, [Some(1), Some(2), Some(3), Some(4), Some(5)]);
        queue.remove(positions[1]);
        assert_eq!((queue.place(positions[1]), queue.place(positions[4])), (None, Some(4)));
        assert_eq!((queue.len(), queue.oldest()), (4, Some(positions[0])));
        let newest: Vec<_> = queue.newest_first().take(2).collect();
        assert_eq!(newest, [positions[4].id(), positions[3].id()]);
    }

    #[test]
    fn pages_show_each_transfer_of_the_time_range_once() {
        let (queue, positions) = queue(&[0, 1, 2, 3, 4, 5, 6]);
        for (since, until, expected) in [
            (None, None, 0..7),
            (Some(2), None, 2..7),
            (None, Some(5), 0..5),
            (Some(2), Some(5), 2..5),
            (Some(5), Some(2), 0..0),
            (Some(9), None, 0..0),
        ] {
            for limit in [1, 2, 3, 7, 100] {
                let mut filter = TransferFilter {
                    since: since.map(time),
                    until: until.map(time),
                    limit,
                    ..TransferFilter::default()
                };
                assert_eq!(queue.count(&filter), expected.len());
                let mut shown = Vec::new();
                loop {
                    let (ids, next) = queue.page(&filter);
                    shown.extend(ids);
                    match next {
                        Some(next) => filter.cursor = Some(next),
                        None => break,
                    }
                }
                let newest_first = positions[expected.clone()].iter().rev().map(|at| at.id());
                assert!(shown.into_iter().eq(newest_first), "{since:?} {until:?} {limit}");
            }
        }
    }
}
