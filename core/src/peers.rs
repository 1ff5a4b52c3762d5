//! The other nodes, as one shard sees them: which are connected, which are to be dialled, and what they are sent.
//!
//! Lives inside the shard. There is one connection for each pair of nodes and each shard index; the node with the higher
//! number dials. Whoever is not connected is sent nothing: the engine of consensus lives with lost messages, and is told.
//!
//! Two lanes leave a connection: what carries no payload (votes, heartbeats, acknowledgements) goes before entries that
//! wait, and those before the bytes of a checkpoint, of which only a little waits at any time.

use crate::connection::{ConnectionId, Connections};
use crate::member::{Book, Member, node_of};
use crate::outbox::Outbox;
use crate::shard::Address;
use crate::time::Time;
use ringmain_net::peer::PeerWelcome;
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
}

pub(crate) struct Peers {
    node: u32,
    shard: u32,

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

impl Peers {
    pub(crate) fn new(node: u32, shard: u32) -> Self {
        Self { node, shard, links: BTreeMap::new() }
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

    /// The peer at the other end of this connection, once it has said who it is.
    pub(crate) fn at(&self, connection: ConnectionId) -> Option<u32> {
        let is_it = |link: &&PeerLink| link.state == LinkState::Up { connection };
        self.links.values().find(is_it).map(|link| link.member.node)
    }

    /// Whose welcome this connection waits for.
    pub(crate) fn greeting(&self, connection: ConnectionId) -> Option<u32> {
        let is_it = |link: &&PeerLink| link.state == LinkState::Greeting { connection };
        self.links.values().find(is_it).map(|link| link.member.node)
    }

    /// Those to dial now.
    pub(crate) fn poll_dial(&mut self, now: Time) -> Option<Dial> {
        let (me, shard) = (self.node, self.shard);
        let is_due = |link: &PeerLink| match link.state {
            LinkState::Down { retry_at } => {
                let is_mine = link.member.node < me || link.down_since.after_ns(OTHERS_DIAL_WITHIN_NS) <= now;
                is_mine && retry_at <= now
            }
            _ => false,
        };
        let link = self.links.values_mut().find(|link| is_due(link))?;
        link.state = LinkState::Dialling;
        Some(Dial { node: link.member.node, address: link.member.shard_address(shard) })
    }

    /// A dial has led to a connection, which is now to be greeted. False: nobody asked for it.
    pub(crate) fn dialled(&mut self, node: u32, connection: ConnectionId, now: Time) -> bool {
        let Some(link) = self.links.get_mut(&node) else { return false };
        if link.state != LinkState::Dialling {
            return false;
        }
        link.state = LinkState::Greeting { connection };
        (link.heard, link.said) = (now, now);
        true
    }

    pub(crate) fn dial_failed(&mut self, node: u32, now: Time) {
        if let Some(link) = self.links.get_mut(&node)
            && link.state == LinkState::Dialling
        {
            link.fall(now);
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

    /// The connection is over. Answers whose it was, if it was up.
    pub(crate) fn closed(&mut self, connection: ConnectionId, now: Time) -> Option<u32> {
        for link in self.links.values_mut() {
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
            let (LinkState::Greeting { connection } | LinkState::Up { connection }) = link.state else {
                continue;
            };
            if link.heard.after_ns(SILENCE_MAX_NS) <= now {
                outbox.drop_connection(connection);
                link.fall(now);
                continue;
            }
            let is_up = matches!(link.state, LinkState::Up { .. });
            if is_up && link.said.after_ns(SAY_AFTER_NS) <= now {
                link.said = now;
                outbox.send_urgent(connection, welcome);
            }
        }
    }

    /// When a peer is to be dialled next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let due = |link: &PeerLink| match link.state {
            LinkState::Down { retry_at } if link.member.node < self.node => Some(retry_at),
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
        }
    }
}

impl PeerLink {
    fn fall(&mut self, now: Time) {
        let pause = (DIAL_AFTER_NS << self.attempts.min(5)).min(DIAL_AFTER_MOST_NS);
        self.attempts = self.attempts.saturating_add(1);
        if matches!(self.state, LinkState::Up { .. }) {
            self.down_since = now;
        }
        self.state = LinkState::Down { retry_at: now.after_ns(pause) };
    }
}

/// Where clients find the shard of this index on the node of a replica.
pub(crate) fn address_of(replica: u64, shard: u32, book: &Book) -> Option<Address> {
    book.find(replica).map(|member| member.shard_address(shard))
}
