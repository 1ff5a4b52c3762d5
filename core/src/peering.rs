//! What a shard and its peers say to each other: who they are, the messages of their groups, and that they are there.
//!
//! Lives inside the shard. Everything a peer sends was examined twice before the engine of consensus hears it: here, that
//! it comes from the replica at the other end of this connection and is for this one; there, that it makes sense.
//!
//! Also what follows from time and from silence: ticks, leadership that leaves a node whose disk stands still, and
//! leadership that returns to the node it belongs to once that is back.

mod greeting;

use crate::connection::ConnectionId;
use crate::formation::State;
use crate::group::{Group, Turn};
use crate::member::{Book, Member, node_of};
use crate::outgoing::{Outgoing, SHARED_BYTES_MIN};
use crate::peers::{PEER_UNSENT_MAX, Standing};
use crate::shard::{Output, Shard};
use crate::time::Time;
use bytes::Bytes;
use ringmain_net::frame::Frame;
use ringmain_net::peer::{
    self, EntryHead, Lane, MessageKind, PeerCode, PeerFrame, Received, ReplicateHead, ReplicateView,
    SnapshotHead,
};
use ringmain_net::protocol::Reply;
use ringmain_replication::{Entry, EntryKind, Index, Kind, Message, Plain, PlainSnapshot, Progress, Term};
use ringmain_wal::{GroupId, Log, Sequence};

/// The unit of elections and heartbeats: what an idle node costs is its wake-ups, and what a failover costs is ten of these.
pub(crate) const TICK_NS: u64 = 25_000_000;
/// A leader whose disk has finished no write for so long, with one under way, hands over.
const STALL_NS: u64 = 500_000_000;
/// A node that came back has this long to settle before it leads again.
const BALANCE_AFTER_NS: u64 = 2_000_000_000;

/// Entries that the next leader may lack when it is asked: it is sent them first, and nothing is proposed meanwhile.
const HANDOVER_LAG_MAX: u64 = 256;

/// Whether the disk makes progress.
#[derive(Default, Debug)]
pub(crate) struct Stall {
    durable_upto: Sequence,
    since: Time,
}

impl Stall {
    /// Looked at with every tick. True: nothing became durable for too long, though something should have.
    fn is_over_limit(&mut self, log: &Log, now: Time) -> bool {
        let durable_upto = log.durable_upto();
        if log.writes_in_flight() == 0 || durable_upto != self.durable_upto {
            (self.durable_upto, self.since) = (durable_upto, now);
        }
        if self.since.after_ns(STALL_NS) <= now {
            // Once in so long: a handover takes its time.
            self.since = now;
            return true;
        }
        false
    }
}

/// A node whose log was set aside, and the member that it was.
#[derive(Clone, Debug)]
pub(crate) struct Replacement {
    before: u64,
    member: Member,
}

/// Sends a message of the group's replica. False: the peer is not reached, or has too much to take already.
pub(crate) fn send(turn: &mut Turn<'_>, group: GroupId, message: &Message) -> bool {
    let node = node_of(message.to);
    let Some(up) = turn.peers.up(node).filter(|up| up.replica == message.to) else { return false };
    let Some(plain) = Plain::of(message) else { return true };
    let is_urgent = plain.entries.is_empty() && plain.snapshot.is_none();
    let unsent = turn.outbox.connection(up.connection).map_or(0, |connection| connection.unsent());
    if !is_urgent && PEER_UNSENT_MAX <= unsent {
        return false;
    }
    turn.peers.said(node, turn.now);
    let cluster = turn.cluster;
    // Somebody waits for the answer to one that carries a read.
    if plain.kind == Kind::HeartbeatResponse && plain.context.is_empty() {
        turn.outbox.send_along(up.connection, |out| encode(out, cluster, group, &plain));
    } else {
        turn.outbox.send_peer(up.connection, is_urgent, |out| encode(out, cluster, group, &plain));
    }
    true
}

/// Tells the leader what this replica has in memory.
pub(crate) fn send_received(
    turn: &mut Turn<'_>,
    group: GroupId,
    (from, to): (u64, u64),
    (term, index): (Term, Index),
) {
    if let Some(up) = turn.peers.up(node_of(to)) {
        let words =
            Received { cluster: turn.cluster, group: group.0, from, to, term: term.0, index: index.0 };
        turn.outbox.send_urgent(up.connection, &words);
    }
}

fn encode(out: &mut Outgoing, cluster: u64, group: GroupId, plain: &Plain) {
    let snapshot = plain.snapshot.as_ref().map(|snapshot| SnapshotHead {
        index: snapshot.index.0,
        term: snapshot.term.0,
        transfer: snapshot.transfer,
        membership: &snapshot.conf_state,
    });
    let head = ReplicateHead {
        cluster,
        group: group.0,
        from: plain.from,
        to: plain.to,
        kind: kind_to_wire(plain.kind),
        reject: plain.reject,
        term: plain.term,
        log_term: plain.log_term,
        index: plain.index,
        commit: plain.commit,
        commit_term: plain.commit_term,
        reject_hint: plain.reject_hint,
        request_snapshot: plain.request_snapshot,
        priority: plain.priority,
        context: &plain.context,
        snapshot,
    };
    let entries = plain.entries.iter().map(|entry| {
        let kind = match entry.kind {
            EntryKind::Normal => peer::EntryKind::Normal,
            EntryKind::Membership => peer::EntryKind::Membership,
        };
        let bytes = entry.data.len() as u32;
        (EntryHead { term: entry.term.0, index: entry.index.0, bytes, kind }, &entry.data[..])
    });
    let (written, shared) = out.both();
    peer::encode_replicate_apart(written, &head, entries, SHARED_BYTES_MIN, |apart| {
        shared.push(apart.at, plain.entries[apart.entry].data.clone());
    });
}

/// The message that a frame carries. `None`: no message could be like that.
fn message(view: &ReplicateView<'_>) -> Option<Message> {
    let head = &view.head;
    let entry = |(head, data): (EntryHead, &[u8])| Entry {
        term: Term(head.term),
        index: Index(head.index),
        kind: match head.kind {
            peer::EntryKind::Normal => EntryKind::Normal,
            peer::EntryKind::Membership => EntryKind::Membership,
        },
        data: Bytes::copy_from_slice(data),
    };
    let snapshot = head.snapshot.map(|snapshot| PlainSnapshot {
        index: Index(snapshot.index),
        term: Term(snapshot.term),
        transfer: snapshot.transfer,
        conf_state: snapshot.membership.to_vec(),
    });
    let plain = Plain {
        kind: kind_from_wire(head.kind),
        from: head.from,
        to: head.to,
        term: head.term,
        log_term: head.log_term,
        index: head.index,
        commit: head.commit,
        commit_term: head.commit_term,
        reject_hint: head.reject_hint,
        request_snapshot: head.request_snapshot,
        priority: head.priority,
        reject: head.reject,
        context: Bytes::copy_from_slice(head.context),
        snapshot,
        entries: view.entries().map(entry).collect(),
    };
    plain.into_message().ok()
}

fn kind_to_wire(kind: Kind) -> MessageKind {
    match kind {
        Kind::Append => MessageKind::Append,
        Kind::AppendResponse => MessageKind::AppendResponse,
        Kind::RequestVote => MessageKind::RequestVote,
        Kind::RequestVoteResponse => MessageKind::RequestVoteResponse,
        Kind::Heartbeat => MessageKind::Heartbeat,
        Kind::HeartbeatResponse => MessageKind::HeartbeatResponse,
        Kind::RequestPreVote => MessageKind::RequestPreVote,
        Kind::RequestPreVoteResponse => MessageKind::RequestPreVoteResponse,
        Kind::Snapshot => MessageKind::Snapshot,
        Kind::TimeoutNow => MessageKind::TimeoutNow,
    }
}

fn kind_from_wire(kind: MessageKind) -> Kind {
    match kind {
        MessageKind::Append => Kind::Append,
        MessageKind::AppendResponse => Kind::AppendResponse,
        MessageKind::RequestVote => Kind::RequestVote,
        MessageKind::RequestVoteResponse => Kind::RequestVoteResponse,
        MessageKind::Heartbeat => Kind::Heartbeat,
        MessageKind::HeartbeatResponse => Kind::HeartbeatResponse,
        MessageKind::RequestPreVote => Kind::RequestPreVote,
        MessageKind::RequestPreVoteResponse => Kind::RequestPreVoteResponse,
        MessageKind::Snapshot => Kind::Snapshot,
        MessageKind::TimeoutNow => Kind::TimeoutNow,
    }
}

impl Shard {
    /// What follows from the time that has passed.
    pub(crate) fn tend_peers(&mut self, now: Time, output: &mut Output) {
        if self.peers.is_empty() {
            return;
        }
        if self.tick_at <= now {
            for _ in 0..self.ticks_due(now) {
                self.groups.iter_mut().for_each(|group| group.tick(&self.log));
                self.outbox.tick();
            }
            if self.stall.is_over_limit(&self.log, now) {
                self.groups.iter_mut().for_each(Group::hand_over);
            }
            self.pace.on_tick(now);
            self.balance(now);
            self.replace_members();
            self.groups.iter_mut().for_each(Group::promote);
            self.tend_transfers(now);
            // What waits for room may wait for a leader.
            self.has_new_room = true;
        }
        let welcome = self.welcome();
        self.peers.tend(now, &welcome, &mut self.outbox);
        while let Some(dial) = self.peers.poll_dial(now) {
            output.dials.push(dial);
        }
    }

    /// Ticks that have passed, one of them unnoticed at most: a process that was stopped has missed many, and must not hold an
    /// election for each.
    fn ticks_due(&mut self, now: Time) -> u32 {
        let next = self.tick_at.after_ns(TICK_NS);
        let (ticks, at) = if next <= now { (2, next) } else { (1, self.tick_at) };
        let due = at.after_ns(TICK_NS);
        self.tick_at = if due <= now { now.after_ns(TICK_NS) } else { due };
        ticks
    }

    /// When a turn is due for the sake of time. With nothing to do each second tick is let pass: idle nodes cost their wake-ups,
    /// and a leader sends heartbeats every second tick.
    pub(crate) fn next_tick(&self) -> Time {
        let is_calm = self.log.writes_in_flight() == 0 && self.groups.iter().all(Group::is_calm);
        if is_calm { self.tick_at.after_ns(TICK_NS) } else { self.tick_at }
    }

    /// The members of a group may have changed.
    pub(crate) fn follow_books(&mut self, output: &mut Output) {
        let mut is_new = false;
        for group in &mut self.groups {
            is_new |= std::mem::take(&mut group.has_new_book);
        }
        if is_new {
            let books: Vec<&Book> = self.groups.iter().map(|group| &group.book).collect();
            self.peers.keep(&books, &mut self.outbox);
            output.is_spared = Some(self.groups.iter().all(Group::is_spared));
            let me = self.options.replica();
            if self.is_joining && books.iter().all(|book| book.find(me).is_some()) {
                (self.is_joining, output.has_joined) = (false, true);
                self.peers.calls_all = false;
                // A node that asks whether there is a cluster may know of nobody else, and this one answers for it from now
                // on. Should a crash come before the directory says so, the next start finds out the same from its log.
                if let Some(layout) = &mut self.options.layout {
                    layout.state = State::Formed;
                }
            }
        }
    }

    /// Leadership returns to the node it belongs to, when that has been back for a while.
    fn balance(&mut self, now: Time) {
        for group in &mut self.groups {
            let Some(up) = self.peers.up(group.preferred) else { continue };
            let settled = up.since.max(group.led_since).after_ns(BALANCE_AFTER_NS);
            if settled <= now && group.balanced != Some(up.since) {
                group.return_leadership(up.replica, up.since);
            }
        }
    }

    /// Makes newcomers members in the place of those they were, where this node leads.
    fn replace_members(&mut self) {
        for replacement in self.replacements.values() {
            // Whoever is there is not gone, whatever somebody else says.
            let node = replacement.member.node;
            if self.peers.up(node).is_some_and(|up| up.replica == replacement.before) {
                continue;
            }
            for group in self.groups.iter_mut().filter(|group| group.is_serving()) {
                group.replace_member(replacement.before, &replacement.member);
            }
        }
        let groups = &self.groups;
        let is_open = |one: &Replacement| groups.iter().any(|group| group.book.find(one.before).is_some());
        self.replacements.retain(|_, replacement| is_open(replacement));
    }

    /// A peer's connection has said something.
    pub(crate) fn on_peer_frame(
        &mut self,
        now: Time,
        id: ConnectionId,
        frame: &Frame<'_>,
        output: &mut Output,
    ) {
        let said = match PeerFrame::decode(frame) {
            Ok(said) => said,
            Err(error) => {
                match (self.peers.at(id), Reply::decode(frame)) {
                    (Some((node, _)), Ok(Reply::Closing(closing))) => self.on_closing(id, node, &closing),
                    _ => self.refuse_known(id, PeerCode::Malformed, &error.to_string()),
                }
                return;
            }
        };
        let Some((node, standing)) = self.peers.at(id) else {
            self.outbox.drop_connection(id);
            return;
        };
        let is_said = match standing {
            Standing::Greeting(lane) => {
                self.on_greeted(now, (id, node, lane), &said, output);
                true
            }
            Standing::Messages => self.on_message_frame(now, (id, node), &said, output),
            Standing::ToTarget | Standing::FromSource => match said {
                PeerFrame::PeerRefused(refused) => {
                    self.on_refused(node, &refused, output);
                    true
                }
                said => {
                    standing == Standing::FromSource && self.on_transfer(now, (id, node), Lane::Bulk, &said)
                }
            },
        };
        if !is_said {
            let detail = "a frame that is not for now, or not for this connection";
            self.refuse_known(id, PeerCode::Malformed, detail);
        }
    }

    /// What came over the connection for messages. False: it does not belong there.
    fn on_message_frame(
        &mut self,
        now: Time,
        (id, node): (ConnectionId, u32),
        said: &PeerFrame<'_>,
        output: &mut Output,
    ) -> bool {
        self.peers.heard(node, now);
        match said {
            PeerFrame::PeerWelcome(_) => {}
            PeerFrame::Replicate(view) => self.on_replicate(now, (id, node), view, output),
            // Only the answer to our own hello says that this node was removed: these words name nobody for whom they
            // are, and may have been said to another.
            PeerFrame::PeerRefused(refused) => self.note_refused_by(node, refused),
            PeerFrame::Received(received) => self.on_received_by(now, (id, node), received),
            said => return self.on_transfer(now, (id, node), Lane::Messages, said),
        }
        true
    }

    fn on_replicate(
        &mut self,
        now: Time,
        (id, node): (ConnectionId, u32),
        view: &ReplicateView<'_>,
        output: &mut Output,
    ) {
        let head = &view.head;
        let is_ours = head.cluster == self.options.identity.cluster && head.to == self.options.replica();
        let is_theirs = self.peers.up(node).is_some_and(|up| up.replica == head.from);
        let group = self.options.ordinal(GroupId(head.group)).filter(|_| is_ours && is_theirs);
        let (Some(ordinal), Some(message)) = (group, message(view)) else {
            let detail = "a message from another replica, or for another one";
            self.refuse_known(id, PeerCode::Malformed, detail);
            return;
        };
        let (group, mut turn) = self.group_turn(now, ordinal);
        if let Err(failure) = group.on_message(message, &mut turn) {
            output.failure.get_or_insert(failure);
        }
        self.has_new_room = true;
    }

    fn on_received_by(&mut self, now: Time, (id, node): (ConnectionId, u32), received: &Received) {
        let is_ours =
            received.cluster == self.options.identity.cluster && received.to == self.options.replica();
        let is_theirs = self.peers.up(node).is_some_and(|up| up.replica == received.from);
        let group = self.options.ordinal(GroupId(received.group)).filter(|_| is_ours && is_theirs);
        let Some(ordinal) = group else {
            self.refuse_known(id, PeerCode::Malformed, "what another replica has, or for another one");
            return;
        };
        let (term, index) = (Term(received.term), Index(received.index));
        let (group, mut turn) = self.group_turn(now, ordinal);
        group.on_received(received.from, term, index, &mut turn);
    }

    /// The connection to a peer is over: the groups go back to probing where it stands.
    pub(crate) fn lost_peer(&mut self, node: u32) {
        let Some(replica) = self.peers.replica(node) else { return };
        for group in self.groups.iter_mut().filter(|group| group.is_leader()) {
            group.replica.report_unreachable(replica);
        }
    }
}

impl Group {
    /// Gives leadership to whoever has most of the log, because this node's disk stands still or the node stops.
    pub(crate) fn hand_over(&mut self) {
        if !self.is_leader() {
            return;
        }
        let me = self.replica.id();
        let able = self.replica.progress().filter(|peer| peer.id != me && peer.is_voter && peer.is_active);
        let Some(best) = able.max_by_key(|peer| peer.matched).map(|peer| peer.id) else { return };
        // Refused while another handover is under way: then that one goes on.
        let _ = self.replica.transfer_leadership(best);
    }

    /// The preferred member is back: it leads again, once it has everything.
    fn return_leadership(&mut self, preferred: u64, up_since: Time) {
        if !self.is_serving() {
            return;
        }
        let last = self.replica.last_index().0;
        let is_near = |peer: &Progress| last.saturating_sub(peer.matched.0) <= HANDOVER_LAG_MAX;
        let is_it = |peer: &Progress| peer.id == preferred && peer.is_voter && peer.is_active;
        let is_current = self.replica.progress().any(|peer| is_it(&peer) && is_near(&peer));
        if is_current && self.replica.transfer_leadership(preferred).is_ok() {
            self.balanced = Some(up_since);
        }
    }
}

#[cfg(test)]
mod tests;
