//! The machine without sockets: bytes in, bytes out.

use ringmain_net::frame::{self, FRAME_BYTES_MAX};
use ringmain_net::protocol::{
    ConsumerEnded, DeliveryHead, Kind, NodeAddress, Outcome, Pong, QueueOpened, QueueSettings, Receipt,
    Request, SessionOpened, ShardAddress, Subscribed, Words,
};

use super::settler::{Lease, Settler};
use super::*;
use crate::message::Message;

/// A machine, and the other ends of its connections, which see whole frames. Node `n` listens at port `7400 * n`.
struct World {
    machine: Machine,
    now: Instant,
    received: BTreeMap<usize, Vec<u8>>,
    seen: Vec<(Kind, u64, Vec<u8>)>,
    /// All requests ever seen, by link.
    requests: Vec<(usize, Kind, u64)>,
    /// The link that most calls here are about.
    link: usize,
    nodes: u32,
}

impl World {
    fn new() -> Self {
        Self::of_nodes(1)
    }

    fn of_nodes(nodes: u32) -> Self {
        let options = Options { addresses: Address::parse_list("shard:7400").unwrap(), ..Options::default() };
        let now = Instant::now();
        let machine = Machine::new(options, 1, now);
        let mut world = Self {
            machine,
            now,
            received: BTreeMap::new(),
            seen: Vec::new(),
            requests: Vec::new(),
            link: 0,
            nodes,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.now += Duration::from_secs(2);
        self.machine.on_time(self.now);
        let dialled = self.dialled();
        assert_eq!(dialled[0], (0, 7400));
        self.welcome(0, 1);
    }

    /// The links to dial, and their ports.
    fn dialled(&mut self) -> Vec<(usize, u16)> {
        self.machine.on_time(self.now);
        while self.machine.poll_drop().is_some() {}
        let Self { machine, now, .. } = self;
        std::iter::from_fn(|| machine.poll_dial(*now))
            .map(|(link, address, _)| (link, address.port))
            .collect()
    }

    /// This link is connected, and this node welcomes us.
    fn welcome(&mut self, link: usize, node: u32) {
        self.link = link;
        self.received.remove(&link);
        self.machine.on_connected(link, self.now);
        self.send_all();
        let shards = vec![ShardAddress { host: String::new(), port: node as u16 * 7400 }];
        let address = |node: u32| NodeAddress { node, host: String::new(), port: node as u16 * 7400 };
        let nodes = (1..=self.nodes).map(address).collect();
        let welcome = Welcome {
            protocol: 1,
            cluster: 1,
            node,
            incarnation: 1,
            shard: 0,
            groups: 1,
            message_bytes_max: 1 << 20,
            frame_bytes_max: FRAME_BYTES_MAX,
            inflight_frames_max: 4096,
            shards,
            nodes,
        };
        self.reply(1, &welcome);
    }

    fn reply(&mut self, request: u64, words: &impl Words) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, request, words, &[]);
        self.receive(&bytes);
    }

    fn receive(&mut self, bytes: &[u8]) {
        // In the smallest pieces that a connection may deliver.
        for byte in bytes.chunks(7) {
            self.machine.inbox(self.link)[..byte.len()].copy_from_slice(byte);
            self.machine.on_received(self.link, byte.len(), self.now);
        }
    }

    /// Takes at most so many bytes; answers how many there were.
    fn send(&mut self, limit: usize) -> usize {
        let mut slices = Slices::new();
        self.machine.transmit(self.link, &mut slices);
        let received = self.received.entry(self.link).or_default();
        let mut left = limit;
        let mut sent = 0;
        for slice in slices.as_slice() {
            let part = slice.len().min(left);
            received.extend_from_slice(&slice[..part]);
            left -= part;
            sent += part;
        }
        self.machine.on_transmitted(self.link, sent);
        self.cut_frames();
        sent
    }

    fn send_all(&mut self) {
        while self.send(usize::MAX) > 0 {}
        assert!(self.received.values().all(Vec::is_empty), "a frame was not finished");
    }

    fn cut_frames(&mut self) {
        let received = self.received.remove(&self.link).unwrap_or_default();
        let mut rest = &received[..];
        while let Some(frame) = frame::split(rest, FRAME_BYTES_MAX).expect("frames arrive whole and unmixed")
        {
            Request::decode(&frame).unwrap();
            let kind = Kind::try_from(frame.kind).unwrap();
            self.seen.push((kind, frame.request, frame.body.to_vec()));
            self.requests.push((self.link, kind, frame.request));
            rest = &rest[frame.bytes..];
        }
        self.received.insert(self.link, rest.to_vec());
    }

    /// The request number of the last frame of this kind.
    fn last(&self, kind: Kind) -> u64 {
        self.seen.iter().rev().find(|(seen, ..)| *seen == kind).expect("such a frame was sent").1
    }

    /// The shard says that it leads.
    fn serve(&mut self) {
        self.send_all();
        let opened = QueueOpened { queue: 9, settings: QueueSettings::default() };
        self.reply(self.last(Kind::OpenQueue), &opened);
        self.send_all();
    }

    /// What was sent since the last look.
    fn sent(&mut self) -> Vec<(Kind, Vec<u8>)> {
        self.send_all();
        self.seen.drain(..).map(|(kind, _, body)| (kind, body)).collect()
    }

    /// The numbers of all requests of this kind that were ever sent on this link.
    fn all_of(&self, link: usize, kind: Kind) -> Vec<u64> {
        let here = self.requests.iter().filter(|request| (request.0, request.1) == (link, kind));
        here.map(|request| request.2).collect()
    }

    /// The same, after sending what there is on the link at hand.
    fn sent_of(&mut self, kind: Kind) -> Vec<u64> {
        self.send_all();
        self.all_of(self.link, kind)
    }

    fn producer(&mut self, session: u64) -> u64 {
        let id = self.machine.open_producer("orders", "", self.now);
        self.send_all();
        let settings = QueueSettings::default();
        self.reply(self.last(Kind::OpenQueue), &QueueOpened { queue: 9, settings });
        self.send_all();
        self.reply(self.last(Kind::OpenSession), &SessionOpened { session, epoch: 1, last_sequence: 0 });
        assert_eq!(self.machine.producer_verdict(id), Some(Ok(())));
        id
    }

    fn consumer(&mut self) -> u64 {
        let id = self.machine.open_consumer("orders", 10, self.now);
        self.send_all();
        let settings = QueueSettings::default();
        self.reply(self.last(Kind::OpenQueue), &QueueOpened { queue: 9, settings });
        self.send_all();
        self.reply(self.last(Kind::Subscribe), &Subscribed { consumer: 1 });
        assert_eq!(self.machine.consumer_verdict(id), Some(Ok(())));
        id
    }

    fn offer(&mut self, producer: u64, payload: &[u8]) {
        self.machine.offer(producer, &[Message::new(payload)], self.now).unwrap();
    }

    fn settle(&mut self, consumer: u64) {
        let mut settler = Settler::default();
        settler.push(Lease { generation: 1, sequence: 1, deliveries: 1, priority: 0 }, Outcome::Ack);
        self.machine.settle(consumer, &mut settler, 1, 0);
    }
}

#[test]
fn frames_never_mix_however_little_is_taken() {
    let mut world = World::new();
    let (a, b) = (world.producer(11), world.producer(12));
    let consumer = world.consumer();
    world.seen.clear();
    let mut random = Random::new(5);
    let mut sent = [0_usize; 2];
    for round in 0..400 {
        let payload = vec![round as u8; (random.next() >> 50) as usize];
        let producer = usize::from(random.next() & 1 == 0);
        if world.machine.offer([a, b][producer], &[Message::new(&payload)], world.now).is_ok() {
            sent[producer] += 1;
        }
        if round % 5 == 0 {
            world.settle(consumer);
        }
        let limit = (random.next() >> 49) as usize;
        world.send(limit);
    }
    world.send_all();
    let count = |kind: Kind| world.seen.iter().filter(|(seen, ..)| *seen == kind).count();
    assert_eq!(count(Kind::Publish), sent[0] + sent[1]);
    assert_eq!(count(Kind::Settle), 80);
}

#[test]
fn a_frame_larger_than_one_write_is_finished_before_anything_else() {
    let mut world = World::new();
    let (a, b) = (world.producer(11), world.producer(12));
    let consumer = world.consumer();
    world.seen.clear();
    let megabyte = vec![1; 1 << 20];
    let messages = [Message::new(&megabyte), Message::new(&megabyte), Message::new(&megabyte)];
    world.machine.offer(a, &messages, world.now).unwrap();
    world.send(1 << 20);
    world.settle(consumer);
    world.offer(b, b"x");
    world.send_all();
    let kinds: Vec<_> = world.seen.iter().map(|(kind, _, body)| (*kind, body.len())).collect();
    assert_eq!(kinds, [(Kind::Publish, 3 << 20), (Kind::Settle, 0), (Kind::Publish, 1)]);
}

#[test]
fn settles_go_before_publishes_that_wait() {
    let mut world = World::new();
    let producer = world.producer(11);
    let consumer = world.consumer();
    world.seen.clear();
    world.offer(producer, b"x");
    world.settle(consumer);
    world.send_all();
    assert_eq!(world.seen[0].0, Kind::Settle);
}

#[test]
fn what_is_sent_again_is_the_same_byte_for_byte() {
    let mut world = World::new();
    let producer = world.producer(11);
    for payload in [b"one", b"two"] {
        world.offer(producer, payload);
    }
    world.send_all();
    let first = world.seen.split_off(world.seen.len() - 2);
    world.machine.on_lost(0, "the test says so".to_owned(), world.now);
    world.connect();
    world.serve();
    assert_eq!(world.seen.split_off(world.seen.len() - 2), first);
    let receipt =
        Receipt { session: 11, first_sequence: 1, last_sequence: 2, flags: 1, ..Receipt::default() };
    world.reply(2, &receipt);
    let completion = world.machine.poll_completion(producer).unwrap();
    assert!(completion.result.unwrap().duplicate);
    assert!(world.machine.poll_completion(producer).is_some());
    assert!(world.machine.is_drained());
}

#[test]
fn receipts_for_what_was_not_sent_are_not_believed() {
    let mut world = World::new();
    let producer = world.producer(11);
    world.offer(producer, b"x");
    let receipt = Receipt { session: 11, first_sequence: 0, last_sequence: u64::MAX, ..Receipt::default() };
    world.reply(1, &receipt);
    assert!(world.machine.poll_completion(producer).is_none());
    // Nor are receipts of sessions that nobody has.
    world.reply(1, &Receipt { session: 99, ..receipt });
    assert!(world.machine.links[0].is_up());
}

#[test]
fn a_shard_that_breaks_the_protocol_loses_its_connection_and_nothing_else() {
    let delivery = |count: usize| {
        let mut bytes = Vec::new();
        let messages = vec![DeliveryHead::default(); count];
        let words = ringmain_net::protocol::Delivery { consumer: 1, queue: 9, messages: &messages };
        frame::encode(&mut bytes, 0, &words, &[]);
        bytes
    };
    let mut unknown = Vec::new();
    frame::encode(&mut unknown, 1, &Pong, &[]);
    unknown[9] = 77;
    let checks: [(&str, Vec<u8>); 3] = [
        ("more than the credit", delivery(11)),
        ("checksum", unknown),
        ("at most", b"HTTP/1.1 400 Bad Request\r\n".to_vec()),
    ];
    for (reason, bytes) in checks {
        let mut world = World::new();
        let producer = world.producer(11);
        world.consumer();
        world.offer(producer, b"x");
        world.receive(&delivery(10));
        assert!(world.machine.links[0].is_up());
        world.receive(&bytes);
        let error = world.machine.links[0].last_error.clone().unwrap();
        assert!(error.contains(reason), "{error}");
        world.connect();
        world.send_all();
        let asked: Vec<u64> = world
            .seen
            .iter()
            .rev()
            .filter(|(kind, ..)| *kind == Kind::OpenQueue)
            .map(|seen| seen.1)
            .collect();
        world.reply(asked[0], &QueueOpened { queue: 9, settings: QueueSettings::default() });
        world.send_all();
        assert!(world.seen.iter().any(|(kind, _, body)| (*kind, &body[..]) == (Kind::Publish, b"x")));
    }
}

#[test]
fn silence_is_asked_about_and_then_ended() {
    let mut world = World::new();
    let Options { ping_after, silence_max, .. } = *world.machine.options();
    let heard = world.now;
    world.now = heard + ping_after;
    world.machine.on_time(world.now);
    world.send_all();
    assert_eq!(world.seen.last().unwrap().0, Kind::Ping);
    assert!(world.machine.next_deadline() <= heard + silence_max);
    world.now = heard + silence_max;
    world.machine.on_time(world.now);
    assert!(!world.machine.links[0].is_up());
    assert_eq!(world.machine.poll_drop(), Some(0));
}

#[test]
fn an_answer_ends_the_silence() {
    let mut world = World::new();
    let Options { ping_after, silence_max, .. } = *world.machine.options();
    let heard = world.now;
    world.now = heard + ping_after;
    world.machine.on_time(world.now);
    world.send_all();
    world.reply(world.last(Kind::Ping), &Pong);
    world.now = heard + silence_max;
    world.machine.on_time(world.now);
    assert!(world.machine.links[0].is_up());
}

#[test]
fn events_are_kept_within_bounds() {
    let mut world = World::new();
    for _ in 0..1000 {
        world.machine.event(Event::Silent { address: "a:1".to_owned() });
    }
    assert_eq!(std::iter::from_fn(|| world.machine.poll_event()).count(), EVENTS_MAX);
}

/// A refusal of a publish of session 11, with where to go instead.
fn refused(code: Code, sequence: u64, redirect_port: u16) -> Refused<'static> {
    Refused { code: code as u16, session: 11, sequence, redirect_port, ..Refused::default() }
}

/// A world of two nodes whose producer has sent two publishes to the first, which refused the first of them.
fn moving() -> (World, u64) {
    let mut world = World::of_nodes(2);
    let producer = world.producer(11);
    world.offer(producer, b"one");
    world.offer(producer, b"two");
    world.sent();
    world.reply(1, &refused(Code::NotLeader, 1, 2 * 7400));
    assert_eq!(world.dialled(), [(1, 2 * 7400)]);
    (world, producer)
}

#[test]
fn the_window_goes_to_the_next_leader_once_that_says_so() {
    let (mut world, _) = moving();
    world.welcome(1, 2);
    let asked = vec![(Kind::Hello, vec![]), (Kind::OpenQueue, vec![])];
    assert_eq!(world.sent(), asked, "publishes wait for the answer");
    world.link = 0;
    assert_eq!(world.sent(), [], "and nothing goes to the old one");
    world.link = 1;
    world.machine.on_lost(1, "the test says so".to_owned(), world.now);
    assert_eq!(world.dialled(), []);
    world.link = 0;
    world.serve();
    assert_eq!(world.sent()[1..], [(Kind::Publish, b"one".to_vec()), (Kind::Publish, b"two".to_vec())]);
}

#[test]
fn refusals_of_a_leader_that_was_left_say_nothing() {
    let (mut world, producer) = moving();
    world.welcome(1, 2);
    world.serve();
    world.link = 0;
    world.reply(2, &refused(Code::NotLeader, 2, 0));
    world.reply(2, &refused(Code::Full, 2, 0));
    assert!(world.machine.poll_completion(producer).is_none());
    world.sent();
    world.link = 1;
    assert_eq!(world.sent(), [], "nothing is sent a third time");
}

#[test]
fn receipts_of_a_leader_that_was_left_are_true() {
    let (mut world, producer) = moving();
    let receipt = |first_sequence, last_sequence| Receipt {
        session: 11,
        first_sequence,
        last_sequence,
        ..Receipt::default()
    };
    // Before they are sent again it is the next leader's turn to say so.
    world.reply(1, &receipt(1, 2));
    assert!(world.machine.poll_completion(producer).is_none());
    world.welcome(1, 2);
    world.serve();
    assert_eq!(world.sent().into_iter().filter(|(kind, _)| *kind == Kind::Publish).count(), 2);
    world.link = 0;
    world.reply(1, &receipt(1, 1));
    assert_eq!(world.machine.poll_completion(producer).unwrap().sequence.0, 1);
    world.link = 1;
    world.reply(2, &Receipt { flags: 1, ..receipt(1, 2) });
    assert_eq!(world.machine.poll_completion(producer).unwrap().sequence.0, 2, "and each comes once");
    assert!(world.machine.poll_completion(producer).is_none());
    assert!(world.machine.is_drained());
}

#[test]
fn a_lost_leader_is_looked_for_everywhere_at_once() {
    let mut world = World::of_nodes(3);
    world.producer(11);
    world.consumer();
    world.machine.on_lost(0, "the test says so".to_owned(), world.now);
    // The connection that ended had worked for a while, so it is among them.
    world.now += Duration::from_millis(30);
    let ports: BTreeSet<u16> = world.dialled().into_iter().map(|(_, port)| port).collect();
    assert_eq!(ports, BTreeSet::from([7400, 2 * 7400, 3 * 7400]));
}

#[test]
fn a_consumer_that_was_ended_subscribes_at_the_next_leader() {
    let mut world = World::of_nodes(2);
    let consumer = world.consumer();
    let messages = [DeliveryHead::default()];
    let words = ringmain_net::protocol::Delivery { consumer: 1, queue: 9, messages: &messages };
    world.reply(0, &words);
    let ended = ConsumerEnded { consumer: 1, code: Code::NotLeader as u16, detail: "" };
    world.reply(0, &ended);
    // What was on its way is void too.
    world.reply(0, &words);
    let state = world.machine.consumers.get_mut(&consumer).unwrap();
    assert!(state.mailbox_mut().is_empty());
    assert!(!state.is_ready());
    assert_eq!(state.generation, 2);
    world.sent();
    assert_eq!(world.dialled(), [(1, 2 * 7400)]);
    // The one that ended it is all there is, so it is asked again, and points to the other.
    world.send_all();
    let subscribe = world.last(Kind::Subscribe);
    world.sent();
    world.welcome(1, 2);
    world.link = 0;
    world.reply(subscribe, &Refused { session: 0, ..refused(Code::NotLeader, 0, 2 * 7400) });
    world.link = 1;
    assert_eq!(world.sent().pop(), Some((Kind::Subscribe, vec![])));
}

#[test]
fn a_thread_that_was_away_gives_its_late_ping_the_same_time() {
    let mut world = World::new();
    let Options { ping_after, silence_max, .. } = *world.machine.options();
    world.now += silence_max * 10;
    world.machine.on_time(world.now);
    world.now += silence_max.checked_sub(ping_after).unwrap() - TICK;
    world.machine.on_time(world.now);
    assert!(world.machine.links[0].is_up());
    world.now += TICK;
    world.machine.on_time(world.now);
    assert!(!world.machine.links[0].is_up());
}

#[test]
fn a_shard_that_says_nothing_is_passed_over_and_may_still_answer() {
    let mut world = World::of_nodes(3);
    let producer = world.producer(11);
    let consumer = world.consumer();
    world.machine.on_lost(0, "the test says so".to_owned(), world.now);
    let dialled = world.dialled();
    let [second, third] = [2, 3].map(|node| {
        let port = |(_, port): &&(usize, u16)| *port == node as u16 * 7400;
        let link = dialled.iter().find(port).unwrap().0;
        world.welcome(link, node);
        link
    });
    let asked = |world: &mut World, link: usize, kind: Kind| {
        world.link = link;
        world.sent_of(kind)
    };
    // One of the two is asked, says nothing, and so the other one is.
    let first = asked(&mut world, second, Kind::OpenQueue);
    assert!(asked(&mut world, third, Kind::OpenQueue).is_empty());
    world.now += Duration::from_millis(100);
    world.machine.on_time(world.now);
    let then = asked(&mut world, third, Kind::OpenQueue);
    assert_eq!((first.len(), then.len()), (1, 1));
    // The first leads after all: its answer counts, and that of the other is news no more.
    let opened = QueueOpened { queue: 9, settings: QueueSettings::default() };
    world.link = second;
    world.reply(first[0], &opened);
    world.link = third;
    world.reply(then[0], &Refused { session: 0, ..refused(Code::NotLeader, 0, 0) });
    assert_eq!(world.machine.producers[&producer].seat.link, Some(second));
    assert!(world.machine.producers[&producer].is_ready());
    // Likewise the consumer, whose second subscription is given back.
    let subscriptions = [second, third].map(|link| world.all_of(link, Kind::Subscribe));
    for (link, requests) in [second, third].into_iter().zip(&subscriptions) {
        world.link = link;
        world.reply(requests[0], &Subscribed { consumer: 4 });
    }
    assert_eq!(world.machine.consumers[&consumer].seat.link, Some(second));
    assert!(world.machine.consumers[&consumer].is_ready());
    assert_eq!(asked(&mut world, third, Kind::Unsubscribe).len(), 1);
}

/// Time passes, and every ping is answered.
fn idle(world: &mut World, duration: Duration) {
    let until = world.now + duration;
    while world.now < until {
        world.now += world.machine.options().ping_after;
        world.machine.on_time(world.now);
        for link in 0..world.machine.links.len() {
            if world.machine.links[link].is_up() {
                world.link = link;
                let before = world.all_of(link, Kind::Ping).len();
                for ping in world.sent_of(Kind::Ping).split_off(before) {
                    world.reply(ping, &Pong);
                }
            }
        }
    }
}

#[test]
fn connection_that_nobody_needs_ends_and_the_leaders_stays() {
    let mut world = World::of_nodes(2);
    idle(&mut world, 2 * NEEDLESS_MAX);
    assert!(world.machine.links[0].is_up(), "one stays, so that the client knows the cluster");
    let producer = world.producer(11);
    world.machine.on_lost(0, "the test says so".to_owned(), world.now);
    assert_eq!(world.dialled(), [(0, 7400), (1, 2 * 7400)]);
    world.welcome(1, 2);
    world.serve();
    assert_eq!(world.machine.producers[&producer].seat.link, Some(1));
    world.welcome(0, 1);
    idle(&mut world, NEEDLESS_MAX / 2);
    assert!(world.machine.links[0].is_up());
    idle(&mut world, NEEDLESS_MAX);
    assert!(!world.machine.links[0].is_up());
    assert_eq!(world.dialled(), []);
    // The group that was found stays so, with and without somebody who publishes there.
    world.machine.leave_producer(producer);
    idle(&mut world, 2 * NEEDLESS_MAX);
    assert!(world.machine.links[1].is_up());
    // Whoever loses it finds the other one again.
    world.machine.open_consumer("orders", 10, world.now);
    world.machine.on_lost(1, "the test says so".to_owned(), world.now);
    assert!(world.dialled().contains(&(0, 7400)));
}
