//! A shard of node 1, spoken to by node 2 in frames.

mod follower;

use super::*;
use crate::boot::Replay;
use crate::checkpoint::PART_BYTES_MAX;
use crate::config::{Limits, PEERS_MAX, STRANGERS_MAX};
use crate::engine::tests::world as engine;
use crate::engine::{Admission, EngineOptions};
use crate::formation::{self, ClusterLayout, Founder};
use crate::member::encode_membership;
use crate::queue::Settings;
use crate::shard::{Address, Input, ShardOptions};
use ringmain_net::frame::{encode, split};
use ringmain_net::peer::{
    FormHello, FormState, PEER_FRAME_BYTES_MAX, PEER_PROTOCOL, PeerHello, TransferAborted, TransferAck,
    TransferBegin, TransferPart, TransferPayloads,
};
use ringmain_net::protocol::{Closing, Code, Hello, PROTOCOL, Reply, Words};
use ringmain_wal::{Identity, LogOptions, Recovery};
use std::collections::BTreeMap;
use std::ops::Range;

const CLUSTER: u64 = 7;
const MESSAGES: ConnectionId = ConnectionId(1);
const BULK: ConnectionId = ConnectionId(2);
const ME: u64 = 1 << 32 | 1;
const PEER: u64 = 1 << 32 | 2;

struct World {
    shard: Shard,
    output: Output,
    now: Time,
    said: BTreeMap<ConnectionId, Vec<u8>>,
    closed: Vec<ConnectionId>,
    cut: Vec<ConnectionId>,
    notices: Vec<String>,
}

fn hello(lane: u8) -> PeerHello<'static> {
    PeerHello {
        protocol: PEER_PROTOCOL,
        cluster: CLUSTER,
        node: 2,
        incarnation: 1,
        shard: 0,
        shards: 1,
        groups: 1,
        to_node: 1,
        replaces: 0,
        lane,
        host: "localhost",
        port: 7412,
    }
}

fn part() -> TransferPart {
    let (group, transfer, number) = (0, 5, 0);
    TransferPart { cluster: CLUSTER, group, from: PEER, to: ME, transfer, number, is_last: false }
}

fn ack() -> TransferAck {
    let (group, transfer) = (0, 5);
    TransferAck { cluster: CLUSTER, group, from: PEER, to: ME, transfer, to_part: 0, to_payload: 0 }
}

fn aborted() -> TransferAborted<'static> {
    let (group, transfer, code) = (0, 5, PeerCode::Busy as u16);
    TransferAborted { cluster: CLUSTER, group, from: PEER, to: ME, transfer, code, detail: "" }
}

impl World {
    fn new() -> Self {
        Self::with(&[1, 2], Limits::default())
    }

    fn with(founders: &[u32], limits: Limits) -> Self {
        Self::begun(founders, limits, None)
    }

    fn begun(founders: &[u32], limits: Limits, layout: Option<ClusterLayout>) -> Self {
        let identity = Identity { cluster: CLUSTER, node: 1, shard: 0, incarnation: 1 };
        let address = Address { host: "localhost".to_owned(), port: 7411 };
        let member = |node| Member { node, incarnation: 1, address: address.clone() };
        let options = ShardOptions {
            identity,
            log: LogOptions { segment_bytes: 4 << 20, ..LogOptions::new(identity) },
            limits,
            groups: vec![GroupId(0)],
            addresses: vec![address.clone()],
            founders: founders.iter().map(|node| member(*node)).collect(),
            layout,
            seed: 1,
        };
        let mut recovery = Recovery::new(&options.log, [&[], &[]], Vec::new()).unwrap();
        assert!(recovery.poll_read().is_none());
        let shard = Replay::new(options).finish(recovery.finish().unwrap()).unwrap();
        let (now, said) = (Time(1_000_000_000), BTreeMap::new());
        let (closed, cut, notices) = (Vec::new(), Vec::new(), Vec::new());
        Self { shard, output: Output::default(), now, said, closed, cut, notices }
    }

    /// Node 2 has said who it is, over both.
    fn greeted() -> Self {
        let mut world = Self::new();
        assert_eq!(world.call(MESSAGES, &hello(0)), None);
        assert_eq!(world.call(BULK, &hello(1)), None);
        world
    }

    fn step(&mut self, input: Input<'_>) {
        for input in [input, Input::Turn] {
            self.shard.step(self.now, input, &mut self.output);
            assert!(self.output.failure.is_none(), "{:?}", self.output.failure);
            for id in std::mem::take(&mut self.output.sends) {
                let mut outgoing = Outgoing::default();
                self.shard.take_outgoing(id, &mut outgoing);
                let said = self.said.entry(id).or_default();
                outgoing.pieces().for_each(|piece| said.extend_from_slice(piece));
            }
            self.closed.append(&mut self.output.closes);
            self.cut.append(&mut self.output.cuts);
            self.notices.append(&mut self.output.notices);
            self.output.clear();
        }
        self.shard.check();
    }

    /// The first segment is ready.
    fn make_room(&mut self) {
        self.step(Input::SegmentReady { number: 1 });
    }

    /// Everything that the log wants written becomes durable.
    fn write(&mut self) {
        while let Some(bytes) = self.shard.next_write_bytes() {
            let at = self.shard.poll_write(&mut vec![0; bytes]).unwrap();
            self.step(Input::Written { id: at.id });
        }
    }

    /// Says a first frame. Answers how it is refused.
    fn call(&mut self, id: ConnectionId, words: &impl Words) -> Option<PeerCode> {
        self.step(Input::Opened { connection: id });
        self.say(id, words)
    }

    fn say(&mut self, id: ConnectionId, words: &impl Words) -> Option<PeerCode> {
        self.say_with(id, words, &[])
    }

    fn say_with(&mut self, id: ConnectionId, words: &impl Words, body: &[u8]) -> Option<PeerCode> {
        let mut bytes = Vec::new();
        encode(&mut bytes, 0, words, &[body]);
        self.step(Input::Received { connection: id, bytes: &bytes });
        let mut refusal = None;
        self.heard(id, |said| {
            if let PeerFrame::PeerRefused(refused) = said {
                assert!(!refused.detail.is_empty());
                refusal = Some(refused.code());
            }
        });
        assert_eq!(refusal.is_some(), self.closed.contains(&id), "whoever is refused is told why");
        refusal
    }

    /// Says hello as a client, over a new connection. Answers how it is refused.
    fn greet(&mut self, id: ConnectionId) -> Option<Code> {
        self.step(Input::Opened { connection: id });
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, &Hello { protocol: PROTOCOL, cluster: 0, agent: "test" }, &[]);
        self.step(Input::Received { connection: id, bytes: &bytes });
        self.reply(id)
    }

    /// How a client is refused with what was said to it last.
    fn reply(&mut self, id: ConnectionId) -> Option<Code> {
        let said = self.said.remove(&id).expect("it is told something");
        match Reply::decode(&split(&said, PEER_FRAME_BYTES_MAX).unwrap().unwrap()).unwrap() {
            Reply::Welcome(_) => None,
            Reply::Closing(closing) => Some(closing.code()),
            reply => panic!("{reply:?}"),
        }
    }

    /// So many strangers come and begin a frame, which is no word yet.
    fn flood(&mut self, ids: Range<u64>) {
        for connection in ids.map(ConnectionId) {
            self.step(Input::Opened { connection });
            self.step(Input::Received { connection, bytes: &[50, 0, 0] });
        }
    }

    /// Those that were cut are gone. Answers who that was.
    fn bury(&mut self) -> Vec<ConnectionId> {
        let cut = std::mem::take(&mut self.cut);
        cut.iter().for_each(|id| self.step(Input::Closed { connection: *id }));
        cut
    }

    /// Shows what was said over this connection since.
    fn heard(&mut self, id: ConnectionId, mut show: impl FnMut(PeerFrame<'_>)) {
        let said = self.said.remove(&id).unwrap_or_default();
        let mut rest = &said[..];
        while let Some(frame) = split(rest, PEER_FRAME_BYTES_MAX).unwrap() {
            rest = &rest[frame.bytes..];
            show(PeerFrame::decode(&frame).unwrap());
        }
    }

    fn receive_begin(&mut self, transfer: u64, (index, term): (u64, u64)) {
        let group = &self.shard.groups[0];
        let membership = encode_membership(&group.replica.conf_state(), &group.book);
        let (group, parts) = (0, 0);
        let begin =
            TransferBegin { cluster: CLUSTER, group, from: PEER, to: ME, transfer, index, term, parts };
        assert_eq!(self.say_with(BULK, &begin, &membership), None);
        assert!(self.shard.groups[0].target.is_some());
    }

    /// How many frames of messages the source has been told are durable.
    fn acknowledged(&mut self) -> u32 {
        let mut to = 0;
        self.heard(MESSAGES, |said| {
            if let PeerFrame::TransferAck(ack) = said {
                to = ack.to_payload;
            }
        });
        to
    }

    fn is_up(&self) -> bool {
        self.shard.peers.up(2).is_some_and(|up| up.connection == MESSAGES)
    }
}

#[test]
fn a_source_speaks_over_its_own_connection_and_nowhere_else() {
    let mut world = World::greeted();
    assert_eq!(world.say(BULK, &part()), None);
    assert_eq!(world.say(BULK, &aborted()), None);
    assert_eq!(world.say(MESSAGES, &part()), Some(PeerCode::Malformed));
}

#[test]
fn a_target_and_everybody_else_speak_over_the_connection_for_messages() {
    let received = Received { cluster: CLUSTER, group: 0, from: PEER, to: ME, term: 1, index: 1 };
    let mut world = World::greeted();
    assert_eq!(world.say(MESSAGES, &ack()), None);
    assert_eq!(world.say(MESSAGES, &aborted()), None);
    assert_eq!(world.say(MESSAGES, &received), None);
    assert_eq!(world.say(BULK, &received), Some(PeerCode::Malformed));
    assert!(world.is_up(), "the other connection has nothing to do with it");

    let mut world = World::greeted();
    assert_eq!(world.say(BULK, &ack()), Some(PeerCode::Malformed));
    assert!(world.is_up());
}

#[test]
fn a_source_is_who_it_is_at_the_connection_for_messages() {
    let mut world = World::new();
    assert_eq!(world.call(BULK, &hello(1)), Some(PeerCode::Busy), "nobody is there");
    assert_eq!(world.call(MESSAGES, &hello(0)), None);
    let strangers = [
        (PeerHello { cluster: 8, ..hello(1) }, PeerCode::WrongCluster),
        (PeerHello { incarnation: 2, ..hello(1) }, PeerCode::Incarnation),
        (PeerHello { node: 9, ..hello(1) }, PeerCode::Busy),
        (PeerHello { shard: 1, ..hello(1) }, PeerCode::WrongShard),
        (hello(2), PeerCode::Malformed),
        (PeerHello { protocol: PEER_PROTOCOL - 1, ..hello(2) }, PeerCode::WrongVersion),
    ];
    for (at, (stranger, code)) in strangers.iter().enumerate() {
        assert_eq!(world.call(ConnectionId(10 + at as u64), stranger), Some(*code));
    }
    let right = ConnectionId(20);
    assert_eq!(world.call(right, &hello(1)), None);
    let other = PEER + (1 << 32);
    assert_eq!(world.say(right, &TransferPart { from: other, ..part() }), Some(PeerCode::Malformed));
    assert!(world.is_up());
}

#[test]
fn a_source_that_calls_again_is_heard_over_its_last_connection() {
    let mut world = World::greeted();
    let again = ConnectionId(3);
    assert_eq!(world.call(again, &hello(1)), None);
    assert_eq!(world.closed, [BULK]);
    assert_eq!(world.say(again, &part()), None);
}

#[test]
fn a_source_is_not_heard_once_the_connection_for_messages_is_lost() {
    let mut world = World::greeted();
    world.step(Input::Closed { connection: MESSAGES });
    assert_eq!(world.closed, [BULK]);
}

#[test]
fn a_transfer_ends_with_the_connection_it_came_over() {
    let mut world = World::greeted();
    world.receive_begin(5, (9, 1));
    world.step(Input::Closed { connection: BULK });
    world.now = world.now.after_ns(TICK_NS);
    world.step(Input::Turn);
    assert!(world.shard.groups[0].target.is_none());
    let mut aborted = None;
    world.heard(MESSAGES, |said| {
        if let PeerFrame::TransferAborted(words) = said {
            aborted = Some((words.transfer, words.code()));
        }
    });
    assert_eq!(aborted, Some((5, PeerCode::Busy)), "the source is told");
    assert!(world.is_up());
}

#[test]
fn a_leader_of_before_does_not_end_a_later_ones_transfer() {
    let mut world = World::greeted();
    world.receive_begin(5, (9, 1));
    world.receive_begin(4, (9, 1));
    assert_eq!(world.shard.groups[0].target.as_ref().map(|target| target.transfer()), Some(5));
    world.receive_begin(6, (9, 1));
    assert_eq!(world.shard.groups[0].target.as_ref().map(|target| target.transfer()), Some(6));
}

/// What node 2 says, without anything that only some kinds have.
fn head(kind: MessageKind, term: u64) -> ReplicateHead<'static> {
    ReplicateHead {
        cluster: CLUSTER,
        group: 0,
        from: PEER,
        to: ME,
        kind,
        reject: false,
        term,
        log_term: 0,
        index: 0,
        commit: 0,
        commit_term: 0,
        reject_hint: 0,
        request_snapshot: 0,
        priority: 0,
        context: &[],
        snapshot: None,
    }
}

/// Node 2 leads in term 1, and has this entry behind the one before it.
fn append(index: u64) -> Vec<u8> {
    let log_term = u64::from(index > 1);
    let head = ReplicateHead { log_term, index: index - 1, ..head(MessageKind::Append, 1) };
    let entry = EntryHead { term: 1, index, bytes: 0, kind: peer::EntryKind::Normal };
    let mut bytes = Vec::new();
    peer::encode_replicate(&mut bytes, &head, [(entry, &[][..])].into_iter());
    bytes
}

#[test]
fn entries_that_find_no_room_in_the_log_wait_for_it() {
    let mut world = World::greeted();
    for index in 1..=3 {
        world.step(Input::Received { connection: MESSAGES, bytes: &append(index) });
    }
    world.make_room();
    world.write();
    let mut acknowledged = Vec::new();
    world.heard(MESSAGES, |said| {
        if let PeerFrame::Replicate(view) = said {
            assert_eq!((view.head.kind, view.head.reject), (MessageKind::AppendResponse, false));
            acknowledged.push(view.head.index);
        }
    });
    assert_eq!(acknowledged.last(), Some(&3));
}

#[test]
fn messages_that_find_no_room_in_the_log_wait_for_it() {
    let options = EngineOptions { group: GroupId(0), ordinal: 0, messages_max: 100 };
    let mut source = engine::World::with(options);
    source.lead();
    let queue = source.create("q", Settings::default());
    let session = source.open("p");
    for sequence in 1..=2 {
        assert_eq!(source.publish_as(queue, session, sequence), Admission::Fresh);
        source.commit();
    }
    let (index, term) = source.engine.applied();
    let mut image = source.engine.checkpoint();
    let mut bytes = Vec::new();
    assert!(image.encode_some(&mut bytes, PART_BYTES_MAX));

    let mut world = World::greeted();
    world.receive_begin(5, (index.0, term.0));
    assert_eq!(world.say_with(BULK, &TransferPart { is_last: true, ..part() }, &bytes), None);
    let mut walk = image.walk();
    let mut number = 0;
    while let Some((_, position, bytes)) = walk.peek() {
        let stored = source.read(position, bytes);
        let (group, transfer, messages) = (0, 5, 1);
        let (cluster, from, to, is_last) = (CLUSTER, PEER, ME, number == 1);
        let frame = TransferPayloads { cluster, group, from, to, transfer, number, messages, is_last };
        assert_eq!(world.say_with(BULK, &frame, stored), None);
        walk.advance();
        number += 1;
    }
    assert_eq!((number, world.acknowledged()), (2, 0), "no segment is ready, and both are kept");
    world.make_room();
    world.write();
    assert_eq!(world.acknowledged(), 2);
    assert!(world.shard.groups[0].target.is_some());
}

#[test]
fn clients_take_no_seat_of_a_peer() {
    let mut world = World::with(&[1, 2], Limits { connections_max: 2, ..Limits::default() });
    let [first, second, third] = [10, 11, 12].map(ConnectionId);
    assert_eq!((world.greet(first), world.greet(second)), (None, None));
    assert_eq!(world.greet(third), Some(Code::TooMany));
    assert_eq!(world.call(MESSAGES, &hello(0)), None);
    assert_eq!(world.call(BULK, &hello(1)), None);
    assert!(world.is_up());
    // What a peer takes is none of a client's, and what a client leaves is another one's.
    world.step(Input::Closed { connection: first });
    assert_eq!(world.greet(ConnectionId(13)), None);
    assert_eq!(world.greet(ConnectionId(14)), Some(Code::TooMany));
}

#[test]
fn a_flood_of_strangers_passes_by_and_clients_and_peers_stay() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let seats = u64::from(limits.seats_max());
    let mut world = World::with(&[1, 2], limits);
    let client = ConnectionId(10);
    assert_eq!(world.greet(client), None);
    world.flood(100..100 + seats - 1);
    assert!(world.cut.is_empty(), "there is a seat for each of them");
    world.flood(1_000..1_010);
    assert_eq!(world.bury(), (100..110).map(ConnectionId).collect::<Vec<_>>());
    assert_eq!(world.reply(ConnectionId(100)), Some(Code::TooMany));

    // Others come between the call of node 2 and its first word.
    let messages = ConnectionId(2_000);
    world.step(Input::Opened { connection: messages });
    world.flood(2_001..2_001 + u64::from(STRANGERS_MAX) - 1);
    assert_eq!(world.say(messages, &hello(0)), None);
    world.flood(3_000..3_000 + 3 * seats);
    assert!(world.shard.peers.up(2).is_some_and(|up| up.connection == messages));
    let cut = world.bury();
    assert!(!cut.contains(&messages));
    assert!(!cut.contains(&client));
}

#[test]
fn whoever_ends_anyway_is_cut_before_a_stranger() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let seats = u64::from(limits.seats_max());
    let mut world = World::with(&[1, 2], limits);
    world.flood(100..100 + seats);
    let refused = ConnectionId(100 + seats - 1);
    world.step(Input::Received { connection: refused, bytes: &[0xff; 64] });
    assert_eq!(world.closed, [refused]);
    world.flood(1_000..1_001);
    assert_eq!(world.bury(), [refused]);
    world.flood(1_001..1_002);
    assert_eq!(world.bury(), [ConnectionId(100)]);
}

#[test]
fn no_more_peers_are_met_than_there_can_be() {
    // A node that is no member yet knows nobody, and hears everybody.
    let mut world = World::with(&[2], Limits::default());
    for node in 2..PEERS_MAX + 2 {
        assert_eq!(world.call(ConnectionId(u64::from(node)), &PeerHello { node, ..hello(0) }), None);
    }
    let one_more = PeerHello { node: PEERS_MAX + 2, ..hello(0) };
    assert_eq!(world.call(ConnectionId(1_000), &one_more), Some(PeerCode::Busy));
}

#[test]
fn whoever_is_refused_is_named_here_too() {
    let mut world = World::new();
    let strangers = [
        (PeerHello { cluster: 8, ..hello(0) }, "node 2 at localhost is refused: wrong cluster: "),
        (PeerHello { protocol: 99, host: "", ..hello(0) }, "node 2 is refused: unsupported version: "),
        (PeerHello { node: 9, host: "a\nb", ..hello(0) }, "node 9 at a\\nb is refused: busy: "),
    ];
    for (at, (stranger, words)) in strangers.iter().enumerate() {
        let id = ConnectionId(10 + at as u64);
        assert!(world.call(id, stranger).is_some());
        let said = world.notices.pop().expect("it is said");
        assert!(said.starts_with(words), "{said:?} and not {words:?}");
        // Another number in the same words is no news.
        assert!(world.call(ConnectionId(20 + at as u64), &PeerHello { cluster: 9, ..*stranger }).is_some());
    }
    let known: Vec<String> = std::mem::take(&mut world.notices);
    assert_eq!(known.len(), 1, "{known:?}");
    assert!(known[0].starts_with("node 9 at a\\nb is refused: wrong cluster: "), "{known:?}");
}

#[test]
fn noise_on_the_port_is_one_line() {
    let mut world = World::new();
    for (at, bytes) in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64]].into_iter().enumerate() {
        let connection = ConnectionId(10 + at as u64);
        world.step(Input::Opened { connection });
        world.step(Input::Received { connection, bytes });
    }
    assert_eq!(world.closed.len(), 3);
    assert_eq!(world.notices.len(), 1, "{:?}", world.notices);
}

#[test]
fn a_flood_of_strangers_with_many_names_is_a_few_lines() {
    let mut world = World::new();
    for node in 3..300 {
        let stranger = PeerHello { cluster: 1_000, node, ..hello(0) };
        assert_eq!(world.call(ConnectionId(u64::from(node)), &stranger), Some(PeerCode::WrongCluster));
    }
    assert!(world.notices.len() < 20, "{:?}", world.notices);
}

#[test]
fn whoever_ends_a_call_as_he_ends_a_clients_is_heard() {
    let mut world = World::with(&[1, 2], Limits::default());
    world.shard.peers.calls_all = true;
    world.step(Input::Turn);
    world.step(Input::Dialled { node: 2, lane: Lane::Messages, connection: Some(MESSAGES) });
    let closing = Closing { code: Code::TooMany as u16, detail: "others wait\u{1b}" };
    let mut bytes = Vec::new();
    encode(&mut bytes, 0, &closing, &[]);
    world.step(Input::Received { connection: MESSAGES, bytes: &bytes });
    assert_eq!(world.closed, [MESSAGES]);
    assert_eq!(world.notices, ["node 2 refuses this one: busy: others wait\\u{1b}"]);
}

#[test]
fn who_has_joined_says_that_there_is_a_cluster() {
    let address = crate::config::Address { host: "localhost".to_owned(), port: 7411 };
    let founder = |node| Founder { node, incarnation: 1, address: address.clone() };
    let joining = ClusterLayout {
        cluster: CLUSTER,
        node: 1,
        incarnation: 1,
        shards: 1,
        groups: 1,
        segment_bytes: 4 << 20,
        state: State::Joining,
        founders: vec![founder(1), founder(2)],
        replaces: 0,
    };
    let card = formation::form_reply(&joining, "elsewhere", 7413).0;
    let mut world = World::begun(&[1, 2], Limits::default(), Some(joining));
    // By its book it is a member, which it finds out in its first turn.
    world.step(Input::Turn);
    let mut question = Vec::new();
    encode(&mut question, 0, &FormHello(peer::Formation { node: 3, ..card }), &[&[]]);
    world.step(Input::Opened { connection: MESSAGES });
    world.step(Input::Received { connection: MESSAGES, bytes: &question });
    let mut told = None;
    world.heard(MESSAGES, |said| {
        if let PeerFrame::FormReply(reply) = said {
            told = Some((reply.cluster, reply.state));
        }
    });
    assert_eq!(told, Some((CLUSTER, FormState::Formed)));
}
