//! What a replica wants done. The caller owns one [`Effects`], hands it to every `drive` and drains it afterwards.

use crate::{Entry, HardState, Index, Install, Message, Term};

/// Everything one `drive` asks for. Reused: the vectors keep their room.
#[derive(Default, Debug)]
pub struct Effects {
    /// In the order in which they must become durable.
    pub writes: Vec<Write>,
    pub messages: Vec<Message>,
    /// Only ever set on a leader, only ever rising within a term.
    pub committed: Option<(Term, Index)>,
    /// Consecutive indices. An empty normal entry is the first of a new leader; a membership entry has already
    /// taken effect inside the replica. Both move the applied index of the state machine and nothing else.
    pub apply: Vec<Entry>,
    /// The newest one, if the role, the term or the leader changed.
    pub role: Option<RoleChange>,
    /// Reads that were asked for with these numbers see the present once this index is applied.
    pub reads: Vec<(u64, Index)>,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.messages.is_empty()
            && self.committed.is_none()
            && self.apply.is_empty()
            && self.role.is_none()
            && self.reads.is_empty()
    }

    pub fn clear(&mut self) {
        self.writes.clear();
        self.messages.clear();
        self.committed = None;
        self.apply.clear();
        self.role = None;
        self.reads.clear();
        assert!(self.is_empty());
    }
}

/// What must become durable together with, or after, everything written before it.
#[derive(Debug)]
pub struct Write {
    /// Rises by one with each write of a replica's life.
    pub token: u64,
    /// The state when the write was made. A write without entries is this alone.
    pub hard_state: HardState,
    /// Consecutive. The first may lie at or below the last index written before: then it and everything after it
    /// replaces what was there.
    pub entries: Vec<Entry>,
    /// A checkpoint takes the place of everything before. Such a write has no entries; they follow in the next.
    pub install: Option<Install>,
}

impl Write {
    /// The hard state for the record of `entries[at]`.
    ///
    /// A crash may leave the first records of this write and not the last:
    /// 1. a follower learns of entries 5, 6 and 7 and of commit 7 in one message;
    /// 2. the record of 5 is durable, those of 6 and 7 are torn;
    /// 3. a record that said "committed: 7" would now look like the loss of two committed entries.
    ///
    /// So no record speaks of a commit beyond its own entry.
    pub fn hard_state_at(&self, at: usize) -> HardState {
        assert!(at < self.entries.len(), "entry {at} of a write with {}", self.entries.len());
        let commit = self.hard_state.commit.min(self.entries[at].index.0);
        HardState { commit, ..self.hard_state }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    pub role: Role,
    pub term: Term,
    /// None while an election runs.
    pub leader: Option<u64>,
}
