//! Where the entries of a group lie in the shard's log: what a follower lacks that has left memory is read back from there.
//!
//! Lives inside the group. It knows every entry whose record is still there, the latest ones and a bounded number before
//! them; when a segment is used again it forgets everything up to the last entry in it, so that what it knows is always
//! one stretch that ends with the last entry.
//!
//! Invariant: indices are consecutive, and positions rise with them: an entry that replaces others is written behind them.

use ringmain_wal::{Index, Position, record_bytes};
use std::collections::VecDeque;

pub(crate) struct Trail {
    segment_bytes: u64,
    entries_max: usize,

    /// The index of `steps[0]`; what the next entry will have where there is none.
    first: Index,
    steps: VecDeque<Step>,
}

/// One entry's record.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) record: Position,
    pub(crate) payload_bytes: u32,
}

const _: () = assert!(size_of::<Step>() == 16);

impl Step {
    pub(crate) fn bytes(self) -> u64 {
        record_bytes(u64::from(self.payload_bytes))
    }

    pub(crate) fn end(self) -> Position {
        self.record.advance(self.bytes())
    }
}

impl Trail {
    /// The first entry to come is the first one ever. Its memory is asked for at once and used as it fills: growing later
    /// would copy megabytes in the midst of a turn.
    pub(crate) fn new(entries_max: u32, segment_bytes: u64) -> Self {
        let entries_max = entries_max as usize;
        assert!(entries_max > 0);
        Self { segment_bytes, entries_max, first: Index(1), steps: VecDeque::with_capacity(entries_max) }
    }

    pub(crate) fn first(&self) -> Index {
        self.first
    }

    /// What the next entry will have, unless it replaces others.
    pub(crate) fn next(&self) -> Index {
        Index(self.first.0 + self.steps.len() as u64)
    }

    pub(crate) fn at(&self, index: Index) -> Option<Step> {
        let at = index.0.checked_sub(self.first.0)?;
        self.steps.get(at as usize).copied()
    }

    pub(crate) fn are_in_one_segment(&self, a: Position, b: Position) -> bool {
        a.segment(self.segment_bytes) == b.segment(self.segment_bytes)
    }

    /// Forgets all; the next entry is this one.
    pub(crate) fn restart(&mut self, next: Index) {
        self.steps.clear();
        self.first = next;
    }

    /// The next entry, or one that replaces those from its index on.
    pub(crate) fn push(&mut self, index: Index, step: Step) {
        assert!(index <= self.next());
        if index < self.first {
            self.restart(index);
        }
        self.steps.truncate((index.0 - self.first.0) as usize);
        let is_behind = self.steps.back().is_none_or(|before| before.end() <= step.record);
        assert!(is_behind, "entry {} does not lie behind the one before it", index.0);
        if self.steps.len() == self.entries_max {
            self.steps.pop_front();
            self.first = Index(self.first.0 + 1);
        }
        self.steps.push_back(step);
    }

    /// The segment is used again: nothing in it or before it is known any more.
    pub(crate) fn cut(&mut self, segment: u64) {
        let segment_bytes = self.segment_bytes;
        let gone = self.steps.partition_point(|step| step.record.segment(segment_bytes) <= segment);
        self.steps.drain(..gone);
        self.first = Index(self.first.0 + gone as u64);
    }

    pub(crate) fn check(&self) {
        assert!(self.steps.len() <= self.entries_max);
        assert!(self.steps.iter().is_sorted_by(|a, b| a.end() <= b.record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = 1 << 20;

    fn step(segment: u64, offset: u64) -> Step {
        Step { record: Position::new(segment, offset, SEGMENT_BYTES), payload_bytes: 100 }
    }

    /// Entries from 1 on, two in each segment from 3 on.
    fn trail(entries_max: u32, count: u64) -> Trail {
        let mut trail = Trail::new(entries_max, SEGMENT_BYTES);
        for at in 0..count {
            trail.push(Index(1 + at), step(3 + at / 2, 4096 * (1 + at % 2)));
            trail.check();
        }
        trail
    }

    fn known(trail: &Trail) -> (u64, u64) {
        trail.check();
        assert!(trail.at(Index(trail.first().0 - 1)).is_none());
        assert!(trail.at(trail.next()).is_none());
        (trail.first().0, trail.next().0)
    }

    #[test]
    fn a_segment_that_is_used_again_takes_all_before_it_along() {
        let mut trail = trail(100, 7);
        trail.cut(2);
        assert_eq!(known(&trail), (1, 8));
        trail.cut(4);
        assert_eq!(known(&trail), (5, 8));
        assert_eq!(trail.at(Index(5)), Some(step(5, 4096)));
        // One of before: nothing is left of it.
        trail.cut(3);
        assert_eq!(known(&trail), (5, 8));
        trail.cut(9);
        assert_eq!(known(&trail), (8, 8));
    }

    #[test]
    fn what_is_replaced_is_forgotten_with_all_behind_it() {
        let mut trail = trail(100, 7);
        trail.push(Index(3), step(9, 4096));
        assert_eq!(known(&trail), (1, 4));
        assert_eq!((trail.at(Index(2)), trail.at(Index(3))), (Some(step(3, 8192)), Some(step(9, 4096))));
        trail.cut(8);
        assert_eq!(known(&trail), (3, 4));
        trail.push(Index(2), step(9, 8192));
        assert_eq!(known(&trail), (2, 3));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let trail = trail(4, 7);
        assert_eq!(known(&trail), (4, 8));
    }

    #[test]
    fn a_checkpoint_begins_it_anew() {
        let mut trail = trail(100, 7);
        trail.restart(Index(51));
        assert_eq!(known(&trail), (51, 51));
        trail.push(Index(51), step(9, 4096));
        assert_eq!(known(&trail), (51, 52));
    }
}
