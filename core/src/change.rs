//! Changes of a group's members that were asked for and are not answered yet.
//!
//! Lives inside a group. A change counts at each replica from the moment that replica applies it, and what only the leader
//! has applied is as good as undone when the leader dies:
//!
//! 1. Node 4 of four is removed. The leader, node 2 and node 4 have the entry on disk; the leader applies it.
//! 2. Whoever asked is told, and wipes node 4. The leader dies.
//! 3. Node 2 has the entry and does not know that it was committed, node 3 does not even have it. Both wait for three votes
//!    of four, for ever, and two of three live members serve nobody.
//!
//! So an answer waits for a *witness*: an entry that the leader proposes once it has applied the change, and all of it where
//! that takes two steps. It is committed by a majority of the new voters; each of them got it from a leader that said that
//! the change was committed, and has written that down beside it. Whoever of them is left after one failure votes with the
//! new voters, and tells the others.

use crate::outbox::Outbox;
use crate::reply::{self, Asked};
use crate::shard::Address;
use ringmain_net::protocol::Done;
use ringmain_wal::Index;

/// Of one group. One change is under way at a time; beyond these the asker is told to come again.
const WAITING_MAX: usize = 64;

#[derive(Default, Debug)]
pub(crate) struct Changes {
    waiting: Vec<Asked>,
    /// Proposed behind every change that is applied. Invariant: only on the leader that proposed it, and only if somebody
    /// waits.
    witness: Option<Index>,
}

impl Changes {
    /// Answers once what was asked for cannot be undone. False: too many wait.
    pub(crate) fn push(&mut self, asked: Asked) -> bool {
        if self.waiting.len() == WAITING_MAX {
            return false;
        }
        self.waiting.push(asked);
        true
    }

    pub(crate) fn needs_witness(&self) -> bool {
        !self.waiting.is_empty() && self.witness.is_none()
    }

    pub(crate) fn on_witness(&mut self, index: Index) {
        assert!(self.needs_witness());
        self.witness = Some(index);
    }

    /// Another change is applied, or a step of one: what was proposed before it is no witness of it.
    pub(crate) fn on_membership(&mut self) {
        self.witness = None;
    }

    /// So much is committed by the voters of this moment, and applied.
    pub(crate) fn answer(&mut self, applied: Index, outbox: &mut Outbox) {
        if self.witness.is_none_or(|witness| applied < witness) {
            return;
        }
        self.witness = None;
        for asked in self.waiting.drain(..) {
            outbox.send(asked.connection, asked.request, &Done { index: applied.0, count: 0 });
        }
    }

    /// This replica leads no more. What was asked for may be asked of the next leader again: it is not done twice.
    pub(crate) fn abandon(&mut self, outbox: &mut Outbox, leader: Option<&Address>) {
        self.witness = None;
        for asked in self.waiting.drain(..) {
            reply::redirect(outbox, asked, None, leader);
        }
    }

    pub(crate) fn check(&self) {
        if self.witness.is_some() {
            assert!(!self.waiting.is_empty());
        }
    }
}
