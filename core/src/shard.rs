//! A shard: everything one core owns, as a function from inputs to outputs.
//!
//! One pinned thread owns it; nothing of it is shared. Whatever can happen to this core's part of the broker
//! is one [`Input`]; whatever it wants done is in [`Output`]. No clock, file, socket, lock or `.await` inside:
//! the runtime carries outputs to the kernel and inputs back, and the simulator does the same with virtual
//! devices. A turn is: any number of inputs, then [`Input::Turn`], which proposes what was admitted, appends
//! it to the log and dispatches; then the caller takes writes with [`Shard::poll_write`].
//!
//! Order that matters: nothing is answered as stored before the log is durable up to it, because answers come
//! from `Group::drive`, which hears of durability only from `on_written`.

use crate::catch_up::CatchUpReads;
use crate::checkpointer::{Checkpointer, ReplayFrom};
use crate::command::{QueueId, Run, Settlement};
use crate::config::Limits;
use crate::connection::{ConnectionId, OUTGOING_BYTES_MAX, Stage};
use crate::dispatch::{Dispatched, Dispatcher, Source};
use crate::engine::SettleRun;
use crate::failure::Failure;
use crate::formation::{ClusterLayout, State};
use crate::group::{Group, Turn};
use crate::member::{Member, replica_id};
use crate::notice::Notices;
use crate::outbox::Outbox;
use crate::outgoing::Outgoing;
use crate::pace::Pace;
use crate::peering::{Replacement, Stall};
use crate::peers::{Dial, Peers};
use crate::readback::{ReadWindow, Readback, Reader};
use crate::relocation::{Pass, Relocation};
use crate::request::Flow;
use crate::time::Time;
use bytes::Bytes;
use ringmain_net::frame;
use ringmain_net::peer::{Lane, PEER_FRAME_BYTES_MAX};
use ringmain_net::protocol::Code;
use ringmain_replication::ELECTION_RANKS;
use ringmain_wal::{
    GroupId, Identity, Index, Log, LogOptions, LogStart, Position, PrepareSegment, Superblock, Term, WriteAt,
    WriteId,
};
use std::collections::BTreeMap;

/// What a shard is, beside what is in its log.
#[derive(Clone)]
pub struct ShardOptions {
    pub identity: Identity,
    pub log: LogOptions,
    pub limits: Limits,
    /// The groups whose replicas are on this shard.
    pub groups: Vec<GroupId>,
    /// Where each shard of this node listens, by shard index.
    pub addresses: Vec<Address>,
    /// Who the cluster was formed of; a node that came later finds others in its log.
    pub founders: Vec<Member>,
    /// What a node is told that asks whether there is a cluster yet.
    pub layout: Option<ClusterLayout>,
    /// Makes elections differ between replicas and repeat between runs.
    pub seed: u64,
}

/// See [`Shard::group_state`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct GroupState {
    pub term: Term,
    pub is_leader: bool,
    /// It leads, has applied everything from before, and answers clients.
    pub is_serving: bool,
    /// Invariant: applied ≤ committed ≤ last.
    pub committed: Index,
    pub applied: Index,
    pub last: Index,
    /// Entries that were read back from the log for followers, in the life of this process.
    pub entries_read_back: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl ShardOptions {
    pub(crate) fn replica(&self) -> u64 {
        replica_id(self.identity.node, self.identity.incarnation)
    }

    /// Who votes in a group that nothing is written of yet.
    pub(crate) fn voters(&self) -> Vec<u64> {
        self.founders.iter().map(Member::replica).collect()
    }

    /// The ordinal of a group among those of this shard.
    pub(crate) fn ordinal(&self, group: GroupId) -> Option<usize> {
        self.groups.iter().position(|other| *other == group)
    }

    /// Who leads a group when all are well: the founders in turn, so that each core of each node leads about as many.
    pub(crate) fn preferred(&self, group: GroupId) -> u32 {
        self.founders.get(self.first_in_line(group)).map_or(0, |founder| founder.node)
    }

    fn first_in_line(&self, group: GroupId) -> usize {
        let nth = self.ordinal(group).unwrap_or(0) + self.identity.shard as usize;
        nth % self.founders.len().max(1)
    }

    /// This node's place among those who would lead a group. Behind the first the founders follow in another order on each
    /// shard, so that what a lost node led is spread over those that are left; nodes that came later are behind them.
    pub(crate) fn rank(&self, group: GroupId) -> usize {
        let founders = self.founders.len();
        let Some(at) = self.founders.iter().position(|founder| founder.node == self.identity.node) else {
            let left = ELECTION_RANKS.saturating_sub(founders).max(1);
            return founders + self.identity.node as usize % left;
        };
        match (at + founders - self.first_in_line(group)) % founders {
            0 => 0,
            behind => 1 + (behind - 1 + self.identity.shard as usize) % (founders - 1),
        }
    }

    pub(crate) fn message_bytes_max(&self) -> u32 {
        // `Limits` refuses more than 16 MiB.
        u32::try_from(self.limits.message_bytes_max.0).unwrap_or(u32::MAX)
    }
}

pub enum Input<'a> {
    /// Somebody connected.
    Opened {
        connection: ConnectionId,
    },
    /// A dial of [`Output::dials`] has come to its end; `None`: the peer cannot be reached.
    Dialled {
        node: u32,
        lane: Lane,
        connection: Option<ConnectionId>,
    },
    /// All bytes received and not yet consumed; [`Output::consumed`] says how many are done with.
    Received {
        connection: ConnectionId,
        bytes: &'a [u8],
    },
    /// So many of the bytes taken with [`Shard::take_outgoing`] are with the kernel.
    Sent {
        connection: ConnectionId,
        bytes: usize,
    },
    /// The connection is over, for whatever reason.
    Closed {
        connection: ConnectionId,
    },
    /// A write is durable.
    Written {
        id: WriteId,
    },
    SegmentReady {
        number: u64,
    },
    /// No space for another segment.
    SegmentRefused {
        number: u64,
    },
    /// A while has passed since: there may be space again.
    RetrySegments,
    /// The bytes of a window asked for in [`Output::reads`].
    Read {
        position: Position,
        bytes: Bytes,
    },
    SuperblockWritten,
    /// The inbox is empty: propose, answer, dispatch.
    Turn,
    /// Finish what was admitted, then say so in [`Output::is_stopped`].
    Stop,
}

/// What the shard wants done; reused, drained by the caller after each step.
#[derive(Default)]
pub struct Output {
    /// Of the bytes last received.
    pub consumed: usize,
    /// The rest of them must wait until the connection is among `resumes`.
    pub is_paused: bool,
    /// Connections whose outgoing bytes should be taken and sent.
    pub sends: Vec<ConnectionId>,
    /// Paused connections: offer their unconsumed bytes again.
    pub resumes: Vec<ConnectionId>,
    /// Close these once their bytes are sent.
    pub closes: Vec<ConnectionId>,
    /// Close these at once, behind `sends`: others wait for their seats.
    pub cuts: Vec<ConnectionId>,
    pub reads: Vec<ReadWindow>,
    pub segments: Vec<PrepareSegment>,
    pub superblock: Option<Superblock>,
    /// Peers to connect to.
    pub dials: Vec<Dial>,
    /// What somebody who looks after the node should know.
    pub notices: Vec<String>,
    /// A node that was no member is one in every group here. Said once.
    pub has_joined: bool,
    /// The membership has changed: whether the other nodes are a majority of every group without this one. That they are not is
    /// to be durable before anything else is carried out.
    pub is_spared: Option<bool>,
    /// The process must end: something promised cannot be kept.
    pub failure: Option<Failure>,
    /// The turn's share is done and there is more to do: another turn should follow.
    pub is_unfinished: bool,
    pub is_stopped: bool,
}

impl Output {
    pub fn clear(&mut self) {
        self.sends.clear();
        self.resumes.clear();
        self.closes.clear();
        self.cuts.clear();
        self.reads.clear();
        self.segments.clear();
        self.dials.clear();
        self.notices.clear();
        let (sends, resumes) = (std::mem::take(&mut self.sends), std::mem::take(&mut self.resumes));
        let (closes, cuts) = (std::mem::take(&mut self.closes), std::mem::take(&mut self.cuts));
        let (reads, segments) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.segments));
        let dials = std::mem::take(&mut self.dials);
        *self = Self { sends, resumes, closes, cuts, reads, segments, dials, ..Self::default() };
    }
}

pub struct Shard {
    pub(crate) options: ShardOptions,

    pub(crate) log: Log,
    pub(crate) groups: Vec<Group>,
    pub(crate) outbox: Outbox,
    pub(crate) peers: Peers,
    pub(crate) pace: Pace,
    pub(crate) notices: Notices,
    /// Of the last input.
    pub(crate) now: Time,
    /// When the groups are told again that time has passed.
    pub(crate) tick_at: Time,
    pub(crate) stall: Stall,
    /// This node is not known to be a member of all groups yet, and says when it is.
    pub(crate) is_joining: bool,
    /// Nodes that came back without the log they had, and take their own place.
    pub(crate) replacements: BTreeMap<u32, Replacement>,
    dispatcher: Dispatcher,
    pub(crate) readback: Readback,
    pub(crate) catch_up_reads: CatchUpReads,
    checkpointer: Checkpointer,
    /// One for each group.
    relocations: Vec<Relocation>,
    /// Connections whose next frame found no room.
    paused: Vec<ConnectionId>,
    /// Something in flight came to its end since they were last offered again.
    pub(crate) has_new_room: bool,
    /// When the log was last appended to; a while after, the last record is vouched for.
    appended_at: Option<Time>,
    superblock_counter: u64,
    tail_seen: Position,
    pub(crate) is_stopping: bool,
    /// Leadership that nobody has taken until then ends with this node.
    hand_over_until: Time,

    // Reused between inputs.
    wake: Vec<Reader>,
    pub(crate) kept: Vec<Run>,
    pub(crate) runs: Vec<SettleRun>,
    pub(crate) settlements: Vec<Settlement>,
}

/// After this long without a write, the last durable record gets a successor that says it was durable.
const VOUCH_AFTER_NS: u64 = 100_000_000;
/// A node that stops waits so long for others to take over; they need a round trip.
const HAND_OVER_NS: u64 = 500_000_000;

impl Shard {
    pub(crate) fn new(options: ShardOptions, start: ShardStart) -> Self {
        let mut log = Log::new(options.log.clone(), start.log);
        for extent in start.groups.iter().flat_map(|group| group.engine.extents()) {
            log.hold(extent.position, extent.bytes);
        }
        let mut peers = Peers::new(options.identity.node, options.identity.shard);
        options.founders.iter().for_each(|founder| peers.know(founder));
        let is_joining = options.layout.as_ref().is_some_and(|layout| layout.state == State::Joining);
        peers.calls_all = is_joining;
        let superblock = start.superblock;
        if let Some(superblock) = superblock {
            log.set_floor(superblock.checkpoint);
        }
        Self {
            readback: Readback::new(options.log.segment_bytes),
            catch_up_reads: CatchUpReads::default(),
            checkpointer: Checkpointer::new(
                options.limits.checkpoint_bytes.0,
                start.checkpoint_number,
                superblock.map_or(log.tail(), |superblock| superblock.checkpoint),
            ),
            tail_seen: log.tail(),
            outbox: Outbox::new(&options.limits),
            peers,
            pace: Pace::new(),
            notices: Notices::default(),
            now: Time(0),
            tick_at: Time(0),
            stall: Stall::default(),
            is_joining,
            replacements: BTreeMap::new(),
            options,
            log,
            relocations: start.groups.iter().map(|_| Relocation::default()).collect(),
            groups: start.groups,
            dispatcher: Dispatcher::default(),
            paused: Vec::new(),
            has_new_room: false,
            appended_at: None,
            superblock_counter: superblock.map_or(0, |superblock| superblock.counter),
            is_stopping: false,
            hand_over_until: Time(0),
            wake: Vec::new(),
            kept: Vec::new(),
            runs: Vec::new(),
            settlements: Vec::new(),
        }
    }

    /// One thing happened. Never fails: a refusal is a reply, a broken promise is [`Output::failure`].
    pub fn step(&mut self, now: Time, input: Input<'_>, output: &mut Output) {
        self.now = now;
        match input {
            Input::Opened { connection } => self.on_opened(now, connection),
            Input::Dialled { node, lane, connection } => self.on_dialled(now, (node, lane), connection),
            Input::Received { connection, bytes } => self.on_received(now, connection, bytes, output),
            Input::Sent { connection, bytes } => self.on_sent(connection, bytes, output),
            Input::Closed { connection } => self.on_closed(now, connection),
            Input::Written { id } => self.on_written(now, id, output),
            Input::SegmentReady { number } => self.on_segment_ready(number),
            Input::SegmentRefused { number } => self.on_segment_refused(number),
            Input::RetrySegments => self.log.retry_segments(),
            Input::Read { position, bytes } => self.on_read(position, bytes),
            Input::SuperblockWritten => self.checkpointer.on_superblock_written(&mut self.log),
            Input::Turn => self.on_turn(now, output),
            Input::Stop => self.on_stop(now),
        }
    }

    /// Bytes the next write takes; `None` when nothing should be written now.
    pub fn next_write_bytes(&self) -> Option<usize> {
        self.log.next_write_bytes()
    }

    /// Fills a page of the caller's, of `next_write_bytes`, with the next write.
    pub fn poll_write(&mut self, page: &mut [u8]) -> Option<WriteAt> {
        let write = self.log.poll_write(page)?;
        self.pace.on_write(write.id, write.bytes, self.now);
        Some(write)
    }

    /// Moves the outgoing bytes of a connection into `out`, which must be empty.
    pub fn take_outgoing(&mut self, connection: ConnectionId, out: &mut Outgoing) {
        assert!(out.is_empty());
        let Some(connection) = self.outbox.connections.get_mut(connection) else { return };
        connection.take(out);
    }

    /// A node is at the other end of this connection, by its own words.
    pub(crate) fn is_peer(&self, id: ConnectionId) -> bool {
        self.outbox.connection(id).is_some_and(|connection| connection.stage == Stage::Peer)
    }

    /// When a [`Input::Turn`] is due even if nothing happens.
    pub fn next_deadline(&self) -> Option<Time> {
        let vouch = self.appended_at.map(|at| at.after_ns(VOUCH_AFTER_NS));
        let leases = self.groups.iter().filter_map(|group| group.engine.next_deadline()).min();
        let tick = (!self.peers.is_empty()).then(|| self.next_tick());
        let (connections, peers) = (self.outbox.connections.next_deadline(), self.peers.next_deadline());
        let due = [connections, peers, self.pace.next_deadline(), vouch, leases, tick];
        due.into_iter().flatten().min()
    }

    /// How the group of this ordinal is at this moment, for whoever looks at a shard from outside.
    pub fn group_state(&self, ordinal: usize) -> Option<GroupState> {
        let group = self.groups.get(ordinal)?;
        Some(GroupState {
            term: group.term(),
            is_leader: group.is_leader(),
            is_serving: group.is_serving(),
            committed: group.replica.committed(),
            applied: group.applied(),
            last: group.replica.last_index(),
            entries_read_back: group.entries_read_back,
        })
    }

    /// Who votes and learns in the group of this ordinal, as of what is applied here.
    pub fn group_members(&self, ordinal: usize) -> Option<ringmain_replication::Members> {
        self.groups.get(ordinal).map(|group| group.replica.members())
    }

    /// A number that is equal on all replicas of a group which have applied the same; walks over all of its state.
    pub fn group_digest(&self, ordinal: usize) -> Option<u64> {
        self.groups.get(ordinal).map(|group| group.engine.digest())
    }

    /// Segments that hold live messages and are not there.
    pub(crate) fn lost_segments(&self) -> Vec<u64> {
        let mut lost = Vec::new();
        self.log.lost_segments(&mut lost);
        lost
    }

    /// This shard may be asked: each of its groups knows its state, or is to be found elsewhere.
    pub fn is_serving(&self) -> bool {
        self.groups.iter().all(|group| group.is_serving() || !group.is_alone())
    }

    /// Every invariant that is too expensive to hold in each step.
    pub fn check(&self) {
        self.log.check();
        self.outbox.connections.check();
        self.readback.check();
        self.pace.check();
        self.peers.check(&self.outbox.connections);
        for group in &self.groups {
            group.check();
        }
        for paused in &self.paused {
            assert!(self.outbox.connection(*paused).is_none_or(|connection| connection.paused));
        }
    }

    /// Others take over what this node leads, so that nobody has to find out that it is gone.
    fn on_stop(&mut self, now: Time) {
        self.is_stopping = true;
        self.hand_over_until = now.after_ns(HAND_OVER_NS);
        self.groups.iter_mut().for_each(Group::hand_over);
    }

    /// This node leads a group that another one could lead.
    fn leads_others(&self) -> bool {
        self.groups.iter().any(|group| group.is_leader() && !group.is_alone())
    }

    fn on_opened(&mut self, now: Time, connection: ConnectionId) {
        self.outbox.connections.insert(connection, now);
        self.outbox.make_seat();
        if self.is_stopping {
            self.outbox.close(connection, Code::ShuttingDown, "this node is shutting down");
        }
    }

    fn on_received(&mut self, now: Time, id: ConnectionId, bytes: &[u8], output: &mut Output) {
        output.consumed = 0;
        output.is_paused = false;
        loop {
            let Some(connection) = self.outbox.connections.get_mut(id) else { return };
            let rest = &bytes[output.consumed..];
            let frame_bytes_max = match connection.stage {
                Stage::AwaitingHello => frame::HELLO_BYTES_MAX,
                Stage::Open => self.options.limits.frame_bytes_max(),
                Stage::Peer => PEER_FRAME_BYTES_MAX,
                Stage::Closing | Stage::Cut => {
                    output.consumed = bytes.len();
                    return;
                }
            };
            match frame::split(rest, frame_bytes_max) {
                Err(error) => {
                    self.note_no_frame(id, &error);
                    self.outbox.close(id, error.code(), &error.to_string());
                    output.consumed = bytes.len();
                    return;
                }
                Ok(None) => {
                    if !rest.is_empty() {
                        self.outbox.connections.arm(id, now);
                    }
                    return;
                }
                Ok(Some(frame)) => {
                    let is_choked = connection.is_choked();
                    connection.choked |= is_choked;
                    if connection.stage == Stage::Peer {
                        self.outbox.connections.disarm(id);
                        output.consumed += frame.bytes;
                        self.on_peer_frame(now, id, &frame, output);
                        continue;
                    }
                    if connection.stage == Stage::Open {
                        self.outbox.connections.disarm(id);
                    }
                    if is_choked || self.on_frame(now, id, &frame) == Flow::Later {
                        self.pause(id);
                        output.is_paused = true;
                        return;
                    }
                    output.consumed += frame.bytes;
                }
            }
        }
    }

    fn pause(&mut self, id: ConnectionId) {
        let Some(connection) = self.outbox.connections.get_mut(id) else { return };
        if !connection.paused {
            connection.paused = true;
            self.paused.push(id);
        }
    }

    fn on_sent(&mut self, id: ConnectionId, bytes: usize, output: &mut Output) {
        let Some(connection) = self.outbox.connections.get_mut(id) else { return };
        assert!(bytes <= connection.handed);
        connection.handed -= bytes;
        if connection.stage == Stage::Peer && connection.has_outgoing() {
            output.sends.push(id);
        }
        if connection.choked && connection.unsent() < OUTGOING_BYTES_MAX / 2 {
            connection.choked = false;
            for group in &mut self.groups {
                group.engine.resume(id);
            }
            if connection.paused {
                connection.paused = false;
                self.paused.retain(|paused| *paused != id);
                output.resumes.push(id);
            }
        }
    }

    fn on_closed(&mut self, now: Time, id: ConnectionId) {
        if let Some(node) = self.peers.closed(id, now) {
            self.lost_peer(node);
        }
        if self.outbox.connections.remove(id).is_none() {
            return;
        }
        self.paused.retain(|paused| *paused != id);
        for group in &mut self.groups {
            group.engine.disconnect(id);
        }
    }

    fn on_written(&mut self, now: Time, id: WriteId, output: &mut Output) {
        self.pace.on_written(id, now);
        let durable_upto = self.log.on_written(id);
        for group in &mut self.groups {
            group.on_durable(durable_upto);
        }
        self.drive(now, output);
        self.has_new_room = true;
    }

    fn on_segment_ready(&mut self, number: u64) {
        self.log.on_segment_ready(number);
        self.has_new_room = true;
    }

    fn on_segment_refused(&mut self, number: u64) {
        self.log.on_segment_refused(number);
        // No room came, but those who wait for it can be told so.
        self.has_new_room = true;
    }

    /// A group, and everything of the shard that it works on.
    pub(crate) fn group_turn(&mut self, now: Time, ordinal: usize) -> (&mut Group, Turn<'_>) {
        let turn = Turn {
            now,
            log: &mut self.log,
            outbox: &mut self.outbox,
            peers: &mut self.peers,
            pace: &mut self.pace,
            readback: &mut self.readback,
            catch_up_reads: &mut self.catch_up_reads,
            cluster: self.options.identity.cluster,
        };
        (&mut self.groups[ordinal], turn)
    }

    pub(crate) fn drive(&mut self, now: Time, output: &mut Output) {
        for ordinal in 0..self.groups.len() {
            let (group, mut turn) = self.group_turn(now, ordinal);
            if let Err(error) = group.drive(&mut turn) {
                output.failure.get_or_insert(error);
            }
        }
    }

    fn on_read(&mut self, position: Position, bytes: Bytes) {
        self.log.unpin(position);
        if let Some((ordinal, read)) = self.catch_up_reads.end(position, bytes.len()) {
            self.groups[ordinal].on_catch_up_read(read, &bytes);
            return;
        }
        self.log.on_page_read(position, bytes);
        self.readback.on_read(position, &mut self.wake);
        for reader in self.wake.drain(..) {
            match reader {
                Reader::Relocation(ordinal) => self.relocations[ordinal].on_read(),
                Reader::Transfer(ordinal) => {
                    if let Some(source) = &mut self.groups[ordinal].source {
                        source.on_read();
                    }
                }
                Reader::Queue(queue) => {
                    self.groups.iter_mut().for_each(|group| group.engine.unpark(QueueId(queue)));
                }
            }
        }
    }

    fn on_turn(&mut self, now: Time, output: &mut Output) {
        while let Some(id) = self.outbox.connections.pop_overdue(now) {
            self.outbox.close(id, Code::Malformed, "a frame was begun and not finished in time");
        }
        self.pace.on_turn();
        self.tend_peers(now, output);
        self.take_late(now, output);
        for group in &mut self.groups {
            group.expire_leases(now, &self.log);
            group.expire_sessions(now, &self.log);
            group.begin_reads();
            group.seek_witness(&mut self.log);
            group.seal(now, &mut self.log);
        }
        self.drive(now, output);
        self.follow_books(output);
        self.answer_reads();
        self.answer_changes();
        let reads_before = output.reads.len();
        self.maintain(output);
        self.advance_transfers(now, output);
        self.advance_catch_ups(now, output);
        self.dispatch(now, output);
        // What is read stays where it is until it was read, even if it is settled meanwhile.
        for window in &output.reads[reads_before..] {
            self.log.pin(window.position);
        }
        self.vouch(now);
        if self.is_stopping && self.is_quiet() && (self.hand_over_until <= now || !self.leads_others()) {
            self.say_goodbye();
            output.is_stopped = true;
        }
        self.finish_turn(output);
    }

    /// What came from leaders and waited for room.
    fn take_late(&mut self, now: Time, output: &mut Output) {
        for ordinal in 0..self.groups.len() {
            let (group, mut turn) = self.group_turn(now, ordinal);
            match group.take_late(&mut turn) {
                Ok(is_unfinished) => output.is_unfinished |= is_unfinished,
                Err(failure) => _ = output.failure.get_or_insert(failure),
            }
        }
    }

    fn dispatch(&mut self, now: Time, output: &mut Output) {
        if self.is_stopping {
            return;
        }
        let (readback, reads) = (&mut self.readback, &mut output.reads);
        let durable_end = self.log.durable_end();
        let mut read = |reader, position, bytes| {
            reads.extend(readback.request(reader, (position, bytes), durable_end));
        };
        let mut source = Source { now, log: &self.log, outbox: &mut self.outbox, read: &mut read };
        for group in &mut self.groups {
            match self.dispatcher.run(group, &mut source) {
                Dispatched::All => {}
                Dispatched::Some => output.is_unfinished = true,
                Dispatched::Failed(failure) => {
                    output.failure.get_or_insert(failure);
                }
            }
        }
    }

    /// The work behind the messages: segments, checkpoints, copying forward.
    fn maintain(&mut self, output: &mut Output) {
        for group in &mut self.groups {
            output.is_unfinished |= group.reap(&mut self.log);
        }
        self.keep_for_followers();
        while let Some(segment) = self.log.poll_segment() {
            if let PrepareSegment::Recycle { from, .. } = segment {
                self.groups.iter_mut().for_each(|group| group.on_segment_recycled(from));
            }
            output.segments.push(segment);
        }
        if self.relocations.iter().all(Relocation::is_idle) && self.checkpointer.is_due(&self.log) {
            self.checkpointer.begin(&self.groups, &self.log);
        }
        if let Some(replay_from) = self.checkpointer.advance(&mut self.log) {
            output.superblock = Some(self.superblock(replay_from));
        }
        if !self.checkpointer.is_idle() {
            return;
        }
        for (ordinal, (group, relocation)) in self.groups.iter_mut().zip(&mut self.relocations).enumerate() {
            let hard_state = group.hard_state();
            if relocation.is_idle() {
                relocation.begin(&self.log);
            }
            let pass = Pass {
                engine: &mut group.engine,
                log: &mut self.log,
                readback: &mut self.readback,
                reader: Reader::Relocation(ordinal),
                group: group.id,
                hard_state,
            };
            match relocation.advance(pass) {
                Ok(read) => output.reads.extend(read),
                Err(failure) => _ = output.failure.get_or_insert(failure),
            }
        }
    }

    fn superblock(&mut self, replay_from: ReplayFrom) -> Superblock {
        self.superblock_counter += 1;
        Superblock {
            identity: self.options.identity,
            boot: self.log.boot(),
            counter: self.superblock_counter,
            checkpoint: replay_from.position,
            sequence: replay_from.sequence,
            durable_upto: self.log.durable_upto(),
        }
    }

    /// A durable record without a successor could rot and be taken for a torn tail: give it a successor.
    fn vouch(&mut self, now: Time) {
        if self.log.tail() != self.tail_seen {
            self.tail_seen = self.log.tail();
            self.appended_at = Some(now);
        }
        if self.appended_at.is_some_and(|at| at.after_ns(VOUCH_AFTER_NS) <= now) {
            let is_still = self.log.durable_upto() == self.log.last_sequence();
            self.log.vouch();
            // The voucher itself needs none.
            self.tail_seen = self.log.tail();
            self.appended_at = if is_still { None } else { Some(now) };
        }
    }

    fn finish_turn(&mut self, output: &mut Output) {
        output.sends.append(&mut self.outbox.dirty);
        output.closes.append(&mut self.outbox.closing);
        output.notices.append(&mut self.notices.due);
        output.cuts.append(&mut self.outbox.cut);
        // Only when there is more room than when they were paused: asking again in vain would never end.
        if std::mem::take(&mut self.has_new_room) {
            let connections = &mut self.outbox.connections;
            self.paused.retain(|id| {
                let Some(connection) = connections.get_mut(*id) else { return false };
                // What was sent wakes it, not what was written.
                if connection.choked {
                    return true;
                }
                connection.paused = false;
                output.resumes.push(*id);
                false
            });
        }
    }

    /// Everything admitted is answered: every client is told before its connection ends.
    fn say_goodbye(&mut self) {
        let ids: Vec<ConnectionId> = self.outbox.connections.ids().collect();
        for id in ids {
            self.outbox.close(id, Code::ShuttingDown, "this node is shutting down");
        }
    }

    fn is_quiet(&self) -> bool {
        self.groups.iter().all(Group::is_quiet) && self.log.durable_upto() == self.log.last_sequence()
    }
}

/// What a shard begins with: what recovery found.
pub(crate) struct ShardStart {
    pub(crate) log: LogStart,
    pub(crate) groups: Vec<Group>,
    pub(crate) checkpoint_number: u64,
    pub(crate) superblock: Option<Superblock>,
}

#[cfg(test)]
mod tests;
