//! Transfers in the order in which they were made.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;

/// Orders transfers: by the time they were made, then by id.
pub(in super::super) type Rank = (DateTime<Utc>, TransferId);

/// Ranks in ascending order. A place costs a binary search. Most transfers come last and leave
/// first, and both are cheap.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Rank>);

impl Queue {
    pub(super) fn insert(&mut self, rank: Rank) {
        if let Err(idx) = self.0.binary_search(&rank) {
            self.0.insert(idx, rank);
        }
    }

    pub(super) fn remove(&mut self, rank: Rank) {
        if let Ok(idx) = self.0.binary_search(&rank) {
            self.0.remove(idx);
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn oldest(&self) -> Option<Rank> {
        self.0.front().copied()
    }

    /// Counts from 1.
    pub(super) fn place(&self, rank: Rank) -> Option<usize> {
        self.0.binary_search(&rank).ok().map(|idx| idx + 1)
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = TransferId> + '_ {
        self.0.iter().rev().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn rank(minutes: i64, id: TransferId) -> Rank {
        (DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes), id)
    }

    #[test]
    fn a_place_counts_those_that_were_made_before() {
        let ranks: Vec<Rank> =
            (0..5).map(|minutes| rank(minutes, TransferId::generate())).collect();
        let mut queue = Queue::default();
        for idx in [3, 0, 4, 1, 2] {
            queue.insert(ranks[idx]);
        }
        let places: Vec<_> = ranks.iter().map(|rank| queue.place(*rank)).collect();
        assert_eq!(places, [Some(1), Some(2), Some(3), Some(4), Some(5)]);
        queue.remove(ranks[1]);
        assert_eq!((queue.place(ranks[1]), queue.place(ranks[4])), (None, Some(4)));
        assert_eq!((queue.len(), queue.oldest()), (4, Some(ranks[0])));
        let newest: Vec<_> = queue.newest_first().take(2).collect();
        assert_eq!(newest, [ranks[4].1, ranks[3].1]);
    }
}
