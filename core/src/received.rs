//! What a majority of a group has in memory: enough for queues that chose it, and for nothing else.
//!
//! Lives inside a group, on its leader. The engine's own commit always means disk; this watermark stands beside it and
//! touches neither votes nor acknowledgements of the engine.
//!
//! A message under it is safe as long as its holders keep their memory. One holder that loses it may be enough to lose the
//! message, if the disks do not have it yet: a leader that comes back at once without it can be elected by a node that never
//! had it, before the one that has it stands for election.

use ringmain_replication::Members;
use ringmain_wal::{Index, Term};
use std::collections::BTreeMap;

#[derive(Default, Debug)]
pub(crate) struct Received {
    term: Term,
    /// By replica; of this term only.
    by_replica: BTreeMap<u64, Index>,
}

impl Received {
    /// A follower says so. What it says of another term counts for nothing.
    pub(crate) fn note(&mut self, replica: u64, term: Term, index: Index) {
        if self.term < term {
            *self = Self { term, by_replica: BTreeMap::new() };
        }
        if self.term == term {
            let known = self.by_replica.entry(replica).or_default();
            *known = index.max(*known);
        }
    }

    /// What a majority has, of each half of the voters while these change; the leader itself has `last`.
    pub(crate) fn watermark(&self, term: Term, members: &Members, (leader, last): (u64, Index)) -> Index {
        let has = |replica: &u64| match *replica {
            id if id == leader => last,
            _ if self.term != term => Index(0),
            id => self.by_replica.get(&id).copied().unwrap_or_default().min(last),
        };
        let majority = |voters: &[u64]| {
            let mut all: Vec<Index> = voters.iter().map(has).collect();
            all.sort_unstable();
            // Of 3 the second highest, of 4 and 5 the third.
            all.get((all.len().max(1) - 1) / 2).copied()
        };
        let halves = [majority(&members.voters), majority(&members.voters_outgoing)];
        halves.into_iter().flatten().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], outgoing: &[u64]) -> Members {
        let (voters, voters_outgoing) = (voters.to_vec(), outgoing.to_vec());
        Members { voters, voters_outgoing, learners: Vec::new() }
    }

    fn watermark(received: &Received, members: &Members) -> u64 {
        received.watermark(Term(3), members, (1, Index(10))).0
    }

    #[test]
    fn a_majority_has_it_with_the_leader_counted() {
        let mut received = Received::default();
        let three = members(&[1, 2, 3], &[]);
        assert_eq!(watermark(&received, &three), 0);
        received.note(2, Term(3), Index(7));
        assert_eq!(watermark(&received, &three), 7);
        received.note(3, Term(3), Index(9));
        assert_eq!(watermark(&received, &three), 9);
        assert_eq!(watermark(&received, &members(&[1], &[])), 10);
        assert_eq!(watermark(&received, &members(&[1, 2, 3, 4, 5], &[])), 7);
        assert_eq!(watermark(&received, &members(&[1, 2, 3, 4], &[])), 7);
    }

    #[test]
    fn both_halves_of_a_changing_membership_must_have_it() {
        let mut received = Received::default();
        received.note(2, Term(3), Index(7));
        assert_eq!(watermark(&received, &members(&[1, 2, 3], &[1, 4, 5])), 0);
        received.note(5, Term(3), Index(4));
        assert_eq!(watermark(&received, &members(&[1, 2, 3], &[1, 4, 5])), 4);
    }

    #[test]
    fn what_was_said_in_another_term_counts_for_nothing() {
        let mut received = Received::default();
        received.note(2, Term(2), Index(9));
        assert_eq!(watermark(&received, &members(&[1, 2, 3], &[])), 0);
        received.note(2, Term(4), Index(9));
        assert_eq!(watermark(&received, &members(&[1, 2, 3], &[])), 0);
        // Late, of a leader of the past.
        received.note(3, Term(2), Index(9));
        assert_eq!(received.by_replica.len(), 1);
    }

    #[test]
    fn a_follower_has_no_more_than_its_leader() {
        let mut received = Received::default();
        received.note(2, Term(3), Index(99));
        assert_eq!(watermark(&received, &members(&[1, 2, 3], &[])), 10);
    }
}
