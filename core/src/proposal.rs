//! One batch on its way to a majority, and who waits for it.
//!
//! Lives inside a group. What was decided when the batch was proposed (publishes, settles) is answered when it
//! commits; what depends on order (creations, sessions) when it is applied.

use crate::connection::ConnectionId;
use crate::engine::{Answer, SettleSplit};
use crate::group::Turn;
use crate::queue::consumer::ConsumerId;
use crate::reply::{self, Asked, PublishNumber};
use crate::shard::Address;
use crate::time::Time;
use ringmain_net::protocol::{Receipt, Settled};
use ringmain_wal::{GroupId, Index, Term};

#[derive(Default)]
pub(crate) struct Proposal {
    pub(crate) term: Term,
    pub(crate) index: Index,
    pub(crate) entry_bytes: usize,
    /// When its first command came.
    pub(crate) received: Time,
    proposed: Time,

    receipts: Vec<PendingReceipt>,
    settles: Vec<PendingSettle>,
    /// One per command that is answered at apply, in the order of the commands.
    answers: Vec<Option<Asked>>,
}

/// Consecutive publishes of one session over one connection: one receipt answers them all.
struct PendingReceipt {
    connection: ConnectionId,
    request: u64,
    session: u64,
    first: u64,
    last: u64,
    flags: u8,
    is_memory: bool,
}

struct PendingSettle {
    asked: Asked,
    consumer: ConsumerId,
    split: SettleSplit,
}

/// Which publish a receipt is owed for.
#[derive(Copy, Clone)]
pub(crate) struct Published {
    pub(crate) asked: Asked,
    pub(crate) number: PublishNumber,
    pub(crate) flags: u8,
    /// Its queue is content with the memory of a majority.
    pub(crate) is_memory: bool,
}

impl Proposal {
    pub(crate) fn begin_flight(&mut self, term: Term, index: Index, entry_bytes: usize, now: Time) {
        assert!(self.received <= now);
        (self.term, self.index, self.entry_bytes, self.proposed) = (term, index, entry_bytes, now);
    }

    pub(crate) fn owe_receipt(&mut self, published: Published) {
        let Published { asked: Asked { connection, request }, number, flags, is_memory } = published;
        let PublishNumber { session, sequence } = number;
        if let Some(last) = self.receipts.last_mut()
            && last.connection == connection
            && last.session == session
            && last.flags == flags
            && last.is_memory == is_memory
            && last.last + 1 == sequence
        {
            (last.last, last.request) = (sequence, request);
            return;
        }
        let (first, last) = (sequence, sequence);
        self.receipts.push(PendingReceipt { connection, request, session, first, last, flags, is_memory });
    }

    pub(crate) fn owe_settled(&mut self, asked: Asked, consumer: ConsumerId, split: SettleSplit) {
        self.settles.push(PendingSettle { asked, consumer, split });
    }

    pub(crate) fn owe_answer(&mut self, asked: Asked) {
        self.answers.push(Some(asked));
    }

    /// A command of the shard's own: its answer goes nowhere.
    pub(crate) fn owe_nobody(&mut self) {
        self.answers.push(None);
    }

    /// A majority has it in memory: whoever is content with that is answered.
    pub(crate) fn answer_received(&mut self, group: GroupId, turn: &mut Turn<'_>) {
        if !self.receipts.iter().any(|owed| owed.is_memory) {
            return;
        }
        for at in 0..self.receipts.len() {
            if self.receipts[at].is_memory {
                self.send_receipt(at, group, turn);
            }
        }
        self.receipts.retain(|owed| !owed.is_memory);
    }

    fn send_receipt(&self, at: usize, group: GroupId, turn: &mut Turn<'_>) {
        let owed = &self.receipts[at];
        let receipt = Receipt {
            session: owed.session,
            first_sequence: owed.first,
            last_sequence: owed.last,
            group: group.0,
            term: self.term.0,
            index: self.index.0,
            waited_us: self.proposed.micros_since(self.received),
            durable_us: turn.now.micros_since(self.proposed),
            flags: owed.flags,
        };
        turn.outbox.send(owed.connection, owed.request, &receipt);
    }

    pub(crate) fn answer_committed(&mut self, group: GroupId, turn: &mut Turn<'_>) {
        for at in 0..self.receipts.len() {
            self.send_receipt(at, group, turn);
        }
        self.receipts.clear();
        for owed in self.settles.drain(..) {
            let SettleSplit { accepted, stale } = owed.split;
            let settled = Settled { consumer: owed.consumer.0, accepted, stale };
            turn.outbox.send(owed.asked.connection, owed.asked.request, &settled);
        }
    }

    /// `answers` are the engine's, one per command that is answered at apply.
    pub(crate) fn answer_applied(&mut self, index: Index, answers: &[Answer], turn: &mut Turn<'_>) {
        assert!(self.receipts.is_empty(), "a batch commits before it is applied");
        assert_eq!(answers.len(), self.answers.len());
        for (asked, answer) in self.answers.drain(..).zip(answers) {
            if let Some(asked) = asked {
                reply::answer(turn.outbox, asked, index, answer);
            }
        }
    }

    /// This replica no longer leads: whether the batch will be stored is unknown to it.
    pub(crate) fn abandon(&mut self, turn: &mut Turn<'_>, leader: Option<&Address>) {
        for owed in self.receipts.drain(..) {
            let asked = Asked { connection: owed.connection, request: owed.request };
            for sequence in owed.first..=owed.last {
                let number = PublishNumber { session: owed.session, sequence };
                reply::redirect(turn.outbox, asked, Some(number), leader);
            }
        }
        for owed in self.settles.drain(..) {
            reply::redirect(turn.outbox, owed.asked, None, leader);
        }
        for asked in self.answers.drain(..).flatten() {
            reply::leave_open(turn.outbox, asked, leader);
        }
    }

    pub(crate) fn clear(&mut self) {
        assert!(self.receipts.is_empty());
        assert!(self.settles.is_empty());
        assert!(self.answers.is_empty());
        self.entry_bytes = 0;
    }
}
