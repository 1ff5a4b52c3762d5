//! The port of the peers, and those who speak to it without being one: other clusters, clients, replayed and forged frames.
//!
//! Whoever speaks in the place of node 2 does it while that node cannot reach node 1.

use std::io::{Read, Write};
use std::net::TcpStream;

use ringmain_client::blocking::Client;
use ringmain_client::{Message, QueueSettings};
use ringmain_net::frame::{self, FRAME_BYTES_MAX, Frame};
use ringmain_net::peer::{
    FormHello, FormState, Formation, Lane, MessageKind, PEER_FRAME_BYTES_MAX, PEER_PROTOCOL, PeerCode,
    PeerFrame, PeerHello, PeerRefused, PeerWelcome, Received, ReplicateHead, encode_replicate,
};
use ringmain_net::protocol::{Code, Ping, Words};
use ringmain_tests::nemesis::{Fleet, Rule};
use ringmain_tests::process::{PATIENCE, wait_for};
use ringmain_tests::rng::Rng;

use crate::process::program;
use crate::raw::{End, Raw, encoded, hello, sealed};

/// A connection to the port of a peer.
struct Caller {
    stream: TcpStream,
}

impl Caller {
    fn dial(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    fn say(&mut self, bytes: &[u8]) {
        // The node may have closed the connection before the last byte.
        let _ = self.stream.write_all(bytes);
    }

    /// All that the node says until it ends the connection.
    fn answer(mut self) -> Vec<u8> {
        let mut answer = Vec::new();
        // A connection that is closed before everything was read ends with a reset.
        let _ = self.stream.read_to_end(&mut answer);
        answer
    }

    /// Why the node ends the connection, if it says so.
    fn refusal(self) -> Option<(PeerCode, String)> {
        let answer = self.answer();
        frames(&answer).into_iter().find_map(|frame| match PeerFrame::decode(&frame) {
            Ok(PeerFrame::PeerRefused(refused)) => Some((refused.code(), refused.detail.to_owned())),
            _ => None,
        })
    }
}

/// The whole frames at the beginning of these bytes.
fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = frame::split(bytes, PEER_FRAME_BYTES_MAX) {
        bytes = &bytes[frame.bytes..];
        frames.push(frame);
    }
    frames
}

/// What a node answers to the first frame of somebody who says that he is a peer.
fn refused(port: u16, words: &impl Words) -> Option<PeerCode> {
    let mut caller = Caller::dial(port);
    caller.say(&encoded(words, &[]));
    caller.refusal().map(|(code, _)| code)
}

/// One in each of three groups, of which each node leads one, as long as it is there.
const QUEUES: [&str; 3] = ["q", "r", "v"];

/// Three nodes, of which the second is spoken for.
struct World {
    fleet: Fleet,
    client: Client,
    published: u64,
    /// All that node 2 has said to node 1 in one connection, from its hello on.
    said: Vec<u8>,
    incarnations: [u32; 2],
    cluster: u64,
}

impl World {
    fn new(directory: &std::path::Path, seed: u64) -> Self {
        let fleet = Fleet::start(&program(), directory, 3, &mut Rng::new(seed));
        let client = fleet.client();
        for queue in QUEUES {
            client.create_queue(queue, &QueueSettings::default()).unwrap();
        }
        let cluster = client.cluster().unwrap().cluster;
        fleet.links().record();
        // They begin anew, and are recorded from their first word on.
        fleet.links().set((1, 2), Rule::Cut);
        fleet.links().heal();
        let mut world = Self { fleet, client, published: 0, said: Vec::new(), incarnations: [0; 2], cluster };
        let is_rich = |said: &[u8]| frames(said).iter().filter(|frame| is_append(frame)).count() >= 3;
        wait_for("node 2 leads a group, and says something", || {
            for queue in &QUEUES[1..] {
                world.client.producer(queue).unwrap().publish(&Message::new("x"), PATIENCE).unwrap();
            }
            is_rich(&world.fleet.links().recorded((2, 1))).then_some(())
        });
        world.fleet.links().set((1, 2), Rule::Cut);
        world.fleet.links().set((2, 1), Rule::Cut);
        world.said = world.fleet.links().recorded((2, 1));
        let answers = world.fleet.links().recorded((1, 2));
        world.incarnations = [welcome(&answers).incarnation, world.hello().incarnation];
        world
    }

    /// Nodes 1 and 3 serve, whatever anybody says.
    fn publish(&mut self) {
        self.client.producer("q").unwrap().publish(&Message::new("x"), PATIENCE).unwrap();
        self.published += 1;
    }

    fn hello(&self) -> PeerHello<'_> {
        let frame = frame::split(&self.said, FRAME_BYTES_MAX).unwrap().unwrap();
        match PeerFrame::decode(&frame).unwrap() {
            PeerFrame::PeerHello(hello) => hello,
            other => panic!("a connection begins with a hello: {other:?}"),
        }
    }

    fn replica(&self, node: u32) -> u64 {
        u64::from(self.incarnations[node as usize - 1]) << 32 | u64::from(node)
    }

    /// As node 2, welcome.
    fn impostor(&self) -> Caller {
        let mut caller = Caller::dial(self.fleet.port(1));
        caller.say(&encoded(&self.hello(), &[]));
        caller
    }

    fn heartbeat(&self) -> ReplicateHead<'static> {
        ReplicateHead {
            cluster: self.cluster,
            group: 0,
            from: self.replica(2),
            to: self.replica(1),
            kind: MessageKind::Heartbeat,
            reject: false,
            term: 1,
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

    /// What was said is refused with these words, and nobody else notices.
    #[track_caller]
    fn check(&mut self, said: &[u8], words: &str) {
        let mut impostor = self.impostor();
        impostor.say(said);
        let (code, detail) = impostor.refusal().expect("it says why");
        assert_eq!(code, PeerCode::Malformed, "{detail}");
        assert!(detail.contains(words), "{detail:?} and not {words:?}");
        self.publish();
    }

    /// Node 2 is back, and everything is there once.
    fn end(mut self) {
        self.fleet.links().heal();
        self.publish();
        let shown = self.client.show_queue("q").unwrap();
        assert_eq!((shown.ready, shown.published), (self.published, self.published));
        let group = shown.group;
        wait_for("node 2 can lead", || {
            let _ = self.client.move_leader(group, 2);
            (self.fleet.leader_of(&self.client, "q") == Some(2)).then_some(())
        });
        let shown = self.client.show_queue("q").unwrap();
        assert_eq!((shown.ready, shown.published), (self.published, self.published));
        self.fleet.check_alive();
        self.fleet.stop_all();
    }
}

fn is_append(frame: &Frame<'_>) -> bool {
    match PeerFrame::decode(frame) {
        Ok(PeerFrame::Replicate(view)) => view.head.kind == MessageKind::Append && view.entries().count() > 0,
        _ => false,
    }
}

fn welcome(answers: &[u8]) -> PeerWelcome {
    let frame = frame::split(answers, FRAME_BYTES_MAX).unwrap().unwrap();
    match PeerFrame::decode(&frame).unwrap() {
        PeerFrame::PeerWelcome(welcome) => welcome,
        other => panic!("an answer begins with a welcome: {other:?}"),
    }
}

fn replicate(head: &ReplicateHead<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_replicate(&mut bytes, head, std::iter::empty());
    bytes
}

#[test]
fn replayed_frames_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 5);
    let hello = encoded(&world.hello(), &[]);
    let said = world.said.clone();
    let whole: usize = frames(&said).iter().map(|frame| frame.bytes).sum();
    let behind = &said[hello.len()..whole];
    // A second hello is refused, which shows that all before it was taken for what a peer says.
    for again in [vec![behind, &hello], vec![behind, behind, &hello], vec![behind, behind, behind, &hello]] {
        world.check(&again.concat(), "a frame that is not for now");
    }
    // The first part of it for the second time, in the midst of one.
    let half = frames(behind).iter().take(frames(behind).len() / 2).map(|frame| frame.bytes).sum();
    world.check(&[behind, &behind[..half], &behind[half..], &hello].concat(), "a frame that is not for now");
    world.end();
}

#[test]
fn frames_of_and_for_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 6);
    let good = world.heartbeat();
    let incarnation = 1 << 32;
    for head in [
        ReplicateHead { cluster: good.cluster ^ 1, ..good },
        ReplicateHead { group: 99, ..good },
        ReplicateHead { from: good.from + incarnation, ..good },
        ReplicateHead { from: good.from + 1, ..good },
        ReplicateHead { from: good.to, ..good },
        ReplicateHead { to: good.to + incarnation, ..good },
        ReplicateHead { to: good.from, ..good },
    ] {
        world.check(&replicate(&head), "a message from another replica, or for another one");
        let received = Received {
            cluster: head.cluster,
            group: head.group,
            from: head.from,
            to: head.to,
            term: 1,
            index: 1,
        };
        world.check(&encoded(&received, &[]), "what another replica has, or for another one");
    }
    world.end();
}

#[test]
fn impossible_terms_and_numbers_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 7);
    let good = world.heartbeat();
    let hello = encoded(&world.hello(), &[]);
    let kinds = [
        MessageKind::Append,
        MessageKind::AppendResponse,
        MessageKind::RequestVote,
        MessageKind::RequestVoteResponse,
        MessageKind::Heartbeat,
        MessageKind::HeartbeatResponse,
        MessageKind::RequestPreVote,
        MessageKind::RequestPreVoteResponse,
        MessageKind::TimeoutNow,
    ];
    let heads = kinds.into_iter().flat_map(|kind| {
        let good = ReplicateHead { kind, ..good };
        [
            ReplicateHead { term: 0, ..good },
            ReplicateHead { term: u64::MAX, ..good },
            ReplicateHead { log_term: 2, ..good },
            ReplicateHead { index: u64::MAX, ..good },
            ReplicateHead { commit: u64::MAX, ..good },
        ]
    });
    let said: Vec<u8> = heads.flat_map(|head| replicate(&head)).chain(hello).collect();
    world.check(&said, "a frame that is not for now");
    world.end();
}

#[test]
fn what_is_no_peers_frame_is_refused_after_a_good_hello() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 8);
    let good = replicate(&world.heartbeat());
    let form = encoded(&FormHello(formation()), &[]);
    let greeting = encoded(&world.hello(), &[]);
    let received = Received { cluster: 7, group: 0, from: 1, to: 2, term: 1, index: 1 };
    for (said, words) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "frame of 542393671 bytes: at most 41943040 are accepted"),
        (vec![0; 64], "frame of 0 bytes: a header has 24"),
        (vec![0xff; 64], "frame of 4294967295 bytes: at most 41943040"),
        ([&good[..8], &[0x55; 200]].concat(), "frame is damaged"),
        (sealed(good.clone(), |bytes| bytes[8] = 9), "frame of version 9"),
        (sealed(good.clone(), |bytes| bytes[9] = 250), "frame of unknown kind 250"),
        (sealed(good.clone(), |bytes| bytes[10] = 1), "reserved bytes"),
        (sealed(good.clone(), |bytes| bytes[12] ^= 0x40), "archive of"),
        (encoded(&Ping, &[]), "Ping does not go in this direction"),
        (encoded(&hello(0), &[]), "Hello does not go in this direction"),
        (encoded(&received, &[b"more"]), "announces a body of 0 bytes"),
        (form, "a frame that is not for now"),
        (greeting, "a frame that is not for now"),
    ] {
        world.check(&said, words);
    }
    // Half a frame, and nothing more: the connection ends, as that of any peer that is silent.
    let mut impostor = world.impostor();
    impostor.say(&good[..good.len() / 2]);
    assert_eq!(welcome(&impostor.answer()).node, 1);
    world.publish();
    world.end();
}

#[test]
fn a_removal_that_was_not_asked_about_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 12);
    // It names neither whom it is for nor of which cluster: it may have been said to somebody else.
    let removed =
        PeerRefused { code: PeerCode::Removed as u16, detail: "node 3 was removed from the cluster" };
    let said = [encoded(&removed, &[]), encoded(&world.hello(), &[])].concat();
    world.check(&said, "a frame that is not for now");
    world.end();
}

#[test]
fn first_words_of_strangers_are_refused_and_disturb_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path(), 9);
    let (port, good) = (world.fleet.port(1), world.hello());
    for (hello, code) in [
        (PeerHello { cluster: 7, ..good }, PeerCode::WrongCluster),
        (PeerHello { protocol: 99, ..good }, PeerCode::WrongVersion),
        (PeerHello { to_node: 3, ..good }, PeerCode::WrongNode),
        (PeerHello { node: 1, ..good }, PeerCode::WrongNode),
        (PeerHello { shard: 1, ..good }, PeerCode::WrongShard),
        (PeerHello { groups: 5, ..good }, PeerCode::Layout),
        (PeerHello { shards: 2, ..good }, PeerCode::Layout),
        (PeerHello { node: 9, ..good }, PeerCode::Busy),
        // Node 2 is a member with the directory that it has.
        (PeerHello { incarnation: 12_345, ..good }, PeerCode::Incarnation),
        (PeerHello { incarnation: 12_345, lane: Lane::Bulk as u8, ..good }, PeerCode::Incarnation),
        (PeerHello { lane: 2, ..good }, PeerCode::Malformed),
    ] {
        assert_eq!(refused(port, &hello), Some(code));
    }
    let welcome = PeerWelcome { cluster: world.cluster, node: 2, incarnation: 1, shard: 0 };
    assert_eq!(refused(port, &welcome), Some(PeerCode::Malformed), "the first frame is a hello");
    let mut caller = Caller::dial(port);
    caller.say(&replicate(&world.heartbeat()));
    assert_eq!(caller.refusal(), Some((PeerCode::Malformed, "the first frame must be a hello".to_owned())));

    let address = format!("127.0.0.1:{port}");
    for (said, code) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::TooLarge),
        (vec![0; 4096], Code::Malformed),
        (vec![0xff; 64], Code::TooLarge),
        (sealed(encoded(&good, &[]), |bytes| bytes[8] = 9), Code::UnsupportedVersion),
        (encoded(&good, &[&[7; 5000]]), Code::TooLarge),
    ] {
        let mut raw = Raw::connect(&address);
        raw.say(&said);
        assert!(matches!(raw.end(), End::Told(told, _) if told == code), "{code:?}");
    }
    // A client that goes on as a peer.
    for said in [replicate(&world.heartbeat()), encoded(&good, &[]), encoded(&welcome, &[])] {
        let mut raw = Raw::greeted(&address);
        raw.say(&said);
        assert!(matches!(raw.end(), End::Told(Code::Malformed, _)));
    }
    let said = world.fleet.running_mut(1).unwrap().stderr();
    for words in [
        "node 2 at 127.0.0.1 is refused: wrong cluster: cluster 0000000000000007: this is ",
        "node 2 at 127.0.0.1 is refused: unsupported version: protocol 99: this node speaks ",
        "node 2 at 127.0.0.1 is refused: wrong node: node 2 calls node 3: this is 1",
        "node 1 at 127.0.0.1 is refused: wrong node: node 1 calls node 1: this is 1",
        "node 2 at 127.0.0.1 is refused: wrong shard: shard 1 calls shard 0",
        "node 2 at 127.0.0.1 is refused: another number of shards or groups: 1 shards with 5 groups",
        "node 9 at 127.0.0.1 is refused: busy: node 9 is not a member yet",
        "node 2 at 127.0.0.1 is refused: another incarnation of the node: node 2 is a member with another",
        "node 2 at 127.0.0.1 is refused: malformed frame: lane 2",
        "a stranger is refused: the first frame must be a hello",
        "a stranger is refused: what he says is nothing that ringmain's nodes and clients say",
    ] {
        assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
    }
    // A node that is not of the cluster yet may ask whether there is one.
    let mut caller = Caller::dial(port);
    caller.say(&encoded(&FormHello(formation()), &[]));
    let answer = caller.answer();
    let Ok(PeerFrame::FormReply(card)) = PeerFrame::decode(&frames(&answer)[0]) else { panic!("a reply") };
    assert_eq!((card.cluster, card.node, card.state), (world.cluster, 1, FormState::Formed));
    world.publish();
    world.end();
}

fn formation() -> Formation {
    Formation {
        protocol: PEER_PROTOCOL,
        node: 5,
        incarnation: 1,
        shards: 1,
        groups: 0,
        segment_bytes: 16 << 20,
        state: FormState::Forming,
        cluster: 0,
        host: "127.0.0.1".to_owned(),
        port: 1,
        list_hash: 1,
        founders: Vec::new(),
    }
}

#[test]
fn a_peer_of_another_cluster_is_refused_and_both_say_so() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut ours = Fleet::start(&program(), ours.path(), 3, &mut Rng::new(10));
    let mut theirs = Fleet::start(&program(), theirs.path(), 2, &mut Rng::new(11));
    let clients = [ours.client(), theirs.client()];
    for client in &clients {
        client.create_queue("q", &QueueSettings::default()).unwrap();
        client.producer("q").unwrap().publish(&Message::new("x"), PATIENCE).unwrap();
    }
    // Who dials node 1 of their cluster comes out at node 1 of ours.
    theirs.links().mislead(1, ours.port(1));
    theirs.links().set((2, 1), Rule::Cut);
    wait_for("node 2 of the other cluster is refused", || {
        // Only the detour is left.
        theirs.links().set((2, 1), Rule::Pass);
        let said = theirs.running_mut(2).unwrap().stderr();
        said.contains("node 1 refuses this one: wrong cluster").then_some(())
    });
    wait_for("node 1 of this cluster says so as well", || {
        let said = ours.running_mut(1).unwrap().stderr();
        said.contains("node 2 at 127.0.0.1 is refused: wrong cluster: cluster ").then_some(())
    });
    theirs.links().heal();
    for (client, fleet) in clients.iter().zip([&mut ours, &mut theirs]) {
        client.producer("q").unwrap().publish(&Message::new("y"), PATIENCE).unwrap();
        assert_eq!(client.show_queue("q").unwrap().ready, 2);
        fleet.check_alive();
    }
}
