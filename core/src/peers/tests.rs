use super::*;
use crate::config::Limits;

const MESSAGES: ConnectionId = ConnectionId(1);
const BULK: ConnectionId = ConnectionId(2);
const PEER: u64 = 3 << 32 | 2;
const SECOND: u64 = 1_000_000_000;

/// Node 3, which dials node 2.
struct World {
    peers: Peers,
    outbox: Outbox,
    now: Time,
}

impl World {
    fn new() -> Self {
        let mut peers = Peers::new(3, 0);
        let address = Address { host: "localhost".to_owned(), port: 7411 };
        peers.know(&Member { node: 2, incarnation: 3, address });
        let mut world = Self { peers, outbox: Outbox::new(&Limits::default()), now: Time(SECOND) };
        assert_eq!(world.dials(), [Lane::Messages]);
        world.dialled(Lane::Messages, MESSAGES);
        assert_eq!(world.peers.came_up(PEER, MESSAGES, world.now), None);
        world
    }

    /// With a connection for checkpoints.
    fn with_bulk() -> Self {
        let mut world = Self::new();
        world.peers.want_bulk(PEER, world.now);
        assert_eq!(world.dials(), [Lane::Bulk]);
        world.dialled(Lane::Bulk, BULK);
        assert!(world.peers.bulk_came_up(PEER, BULK));
        assert_eq!(world.peers.bulk_to(PEER).map(|up| up.connection), Some(BULK));
        world
    }

    fn dials(&mut self) -> Vec<Lane> {
        std::iter::from_fn(|| self.peers.poll_dial(self.now)).map(|dial| dial.lane).collect()
    }

    fn dialled(&mut self, lane: Lane, connection: ConnectionId) {
        self.outbox.connections.insert(connection, self.now);
        assert!(self.peers.dialled((2, lane), connection, self.now));
        self.outbox.connections.greet_peer(connection);
    }

    /// Time passes, and the peer says something over the connection for messages. Answers what is closed.
    fn pass(&mut self, ns: u64) -> Vec<ConnectionId> {
        self.now = self.now.after_ns(ns);
        self.peers.heard(2, self.now);
        self.tend()
    }

    fn tend(&mut self) -> Vec<ConnectionId> {
        let welcome = PeerWelcome { cluster: 1, node: 3, incarnation: 1, shard: 0 };
        self.peers.tend(self.now, &welcome, &mut self.outbox);
        self.peers.check(&self.outbox.connections);
        std::mem::take(&mut self.outbox.closing)
    }
}

#[test]
fn a_connection_for_checkpoints_is_dialled_when_it_is_wanted() {
    let mut world = World::new();
    assert_eq!(world.dials(), []);
    world.peers.want_bulk(PEER, world.now);
    assert_eq!(world.dials(), [Lane::Bulk]);
    assert_eq!(world.dials(), [], "once");
    world.peers.dial_failed((2, Lane::Bulk), world.now);
    assert_eq!(world.dials(), [], "after a pause");
    world.pass(DIAL_AFTER_NS);
    assert_eq!(world.dials(), [Lane::Bulk]);
}

#[test]
fn a_connection_for_checkpoints_ends_when_nobody_wants_it() {
    let mut world = World::with_bulk();
    assert_eq!(world.pass(4 * SECOND), []);
    world.peers.want_bulk(PEER, world.now);
    assert_eq!(world.pass(4 * SECOND), []);
    assert_eq!(world.pass(SECOND), [BULK]);
    assert!(world.peers.bulk_to(PEER).is_none());
    assert_eq!(world.peers.up(2).map(|up| up.connection), Some(MESSAGES), "the other one lives on");
}

#[test]
fn a_connection_for_checkpoints_ends_with_the_one_it_stands_beside() {
    let mut world = World::with_bulk();
    assert_eq!(world.peers.closed(MESSAGES, world.now), Some(2));
    assert!(world.peers.bulk_to(PEER).is_none(), "at once");
    assert_eq!(world.tend(), [BULK]);
    assert_eq!(world.peers.closed(BULK, world.now), None);

    // The same node in another life, over another connection.
    let mut world = World::with_bulk();
    let (other, again) = (PEER + (1 << 32), ConnectionId(9));
    world.outbox.connections.insert(again, world.now);
    assert_eq!(world.peers.came_up(other, again, world.now), Some(MESSAGES));
    assert!(world.peers.bulk_to(PEER).is_none());
    assert!(world.peers.bulk_to(other).is_none());
    assert_eq!(world.tend(), [BULK]);
}

#[test]
fn what_is_heard_of_checkpoints_is_no_sign_of_life() {
    let mut world = World::with_bulk();
    world.outbox.connections.insert(ConnectionId(3), world.now);
    assert!(world.peers.bulk_accepted(PEER, ConnectionId(3), &mut world.outbox));
    assert_eq!(world.peers.at(ConnectionId(3)), Some((2, Standing::FromSource)));
    world.now = world.now.after_ns(SILENCE_MAX_NS);
    let mut closed = world.tend();
    closed.sort_unstable();
    assert_eq!(closed, [MESSAGES, BULK, ConnectionId(3)]);
}

#[test]
fn a_peer_that_does_not_answer_is_dialled_anew() {
    let mut world = World::new();
    world.peers.want_bulk(PEER, world.now);
    assert_eq!(world.dials(), [Lane::Bulk]);
    world.dialled(Lane::Bulk, BULK);
    assert_eq!(world.peers.at(BULK), Some((2, Standing::Greeting(Lane::Bulk))));
    assert_eq!(world.pass(SECOND - 1), []);
    assert_eq!(world.pass(1), [BULK]);
    world.pass(DIAL_AFTER_NS);
    assert_eq!(world.dials(), [Lane::Bulk]);
    assert!(!world.peers.bulk_came_up(PEER + (1 << 32), BULK), "somebody else has no say");
}

#[test]
fn losing_a_connection_for_checkpoints_loses_nothing_else() {
    let mut world = World::with_bulk();
    assert_eq!(world.peers.closed(BULK, world.now), None);
    assert!(world.peers.bulk_to(PEER).is_none());
    assert_eq!(world.peers.up(2).map(|up| up.connection), Some(MESSAGES));
    world.pass(DIAL_AFTER_NS);
    assert_eq!(world.dials(), [Lane::Bulk], "it is still wanted");
}
