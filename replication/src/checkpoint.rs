//! How a follower that cannot be helped with the log is helped: what the engine is told of checkpoints.
//!
//! The bytes travel outside. A leader is told of a checkpoint when it is durable at the follower, and its engine then
//! sends the message that makes the follower continue from it. While an offer stands, the entries behind it are kept.

use bytes::Bytes;
use raft::eraftpb::{MessageType, Snapshot};
use raft::{ProgressState, SnapshotStatus};

use crate::{Error, Index, Message, Replica, Term, membership};

/// A checkpoint that a follower has, durably, beside what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// By which leader and follower call it; not 0.
    pub transfer: u64,
    pub index: Index,
    pub term: Term,
    /// `Replica::conf_state` at that index.
    pub conf_state: Vec<u8>,
}

/// The follower's side: from here on it continues behind this checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Install {
    pub transfer: u64,
    pub index: Index,
    pub term: Term,
    pub conf_state: Vec<u8>,
}

/// What a message asks to continue from; `None` for all other messages. The caller lets it through only when it has this
/// very checkpoint durably.
pub fn checkpoint_named(message: &Message) -> Option<(u64, Index, Term)> {
    if message.msg_type != MessageType::MsgSnapshot {
        return None;
    }
    let metadata = message.get_snapshot().get_metadata();
    Some((transfer_of(message.get_snapshot()), Index(metadata.index), Term(metadata.term)))
}

pub(crate) fn transfer_of(snapshot: &Snapshot) -> u64 {
    snapshot.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

pub(crate) fn install_of(snapshot: &Snapshot) -> Install {
    let metadata = snapshot.get_metadata();
    Install {
        transfer: transfer_of(snapshot),
        index: Index(metadata.index),
        term: Term(metadata.term),
        conf_state: membership::encode(metadata.get_conf_state()),
    }
}

fn snapshot_of(offer: &Offer) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = offer.index.0;
    snapshot.mut_metadata().term = offer.term.0;
    snapshot.mut_metadata().set_conf_state(membership::decode(&offer.conf_state)?);
    snapshot.data = Bytes::copy_from_slice(&offer.transfer.to_le_bytes());
    Ok(snapshot)
}

impl Replica {
    /// On a leader: somebody who is heard, and lacks entries that are neither in memory nor can be read back.
    pub fn checkpoint_wanted(&self) -> Option<u64> {
        let first = self.floor().0 + 1;
        let is_leader = self.is_leader();
        let mut all = self.engine().prs().iter().filter(move |_| is_leader);
        let found = all.find(|(id, progress)| {
            **id != self.id()
                && self.has_heard(**id)
                && progress.next_idx < first
                && progress.state != ProgressState::Snapshot
        });
        found.map(|(id, _)| *id)
    }

    /// Keeps the entries behind `index` for a follower that is being sent a checkpoint of it; `None`: no longer. Whatever
    /// is asked, no more than `LOG_HELD_FACTOR` times what is kept otherwise.
    pub fn hold_log(&mut self, index: Option<Index>) {
        self.set_held_from(index.map(|index| index.0));
    }

    /// The follower has it. False: the entries behind it are gone, or it does not name the follower as a member, so that
    /// the follower would ignore it: another checkpoint is needed.
    pub fn offer_checkpoint(&mut self, to: u64, offer: &Offer) -> bool {
        assert!(offer.index.0 > 0);
        assert!(offer.index.0 <= self.applied().0.0);
        let Ok(snapshot) = snapshot_of(offer) else { return false };
        let state = snapshot.get_metadata().get_conf_state();
        let mut members = state.voters.iter().chain(&state.learners).chain(&state.voters_outgoing);
        // Whoever was removed since has no place in the engine any more.
        let is_member = self.engine().prs().get(to).is_some();
        if !is_member || !members.any(|id| *id == to) || offer.index < self.floor() {
            return false;
        }
        self.store_mut().set_offer(Some((to, snapshot)));
        // Asks where the follower stands, and finds the offer.
        self.nudge(to);
        true
    }

    /// The offer is over, whatever became of it.
    pub fn withdraw_checkpoint(&mut self, to: u64) {
        self.store_mut().set_offer(None);
        let is_waiting = |state| state == ProgressState::Snapshot;
        let is_stuck = self.engine().prs().get(to).is_some_and(|progress| is_waiting(progress.state));
        if self.is_leader() && is_stuck {
            // A message that was lost would keep the follower waiting for ever.
            self.report_snapshot(to, SnapshotStatus::Failure);
        }
    }
}
