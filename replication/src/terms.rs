//! The terms of entries that are not in memory any more but can still be read back from the caller's log.
//!
//! The engine compares terms to find out where a follower stands, so it must know all of them at once; they are few,
//! and kept as runs.
//!
//! ```text
//!   floor       runs: (5, 2) (8, 3)       last
//!   4, term 2 │ 5 6 7: term 2 │ 8 9: term 3
//! ```

use std::collections::VecDeque;

use crate::{Index, Term};

/// Each is 16 bytes; a group that has changed its leader more often within what can be read back forgets the oldest.
const RUNS_MAX: usize = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The entry before the first one.
    floor: (Index, Term),
    /// Where each term begins. Invariant: indices and terms rise; the first index is that after the floor.
    runs: VecDeque<(Index, Term)>,
    last: Index,
}

impl Default for Terms {
    fn default() -> Self {
        Self::behind((Index(0), Term(0)))
    }
}

impl Terms {
    /// Of no entries yet: the first to come is the one after `floor`.
    pub fn behind(floor: (Index, Term)) -> Self {
        Self { floor, runs: VecDeque::new(), last: floor.0 }
    }

    pub fn floor(&self) -> (Index, Term) {
        self.floor
    }

    pub fn last(&self) -> Index {
        self.last
    }

    /// Of the floor, and of everything from there to the last.
    pub fn of(&self, index: Index) -> Option<Term> {
        if index < self.floor.0 || self.last < index {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        Some(after.checked_sub(1).map_or(self.floor.1, |at| self.runs[at].1))
    }

    /// The next entry.
    pub fn push(&mut self, index: Index, term: Term) {
        assert_eq!(index.0, self.last.0 + 1);
        let before = self.runs.back().map_or(self.floor.1, |(_, term)| *term);
        assert!(before <= term);
        if self.runs.back().is_none_or(|(_, last)| *last < term) {
            self.runs.push_back((index, term));
        }
        self.last = index;
        if RUNS_MAX < self.runs.len() {
            let (second, _) = self.runs[1];
            self.cut(Index(second.0 - 1));
        }
    }

    /// Forgets the entries from `index` on, as if they had never been.
    pub fn truncate(&mut self, index: Index) {
        assert!(self.floor.0 < index);
        self.runs.truncate(self.runs.partition_point(|(first, _)| *first < index));
        self.last = self.last.min(Index(index.0 - 1));
    }

    /// Forgets the entries up to `index`, which is among them; it becomes the floor.
    pub fn cut(&mut self, index: Index) {
        let Some(term) = self.of(index) else { return };
        let kept = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs.drain(..kept);
        self.floor = (index, term);
        let next = Index(index.0 + 1);
        if next <= self.last && self.runs.front().is_none_or(|(first, _)| next < *first) {
            self.runs.push_front((next, term));
        }
    }

    pub(crate) fn check(&self) {
        assert!(self.floor.0 <= self.last);
        assert!(self.runs.iter().is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        assert_eq!(self.runs.is_empty(), self.floor.0 == self.last);
        if let Some((first, term)) = self.runs.front() {
            assert_eq!(first.0, self.floor.0.0 + 1);
            assert!(self.floor.1 <= *term);
        }
        assert!(self.runs.back().is_none_or(|(first, _)| *first <= self.last));
        assert!(self.runs.len() <= RUNS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(floor: (u64, u64), all: &[u64]) -> Terms {
        let mut terms = Terms::behind((Index(floor.0), Term(floor.1)));
        for (index, term) in (floor.0 + 1..).zip(all) {
            terms.push(Index(index), Term(*term));
            terms.check();
        }
        terms
    }

    fn shown(terms: &Terms) -> Vec<u64> {
        terms.check();
        let all = (0..=terms.last().0 + 1).map(|index| terms.of(Index(index)));
        all.map(|term| term.map_or(0, |term| term.0)).collect()
    }

    #[test]
    fn terms_are_known_from_the_floor_to_the_last() {
        assert_eq!(shown(&terms((2, 1), &[1, 1, 3, 3, 4])), [0, 0, 1, 1, 1, 3, 3, 4, 0]);
    }

    #[test]
    fn what_is_cut_at_any_place_leaves_the_rest() {
        for cut in 2..=7 {
            let mut terms = terms((2, 1), &[1, 1, 3, 3, 4]);
            terms.cut(Index(cut));
            assert_eq!(terms.floor().0, Index(cut));
            let all = [0, 0, 1, 1, 1, 3, 3, 4, 0];
            let expected = all.iter().zip(0..).map(|(term, at)| if at < cut { 0 } else { *term });
            assert_eq!(shown(&terms), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_replaced_takes_all_behind_it_along() {
        for index in 3..=7 {
            let mut terms = terms((2, 1), &[1, 1, 3, 3, 4]);
            terms.truncate(Index(index));
            terms.push(Index(index), Term(9));
            assert_eq!((terms.last(), terms.of(Index(index))), (Index(index), Some(Term(9))));
            let before = [0, 0, 1, 1, 1, 3, 3, 4][index as usize - 1];
            assert_eq!(terms.of(Index(index - 1)), Some(Term(before)));
            terms.check();
        }
    }

    #[test]
    fn runs_are_bounded() {
        let mut terms = Terms::default();
        for at in 1..=2 * RUNS_MAX as u64 {
            terms.push(Index(at), Term(at));
            terms.check();
        }
        assert_eq!(terms.floor().0, Index(RUNS_MAX as u64));
    }
}
