//! What a shard and its peers say to each other: who they are, the messages of their groups, and that they are there.
//!
//! Lives inside the shard. Everything a peer sends was examined twice before the engine of consensus hears it: here, that
//! it comes from the replica at the other end of this connection and is for this one; there, that it makes sense.
//!
//! Also what follows from time and from silence: ticks, leadership that leaves a node whose disk stands still, and
//! leadership that returns to the node it belongs to once that is back.

use crate::connection::ConnectionId;
use crate::failure::Failure;
use crate::formation;
use crate::group::{Group, Turn};
use crate::member::{Book, Member, node_of, replica_id};
use crate::outgoing::{Outgoing, SHARED_BYTES_MIN};
use crate::peers::{PEER_UNSENT_MAX, Standing};
use crate::shard::{Address, Output, Shard};
use crate::time::Time;
use bytes::Bytes;
use ringmain_net::frame::Frame;
use ringmain_net::peer::{
    self, EntryHead, Lane, MessageKind, PEER_PROTOCOL, PeerCode, PeerFrame, PeerHello, PeerRefused,
    PeerWelcome, Received, ReplicateHead, ReplicateView, SnapshotHead,
};
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

/// What a peer says against this node, for whoever runs it.
fn refusal(node: u32, refused: &PeerRefused<'_>) -> String {
    format!("node {node} refuses this one: {}: {}", refused.code(), refused.detail)
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
            // A process that was stopped has missed ticks, and must not hold an election for each of them.
            self.tick_at = now.after_ns(TICK_NS);
            self.groups.iter_mut().for_each(|group| group.tick(&self.log));
            self.outbox.tick();
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

    fn welcome(&self) -> PeerWelcome {
        let identity = self.options.identity;
        PeerWelcome {
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            shard: identity.shard,
        }
    }

    pub(crate) fn on_dialled(
        &mut self,
        now: Time,
        (node, lane): (u32, Lane),
        connection: Option<ConnectionId>,
    ) {
        let Some(id) = connection else {
            self.peers.dial_failed((node, lane), now);
            return;
        };
        self.outbox.connections.insert(id, now);
        self.outbox.make_seat();
        if !self.peers.dialled((node, lane), id, now) || self.is_stopping {
            self.outbox.drop_connection(id);
            return;
        }
        self.outbox.connections.greet_peer(id);
        let identity = self.options.identity;
        let own = self.options.addresses.first();
        let hello = PeerHello {
            protocol: PEER_PROTOCOL,
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            shard: identity.shard,
            shards: self.options.addresses.len() as u32,
            groups: self.groups.len() as u32,
            to_node: node,
            replaces: self.options.layout.as_ref().map_or(0, |layout| layout.replaces),
            lane: lane as u8,
            host: own.map_or("", |own| &own.host),
            port: own.map_or(0, |own| own.port),
        };
        self.outbox.send_urgent(id, &hello);
    }

    /// The first frame of a connection. False: it is not a peer's.
    pub(crate) fn on_first_of_peer(&mut self, now: Time, id: ConnectionId, frame: &Frame<'_>) -> bool {
        let Ok(said) = PeerFrame::decode(frame) else { return false };
        match said {
            PeerFrame::PeerHello(hello) => self.on_peer_hello(now, id, &hello),
            PeerFrame::FormHello(_) => self.on_form_hello(id),
            _ => self.outbox.refuse_peer(id, PeerCode::Malformed, "the first frame must be a hello"),
        }
        true
    }

    /// A node that is not part of a cluster asks whether there is one.
    fn on_form_hello(&mut self, id: ConnectionId) {
        if let (Some(layout), Some(own)) = (&self.options.layout, self.options.addresses.first()) {
            let reply = formation::form_reply(layout, &own.host, own.port);
            self.outbox.send(id, 0, &reply);
        }
        self.outbox.drop_connection(id);
    }

    fn on_peer_hello(&mut self, now: Time, id: ConnectionId, hello: &PeerHello<'_>) {
        let refusal = self.hello_refusal(hello);
        let is_bulk = hello.lane() == Some(Lane::Bulk);
        if let Some((code, detail)) = refusal {
            let is_replaced = code == PeerCode::Incarnation && self.note_replacement(hello);
            if is_replaced {
                let detail = "it is being made a member in place of what it was";
                self.outbox.refuse_peer(id, PeerCode::Busy, detail);
            } else {
                self.outbox.refuse_peer(id, code, &detail);
            }
            return;
        }
        if !self.outbox.connections.has_room_for_peer() {
            let detail = "this shard has as many peers as there can be";
            self.outbox.refuse_peer(id, PeerCode::Busy, detail);
            return;
        }
        if is_bulk {
            self.on_bulk_hello(id, hello);
            return;
        }
        let address = Address { host: hello.host.to_owned(), port: hello.port };
        self.peers.meet(&Member { node: hello.node, incarnation: hello.incarnation, address });
        self.outbox.connections.greet_peer(id);
        if let Some(before) = self.peers.came_up(replica_id(hello.node, hello.incarnation), id, now) {
            self.outbox.drop_connection(before);
        }
        let welcome = self.welcome();
        self.outbox.send_urgent(id, &welcome);
    }

    /// Somebody whose hello is good has a checkpoint for this node.
    fn on_bulk_hello(&mut self, id: ConnectionId, hello: &PeerHello<'_>) {
        let replica = replica_id(hello.node, hello.incarnation);
        if !self.peers.bulk_accepted(replica, id, &mut self.outbox) {
            let detail = format!("there is no connection for messages with node {} beside it", hello.node);
            self.outbox.refuse_peer(id, PeerCode::Busy, &detail);
            return;
        }
        self.outbox.connections.greet_peer(id);
        let welcome = self.welcome();
        self.outbox.send_urgent(id, &welcome);
    }

    /// The node's log was rotten: as a new member it takes the place of the one that it was. False: it is no member, or
    /// says nothing of the kind.
    fn note_replacement(&mut self, hello: &PeerHello<'_>) -> bool {
        let before = replica_id(hello.node, hello.replaces);
        let known = self.groups.iter().find_map(|group| group.book.find(before)).cloned();
        let Some(known) = known.filter(|_| hello.replaces != 0) else { return false };
        let member = Member { incarnation: hello.incarnation, ..known };
        self.replacements.insert(hello.node, Replacement { before, member });
        true
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

    fn hello_refusal(&self, hello: &PeerHello<'_>) -> Option<(PeerCode, String)> {
        let identity = self.options.identity;
        if hello.protocol != PEER_PROTOCOL {
            let detail = format!("protocol {}: this node speaks {PEER_PROTOCOL}", hello.protocol);
            return Some((PeerCode::WrongVersion, detail));
        }
        if hello.lane().is_none() {
            let detail = format!("lane {}: this node knows messages (0) and bulk (1)", hello.lane);
            return Some((PeerCode::Malformed, detail));
        }
        if hello.cluster != identity.cluster {
            let detail = format!("cluster {:016x}: this is {:016x}", hello.cluster, identity.cluster);
            return Some((PeerCode::WrongCluster, detail));
        }
        if hello.to_node != identity.node || hello.node == identity.node {
            let detail =
                format!("node {} calls node {}: this is {}", hello.node, hello.to_node, identity.node);
            return Some((PeerCode::WrongNode, detail));
        }
        if hello.shard != identity.shard {
            let detail = format!("shard {} calls shard {}", hello.shard, identity.shard);
            return Some((PeerCode::WrongShard, detail));
        }
        let layout = (self.options.addresses.len() as u32, self.groups.len() as u32);
        if (hello.shards, hello.groups) != layout {
            let (shards, groups) = layout;
            let detail = format!(
                "{} shards with {} groups: this node has {shards} with {groups}",
                hello.shards, hello.groups
            );
            return Some((PeerCode::Layout, detail));
        }
        if self.is_stopping {
            return Some((PeerCode::Busy, "this node is shutting down".to_owned()));
        }
        self.stranger_refusal(hello.node, hello.incarnation)
    }

    /// Why this replica is not talked to: it must be a member of a group here.
    fn stranger_refusal(&self, node: u32, incarnation: u32) -> Option<(PeerCode, String)> {
        let replica = replica_id(node, incarnation);
        let mut books = self.groups.iter().map(|group| &group.book);
        // Who is no member by its own books knows the cluster of long ago: whoever takes it for one knows better.
        let is_newcomer = !books.clone().any(|book| book.find(self.options.replica()).is_some());
        if is_newcomer || books.clone().any(|book| book.find(replica).is_some()) {
            return None;
        }
        if books.clone().any(|book| book.removed.contains(&replica)) {
            return Some((PeerCode::Removed, format!("node {node} was removed from the cluster")));
        }
        if books.any(|book| book.find_node(node).is_some()) {
            let detail = format!(
                "node {node} is a member with another data directory: remove it, then add it with this one"
            );
            return Some((PeerCode::Incarnation, detail));
        }
        Some((PeerCode::Busy, format!("node {node} is not a member yet")))
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
                self.outbox.refuse_peer(id, PeerCode::Malformed, &error.to_string());
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
            self.outbox.refuse_peer(id, PeerCode::Malformed, detail);
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
            PeerFrame::PeerRefused(refused) => output.notices.push(refusal(node, refused)),
            PeerFrame::Received(received) => self.on_received_by(now, (id, node), received),
            said => return self.on_transfer(now, (id, node), Lane::Messages, said),
        }
        true
    }

    /// The answer to our hello.
    fn on_greeted(
        &mut self,
        now: Time,
        (id, node, lane): (ConnectionId, u32, Lane),
        said: &PeerFrame<'_>,
        output: &mut Output,
    ) {
        match said {
            PeerFrame::PeerWelcome(welcome) => {
                let identity = self.options.identity;
                let is_right = welcome.cluster == identity.cluster
                    && welcome.node == node
                    && welcome.shard == identity.shard;
                if !is_right {
                    let detail = format!("node {node} was called, and node {} answers", welcome.node);
                    self.outbox.refuse_peer(id, PeerCode::WrongNode, &detail);
                } else if let Some((code, detail)) = self.stranger_refusal(node, welcome.incarnation) {
                    self.outbox.refuse_peer(id, code, &detail);
                } else {
                    self.on_welcomed(now, replica_id(node, welcome.incarnation), (id, lane));
                }
            }
            PeerFrame::PeerRefused(refused) => {
                self.on_refused(node, refused, output);
                self.outbox.drop_connection(id);
            }
            _ => self.outbox.refuse_peer(id, PeerCode::Malformed, "a welcome was expected"),
        }
    }

    fn on_welcomed(&mut self, now: Time, replica: u64, (id, lane): (ConnectionId, Lane)) {
        match lane {
            Lane::Messages => _ = self.peers.came_up(replica, id, now),
            Lane::Bulk => {
                if !self.peers.bulk_came_up(replica, id) {
                    let detail = "another incarnation than at the connection for messages";
                    self.outbox.refuse_peer(id, PeerCode::Incarnation, detail);
                }
            }
        }
    }

    /// The answer to our hello was no.
    fn on_refused(&mut self, node: u32, refused: &PeerRefused<'_>, output: &mut Output) {
        if refused.code() == PeerCode::Removed {
            let detail = format!("node {node} says: {}", refused.detail);
            output.failure.get_or_insert(Failure::Removed { detail });
        } else {
            output.notices.push(refusal(node, refused));
        }
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
            self.outbox.refuse_peer(id, PeerCode::Malformed, detail);
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
            self.outbox.refuse_peer(id, PeerCode::Malformed, "what another replica has, or for another one");
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
