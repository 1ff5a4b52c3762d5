//! The first words between a shard and a peer, whoever has dialled: who they are, and why they talk no further.
//!
//! Lives inside the shard.

use super::Replacement;
use crate::connection::ConnectionId;
use crate::failure::Failure;
use crate::formation;
use crate::member::{Member, replica_id};
use crate::notice::printable;
use crate::request::NO_HELLO;
use crate::shard::{Address, Output, Shard};
use crate::time::Time;
use ringmain_net::frame::Frame;
use ringmain_net::peer::{Lane, PEER_PROTOCOL, PeerCode, PeerFrame, PeerHello, PeerRefused, PeerWelcome};
use ringmain_net::protocol::{Closing, Code};

impl Shard {
    pub(super) fn welcome(&self) -> PeerWelcome {
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
            _ => {
                self.note_stranger(NO_HELLO);
                self.outbox.refuse_peer(id, PeerCode::Malformed, NO_HELLO);
            }
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
                self.refuse_caller(id, hello, code, &detail);
            }
            return;
        }
        if !self.outbox.connections.has_room_for_peer() {
            let detail = "this shard has as many peers as there can be";
            self.refuse_caller(id, hello, PeerCode::Busy, detail);
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

    /// Says so here as well: whoever runs the caller may not be who runs this node. That this one stops is no news.
    fn refuse_caller(&mut self, id: ConnectionId, hello: &PeerHello<'_>, code: PeerCode, detail: &str) {
        if !self.is_stopping {
            self.note_caller((hello.node, hello.host), code, detail);
        }
        self.outbox.refuse_peer(id, code, detail);
    }

    /// Refuses whoever is at the other end of a connection that was called, or welcome.
    pub(super) fn refuse_known(&mut self, id: ConnectionId, code: PeerCode, detail: &str) {
        self.note_peer(id, code, detail);
        self.outbox.refuse_peer(id, code, detail);
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

    /// The answer to our hello.
    pub(super) fn on_greeted(
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
                    self.refuse_known(id, PeerCode::WrongNode, &detail);
                } else if let Some((code, detail)) = self.stranger_refusal(node, welcome.incarnation) {
                    self.refuse_known(id, code, &detail);
                } else {
                    self.on_welcomed(now, replica_id(node, welcome.incarnation), (id, lane));
                }
            }
            PeerFrame::PeerRefused(refused) => {
                self.on_refused(node, refused, output);
                self.outbox.drop_connection(id);
            }
            _ => self.refuse_known(id, PeerCode::Malformed, "a welcome was expected"),
        }
    }

    fn on_welcomed(&mut self, now: Time, replica: u64, (id, lane): (ConnectionId, Lane)) {
        match lane {
            Lane::Messages => _ = self.peers.came_up(replica, id, now),
            Lane::Bulk => {
                if !self.peers.bulk_came_up(replica, id) {
                    let detail = "another incarnation than at the connection for messages";
                    self.refuse_known(id, PeerCode::Incarnation, detail);
                }
            }
        }
    }

    /// The answer to our hello was no.
    pub(super) fn on_refused(&mut self, node: u32, refused: &PeerRefused<'_>, output: &mut Output) {
        if refused.code() == PeerCode::Removed {
            let detail = format!("node {node} says: {}", printable(refused.detail));
            output.failure.get_or_insert(Failure::Removed { detail });
        } else {
            self.note_refused_by(node, refused);
        }
    }

    /// Whoever ends a connection before it has heard the hello, or because it has not understood it, speaks as to a client.
    pub(super) fn on_closing(&mut self, id: ConnectionId, node: u32, closing: &Closing<'_>) {
        let code = match closing.code() {
            Code::UnsupportedVersion => PeerCode::WrongVersion,
            _ => PeerCode::Busy,
        };
        // It ends, and is called again when it is back.
        if closing.code() != Code::ShuttingDown {
            self.note_refused_by(node, &PeerRefused { code: code as u16, detail: closing.detail });
        }
        self.outbox.drop_connection(id);
    }
}
