//! Questions about a group's state, held until the answer is certain to be the present one.
//!
//! Lives inside a group. A leader that was cut off goes on believing for a while, and must not tell what it believes: so
//! questions wait for one round among the peers, which shows that no other leader was elected before they were asked,
//! and then until what was committed at that moment is applied. All questions of a turn share a round.

use crate::outbox::Outbox;
use crate::reply::{self, Asked};
use crate::shard::Address;
use ringmain_wal::Index;
use std::collections::VecDeque;

/// Of one group; beyond it the asker is told to come again.
const READS_MAX: usize = 1024;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    Open { name: String },
    Show { name: String },
    List { after: String, limit: usize },
}

#[derive(Debug)]
struct Waiting {
    asked: Asked,
    read: Read,
    /// The round that answers it; 0: none has begun since it was asked.
    round: u64,
    /// To be applied first, once the round is over.
    index: Option<Index>,
}

#[derive(Default, Debug)]
pub(crate) struct Reads {
    /// In the order in which they were asked, so rounds never fall.
    waiting: VecDeque<Waiting>,
    /// Of the last round begun.
    round: u64,
    is_under_way: bool,
}

impl Reads {
    /// False: too many wait.
    pub(crate) fn push(&mut self, asked: Asked, read: Read) -> bool {
        if self.waiting.len() == READS_MAX {
            return false;
        }
        self.waiting.push_back(Waiting { asked, read, round: 0, index: None });
        true
    }

    /// The number of a round to begin now, for all that have none.
    pub(crate) fn begin_round(&mut self) -> Option<u64> {
        if self.is_under_way || self.waiting.back().is_none_or(|last| last.round != 0) {
            return None;
        }
        self.round += 1;
        self.is_under_way = true;
        let round = self.round;
        self.waiting.iter_mut().filter(|one| one.round == 0).for_each(|one| one.round = round);
        Some(round)
    }

    /// The round has shown that this replica led when it began, with so much committed.
    pub(crate) fn on_confirmed(&mut self, round: u64, index: Index) {
        self.is_under_way &= round != self.round;
        let of_it = self.waiting.iter_mut().filter(|one| one.round != 0 && one.round <= round);
        of_it.for_each(|one| one.index = one.index.or(Some(index)));
    }

    /// One that can be answered with what is applied.
    pub(crate) fn pop_ready(&mut self, applied: Index) -> Option<(Asked, Read)> {
        let is_ready = self.waiting.front()?.index.is_some_and(|index| index <= applied);
        if !is_ready {
            return None;
        }
        self.waiting.pop_front().map(|one| (one.asked, one.read))
    }

    /// This replica leads no more: another one is to be asked.
    pub(crate) fn abandon(&mut self, outbox: &mut Outbox, leader: Option<&Address>) {
        for one in self.waiting.drain(..) {
            reply::redirect(outbox, one.asked, None, leader);
        }
        self.is_under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ConnectionId;

    fn ask(reads: &mut Reads, request: u64) {
        let asked = Asked { connection: ConnectionId(1), request };
        assert!(reads.push(asked, Read::Show { name: "q".to_owned() }));
    }

    fn ready(reads: &mut Reads, applied: u64) -> Vec<u64> {
        std::iter::from_fn(|| reads.pop_ready(Index(applied))).map(|(asked, _)| asked.request).collect()
    }

    #[test]
    fn a_question_asked_during_a_round_waits_for_the_next() {
        let mut reads = Reads::default();
        ask(&mut reads, 1);
        assert_eq!(reads.begin_round(), Some(1));
        ask(&mut reads, 2);
        assert_eq!(reads.begin_round(), None, "one round at a time");
        reads.on_confirmed(1, Index(10));
        assert_eq!(ready(&mut reads, 9), [0; 0]);
        assert_eq!(ready(&mut reads, 10), [1]);
        assert_eq!(reads.begin_round(), Some(2));
        reads.on_confirmed(2, Index(10));
        assert_eq!(ready(&mut reads, 10), [2]);
        assert!(reads.waiting.is_empty());
    }

    #[test]
    fn questions_that_wait_are_bounded() {
        let mut reads = Reads::default();
        (0..READS_MAX as u64).for_each(|request| ask(&mut reads, request));
        let asked = Asked { connection: ConnectionId(1), request: 0 };
        assert!(!reads.push(asked, Read::Show { name: "q".to_owned() }));
    }
}
