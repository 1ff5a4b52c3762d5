//! One replication group on this shard: the batch being built, the proposals under way, the state.
//!
//! Lives inside the shard. It joins four things that know nothing of each other: the engine of consensus (`Replica`),
//! the queues (`Engine`), the peers, and the answers that clients wait for. The life of a command on the leader:
//!
//! ```text
//!  admitted ─▶ batch ──seal──▶ proposed ──durable at a majority──▶ committed ─▶ applied
//!                                  │                 publishes and settles │       │ creations, sessions:
//!                                  └▶ to peers       are answered here ────┘       └ answered here
//! ```
//!
//! A follower writes what the leader sends, acknowledges it once it is durable, and applies what is committed.
//!
//! Invariant: proposals holds exactly the proposed and not yet applied batches, in index order;
//! the first `committed_count` of them have had their publishes and settles answered.

use crate::catch_up::{CatchUp, CatchUpReads};
use crate::change::Changes;
use crate::checkpointer::{Image, ReplayFrom};
use crate::command::{Batch, COMMAND_HEADER_BYTES, RUN_BYTES, Settlement};
use crate::engine::{Answer, Applied, Engine, EngineEffects};
use crate::failure::Failure;
use crate::late::Late;
use crate::member::{self, Book};
use crate::outbox::Outbox;
use crate::pace::Pace;
use crate::peering;
use crate::peers::{self, Peers};
use crate::proposal::{Proposal, Published};
use crate::queue::consumer::{ConnectionId, ConsumerId};
use crate::readback::Readback;
use crate::reads::Reads;
use crate::received::Received;
use crate::reply::Reason;
use crate::shard::{Address, ShardOptions};
use crate::time::Time;
use crate::trail::{Step, Trail};
use crate::transfer::{Source, Target};
use bytes::Bytes;
use ringmain_net::protocol::Code;
use ringmain_replication::{
    Effects, Entry, EntryKind, Lacking, Message, MessageError, Options, Replica, Restored, Role, RoleChange,
};
use ringmain_wal::{GroupId, HardState, Index, Log, Position, Record, RecordKind, Sequence, Term};
use std::collections::VecDeque;

/// A batch is sealed at the latest when it holds this much.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Proposed and not yet applied: bounds the memory of what is in flight. Eight full batches.
const IN_FLIGHT_BYTES_MAX: usize = 8 * BATCH_BYTES_MAX;
/// Batches in flight: far more than a disk takes at once.
const PROPOSALS_MAX: usize = 256;
/// Room kept in the log beside a batch, for hard states and vouchers.
pub(crate) const LOG_RESERVE_BYTES: usize = 64 << 10;
/// Of messages that waited for room, taken in one turn, but for a single larger one.
const LATE_BYTES_PER_TURN: u64 = 1 << 20;
/// Leases that one turn ends, and what their runs take in the batch at most.
const LEASES_PER_TURN: usize = 4096;
const EXPIRED_BYTES_MAX: usize = LEASES_PER_TURN * (RUN_BYTES + COMMAND_HEADER_BYTES + 8);
/// A session ends when it was not used for so long: a retry that comes later is refused, never stored twice.
const SESSION_IDLE_NS: u64 = 6 * 3600 * 1_000_000_000;
const SESSIONS_EVERY_NS: u64 = 60 * 1_000_000_000;
const SESSIONS_PER_TURN: usize = 4096;
/// Purged messages let go of in one turn: some tens of microseconds.
const REAPED_PER_TURN: usize = 4096;

const MOVED: Reason = (Code::NotLeader, "another node leads this queue now");
const DELETED: Reason = (Code::NoSuchQueue, "the queue was deleted");

pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) engine: Engine,
    pub(crate) replica: Replica,
    /// The index of this shard, on every node.
    shard: u32,
    /// Where the members are reached, as of what is applied.
    pub(crate) book: Book,
    /// The node that leads this group when all are well.
    pub(crate) preferred: u32,

    /// Commands admitted in this turn.
    pub(crate) batch: Batch,
    pub(crate) open: Proposal,
    proposals: VecDeque<Proposal>,
    committed_count: usize,
    /// Of `proposals`: a majority has them in memory, and those that are content with it have been answered.
    received_count: usize,
    received: Received,
    in_flight_bytes: usize,
    /// Entries in the log that are not applied, in index order.
    places: VecDeque<Place>,
    /// Where the entries lie, applied ones as well.
    pub(crate) trail: Trail,
    /// Writes of the replica that wait for the log: done when the log is durable up to the sequence.
    writes: VecDeque<(u64, Sequence)>,
    /// The stamp of the last batch: time never runs backwards in the log.
    stamp: Time,
    /// When idle sessions were last looked for.
    sessions_seen: Time,
    /// The term that `engine` leads in.
    led: Term,
    /// Which connection of the preferred member has been seen to: when it came up.
    pub(crate) balanced: Option<Time>,
    /// Since when the engine leads.
    pub(crate) led_since: Time,
    /// Another leader asked this one to lead: somebody wants it so, and it stays until the preferred member comes anew.
    was_handed: bool,
    /// Questions about the state that wait until it is certain that no other leader has gone further.
    pub(crate) reads: Reads,
    pub(crate) changes: Changes,
    /// The membership has changed since it was last looked at.
    pub(crate) has_new_book: bool,
    /// A change of the votes was applied, and the log does not say that it was committed.
    has_new_voters: bool,
    /// Of entries kept in memory, and of those that wait to be.
    pub(crate) entries_bytes_max: u64,
    /// Messages that wait for room in the log.
    late: Late,
    /// Entries on their way from the log to peers, on a leader.
    pub(crate) catch_ups: Vec<CatchUp>,
    /// In the life of this process.
    pub(crate) entries_read_back: u64,
    /// The whole state on its way to a peer.
    pub(crate) source: Option<Box<Source>>,
    /// Another replica's state on its way here.
    pub(crate) target: Option<Box<Target>>,
    /// The engine has taken what was staged: it takes the place of the state before anything else is applied.
    is_installing: bool,
    /// Begun in the life of this process.
    pub(crate) transfers: u64,

    // Reused between turns.
    effects: Effects,
    pub(crate) lacking: Vec<Lacking>,
    engine_effects: EngineEffects,
    settlements: Vec<Settlement>,
    ended: Vec<(ConnectionId, ConsumerId)>,
    spare: Vec<Proposal>,
}

/// What recovery found of a group.
pub(crate) struct GroupStart {
    pub(crate) id: GroupId,
    pub(crate) engine: Engine,
    pub(crate) restored: Restored,
    pub(crate) places: VecDeque<Place>,
    /// Ends with the last entry.
    pub(crate) trail: Trail,
    pub(crate) book: Book,
}

/// Where an entry lies in the shard's log.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) index: Index,
    pub(crate) record: Position,
    pub(crate) sequence: Sequence,
    /// The entry's first byte.
    pub(crate) payload: Position,
}

/// What a group works on during a turn.
pub(crate) struct Turn<'a> {
    pub(crate) now: Time,
    pub(crate) log: &'a mut Log,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) peers: &'a mut Peers,
    pub(crate) pace: &'a mut Pace,
    pub(crate) readback: &'a mut Readback,
    pub(crate) catch_up_reads: &'a mut CatchUpReads,
    pub(crate) cluster: u64,
}

impl Group {
    pub(crate) fn new(start: GroupStart, options: &ShardOptions) -> Result<Self, Failure> {
        assert_eq!(start.engine.applied().0, start.restored.base.0);
        let preferred = options.preferred(start.id);
        let replica_options = Options {
            group: start.id,
            id: options.replica(),
            voters: options.voters(),
            seed: options.seed ^ u64::from(start.id.0) << 40,
            rank: options.rank(start.id),
            log_bytes_max: options.limits.entries_bytes_max.0,
        };
        let mut replica = Replica::new(replica_options, start.restored).map_err(Failure::Replica)?;
        assert_eq!(start.trail.next().0, replica.last_index().0 + 1);
        replica.set_readable_from(start.trail.first());
        let group = Self {
            id: start.id,
            engine: start.engine,
            replica,
            shard: options.identity.shard,
            entries_bytes_max: options.limits.entries_bytes_max.0,
            late: Late::default(),
            book: start.book,
            preferred,
            batch: Batch::new(),
            open: Proposal::default(),
            proposals: VecDeque::new(),
            committed_count: 0,
            received_count: 0,
            received: Received::default(),
            in_flight_bytes: 0,
            places: start.places,
            trail: start.trail,
            writes: VecDeque::new(),
            stamp: Time(0),
            sessions_seen: Time(0),
            led: Term(0),
            balanced: None,
            led_since: Time(0),
            was_handed: false,
            reads: Reads::default(),
            changes: Changes::default(),
            has_new_book: true,
            has_new_voters: false,
            catch_ups: Vec::new(),
            entries_read_back: 0,
            source: None,
            target: None,
            is_installing: false,
            transfers: 0,
            effects: Effects::default(),
            lacking: Vec::new(),
            engine_effects: EngineEffects::default(),
            settlements: Vec::new(),
            ended: Vec::new(),
            spare: Vec::new(),
        };
        group.check();
        Ok(group)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.replica.is_leader()
    }

    pub(crate) fn term(&self) -> Term {
        self.replica.term()
    }

    pub(crate) fn applied(&self) -> Index {
        self.engine.applied().0
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.replica.hard_state()
    }

    /// The leader serves once the entries of its predecessors, and the first of its own term, are applied.
    pub(crate) fn is_serving(&self) -> bool {
        self.is_leader() && self.engine.is_leading()
    }

    /// Nobody else votes or learns here.
    pub(crate) fn is_alone(&self) -> bool {
        let me = self.replica.id();
        self.book.members.iter().all(|member| member.replica() == me)
    }

    /// Somebody's request was admitted and is not answered.
    pub(crate) fn is_owing(&self) -> bool {
        !self.batch.is_empty() || !self.proposals.is_empty()
    }

    /// Nothing was admitted, proposed or written that is not applied and durable.
    pub(crate) fn is_quiet(&self) -> bool {
        self.batch.is_empty() && self.proposals.is_empty() && self.writes.is_empty()
    }

    /// Another command of so many bytes may be added to the batch now, and leaves `reserve` bytes of the log.
    pub(crate) fn has_room(&self, log: &Log, bytes: usize, reserve: u64) -> bool {
        let entry_bytes = self.batch.len() + bytes;
        let is_first = self.in_flight_bytes == 0 && self.batch.is_empty();
        (is_first || self.in_flight_bytes + entry_bytes <= IN_FLIGHT_BYTES_MAX)
            && self.proposals.len() < PROPOSALS_MAX
            && log.room((entry_bytes + LOG_RESERVE_BYTES) as u64 + reserve)
    }

    /// The batch would grow past its limit: seal it first.
    pub(crate) fn must_seal(&self, bytes: usize) -> bool {
        !self.batch.is_empty() && BATCH_BYTES_MAX < self.batch.len() + bytes
    }

    /// Opens the batch if it is not, with a stamp that never runs backwards.
    pub(crate) fn open_batch(&mut self, now: Time) -> &mut Batch {
        if self.batch.is_empty() {
            self.stamp = self.stamp.max(now);
            self.batch.begin(self.stamp);
            self.open.received = now;
        }
        &mut self.batch
    }

    /// Proposes what was admitted: one entry, one batch.
    pub(crate) fn seal(&mut self, now: Time, log: &mut Log) {
        // Room was there when the commands were admitted; whatever took it since gives it back with the next segment.
        if self.batch.is_empty() || !log.room((self.batch.len() + LOG_RESERVE_BYTES) as u64) {
            return;
        }
        // Leadership is being handed over: the batch goes when that has failed, and is abandoned when it has not.
        // And if leadership was lost with the last tick, the batch is abandoned when that is looked at.
        if self.replica.is_transferring() || !self.is_leader() {
            return;
        }
        let bytes = self.batch.seal();
        let entry_bytes = bytes.len();
        match self.replica.propose(bytes) {
            Ok((term, index)) => {
                let mut proposal = std::mem::replace(&mut self.open, self.spare.pop().unwrap_or_default());
                proposal.begin_flight(term, index, entry_bytes, now);
                self.in_flight_bytes += entry_bytes;
                self.proposals.push_back(proposal);
                self.write(log);
            }
            // Admission already asked whether this replica leads, so this is back-pressure of the engine.
            Err(refusal) => panic!("a leader within its limits was refused a proposal: {refusal:?}"),
        }
    }

    /// Proposes an entry behind a change of the members that somebody waits for, once all of the change is applied.
    pub(crate) fn seek_witness(&mut self, log: &mut Log) {
        let is_due = self.changes.needs_witness() && self.is_serving();
        if !is_due || self.replica.is_membership_pending() || !log.room(LOG_RESERVE_BYTES as u64) {
            return;
        }
        // Refused while leadership is handed over: the next turn tries again, if this node still leads then.
        if let Ok((_, index)) = self.replica.propose_nothing() {
            self.changes.on_witness(index);
            self.write(log);
        }
    }

    /// The log is durable up to a new sequence: tell the replica, in order.
    pub(crate) fn on_durable(&mut self, durable_upto: Sequence) {
        while let Some((token, sequence)) = self.writes.front().copied()
            && sequence <= durable_upto
        {
            self.writes.pop_front();
            self.replica.on_persisted(token);
        }
    }

    /// Runs the replica until it has nothing more to say; answers and applies what came out.
    pub(crate) fn drive(&mut self, turn: &mut Turn<'_>) -> Result<(), Failure> {
        loop {
            self.write(turn.log);
            self.send(turn);
            if std::mem::take(&mut self.is_installing) {
                self.install(turn);
            }
            if let Some(change) = self.effects.role.take() {
                self.on_role(change, turn);
            }
            if let Some((_, committed)) = self.effects.committed.take() {
                self.on_committed(committed, turn);
            }
            self.answer_received(turn);
            for (round, index) in self.effects.reads.drain(..) {
                self.reads.on_confirmed(round, index);
            }
            if self.effects.apply.is_empty() {
                return Ok(());
            }
            let mut entries = std::mem::take(&mut self.effects.apply);
            for entry in entries.drain(..) {
                self.apply(&entry, turn)?;
            }
            self.effects.apply = entries;
            self.replica.compact(self.applied());
        }
    }

    /// Takes what the replica wants written into the log.
    fn write(&mut self, log: &mut Log) {
        // A fresh log has no room before its first segment is ready, and the first write is the replica's vote.
        if !log.room(LOG_RESERVE_BYTES as u64) {
            return;
        }
        if std::mem::take(&mut self.has_new_voters) {
            // Nothing else may be written here for long, and whoever forgets that the change was committed asks those for
            // votes who voted before it. What is applied is in the log already.
            let hard_state = HardState { commit: self.applied().0, ..self.replica.hard_state() };
            log.append(hard_state_record(self.id, hard_state));
        }
        self.replica.drive(&mut self.effects);
        for write in self.effects.writes.drain(..) {
            let mut last = None;
            if let Some(install) = &write.install {
                // A snapshot message is heard only when what it names is staged.
                let target = self.target.as_ref().expect("what is installed was staged");
                last = Some(log.append(target.commit_record(install, write.hard_state)).sequence);
                self.places.clear();
                self.trail.restart(Index(install.index.0 + 1));
                self.is_installing = true;
            }
            for (at, entry) in write.entries.iter().enumerate() {
                let appended = log.append(Record {
                    group: self.id,
                    kind: RecordKind::Entry,
                    tag: entry_tag(entry.kind),
                    term: entry.term,
                    index: entry.index,
                    hard_state: write.hard_state_at(at),
                    payload: entry.data.clone(),
                });
                last = Some(appended.sequence);
                // It lies in one segment.
                let payload_bytes = entry.data.len() as u32;
                self.trail.push(entry.index, Step { record: appended.record, payload_bytes });
                let place = Place {
                    index: entry.index,
                    record: appended.record,
                    sequence: appended.sequence,
                    payload: appended.payload,
                };
                while self.places.back().is_some_and(|later| entry.index <= later.index) {
                    self.places.pop_back();
                }
                self.places.push_back(place);
            }
            let sequence =
                last.unwrap_or_else(|| log.append(hard_state_record(self.id, write.hard_state)).sequence);
            self.writes.push_back((write.token, sequence));
        }
        self.replica.set_readable_from(self.trail.first());
    }

    /// This segment of the log is used again: its entries cannot be read back any more.
    pub(crate) fn on_segment_recycled(&mut self, segment: u64) {
        self.trail.cut(segment);
        self.replica.set_readable_from(self.trail.first());
    }

    /// Sends what the replica has for its peers. Whoever is not reached, or has too much to take already, is reported.
    fn send(&mut self, turn: &mut Turn<'_>) {
        let mut messages = std::mem::take(&mut self.effects.messages);
        for message in messages.drain(..) {
            let to = message.to;
            if !peering::send(turn, self.id, &message) && self.is_leader() {
                self.replica.report_unreachable(to);
            }
        }
        self.effects.messages = messages;
    }

    fn on_role(&mut self, change: RoleChange, turn: &mut Turn<'_>) {
        let leads_on = change.role == Role::Leader && change.term == self.led;
        if !leads_on {
            self.step_down(turn);
        }
    }

    /// Another replica leads, or none: what was under way here has an outcome that this one cannot tell.
    #[cold]
    fn step_down(&mut self, turn: &mut Turn<'_>) {
        let leader = self.leader_address();
        self.reads.abandon(turn.outbox, leader.as_ref());
        self.changes.abandon(turn.outbox, leader.as_ref());
        self.ended.clear();
        self.engine.follow(&mut self.ended);
        if !self.batch.is_empty() {
            self.batch.begin(self.stamp);
            self.open.abandon(turn, leader.as_ref());
        }
        for mut proposal in self.proposals.drain(..) {
            proposal.abandon(turn, leader.as_ref());
            proposal.clear();
            self.spare.push(proposal);
        }
        (self.committed_count, self.received_count, self.in_flight_bytes) = (0, 0, 0);
        turn.outbox.tell_ended(&self.ended, MOVED);
    }

    /// A majority has these entries on disk: what was decided at propose time is answered now.
    fn on_committed(&mut self, committed: Index, turn: &mut Turn<'_>) {
        let group = self.id;
        while let Some(proposal) = self.proposals.get_mut(self.committed_count)
            && proposal.index <= committed
        {
            proposal.answer_committed(group, turn);
            self.committed_count += 1;
        }
    }

    /// Answers what a majority has in memory, for queues that are content with it.
    fn answer_received(&mut self, turn: &mut Turn<'_>) {
        if self.proposals.len() <= self.received_count || !self.engine.has_memory_queues() {
            return;
        }
        let replica = &self.replica;
        let leader = (replica.id(), replica.last_index());
        let watermark = self.received.watermark(replica.term(), &replica.members(), leader);
        while let Some(proposal) = self.proposals.get_mut(self.received_count)
            && proposal.index <= watermark
        {
            proposal.answer_received(self.id, turn);
            self.received_count += 1;
        }
    }

    /// A follower says what it has in memory.
    pub(crate) fn on_received(&mut self, from: u64, term: Term, index: Index, turn: &mut Turn<'_>) {
        if self.is_leader() {
            self.received.note(from, term, index);
            self.answer_received(turn);
        }
    }

    fn apply(&mut self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), Failure> {
        let place = self.places.pop_front();
        let Some(place) = place.filter(|place| place.index == entry.index) else {
            panic!("entry {} was applied without a place in the log", entry.index.0);
        };
        assert_eq!(entry.index.0, self.applied().0 + 1);
        self.engine_effects.clear();
        let (index, term, position) = (entry.index, entry.term, place.payload);
        let data: &[u8] = if entry.kind == EntryKind::Normal { &entry.data } else { &[] };
        self.engine.apply(Applied { index, term, position, data }, &mut self.engine_effects)?;
        for extent in self.engine_effects.held.drain(..) {
            turn.log.hold(extent.position, extent.bytes);
        }
        for extent in self.engine_effects.released.drain(..) {
            turn.log.release(extent.position, extent.bytes);
        }
        turn.outbox.tell_ended(&self.engine_effects.ended, DELETED);
        self.finish_proposal(entry, turn);
        if entry.kind == EntryKind::Membership {
            self.on_membership(&entry.data);
        }
        if !self.engine.is_leading() && self.is_leader() && term == self.replica.term() {
            self.led = term;
            self.led_since = turn.now;
            let handed = std::mem::take(&mut self.was_handed);
            self.balanced = turn.peers.up(self.preferred).map(|up| up.since).filter(|_| handed);
            if self.is_alone() {
                self.engine.lead(turn.now);
            } else {
                self.engine.succeed(turn.now);
            }
        }
        Ok(())
    }

    /// The votes have changed inside the replica; the entry carries the book that goes with them.
    fn on_membership(&mut self, data: &[u8]) {
        self.changes.on_membership();
        let context = ringmain_replication::membership_context(data).unwrap_or_default();
        if let Some(book) = Book::decode(&context) {
            self.book = book;
            self.has_new_book = true;
        }
        self.has_new_voters = true;
    }

    /// Where clients find the leader, if it is known.
    pub(crate) fn leader_address(&self) -> Option<Address> {
        let leader = self.replica.leader()?;
        (leader != self.replica.id()).then(|| peers::address_of(leader, self.shard, &self.book)).flatten()
    }

    /// A message of a peer's, its addresses checked.
    pub(crate) fn on_message(&mut self, message: Message, turn: &mut Turn<'_>) -> Result<(), Failure> {
        let has_room = turn.log.room(Late::bytes_of(&message) + LOG_RESERVE_BYTES as u64);
        match self.late.pass(message, has_room, self.entries_bytes_max) {
            Some(message) => self.take_message(message, turn),
            None => Ok(()),
        }
    }

    /// A turn's share of the messages that waited for room. True: there is more to do at once.
    pub(crate) fn take_late(&mut self, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        let mut taken_bytes = 0;
        loop {
            let has_room = |bytes| turn.log.room(bytes + LOG_RESERVE_BYTES as u64);
            let Some(message) = self.late.next(has_room) else { return Ok(false) };
            taken_bytes += Late::bytes_of(&message);
            self.take_message(message, turn)?;
            if LATE_BYTES_PER_TURN <= taken_bytes {
                return Ok(true);
            }
        }
    }

    fn take_message(&mut self, message: Message, turn: &mut Turn<'_>) -> Result<(), Failure> {
        if let Some((transfer, index, term)) = ringmain_replication::checkpoint_named(&message) {
            let is_staged =
                self.target.as_ref().is_some_and(|target| target.is_staged(transfer, index, term));
            if !is_staged {
                return Ok(());
            }
        }
        self.was_handed |= ringmain_replication::is_handover(&message);
        let (leader, term) = (message.from, Term(message.term));
        let last = message.entries.last().map(|entry| (Index(entry.index), Term(entry.term)));
        match self.replica.on_message(message) {
            Err(MessageError::LostEntries { commit, last }) => Err(Failure::LostEntries { commit, last }),
            // A peer of an older or newer life than ours: nothing to do, and nothing to tell.
            Err(_) => Ok(()),
            Ok(()) => {
                if let Some(last) = last.filter(|_| self.engine.has_memory_queues()) {
                    self.tell_received(leader, term, last, turn);
                }
                self.drive(turn)
            }
        }
    }

    /// What the leader has just sent is in memory here: it may count that, for queues that are content with it.
    fn tell_received(&self, leader: u64, term: Term, (index, of): (Index, Term), turn: &mut Turn<'_>) {
        let is_led = self.replica.term() == term && self.replica.leader() == Some(leader);
        if is_led && self.replica.has(index, of) {
            peering::send_received(turn, self.id, (self.replica.id(), leader), (term, index));
        }
    }

    /// What was staged takes the place of the state.
    #[cold]
    fn install(&mut self, turn: &mut Turn<'_>) {
        assert!(!self.engine.is_leading());
        assert!(self.proposals.is_empty());
        for extent in self.engine.extents() {
            turn.log.release(extent.position, extent.bytes);
        }
        while self.reap(turn.log) {}
        let target = self.target.take().expect("what is installed was staged");
        let installed = target.into_installed();
        self.engine = installed.engine;
        self.book = installed.book;
        self.has_new_book = true;
        assert_eq!(self.engine.applied(), self.replica.applied());
    }

    /// 25 ms have passed. Without room in the log nothing could be promised: then time stands still here, and others
    /// take over.
    pub(crate) fn tick(&mut self, log: &Log) {
        if log.room(LOG_RESERVE_BYTES as u64) {
            self.replica.tick();
        }
    }

    /// Nothing is under way, and nobody misses a leader.
    pub(crate) fn is_calm(&self) -> bool {
        self.is_quiet() && self.replica.is_calm() && self.source.is_none() && self.target.is_none()
    }

    /// Asks the peers whether this one still leads, on behalf of everyone who wants to know something.
    pub(crate) fn begin_reads(&mut self) {
        if self.is_serving()
            && let Some(round) = self.reads.begin_round()
        {
            self.replica.read_index(round);
        }
    }

    /// The batch of this entry, if it was ours, is over: answer what depended on order.
    fn finish_proposal(&mut self, entry: &Entry, turn: &mut Turn<'_>) {
        let Some(proposal) = self.proposals.front() else { return };
        if proposal.index != entry.index {
            return;
        }
        let Some(mut proposal) = self.proposals.pop_front() else { return };
        if self.committed_count == 0 {
            proposal.answer_committed(self.id, turn);
        } else {
            self.committed_count -= 1;
        }
        let answers: &[Answer] = &self.engine_effects.answers;
        proposal.answer_applied(entry.index, answers, turn);
        self.received_count = self.received_count.saturating_sub(1);
        self.in_flight_bytes -= proposal.entry_bytes;
        proposal.clear();
        self.spare.push(proposal);
    }

    /// The publish is on its way already: its retry is answered with what was proposed last. False: everything
    /// proposed is committed, so it can be answered now.
    pub(crate) fn owe_duplicate(&mut self, published: Published) -> bool {
        if !self.batch.is_empty() {
            self.open.owe_receipt(published);
            return true;
        }
        let has_uncommitted = self.committed_count < self.proposals.len();
        if has_uncommitted && let Some(last) = self.proposals.back_mut() {
            last.owe_receipt(published);
        }
        has_uncommitted
    }

    /// Leases that are over go back into their queues, by the log.
    pub(crate) fn expire_leases(&mut self, now: Time, log: &Log) {
        let is_due = self.engine.next_deadline().is_some_and(|deadline| deadline <= now);
        if !is_due || !self.is_serving() || !self.has_room(log, EXPIRED_BYTES_MAX, 0) {
            return;
        }
        self.settlements.clear();
        self.engine.expire_leases(now, LEASES_PER_TURN, &mut self.settlements);
        if !self.settlements.is_empty() {
            let settlements = std::mem::take(&mut self.settlements);
            self.open_batch(now).settle(&settlements);
            self.settlements = settlements;
        }
    }

    /// Sessions that nobody used for long make room for others. Looked at now and then, as turns happen.
    pub(crate) fn expire_sessions(&mut self, now: Time, log: &Log) {
        let is_due = self.sessions_seen.after_ns(SESSIONS_EVERY_NS) <= now;
        if !is_due || !self.is_serving() || !self.has_room(log, EXPIRED_BYTES_MAX, 0) {
            return;
        }
        self.sessions_seen = now;
        let idle_since = Time(now.0.saturating_sub(SESSION_IDLE_NS));
        let mut expired = Vec::new();
        self.engine.begin_expire_sessions(idle_since, SESSIONS_PER_TURN, &mut expired);
        if !expired.is_empty() {
            self.open_batch(now).expire_sessions(&expired);
            self.open.owe_nobody();
        }
    }

    /// Lets go of a turn's share of what purges and deletions left behind; says whether there is more.
    pub(crate) fn reap(&mut self, log: &mut Log) -> bool {
        self.engine_effects.clear();
        let has_more = self.engine.reap(REAPED_PER_TURN, &mut self.engine_effects.released);
        for extent in self.engine_effects.released.drain(..) {
            log.release(extent.position, extent.bytes);
        }
        has_more
    }

    /// Where recovery would have to begin for the entries that are not applied, and for what is staged.
    pub(crate) fn first_unapplied(&self) -> Option<ReplayFrom> {
        let entry =
            self.places.front().map(|place| ReplayFrom { position: place.record, sequence: place.sequence });
        let staged = self.target.as_ref().and_then(|target| target.first_record());
        [entry, staged].into_iter().flatten().min_by_key(|from| from.sequence)
    }

    /// The state at this moment, cheap to take.
    pub(crate) fn image(&self) -> Image {
        let (applied, term) = self.engine.applied();
        Image {
            group: self.id,
            applied,
            term,
            membership: member::encode_membership(&self.replica.conf_state(), &self.book),
            hard_state: self.replica.hard_state(),
            state: self.engine.checkpoint(),
        }
    }

    pub(crate) fn check(&self) {
        assert!(self.committed_count <= self.proposals.len());
        assert!(self.received_count <= self.proposals.len());
        assert!(self.proposals.iter().is_sorted_by_key(|proposal| proposal.index));
        assert!(self.places.iter().is_sorted_by_key(|place| place.index));
        let in_flight: usize = self.proposals.iter().map(|proposal| proposal.entry_bytes).sum();
        assert_eq!(in_flight, self.in_flight_bytes);
        assert!(self.writes.iter().is_sorted());
        self.late.check();
        self.trail.check();
        self.changes.check();
        self.check_catch_ups();
        self.engine.check();
    }
}

/// An entry's kind, as its record carries it.
pub(crate) fn entry_tag(kind: EntryKind) -> u16 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::Membership => 1,
    }
}

pub(crate) fn entry_kind(tag: u16) -> Option<EntryKind> {
    match tag {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::Membership),
        _ => None,
    }
}

fn hard_state_record(group: GroupId, hard_state: HardState) -> Record {
    Record {
        group,
        kind: RecordKind::HardState,
        tag: 0,
        term: Term(hard_state.term),
        index: Index(0),
        hard_state,
        payload: Bytes::new(),
    }
}
