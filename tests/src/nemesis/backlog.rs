//! What one consumer, alone with a queue that nobody publishes to, is given of it: in order, and exactly what was counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A priority, the highest first, and a place in it.
type Rank = (Reverse<u8>, u64);

#[derive(Default)]
pub(super) struct Backlog {
    seen: BTreeSet<Rank>,
    last: Option<Rank>,
}

impl Backlog {
    /// What comes again, after another leader took over, was in order before.
    pub(super) fn take(&mut self, priority: u8, sequence: u64) -> Result<(), String> {
        let rank = (Reverse(priority), sequence);
        if !self.seen.insert(rank) {
            return Ok(());
        }
        match self.last.replace(rank) {
            Some((Reverse(before), place)) if rank < (Reverse(before), place) => Err(format!(
                "priority, ordered: place {sequence} of priority {priority} comes behind place {place} of priority {before}"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Messages of each priority, the lowest first.
    pub(super) fn levels(&self) -> Vec<(u8, u64)> {
        let mut levels = BTreeMap::new();
        for (Reverse(priority), _) in &self.seen {
            *levels.entry(*priority).or_default() += 1;
        }
        levels.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &[(u8, u64)], is_good: bool) {
        let mut backlog = Backlog::default();
        let verdicts: Vec<_> =
            given.iter().map(|(priority, place)| backlog.take(*priority, *place)).collect();
        assert_eq!(verdicts.iter().all(Result::is_ok), is_good, "{verdicts:?}");
    }

    #[test]
    fn higher_priorities_come_first_and_each_in_order() {
        check(&[(2, 1), (2, 5), (1, 2), (0, 1)], true);
        check(&[(2, 1), (2, 5), (2, 1), (2, 5), (1, 2)], true);
        check(&[(2, 5), (2, 1)], false);
        check(&[(1, 1), (2, 5)], false);
    }

    #[test]
    fn each_message_counts_once() {
        let mut backlog = Backlog::default();
        for (priority, place) in [(2, 1), (2, 2), (2, 1), (0, 1)] {
            backlog.take(priority, place).unwrap();
        }
        assert_eq!((backlog.len(), backlog.levels()), (3, vec![(0, 1), (2, 2)]));
    }
}
