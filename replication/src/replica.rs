//! This node's member of one group.
//!
//! The engine is asked for its next `Ready` until it has nothing more to say; each becomes effects. Its write goes
//! out at once and is not waited for: the next `Ready` may be taken while several writes are on their way. What may
//! leave only after the disk (votes, acknowledgements of a follower) is held until `on_persisted`.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{self, EntryType, MessageType};
use raft::{RawNode, StateRole};

use crate::checkpoint::{self, Install};
use crate::effects::{Effects, Role, RoleChange, Write};
use crate::log::Log;
use crate::message::{self, Message, MessageError, Receiver};
use crate::{Entry, Error, GroupId, HardState, Index, Refusal, Restored, Term, Terms, entry, membership};

pub use crate::log::ENTRY_BYTES_OVERHEAD;

/// A leader is heard every 50 ms.
pub const HEARTBEAT_TICKS: usize = 2;
/// An election starts after 10 or 11 silent ticks at the replica that is first in line, and two ticks later for each place
/// behind it: 250 to 475 ms, well above the longest stall of a shard.
pub const ELECTION_TICKS: usize = 10;
/// Places in that line. Whoever stands alone for election wins it, so replicas of one group should have different ones; those
/// of the last place are told apart by chance alone.
pub const ELECTION_RANKS: usize = 5;
const RANK_TICKS: usize = ELECTION_TICKS / ELECTION_RANKS;
/// Of proposals that no majority has yet. Above it a proposal is refused as `Busy`.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Usual `Options::log_bytes_max`.
pub const LOG_BYTES_MAX: u64 = 32 << 20;
/// So many times as much is kept while a follower is being sent a checkpoint, so that it can go on from there.
pub const LOG_HELD_FACTOR: u64 = 8;
/// A follower keeps one of so many parts of it in applied entries: it may lead next, and then others are a little behind.
pub const LOG_KEPT_SHARE: u64 = 4;
/// Of entries in one message: at least one entry, however large.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// To one follower, sent and not acknowledged.
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Dropping a thousand at once would be a stall of its own.
const ENTRIES_DROPPED_MAX: usize = 64;
/// Behind one stalled write. Raft lives with lost messages; memory does not live with a heartbeat's answer every
/// 50 ms for as long as a disk is silent.
const MESSAGES_HELD_MAX: usize = 4096;

/// Who this replica is. `id` is the replica's for all time: it is never given to another disk.
#[derive(Clone, Debug)]
pub struct Options {
    pub group: GroupId,
    /// Above 0.
    pub id: u64,
    /// Who the group started with. What the disk says about later changes counts more.
    pub voters: Vec<u64>,
    /// Spreads the election timeouts of groups and replicas.
    pub seed: u64,
    /// Its place in the line of those who stand for election. Who has place 0 leads when all are well.
    pub rank: usize,
    /// Of entries kept in memory for followers that are behind. What waits to be committed and applied comes on top, and
    /// is bounded by `UNCOMMITTED_BYTES_MAX`.
    pub log_bytes_max: u64,
}

pub struct Replica {
    options: Options,
    node: RawNode<Log>,

    /// Token of the last write handed out.
    written: u64,
    /// Token of the last write known to be durable, with all before it. Invariant: persisted ≤ written.
    persisted: u64,
    /// Token of the write that carries the present term and vote.
    promised: u64,
    promise: (u64, u64),
    /// Invariant: tokens rise, all above `persisted`.
    held: VecDeque<Held>,
    /// Free to go with the next drive.
    outbox: Vec<Message>,
    /// Ticks that have passed.
    ticks: u64,
    /// When each other member last said something. The engine has no more than a mark for each, which it wipes off in every
    /// election timeout to see who sets it again.
    heard: BTreeMap<u64, u64>,
    /// Index and term of the last entry handed out for the state machine.
    applied: (u64, u64),
    /// The caller has a checkpoint up to here.
    floor: u64,
    /// Entries behind this index are kept for somebody who is being sent a checkpoint.
    held_from: Option<u64>,
    /// Token of the last write that installed a checkpoint.
    installed: u64,
    /// Highest index ever reported as committed.
    told: u64,
    /// Noticed after an input, handed out with the next drive.
    committed: Option<(Term, Index)>,
    role: Option<RoleChange>,
    seen: RoleChange,
}

/// A part of the engine's output that waits for the disk.
struct Held {
    token: u64,
    /// Number of the engine's last `Ready` that needs nothing beyond this write.
    ready: u64,
    messages: Vec<Message>,
}

impl Replica {
    /// A replica that is the only voter becomes leader in its first drive.
    pub fn new(options: Options, restored: Restored) -> Result<Self, Error> {
        restored.judge()?;
        let conf_state = match restored.conf_state.as_slice() {
            [] => membership::initial(&options.voters)?,
            bytes => membership::decode(bytes)?,
        };
        if options.id == 0 {
            return Err(Error::Options { why: "replica 0 cannot be" });
        }
        let applied = restored.applied.0;
        let (last, base) = (restored.last().0.0, (restored.base.0.0, restored.base.1.0));
        if base.0 > 0 && base.1 == 0 {
            return Err(Error::TermFell { index: base.0, before: 1, found: 0 });
        }
        let mut hard_state = eraftpb::HardState::default();
        hard_state.term = restored.hard_state.term;
        hard_state.vote = restored.hard_state.vote;
        // What was applied had been committed; the record that would say so may not have been written yet.
        hard_state.commit = restored.hard_state.commit.max(applied);

        let past = restored.past.unwrap_or(Terms::behind(restored.base));
        let mut log = Log::new(hard_state, conf_state, past);
        log.append(restored.entries.into_iter().map(entry::to_engine).collect());
        assert_eq!(log.last(), last);
        // applied lies within the log: judge() has seen to it.
        let applied = (applied, raft::Storage::term(&log, applied).expect("the term of an index in the log"));
        let config = config(options.id, applied.0);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger)
            .map_err(|_| Error::Membership { why: "the engine cannot start from it" })?;

        let seen = RoleChange { role: Role::Follower, term: Term(node.raft.term), leader: None };
        let mut replica = Self {
            options,
            node,
            written: 0,
            persisted: 0,
            promised: 0,
            promise: (restored.hard_state.term, restored.hard_state.vote),
            held: VecDeque::new(),
            outbox: Vec::new(),
            ticks: 0,
            heard: BTreeMap::new(),
            applied,
            floor: 0,
            held_from: None,
            installed: 0,
            told: 0,
            committed: None,
            role: None,
            seen,
        };
        replica.after_input();
        replica.check();
        Ok(replica)
    }

    /// One batch becomes one entry. It has the answered place if it ever commits; whether it does is told by
    /// `Effects::committed`, or by a role change, after which its fate is unknown.
    pub fn propose(&mut self, batch: Bytes) -> Result<(Term, Index), Refusal> {
        assert!(!batch.is_empty(), "an entry without data is nobody's batch");
        self.append(batch)
    }

    /// An entry for the state machine to pass over, like a new leader's first. Whoever writes it has been told before that
    /// everything is committed which is committed now, and writes that down beside it.
    pub fn propose_nothing(&mut self) -> Result<(Term, Index), Refusal> {
        self.append(Bytes::new())
    }

    fn append(&mut self, data: Bytes) -> Result<(Term, Index), Refusal> {
        self.leading()?;
        let entry = eraftpb::Entry { data, ..Default::default() };
        let mut message =
            Message { msg_type: MessageType::MsgPropose, from: self.options.id, ..Default::default() };
        message.set_entries(vec![entry].into());
        let before = self.last_index();
        // Dropped: over the quota of uncommitted bytes, or leadership is being handed over.
        self.node.raft.step(message).map_err(|_| Refusal::Busy)?;
        let index = self.last_index();
        assert_eq!(index.0, before.0 + 1);
        Ok((self.term(), index))
    }

    /// Asks the group to have these members and no others; `context` comes back with the entry
    /// ([`membership_context`](crate::membership_context)). The leader keeps its vote: it would have to hand over first.
    pub fn propose_membership(
        &mut self,
        voters: &[u64],
        learners: &[u64],
        context: Bytes,
    ) -> Result<(Term, Index), Refusal> {
        self.leading()?;
        let wanted = membership::initial(voters).map_err(|_| Refusal::Membership)?.voters;
        let are_learners = learners.iter().all(|id| *id != 0 && !wanted.contains(id));
        let is_too_much =
            learners.len() > membership::MEMBERS_MAX || context.len() > membership::CONTEXT_BYTES_MAX;
        if !wanted.contains(&self.options.id) || !are_learners || is_too_much {
            return Err(Refusal::Membership);
        }
        if self.is_membership_pending() {
            return Err(Refusal::MembershipPending);
        }
        let present = self.node.store().conf_state();
        let change = membership::change(present, &wanted, learners, context).ok_or(Refusal::Membership)?;
        let before = self.last_index();
        self.node.propose_conf_change(Vec::new(), change).map_err(|_| Refusal::Busy)?;
        let index = self.last_index();
        assert_eq!(index.0, before.0 + 1);
        Ok((self.term(), index))
    }

    /// A change of the members was proposed and is not applied here, or not all of it.
    pub fn is_membership_pending(&self) -> bool {
        self.node.raft.has_pending_conf() || !self.node.store().conf_state().voters_outgoing.is_empty()
    }

    /// Every 25 ms.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.is_leader() || self.may_stand() {
            self.node.tick();
        }
        self.after_input();
    }

    /// It leads, or has just heard who does: nothing comes of the next tick alone.
    pub fn is_calm(&self) -> bool {
        let raft = &self.node.raft;
        let is_led = raft.leader_id != 0 && raft.election_elapsed <= HEARTBEAT_TICKS + 1;
        self.is_leader() || (raft.state == StateRole::Follower && is_led)
    }

    /// Stands for election now, without waiting for silence. Does nothing on a replica that is no voter.
    pub fn campaign(&mut self) {
        if self.node.raft.promotable() && self.may_stand() {
            // It answers an error to nobody but a message of the wrong kind, which this is not.
            self.node.campaign().expect("standing for election is always allowed");
        }
        self.after_input();
    }

    /// Asks the peers whether this replica, a leader that serves, still leads. `Effects::reads` has the answer under the
    /// same number; if it leads no more there is none.
    pub fn read_index(&mut self, number: u64) {
        assert!(self.is_serving(), "the engine drops what is asked before the first commit of a term");
        self.node.read_index(number.to_le_bytes().to_vec());
        self.after_input();
    }

    /// What was sent to this peer last may be lost.
    pub fn report_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
        self.after_input();
    }

    /// The caller counts what is refused; `LostEntries` it must act on.
    pub fn on_message(&mut self, message: Message) -> Result<(), MessageError> {
        let receiver = Receiver {
            id: self.options.id,
            term: self.node.raft.term,
            last_index: self.last_index().0,
            is_leader: self.is_leader(),
        };
        message::examine(&message, &receiver)?;
        // Raft lives with lost messages, and these are.
        if self.is_installing() || (message::is_handover(&message) && !self.may_stand()) {
            return Ok(());
        }
        let from = message.from;
        let outcome = self.node.step(message);
        self.note_heard(from);
        self.after_input();
        outcome.map_err(|_| MessageError::Stranger { from })
    }

    fn note_heard(&mut self, from: u64) {
        let Self { node, heard, ticks, .. } = self;
        let members = node.raft.prs();
        if members.get(from).is_some() {
            heard.insert(from, *ticks);
        }
        if members.iter().len() < heard.len() {
            heard.retain(|id, _| members.get(*id).is_some());
        }
    }

    /// Whether this member has said something within the last election timeout.
    pub(crate) fn has_heard(&self, id: u64) -> bool {
        self.heard.get(&id).is_some_and(|at| self.ticks - at <= ELECTION_TICKS as u64)
    }

    /// The write with this token, and every one before it, is durable. Completions come in any order from a disk;
    /// whoever calls this has restored their order.
    pub fn on_persisted(&mut self, token: u64) {
        assert!(token > self.persisted, "write {token} reported twice");
        assert!(token <= self.written, "write {token} was never made");
        self.persisted = token;
        let mut ready = None;
        while self.held.front().is_some_and(|held| held.token <= token) {
            // The condition has just seen it.
            let mut held = self.held.pop_front().expect("the first part held");
            self.outbox.append(&mut held.messages);
            ready = Some(held.ready);
        }
        if let Some(ready) = ready {
            self.node.on_persist_ready(ready);
            self.report_applied();
        }
        self.after_input();
    }

    /// After any inputs: everything there is to do now.
    pub fn drive(&mut self, effects: &mut Effects) {
        effects.messages.append(&mut self.outbox);
        loop {
            while self.node.has_ready() {
                self.on_ready(effects);
                self.after_input();
            }
            if !self.stands_alone() {
                break;
            }
            self.campaign();
            assert!(self.is_leader());
        }
        self.trim();
        // A rising index of a newer term covers the older one.
        effects.committed = self.committed.take().or(effects.committed);
        effects.role = self.role.take().or(effects.role);
    }

    /// The caller has a durable checkpoint at `index`: nothing up to it is needed to restart. Entries leave memory
    /// a few per drive, on a leader not before every follower has them or `Options::log_bytes_max` is reached.
    pub fn compact(&mut self, index: Index) {
        assert!(index.0 <= self.applied.0, "a checkpoint ahead of what was applied");
        self.floor = self.floor.max(index.0);
        self.trim();
    }

    pub fn group(&self) -> GroupId {
        self.options.group
    }

    pub fn id(&self) -> u64 {
        self.options.id
    }

    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The leader's state machine has everything that earlier leaders committed: only now may it serve consumers or
    /// answer from its state.
    pub fn is_serving(&self) -> bool {
        self.is_leader() && self.applied.1 == self.node.raft.term
    }

    pub fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    pub fn leader(&self) -> Option<u64> {
        (self.node.raft.leader_id != 0).then_some(self.node.raft.leader_id)
    }

    pub fn last_index(&self) -> Index {
        Index(self.node.raft.raft_log.last_index())
    }

    /// This entry is in the log here, in memory at least.
    pub fn has(&self, index: Index, term: Term) -> bool {
        self.node.raft.raft_log.match_term(index.0, term.0)
    }

    pub fn committed(&self) -> Index {
        Index(self.node.raft.raft_log.committed)
    }

    /// The last entry handed out in `Effects::apply`: what a checkpoint taken now stands for.
    pub fn applied(&self) -> (Index, Term) {
        (Index(self.applied.0), Term(self.applied.1))
    }

    /// The entry before the first one in memory.
    pub fn base(&self) -> (Index, Term) {
        let (index, term) = self.node.store().base();
        (Index(index), Term(term))
    }

    /// Of entries in memory, beside those waiting in `Effects`.
    pub fn log_bytes(&self) -> u64 {
        self.node.store().bytes()
    }

    /// For a checkpoint, and for records that are not of a [`Write`].
    ///
    /// It may promise more than is durable: whoever writes it does so behind every write handed out so far.
    pub fn hard_state(&self) -> HardState {
        let hard_state = self.node.raft.hard_state();
        HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit }
    }

    /// As of `applied`; goes into every checkpoint, and comes back in `Restored`.
    pub fn conf_state(&self) -> Vec<u8> {
        membership::encode(self.node.store().conf_state())
    }

    /// Rising. More than one half while the group changes from the outgoing voters to these.
    pub fn voters(&self) -> &[u64] {
        &self.node.store().conf_state().voters
    }

    /// Nothing waits for the disk.
    pub fn is_quiet(&self) -> bool {
        self.persisted == self.written
    }

    pub fn check(&self) {
        let log = &self.node.raft.raft_log;
        assert!(self.persisted <= self.written);
        assert!(self.promised <= self.written);
        assert!(log.applied <= self.applied.0);
        assert!(self.applied.0 <= log.committed);
        // What was installed counts as applied while it is being written.
        assert!(self.applied.0 <= log.persisted || self.persisted < self.installed);
        assert!(log.persisted <= log.last_index());
        assert!(log.committed <= log.last_index());
        assert!(self.floor <= self.applied.0);
        assert!(self.told <= log.committed);
        assert!(self.node.store().base().0 <= self.applied.0);
        assert!(self.held.iter().all(|held| held.token > self.persisted));
        assert!(self.held.iter().all(|held| held.token <= self.written));
        assert!(self.held.iter().is_sorted_by(|a, b| a.token < b.token));
        assert_eq!(self.node.raft.randomized_election_timeout(), self.election_ticks());
        if self.is_leader() {
            assert!(self.node.raft.promotable());
        }
        if self.is_quiet() {
            assert!(self.held.is_empty());
        }
        self.node.store().check();
    }

    pub(crate) fn engine(&self) -> &raft::Raft<Log> {
        &self.node.raft
    }

    pub(crate) fn conf(&self) -> &eraftpb::ConfState {
        self.node.store().conf_state()
    }

    pub(crate) fn store_mut(&mut self) -> &mut Log {
        self.node.mut_store()
    }

    pub(crate) fn begin_transfer(&mut self, to: u64) {
        self.node.transfer_leader(to);
        self.after_input();
    }

    pub(crate) fn set_held_from(&mut self, index: Option<u64>) {
        self.held_from = index;
    }

    pub(crate) fn report_snapshot(&mut self, to: u64, status: raft::SnapshotStatus) {
        self.node.report_snapshot(to, status);
        self.after_input();
    }

    /// Sends this follower what it is to have next.
    pub(crate) fn nudge(&mut self, to: u64) {
        if self.is_leader() {
            self.node.raft.send_append(to);
        }
        self.after_input();
    }

    fn leading(&self) -> Result<(), Refusal> {
        if !self.is_leader() {
            return Err(Refusal::NotLeader { leader: self.leader() });
        }
        Ok(())
    }

    /// One round of the engine. The order of the steps is the safety of the group.
    fn on_ready(&mut self, effects: &mut Effects) {
        let mut ready = self.node.ready();
        let number = ready.number();
        for read in ready.take_read_states() {
            // Nobody but `read_index` asks.
            let number = read.request_ctx.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            effects.reads.push((number.expect("a read has a number"), Index(read.index)));
        }
        let mut leading = ready.take_messages();
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot(), effects);
        }
        let entries = ready.take_entries();
        // A change of the commit index alone is not worth a write: every later record carries it. But it must never
        // be left out there: a membership counts from the moment it is applied, and a replica that forgets that an
        // entry was committed would elect with the voters of the past.
        if !entries.is_empty() || (ready.must_sync() && ready.snapshot().is_empty()) {
            let entries = entries.iter().map(entry::from_engine).collect();
            self.write(entries, None, effects);
        }
        // The engine reads entries back before they are durable, so they enter the log before advance_append_async.
        self.node.mut_store().append(entries);
        let committed = ready.take_committed_entries();
        let mut messages = ready.take_persisted_messages();
        self.node.advance_append_async(ready);
        // A leader's messages may overtake its own disk: the majority is counted without it. Not its term, though.
        // A lone voter elects itself before that is durable; after a crash it would lead the same term again, with
        // other entries in places that a learner has already filled.
        if self.persisted >= self.promised {
            effects.messages.append(&mut leading);
        } else {
            messages.append(&mut leading);
        }
        if self.is_quiet() {
            effects.messages.append(&mut messages);
            self.node.on_persist_ready(number);
        } else {
            self.hold(number, messages);
        }
        for entry in committed {
            self.on_committed(&entry, effects);
        }
        self.report_applied();
    }

    fn write(&mut self, entries: Vec<Entry>, install: Option<Install>, effects: &mut Effects) {
        self.written += 1;
        let hard_state = self.hard_state();
        if (hard_state.term, hard_state.vote) != self.promise {
            self.promise = (hard_state.term, hard_state.vote);
            self.promised = self.written;
        }
        effects.writes.push(Write { token: self.written, hard_state, entries, install });
    }

    /// The engine continues from a checkpoint. Its acknowledgement waits for the write, as all do.
    fn install(&mut self, snapshot: &eraftpb::Snapshot, effects: &mut Effects) {
        let install = checkpoint::install_of(snapshot);
        assert!(install.index.0 > self.applied.0);
        self.applied = (install.index.0, install.term.0);
        self.write(Vec::new(), Some(install), effects);
        self.installed = self.written;
        self.node.mut_store().reset_to(snapshot);
    }

    /// Also for a `Ready` that wrote nothing: its messages may acknowledge what an earlier one is still writing.
    fn hold(&mut self, ready: u64, mut messages: Vec<Message>) {
        assert!(self.written > self.persisted);
        if self.held.back().is_none_or(|held| held.token < self.written) {
            self.held.push_back(Held { token: self.written, ready, messages: Vec::new() });
        }
        // One was pushed if there was none.
        let held = self.held.back_mut().expect("the part that waits for the last write");
        assert_eq!(held.token, self.written);
        held.ready = ready;
        let room = MESSAGES_HELD_MAX.saturating_sub(held.messages.len());
        messages.truncate(room);
        held.messages.append(&mut messages);
    }

    fn on_committed(&mut self, engine: &eraftpb::Entry, effects: &mut Effects) {
        assert_eq!(engine.index, self.applied.0 + 1);
        assert!(engine.term >= self.applied.1);
        self.applied = (engine.index, engine.term);
        if engine.entry_type == EntryType::EntryConfChangeV2 {
            self.on_membership(&engine.data);
        }
        effects.apply.push(entry::from_engine(engine));
    }

    fn on_membership(&mut self, data: &[u8]) {
        // Proposed by us, or examined when it came from a peer or the disk.
        let change = membership::read_change(data).expect("a membership change that was read before");
        // What cannot be applied here, can be applied nowhere: every replica skips it.
        if !membership::has_room(self.node.store().conf_state(), &change) {
            return;
        }
        let Ok(conf_state) = self.node.apply_conf_change(&change) else { return };
        self.node.mut_store().set_conf_state(conf_state);
        // The engine keeps a removed leader in office, and the next acknowledgement it receives ends the process
        // (it looks for its own progress and finds none).
        if self.is_leader() && !self.node.raft.promotable() {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, 0);
        }
    }

    /// The engine refuses to hear of an applied entry that it does not believe to be durable here.
    fn report_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        if self.applied.0 > log.applied && self.applied.0 <= log.persisted.min(log.committed) {
            self.node.advance_apply_to(self.applied.0);
        }
    }

    /// Whatever the engine was told, its chance is taken back and its news are noted.
    fn after_input(&mut self) {
        // It draws a new timeout with every change of term or role, from a source of its own. Ours depends on
        // nothing but what a replay repeats, and overwriting it twice changes nothing.
        let ticks = self.election_ticks();
        if self.node.raft.randomized_election_timeout() != ticks {
            self.node.raft.set_randomized_election_timeout(ticks);
        }
        let raft = &self.node.raft;
        let committed = raft.raft_log.committed;
        // Told at commit, not at apply: apply waits for this node's own disk, a majority need not include it.
        if raft.state == StateRole::Leader && committed > self.told && raft.commit_to_current_term() {
            self.told = committed;
            self.committed = Some((Term(raft.term), Index(committed)));
        }
        let now = RoleChange { role: role(raft.state), term: self.term(), leader: self.leader() };
        if now != self.seen {
            self.seen = now;
            self.role = Some(now);
        }
    }

    fn election_ticks(&self) -> usize {
        let raft = &self.node.raft;
        let mut mixed = self.options.seed ^ self.options.id.wrapping_mul(0xA24B_AED4_963E_E407);
        for part in [raft.term, raft.state as u64] {
            mixed = (mixed ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            mixed ^= mixed >> 32;
        }
        let rank = self.options.rank.min(ELECTION_RANKS - 1);
        ELECTION_TICKS + RANK_TICKS * rank + (mixed % RANK_TICKS as u64) as usize
    }

    /// The only member, and a voter.
    fn is_alone(&self) -> bool {
        let raft = &self.node.raft;
        raft.promotable() && raft.prs().is_singleton() && raft.prs().iter().len() == 1
    }

    /// The engine continues from a checkpoint, and that is not durable. It has forgotten the entries before it and does
    /// not call them applied yet: should it stand for election now, it would look for them and end the process.
    fn is_installing(&self) -> bool {
        self.node.snap().is_some() || self.persisted < self.installed
    }

    /// The engine lets an only voter win the moment it stands, and then takes for granted that all of its log is
    /// durable. Time stands still for it until that is so.
    fn may_stand(&self) -> bool {
        let raft = &self.node.raft;
        let wins_at_once = raft.promotable() && raft.prs().is_singleton();
        !self.is_installing() && (!wins_at_once || self.is_settled())
    }

    /// Nothing is on its way to the disk, nor about to be.
    fn is_settled(&self) -> bool {
        let log = &self.node.raft.raft_log;
        self.is_quiet() && log.persisted == log.last_index()
    }

    /// Nobody else could lead, and everything the engine takes for granted of a new leader holds.
    fn stands_alone(&self) -> bool {
        self.is_alone() && !self.is_leader() && self.is_settled()
    }

    /// What every other member is known to have. A leader's knowledge may lag behind the members' own, and it
    /// resumes from what it knows.
    fn everywhere(&self) -> u64 {
        if !self.is_leader() {
            return u64::MAX;
        }
        let others = self.node.raft.prs().iter().filter(|(id, _)| **id != self.options.id);
        others.map(|(_, progress)| progress.matched).min().unwrap_or(u64::MAX)
    }

    /// Forgets entries that nobody will ask for, and then those that too much memory goes to.
    fn trim(&mut self) {
        let applied = self.node.raft.raft_log.applied;
        // The state machine holds what it needs of an applied entry, and a lone voter has no follower to feed.
        let is_leader = self.is_leader();
        let is_alone = self.is_alone();
        let free = if is_alone { applied } else { self.floor.min(applied).min(self.everywhere()) };
        let log_bytes_max = self.options.log_bytes_max;
        let (free, most) = match self.held_from {
            Some(held_from) => (free.min(held_from), LOG_HELD_FACTOR * log_bytes_max),
            None => (free, log_bytes_max),
        };
        let kept = if is_leader || is_alone { 0 } else { log_bytes_max / LOG_KEPT_SHARE };
        let log = self.node.mut_store();
        for _ in 0..ENTRIES_DROPPED_MAX {
            if log.bytes() <= kept {
                break;
            }
            let to = if log.bytes() > most { applied } else { free };
            if !log.drop_first(to) {
                break;
            }
        }
        assert!(log.base().0 <= self.applied.0);
    }
}

fn role(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate | StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}

fn config(id: u64, applied: u64) -> raft::Config {
    raft::Config {
        id,
        applied,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        // A leader that hears no majority steps down; a replica that was cut off does not depose a working leader.
        check_quorum: true,
        pre_vote: true,
        // Followers learn of a commit with the next entries or heartbeat: half of the messages per batch.
        skip_bcast_commit: true,
        // Reads never rest on a lease counted in ticks: a process that was stopped would serve the past.
        read_only_option: raft::ReadOnlyOption::Safe,
        ..raft::Config::default()
    }
}

#[cfg(test)]
mod tests;
