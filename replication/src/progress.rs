//! Who belongs to a group, and how far each is in the eyes of its leader.

use raft::ProgressState;

use crate::{Index, Refusal, Replica};

/// The members of a group, as of what is applied.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Members {
    /// Rising.
    pub voters: Vec<u64>,
    /// While the group changes its voters: those of before.
    pub voters_outgoing: Vec<u64>,
    /// They get everything and have no vote.
    pub learners: Vec<u64>,
}

/// One member, as its leader knows it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    pub id: u64,
    pub is_voter: bool,
    /// The last entry that it is known to have on its disk.
    pub matched: Index,
    /// It was heard within the last election timeout.
    pub is_active: bool,
    /// What it lacks is neither in memory nor can it be read back.
    pub needs_checkpoint: bool,
}

impl Replica {
    pub fn members(&self) -> Members {
        let state = self.conf();
        Members {
            voters: state.voters.clone(),
            voters_outgoing: state.voters_outgoing.clone(),
            learners: state.learners.clone(),
        }
    }

    /// All members, this one included. Nobody but a leader knows.
    pub fn progress(&self) -> impl Iterator<Item = Progress> + '_ {
        let is_leader = self.is_leader();
        let first = self.floor().0 + 1;
        let all = self.engine().prs().iter().filter(move |_| is_leader);
        all.map(move |(&id, progress)| Progress {
            id,
            is_voter: self.conf().voters.contains(&id),
            matched: Index(progress.matched),
            is_active: self.has_heard(id) || id == self.id(),
            needs_checkpoint: progress.next_idx < first || progress.state == ProgressState::Snapshot,
        })
    }

    /// Asks another voter to stand for election now; until it has won, or an election timeout has passed, proposals are
    /// refused as `Busy`.
    pub fn transfer_leadership(&mut self, to: u64) -> Result<(), Refusal> {
        if !self.is_leader() {
            return Err(Refusal::NotLeader { leader: self.leader() });
        }
        if to == self.id() || !self.conf().voters.contains(&to) {
            return Err(Refusal::Membership);
        }
        if self.is_transferring() {
            return Err(Refusal::Busy);
        }
        self.begin_transfer(to);
        Ok(())
    }

    pub fn is_transferring(&self) -> bool {
        self.engine().lead_transferee.is_some()
    }
}
