//! Who has a vote, worked out from the entries alone: the replicas are held against it.

use std::collections::BTreeSet;

use raft::eraftpb::ConfChangeType;

use crate::{Members, membership};

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Config {
    pub(super) voters: BTreeSet<u64>,
    /// Not empty: joint.
    pub(super) outgoing: BTreeSet<u64>,
    pub(super) learners: BTreeSet<u64>,
    /// Voters that learn once the outgoing half has left.
    learners_next: BTreeSet<u64>,
}

impl Config {
    pub(super) fn of(voters: &[u64]) -> Self {
        Self { voters: voters.iter().copied().collect(), ..Self::default() }
    }

    /// Behind a membership entry with this data.
    pub(super) fn after(&self, data: &[u8]) -> Self {
        let change = membership::read_change(data).expect("a change that a replica has applied");
        let mut next = self.clone();
        if change.changes.is_empty() {
            assert!(self.is_joint());
            next.outgoing.clear();
            next.learners.append(&mut next.learners_next);
            return next;
        }
        assert!(!self.is_joint());
        if change.changes.len() > 1 {
            next.outgoing.clone_from(&self.voters);
        }
        for one in change.changes.iter() {
            let id = one.node_id;
            next.voters.remove(&id);
            next.learners.remove(&id);
            next.learners_next.remove(&id);
            match one.get_change_type() {
                ConfChangeType::AddNode => _ = next.voters.insert(id),
                ConfChangeType::AddLearnerNode if next.outgoing.contains(&id) => {
                    next.learners_next.insert(id);
                }
                ConfChangeType::AddLearnerNode => _ = next.learners.insert(id),
                ConfChangeType::RemoveNode => {}
            }
        }
        next
    }

    pub(super) fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn is_member(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id) || self.learners.contains(&id)
    }

    /// Of both halves, while there are two.
    pub(super) fn is_majority(&self, has: impl Fn(u64) -> bool) -> bool {
        let of = |half: &BTreeSet<u64>| half.iter().filter(|id| has(**id)).count() > half.len() / 2;
        of(&self.voters) && (!self.is_joint() || of(&self.outgoing))
    }

    pub(super) fn members(&self) -> Members {
        let list = |ids: &BTreeSet<u64>| ids.iter().copied().collect();
        Members {
            voters: list(&self.voters),
            voters_outgoing: list(&self.outgoing),
            learners: list(&self.learners),
        }
    }
}
