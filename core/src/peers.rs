//! The other nodes, as one shard sees them: which are connected, which are to be dialled, and what they are sent.
//!
//! Lives inside the shard. There is one connection for messages for each pair of nodes and each shard index; the node with
//! the higher number dials. Whoever is not connected is sent nothing: the engine of consensus lives with lost messages, and
//! is told. What carries no payload (votes, heartbeats, acknowledgements) goes before entries that wait.
//!
//! Checkpoints go over connections of their own (`bulk`), so that neither ever waits behind them.

mod bulk;

use crate::connection::{ConnectionId, Connections};
use crate::member::{Book, Member, node_of};
use crate::outbox::Outbox;
use crate::shard::Address;
use crate::time::Time;
use bulk::Bulk;
use ringmain_net::peer::{Lane, PeerWelcome};
use std::collections::BTreeMap;

/// Entries for one peer that the kernel has not taken: what comes on top is dropped, and sent again once it asks.
pub(crate) const PEER_UNSENT_MAX: usize = 32 << 20;
/// Between two tries to dial; the second is for a peer that was gone for long.
const DIAL_AFTER_NS: u64 = 10_000_000;
const DIAL_AFTER_MOST_NS: u64 = 250_000_000;
/// A peer that should have dialled and has not for so long is dialled: it may not know us any more, and then says so.
const OTHERS_DIAL_WITHIN_NS: u64 = 2_000_000_000;
/// A connection on which nothing is said is kept alive by saying so.
const SAY_AFTER_NS: u64 = 200_000_000;
/// A peer that says nothing for so long is gone: its connection is given up, and dialled again.
const SILENCE_MAX_NS: u64 = 1_000_000_000;

/// A peer to dial; the answer is `Input::Dialled`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dial {
    pub node: u32,
    pub address: Address,
    pub lane: Lane,
}

pub(crate) struct Peers {
    node: u32,
    shard: u32,

    /// A node that is no member yet has to say who it was, and only a hello does: it waits for nobody's call.
    pub(crate) calls_all: bool,
    links: BTreeMap<u32, PeerLink>,
}

struct PeerLink {
    /// Whom we expect there. A member of a group counts more than the configuration.
    member: Member,
    /// Who was last at the other end.
    replica: u64,
    state: LinkState,
    /// Tries in a row that led to nothing.
    attempts: u32,
    heard: Time,
    said: Time,
    /// Since when the connection is up.
    up_since: Time,
    /// Since when there is none.
    down_since: Time,
    /// What stands beside it.
    bulk: Bulk,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum LinkState {
    /// Dialled at this moment, if it is ours to dial.
    Down {
        retry_at: Time,
    },
    Dialling,
    /// We dialled, and wait for the welcome.
    Greeting {
        connection: ConnectionId,
    },
    Up {
        connection: ConnectionId,
    },
}

/// A peer that is connected.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Up {
    pub(crate) connection: ConnectionId,
    pub(crate) since: Time,
    /// Who it says it is. The groups come to know of a new member one after the other, and may differ in this.
    pub(crate) replica: u64,
}

/// What a connection of a peer is for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// We dialled, and wait for the welcome.
    Greeting(Lane),
    Messages,
    /// Checkpoints of ours go to the peer.
    ToTarget,
    /// Checkpoints of the peer's come here.
    FromSource,
}

impl Peers {
    pub(crate) fn new(node: u32, shard: u32) -> Self {
        Self { node, shard, calls_all: false, links: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Knows this peer from now on; what it knew of another life of the node is forgotten.
    pub(crate) fn know(&mut self, member: &Member) {
        if member.node == self.node {
            return;
        }
        let link = self.links.entry(member.node).or_insert_with(|| PeerLink {
            member: member.clone(),
            replica: member.replica(),
            state: LinkState::Down { retry_at: Time(0) },
            attempts: 0,
            heard: Time(0),
            said: Time(0),
            up_since: Time(0),
            down_since: Time(0),
            bulk: Bulk::new(),
        });
        link.member = member.clone();
    }

    /// Knows somebody who calls and is in no book here, until there is a new one.
    pub(crate) fn meet(&mut self, member: &Member) {
        if !self.links.contains_key(&member.node) {
            self.know(member);
        }
    }

    /// Knows everybody in the book, and nobody else but those in `always`.
    pub(crate) fn keep(&mut self, books: &[&Book], outbox: &mut Outbox) {
        let is_member = |node: u32| books.iter().any(|book| book.find_node(node).is_some());
        let gone: Vec<u32> = self.links.keys().copied().filter(|node| !is_member(*node)).collect();
        for node in gone {
            let Some(link) = self.links.remove(&node) else { continue };
            if let LinkState::Greeting { connection } | LinkState::Up { connection } = link.state {
                outbox.drop_connection(connection);
            }
            link.bulk.end(outbox);
        }
        books.iter().flat_map(|book| &book.members).for_each(|member| self.know(member));
    }

    pub(crate) fn up(&self, node: u32) -> Option<Up> {
        match self.links.get(&node)? {
            PeerLink { state: LinkState::Up { connection }, up_since, replica, .. } => {
                Some(Up { connection: *connection, since: *up_since, replica: *replica })
            }
            _ => None,
        }
    }

    /// Who is or was last at the other end of the connection to this node.
    pub(crate) fn replica(&self, node: u32) -> Option<u64> {
        self.links.get(&node).map(|link| link.replica)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.links.values().map(|link| &link.member)
    }

    /// The peer at the other end of this connection, and what it is for.
    pub(crate) fn at(&self, connection: ConnectionId) -> Option<(u32, Standing)> {
        self.links.values().find_map(|link| Some((link.member.node, link.standing(connection)?)))
    }

    /// Somebody has something to send to this replica for which there is a connection of its own.
    pub(crate) fn want_bulk(&mut self, replica: u64, now: Time) {
        if let Some(link) = self.links.get_mut(&node_of(replica)) {
            link.bulk.want(now);
        }
    }

    /// Where checkpoints for this replica go.
    pub(crate) fn bulk_to(&self, replica: u64) -> Option<Up> {
        let up = self.up(node_of(replica)).filter(|up| up.replica == replica)?;
        let connection = self.links.get(&node_of(replica))?.bulk.with_target(up.connection)?;
        Some(Up { connection, ..up })
    }

    /// Where checkpoints of this replica come from.
    pub(crate) fn bulk_from(&self, replica: u64) -> Option<ConnectionId> {
        let up = self.up(node_of(replica)).filter(|up| up.replica == replica)?;
        self.links.get(&node_of(replica))?.bulk.with_source(up.connection)
    }

    /// Nothing seems to arrive over the connection for checkpoints to this replica: another one may do better.
    pub(crate) fn give_up_bulk(&mut self, replica: u64, now: Time, outbox: &mut Outbox) {
        if let Some(link) = self.links.get_mut(&node_of(replica)) {
            link.bulk.give_up(now, outbox);
        }
    }

    /// The replica has dialled to send a checkpoint. False: this is not who is at the other end of the connection for
    /// messages, or there is none.
    pub(crate) fn bulk_accepted(
        &mut self,
        replica: u64,
        connection: ConnectionId,
        outbox: &mut Outbox,
    ) -> bool {
        let up = self.up(node_of(replica)).filter(|up| up.replica == replica);
        let (Some(up), Some(link)) = (up, self.links.get_mut(&node_of(replica))) else { return false };
        if let Some(before) = link.bulk.accept(connection, up.connection) {
            outbox.drop_connection(before);
        }
        true
    }

    /// The replica has welcomed the connection for checkpoints. False: as above.
    pub(crate) fn bulk_came_up(&mut self, replica: u64, connection: ConnectionId) -> bool {
        let is_same = self.up(node_of(replica)).is_some_and(|up| up.replica == replica);
        let link = self.links.get_mut(&node_of(replica)).filter(|_| is_same);
        link.map(|link| link.bulk.came_up(connection)).is_some()
    }

    /// Those to dial now.
    pub(crate) fn poll_dial(&mut self, now: Time) -> Option<Dial> {
        let (me, shard, calls_all) = (self.node, self.shard, self.calls_all);
        let is_due = |link: &PeerLink| match link.state {
            LinkState::Down { retry_at } => {
                let is_mine = calls_all
                    || link.member.node < me
                    || link.down_since.after_ns(OTHERS_DIAL_WITHIN_NS) <= now;
                is_mine && retry_at <= now
            }
            _ => false,
        };
        if let Some(link) = self.links.values_mut().find(|link| is_due(link)) {
            link.state = LinkState::Dialling;
            return Some(link.dial(shard, Lane::Messages));
        }
        let mut ups = self.links.values_mut().filter(|link| link.messages().is_some());
        let link = ups.find_map(|link| link.bulk.poll_dial(now).then_some(link))?;
        Some(link.dial(shard, Lane::Bulk))
    }

    /// A dial has led to a connection, which is now to be greeted. False: nobody asked for it.
    pub(crate) fn dialled(&mut self, (node, lane): (u32, Lane), connection: ConnectionId, now: Time) -> bool {
        let Some(link) = self.links.get_mut(&node) else { return false };
        if lane == Lane::Bulk {
            let messages = link.messages();
            return link.bulk.dialled(connection, messages, now);
        }
        if link.state != LinkState::Dialling {
            return false;
        }
        link.state = LinkState::Greeting { connection };
        (link.heard, link.said) = (now, now);
        true
    }

    pub(crate) fn dial_failed(&mut self, (node, lane): (u32, Lane), now: Time) {
        let Some(link) = self.links.get_mut(&node) else { return };
        match lane {
            Lane::Messages if link.state == LinkState::Dialling => link.fall(now),
            Lane::Messages => {}
            Lane::Bulk => link.bulk.dial_failed(now),
        }
    }

    /// The peer has said who it is, over this connection. Answers the connection that it replaces.
    pub(crate) fn came_up(
        &mut self,
        replica: u64,
        connection: ConnectionId,
        now: Time,
    ) -> Option<ConnectionId> {
        let link = self.links.get_mut(&node_of(replica))?;
        link.replica = replica;
        let before = match link.state {
            LinkState::Up { connection: old } | LinkState::Greeting { connection: old }
                if old != connection =>
            {
                Some(old)
            }
            _ => None,
        };
        link.state = LinkState::Up { connection };
        (link.heard, link.said, link.up_since, link.attempts) = (now, now, now, 0);
        before
    }

    pub(crate) fn heard(&mut self, node: u32, now: Time) {
        if let Some(link) = self.links.get_mut(&node) {
            link.heard = now;
        }
    }

    pub(crate) fn said(&mut self, node: u32, now: Time) {
        if let Some(link) = self.links.get_mut(&node) {
            link.said = now;
        }
    }

    /// The connection is over. Answers whose it was, if it was up and for messages.
    pub(crate) fn closed(&mut self, connection: ConnectionId, now: Time) -> Option<u32> {
        for link in self.links.values_mut() {
            if link.bulk.closed(connection, now) {
                return None;
            }
            match link.state {
                LinkState::Up { connection: its } if its == connection => {
                    link.fall(now);
                    return Some(link.member.node);
                }
                LinkState::Greeting { connection: its } if its == connection => {
                    link.fall(now);
                    return None;
                }
                _ => {}
            }
        }
        None
    }

    /// Keeps quiet connections alive, and gives up those that are silent.
    pub(crate) fn tend(&mut self, now: Time, welcome: &PeerWelcome, outbox: &mut Outbox) {
        for link in self.links.values_mut() {
            link.tend(now, welcome, outbox);
            let messages = link.messages();
            link.bulk.tend(now, messages, outbox);
        }
    }

    /// When a peer is to be dialled next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let due = |link: &PeerLink| match link.state {
            LinkState::Down { retry_at } if self.calls_all || link.member.node < self.node => Some(retry_at),
            _ => None,
        };
        self.links.values().filter_map(due).min()
    }

    pub(crate) fn check(&self, connections: &Connections) {
        assert!(!self.links.contains_key(&self.node));
        for (node, link) in &self.links {
            assert_eq!(*node, link.member.node);
            if let LinkState::Up { connection } = link.state {
                assert!(connections.get(connection).is_some());
            }
            link.bulk.check(connections);
        }
    }
}

impl PeerLink {
    /// The connection for messages, when it is up.
    fn messages(&self) -> Option<ConnectionId> {
        match self.state {
            LinkState::Up { connection } => Some(connection),
            LinkState::Down { .. } | LinkState::Dialling | LinkState::Greeting { .. } => None,
        }
    }

    fn standing(&self, connection: ConnectionId) -> Option<Standing> {
        match self.state {
            LinkState::Up { connection: its } if its == connection => Some(Standing::Messages),
            LinkState::Greeting { connection: its } if its == connection => {
                Some(Standing::Greeting(Lane::Messages))
            }
            _ => self.bulk.standing(connection),
        }
    }

    fn dial(&self, shard: u32, lane: Lane) -> Dial {
        Dial { node: self.member.node, address: self.member.shard_address(shard), lane }
    }

    fn tend(&mut self, now: Time, welcome: &PeerWelcome, outbox: &mut Outbox) {
        let (LinkState::Greeting { connection } | LinkState::Up { connection }) = self.state else { return };
        if self.heard.after_ns(SILENCE_MAX_NS) <= now {
            outbox.drop_connection(connection);
            self.fall(now);
            return;
        }
        let is_up = matches!(self.state, LinkState::Up { .. });
        if is_up && self.said.after_ns(SAY_AFTER_NS) <= now {
            self.said = now;
            outbox.send_urgent(connection, welcome);
        }
    }

    fn fall(&mut self, now: Time) {
        let pause = pause_ns(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        if matches!(self.state, LinkState::Up { .. }) {
            self.down_since = now;
        }
        self.state = LinkState::Down { retry_at: now.after_ns(pause) };
    }
}

/// Between a try to dial that led to nothing, after so many others, and the next.
fn pause_ns(attempts: u32) -> u64 {
    (DIAL_AFTER_NS << attempts.min(5)).min(DIAL_AFTER_MOST_NS)
}

/// Where clients find the shard of this index on the node of a replica.
pub(crate) fn address_of(replica: u64, shard: u32, book: &Book) -> Option<Address> {
    book.find(replica).map(|member| member.shard_address(shard))
}

#[cfg(test)]
mod tests;
