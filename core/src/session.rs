//! Producers' sessions: what makes a retried publish be stored once.
//!
//! A session's publishes carry ascending sequences. One that the leader refuses leaves a gap once a later one is stored;
//! a retry of a stored one is answered, a retry into a gap is refused again, so that order is never broken quietly.

use crate::command::SessionId;
use crate::time::Time;

/// How far back a session remembers and how far ahead it may reach; more frames than this are never unanswered.
pub const WINDOW: u64 = 4_096;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// Empty for an anonymous producer.
    pub(crate) producer: Box<str>,
    /// Raised each time the named producer opens the session again: the former holder is fenced.
    pub(crate) epoch: u32,
    pub(crate) window: Window,
    /// Stamp of the last entry that opened it or published in it.
    pub(crate) used: Time,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Fresh,
    Stored,
    OutOfOrder,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// The highest stored sequence; zero before the first.
    last: u64,
    /// The highest one that was passed over; zero if none was.
    gap_last: u64,
    /// Which of the last `WINDOW` sequences are stored, by sequence modulo `WINDOW`. None while all are.
    stored: Option<Box<[u64; WINDOW as usize / 64]>>,
}

impl Window {
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn gaps(&self) -> Option<(u64, &[u64; WINDOW as usize / 64])> {
        self.stored.as_deref().map(|stored| (self.gap_last, stored))
    }

    /// None: no window looks like this.
    pub(crate) fn restore(last: u64, gaps: Option<(u64, Box<[u64; WINDOW as usize / 64]>)>) -> Option<Self> {
        let Some((gap_last, stored)) = gaps else { return Some(Self { last, gap_last: 0, stored: None }) };
        let is_recent = gap_last > 0 && gap_last < last && last - gap_last < WINDOW;
        is_recent.then_some(Self { last, gap_last, stored: Some(stored) })
    }

    pub(crate) fn look(&self, sequence: u64) -> Seen {
        let is_ahead = sequence > self.last;
        let distance = sequence.abs_diff(self.last);
        let is_in_window = if is_ahead { distance <= WINDOW } else { distance < WINDOW };
        if sequence == 0 || !is_in_window {
            return Seen::OutOfOrder;
        }
        if is_ahead {
            return Seen::Fresh;
        }
        let is_stored = match &self.stored {
            None => true,
            Some(stored) => {
                let bit = sequence % WINDOW;
                stored[(bit / 64) as usize] >> (bit % 64) & 1 == 1
            }
        };
        if is_stored { Seen::Stored } else { Seen::OutOfOrder }
    }

    /// A fresh sequence is stored; those passed over become gaps.
    pub(crate) fn store(&mut self, sequence: u64) {
        assert_eq!(self.look(sequence), Seen::Fresh);
        if sequence > self.last + 1 {
            self.stored.get_or_insert_with(|| Box::new([u64::MAX; WINDOW as usize / 64]));
            self.gap_last = sequence - 1;
        }
        if let Some(stored) = &mut self.stored {
            for passed in self.last + 1..=sequence {
                let bit = passed % WINDOW;
                let mask = 1 << (bit % 64);
                let word = &mut stored[(bit / 64) as usize];
                *word = if passed == sequence { *word | mask } else { *word & !mask };
            }
            if sequence - self.gap_last >= WINDOW {
                self.stored = None;
                self.gap_last = 0;
            }
        }
        self.last = sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Seen::{Fresh, OutOfOrder, Stored};

    #[test]
    fn a_retry_is_stored_once_and_a_gap_stays_refused() {
        let mut window = Window::default();
        assert_eq!(window.look(0), OutOfOrder);
        for sequence in [1, 2, 5] {
            assert_eq!(window.look(sequence), Fresh);
            window.store(sequence);
        }
        let seen: Vec<Seen> = (1..=6).map(|sequence| window.look(sequence)).collect();
        assert_eq!(seen, [Stored, Stored, OutOfOrder, OutOfOrder, Stored, Fresh]);
        assert_eq!(window.look(5 + WINDOW), Fresh);
        assert_eq!(window.look(6 + WINDOW), OutOfOrder);
        assert_eq!(window.look(u64::MAX), OutOfOrder);
    }

    #[test]
    fn a_gap_is_forgotten_with_the_window() {
        let mut window = Window::default();
        window.store(2);
        for sequence in 3..=WINDOW {
            window.store(sequence);
            assert!(window.gaps().is_some());
        }
        assert_eq!(window.look(1), OutOfOrder);
        window.store(WINDOW + 1);
        assert!(window.gaps().is_none());
        assert_eq!(window.look(1), OutOfOrder);
        assert_eq!(window.look(2), Stored);
    }

    #[test]
    fn the_window_agrees_with_a_plain_set() {
        let mut window = Window::default();
        let mut stored = std::collections::BTreeSet::new();
        let (mut last, mut seed) = (0u64, 7u64);
        for _ in 0..3_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            last += 1 + if seed >> 60 == 0 { (seed >> 32) % WINDOW } else { 0 };
            window.store(last);
            stored.insert(last);
            for sequence in last.saturating_sub(WINDOW + 2).max(1)..=last {
                let expected = stored.contains(&sequence) && sequence + WINDOW > last;
                assert_eq!(window.look(sequence) == Stored, expected, "{sequence} of {last}");
            }
        }
    }
}
