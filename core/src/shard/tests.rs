//! A shard on a disk in memory, spoken to in frames, as a client would.

use super::*;
use crate::boot::Replay;
use ringmain_net::frame::{Frame, encode, split};
use ringmain_net::protocol::{
    ChangeMembers, CreateQueue, Hello, MessageHead, OpenQueue, OpenSession, Outcome, PROTOCOL, Publish,
    PurgeQueue, QueueInfo, QueueSettings, Reply, Settle, SettleRun, ShowQueue, Subscribe, Words,
};
use ringmain_wal::{PAGE_BYTES, Recovery, SegmentFile, SegmentHeader};
use std::collections::BTreeMap;

const CLIENT: ConnectionId = ConnectionId(1);

/// A disk that does everything at once, and a clock that moves when told.
struct World {
    options: ShardOptions,
    shard: Shard,
    output: Output,
    segments: BTreeMap<u64, Vec<u8>>,
    superblocks: [Vec<u8>; 2],
    now: Time,
    received: Vec<u8>,
    request: u64,
}

fn options() -> ShardOptions {
    let identity = Identity { cluster: 7, node: 1, shard: 0, incarnation: 1 };
    ShardOptions {
        identity,
        log: LogOptions { segment_bytes: 4 << 20, cache_bytes_max: 1 << 20, ..LogOptions::new(identity) },
        limits: Limits { checkpoint_bytes: crate::config::Bytes(8 << 20), ..Limits::default() },
        groups: vec![GroupId(0)],
        addresses: vec![Address { host: "localhost".to_owned(), port: 7411 }],
        founders: vec![Member {
            node: 1,
            incarnation: 1,
            address: Address { host: "localhost".to_owned(), port: 7411 },
        }],
        layout: None,
        seed: 1,
    }
}

fn boot(options: &ShardOptions, segments: &BTreeMap<u64, Vec<u8>>, superblocks: &[Vec<u8>; 2]) -> Shard {
    let files = segments
        .iter()
        .map(|(number, bytes)| SegmentFile { number: *number, header: bytes[..PAGE_BYTES as usize].to_vec() })
        .collect();
    let slots = [&superblocks[0][..], &superblocks[1][..]];
    let mut recovery = Recovery::new(&options.log, slots, files).unwrap();
    let mut replay = Replay::new(options.clone());
    loop {
        while let Some(record) = recovery.next_record() {
            replay.on_record(&record).unwrap();
        }
        let Some(read) = recovery.poll_read() else { break };
        let (offset, bytes) = (read.offset as usize, read.bytes);
        let segment = &segments[&read.segment];
        recovery.on_read(&segment[offset..(offset + bytes).min(segment.len())]);
    }
    replay.finish(recovery.finish().unwrap()).unwrap()
}

impl World {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: ShardOptions) -> Self {
        let (segments, superblocks) = (BTreeMap::new(), [Vec::new(), Vec::new()]);
        let shard = boot(&options, &segments, &superblocks);
        let mut world = Self {
            options,
            shard,
            output: Output::default(),
            segments,
            superblocks,
            now: Time(1_000_000_000),
            received: Vec::new(),
            request: 0,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.received.clear();
        self.step(Input::Opened { connection: CLIENT });
        self.ask(&Hello { protocol: PROTOCOL, cluster: 0, agent: "test" }, &[]);
    }

    /// Everything in memory is gone; what was written stays.
    fn restart(&mut self) {
        self.shard = boot(&self.options, &self.segments, &self.superblocks);
        self.output = Output::default();
        self.connect();
    }

    fn step(&mut self, input: Input<'_>) {
        self.shard.step(self.now, input, &mut self.output);
        self.carry();
        loop {
            self.shard.step(self.now, Input::Turn, &mut self.output);
            self.carry();
            let is_unfinished = std::mem::take(&mut self.output.is_unfinished);
            if !(self.write() || is_unfinished) {
                break;
            }
        }
        self.shard.check();
    }

    fn carry(&mut self) {
        assert!(self.output.failure.is_none(), "{:?}", self.output.failure);
        for segment in std::mem::take(&mut self.output.segments) {
            let (number, mut bytes) = match segment {
                PrepareSegment::Create { number } => {
                    (number, vec![0; self.options.log.segment_bytes as usize])
                }
                PrepareSegment::Recycle { from, number } => (number, self.segments.remove(&from).unwrap()),
            };
            let (identity, segment_bytes) = (self.options.identity, self.options.log.segment_bytes);
            SegmentHeader { number, segment_bytes, identity }.encode(&mut bytes[..PAGE_BYTES as usize]);
            self.segments.insert(number, bytes);
            self.shard.step(self.now, Input::SegmentReady { number }, &mut self.output);
        }
        for read in std::mem::take(&mut self.output.reads) {
            let segment_bytes = self.options.log.segment_bytes;
            let offset = read.position.offset(segment_bytes) as usize;
            let bytes = &self.segments[&read.position.segment(segment_bytes)][offset..offset + read.bytes];
            let bytes = Bytes::copy_from_slice(bytes);
            self.shard.step(self.now, Input::Read { position: read.position, bytes }, &mut self.output);
            self.output.is_unfinished = true;
        }
        if let Some(superblock) = self.output.superblock.take() {
            let mut page = vec![0; PAGE_BYTES as usize];
            superblock.encode(&mut page);
            self.superblocks[superblock.slot() as usize] = page;
            self.shard.step(self.now, Input::SuperblockWritten, &mut self.output);
            self.output.is_unfinished = true;
        }
        for id in std::mem::take(&mut self.output.sends) {
            let mut outgoing = Outgoing::default();
            self.shard.take_outgoing(id, &mut outgoing);
            outgoing.pieces().for_each(|piece| self.received.extend_from_slice(piece));
            let bytes = outgoing.bytes();
            self.shard.step(self.now, Input::Sent { connection: id, bytes }, &mut self.output);
        }
    }

    fn write(&mut self) -> bool {
        let mut has_written = false;
        while let Some(bytes) = self.shard.next_write_bytes() {
            let mut page = vec![0xAA; bytes];
            let at = self.shard.poll_write(&mut page).unwrap();
            let offset = at.offset as usize;
            self.segments.get_mut(&at.segment).unwrap()[offset..offset + bytes].copy_from_slice(&page);
            self.shard.step(self.now, Input::Written { id: at.id }, &mut self.output);
            has_written = true;
        }
        has_written
    }

    fn ask<W: Words>(&mut self, words: &W, body: &[&[u8]]) -> u64 {
        self.request += 1;
        let mut bytes = Vec::new();
        encode(&mut bytes, self.request, words, body);
        self.step(Input::Received { connection: CLIENT, bytes: &bytes });
        assert_eq!(self.output.consumed, bytes.len());
        self.request
    }

    /// Shows every frame received since, and forgets them.
    fn replies(&mut self, mut show: impl FnMut(&Frame<'_>, Reply<'_>)) {
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        while let Some(frame) = split(rest, 4 << 20).unwrap() {
            show(&frame, Reply::decode(&frame).unwrap());
            rest = &rest[frame.bytes..];
        }
        assert!(rest.is_empty());
    }

    fn create(&mut self, settings: QueueSettings) -> u64 {
        self.ask(&CreateQueue { name: "orders", settings }, &[]);
        self.ask(&OpenQueue { name: "orders" }, &[]);
        let mut queue = 0;
        self.replies(|_, reply| {
            if let Reply::QueueOpened(opened) = reply {
                queue = opened.queue;
            }
        });
        assert_ne!(queue, 0);
        queue
    }

    fn session(&mut self) -> u64 {
        self.ask(&OpenSession { queue: 0, producer: "" }, &[]);
        let mut session = 0;
        self.replies(|_, reply| {
            if let Reply::SessionOpened(opened) = reply {
                session = opened.session;
            }
        });
        assert_ne!(session, 0);
        session
    }

    /// Publishes one message and tells "stored", "duplicate" or the code of the refusal.
    fn publish(
        &mut self,
        queue: u64,
        (session, sequence): (u64, u64),
        priority: u8,
        payload: &[u8],
    ) -> String {
        let head = MessageHead { payload_bytes: payload.len() as u32, priority, ..MessageHead::default() };
        let publish = Publish { queue, session, epoch: 1, sequence, messages: &[head] };
        self.ask(&publish, &[payload]);
        let mut outcome = String::new();
        self.replies(|_, reply| match reply {
            Reply::Receipt(receipt) if receipt.flags == 0 => outcome += "stored",
            Reply::Receipt(_) => outcome += "duplicate",
            Reply::Refused(refused) => outcome += &format!("{:?}", Code::from(refused.code)),
            _ => {}
        });
        outcome
    }

    /// Adds and removes replicas, each a node and its incarnation, and tells "done" or the code of the refusal.
    fn change_members(&mut self, add: Option<(u32, u32)>, remove: Option<(u32, u32)>) -> String {
        let (add_node, add_incarnation) = add.unwrap_or_default();
        let (remove_node, remove_incarnation) = remove.unwrap_or_default();
        let (host, port) = ("node2", 7411);
        let change = ChangeMembers {
            group: 0,
            add_node,
            add_incarnation,
            host,
            port,
            remove_node,
            remove_incarnation,
        };
        self.ask(&change, &[]);
        let mut outcome = String::new();
        self.replies(|_, reply| match reply {
            Reply::Done(_) => outcome += "done",
            Reply::Refused(refused) => outcome += &format!("{:?}", refused.code()),
            _ => {}
        });
        outcome
    }

    fn subscribe(&mut self, queue: u64, credit: u32) -> u32 {
        self.ask(&Subscribe { queue, credit }, &[]);
        let received = self.received.clone();
        let mut consumer = None;
        self.replies(|_, reply| {
            if let Reply::Subscribed(subscribed) = reply {
                consumer = Some(subscribed.consumer);
            }
        });
        self.received = received;
        consumer.unwrap()
    }

    /// What was delivered since: priority, sequence, deliveries and payload.
    fn deliveries(&mut self) -> Vec<(u8, u64, u16, Vec<u8>)> {
        let mut delivered = Vec::new();
        self.replies(|_, reply| {
            if let Reply::Delivery(delivery) = reply {
                for message in delivery.messages() {
                    let head = message.head;
                    delivered.push((head.priority, head.sequence, head.deliveries, message.payload.to_vec()));
                }
            }
        });
        delivered
    }

    fn settle(&mut self, consumer: u32, (priority, sequence): (u8, u64), deliveries: u16, outcome: Outcome) {
        let run = SettleRun { sequence, count: 1, deliveries, priority, outcome };
        self.ask(&Settle { consumer, items: &[run] }, &[]);
    }

    fn show(&mut self) -> QueueInfo {
        self.ask(&ShowQueue { name: "orders" }, &[]);
        let mut info = None;
        self.replies(|_, reply| {
            if let Reply::QueueShown(shown) = reply {
                info = Some(shown.info);
            }
        });
        info.unwrap()
    }
}

#[test]
fn published_message_is_delivered_and_acknowledged() {
    let mut world = World::new();
    let queue = world.create(QueueSettings::default());
    let session = world.session();
    assert_eq!(world.publish(queue, (session, 1), 0, b"hello"), "stored");
    let consumer = world.subscribe(queue, 10);
    assert_eq!(world.deliveries(), [(0, 1, 1, b"hello".to_vec())]);
    assert_eq!(world.show().in_flight, 1);
    world.settle(consumer, (0, 1), 1, Outcome::Ack);
    let info = world.show();
    assert_eq!((info.ready, info.in_flight, info.published, info.acknowledged), (0, 0, 1, 1));
}

#[test]
fn acknowledged_publish_survives_a_restart_once() {
    let mut world = World::new();
    let queue = world.create(QueueSettings { priorities: 3, ..QueueSettings::default() });
    let session = world.session();
    assert_eq!(world.publish(queue, (session, 1), 0, b"low"), "stored");
    assert_eq!(world.publish(queue, (session, 2), 2, b"high"), "stored");
    world.restart();
    assert_eq!(world.publish(queue, (session, 2), 2, b"high"), "duplicate");
    assert_eq!(world.publish(queue, (session, 3), 2, b"higher"), "stored");
    world.subscribe(queue, 10);
    let payloads: Vec<Vec<u8>> = world.deliveries().into_iter().map(|delivery| delivery.3).collect();
    assert_eq!(payloads, [b"high".to_vec(), b"higher".to_vec(), b"low".to_vec()]);
}

#[test]
fn stopping_shard_finishes_refuses_and_says_goodbye() {
    let mut world = World::new();
    let queue = world.create(QueueSettings::default());
    let session = world.session();
    assert_eq!(world.publish(queue, (session, 1), 0, b"1"), "stored");
    world.step(Input::Stop);
    assert!(world.output.is_stopped);
    let mut code = None;
    world.replies(|_, reply| {
        if let Reply::Closing(closing) = reply {
            code = Some(Code::from(closing.code));
        }
    });
    assert_eq!(code, Some(Code::ShuttingDown));
    world.restart();
    assert_eq!(world.show().ready, 1);
}

#[test]
fn full_queue_refuses_and_is_never_overshot() {
    let mut world = World::new();
    let queue = world.create(QueueSettings { max_length: 2, ..QueueSettings::default() });
    let session = world.session();
    assert_eq!(world.publish(queue, (session, 1), 0, b"1"), "stored");
    assert_eq!(world.publish(queue, (session, 2), 0, b"2"), "stored");
    assert_eq!(world.publish(queue, (session, 3), 0, b"3"), "Full");
    assert_eq!(world.show().ready, 2);
}

#[test]
fn nack_returns_to_its_place_with_a_higher_count() {
    let mut world = World::new();
    let queue = world.create(QueueSettings::default());
    let session = world.session();
    for sequence in 1..=3 {
        world.publish(queue, (session, sequence), 0, b"x");
    }
    let consumer = world.subscribe(queue, 2);
    assert_eq!(world.deliveries().len(), 2);
    // Its credit goes to the next message at once; its place it has again when the nack is durable.
    world.settle(consumer, (0, 1), 1, Outcome::Nack);
    assert_eq!(world.deliveries(), [(0, 3, 1, b"x".to_vec())]);
    world.settle(consumer, (0, 2), 1, Outcome::Ack);
    assert_eq!(world.deliveries(), [(0, 1, 2, b"x".to_vec())]);
}

#[test]
fn lease_that_expires_brings_the_message_back() {
    let mut world = World::new();
    let queue = world.create(QueueSettings { lease_ms: 50, ..QueueSettings::default() });
    let session = world.session();
    world.publish(queue, (session, 1), 0, b"x");
    world.subscribe(queue, 1);
    assert_eq!(world.deliveries().len(), 1);
    world.now = world.now.after_ms(60);
    assert!(world.shard.next_deadline().is_some_and(|deadline| deadline <= world.now));
    world.step(Input::Turn);
    assert_eq!(world.deliveries(), [(0, 1, 2, b"x".to_vec())]);
}

#[test]
fn log_many_times_its_cache_is_recycled_and_read_back() {
    let mut world = World::new();
    let queue = world.create(QueueSettings::default());
    let session = world.session();
    let payload = vec![7; 60_000];
    // One message stays: it must be copied forward, or it would pin its segment.
    world.subscribe(queue, 1);
    let mut sequence = 1;
    assert_eq!(world.publish(queue, (session, sequence), 0, b"stuck"), "stored");
    world.deliveries();
    for round in 0..40 {
        for _ in 0..20 {
            sequence += 1;
            assert_eq!(world.publish(queue, (session, sequence), 0, &payload), "stored", "round {round}");
        }
        let consumer = world.subscribe(queue, 20);
        let delivered = world.deliveries();
        assert_eq!(delivered.len(), 20);
        for delivery in delivered {
            assert!(delivery.3 == payload, "sequence {}", delivery.1);
            world.settle(consumer, (0, delivery.1), 1, Outcome::Ack);
        }
        world.ask(&ringmain_net::protocol::Unsubscribe { consumer }, &[]);
        world.received.clear();
        if round % 10 == 9 {
            world.restart();
            assert_eq!(world.show().ready, 1);
            world.subscribe(queue, 1);
            assert_eq!(world.deliveries()[0].3, b"stuck");
        }
    }
    assert!(world.segments.len() < 16, "{} segments", world.segments.len());
    world.restart();
    world.ask(&PurgeQueue { name: "orders" }, &[]);
    assert_eq!(world.show().ready, 0);
}

#[test]
fn purge_that_is_replayed_lets_go_of_nothing() {
    let mut world = World::new();
    let queue = world.create(QueueSettings::default());
    let session = world.session();
    world.publish(queue, (session, 1), 0, &[1; 1000]);
    world.ask(&PurgeQueue { name: "orders" }, &[]);
    world.publish(queue, (session, 2), 0, &[2; 100]);
    // The replayed log holds the second message; the first one must not be taken off its account.
    world.restart();
    world.step(Input::Turn);
    let consumer = world.subscribe(queue, 1);
    assert_eq!(world.deliveries(), [(0, 2, 1, vec![2; 100])]);
    world.settle(consumer, (0, 2), 1, Outcome::Ack);
    assert_eq!(world.show().ready, 0);
}

#[test]
fn nothing_is_told_before_what_was_acknowledged_is_applied() {
    let mut world = World::new();
    world.create(QueueSettings::default());
    let mut shard = boot(&world.options, &world.segments, &world.superblocks);
    let mut output = Output::default();
    shard.step(world.now, Input::Opened { connection: CLIENT }, &mut output);
    let mut bytes = Vec::new();
    encode(&mut bytes, 1, &Hello { protocol: PROTOCOL, cluster: 0, agent: "test" }, &[]);
    encode(&mut bytes, 2, &OpenQueue { name: "orders" }, &[]);
    encode(&mut bytes, 3, &ShowQueue { name: "orders" }, &[]);
    shard.step(world.now, Input::Received { connection: CLIENT, bytes: &bytes }, &mut output);
    world.received.clear();
    let mut outgoing = Outgoing::default();
    shard.take_outgoing(CLIENT, &mut outgoing);
    world.received = outgoing.pieces().collect::<Vec<_>>().concat();
    let mut refused = Vec::new();
    world.replies(|frame, reply| {
        if let Reply::Refused(reason) = reply {
            refused.push((frame.request, reason.code()));
        }
    });
    assert_eq!(refused, [(2, Code::Busy), (3, Code::Busy)]);
}

#[test]
fn member_is_removed_as_the_replica_that_was_meant() {
    let mut world = World::new();
    let members = |world: &World| -> Vec<(u32, u32)> {
        world.shard.groups[0].book.members.iter().map(|member| (member.node, member.incarnation)).collect()
    };
    for (add, remove, outcome, left) in [
        (Some((2, 5)), None, "done", &[(1, 1), (2, 5)][..]),
        (Some((2, 5)), None, "done", &[(1, 1), (2, 5)]),
        (Some((2, 6)), None, "Unsupported", &[(1, 1), (2, 5)]),
        // Whoever has not heard the answer asks once more.
        (Some((2, 6)), Some((2, 5)), "done", &[(1, 1), (2, 6)]),
        (Some((2, 6)), Some((2, 5)), "done", &[(1, 1), (2, 6)]),
        // The newcomer is not the one that was seen.
        (None, Some((2, 5)), "Unsupported", &[(1, 1), (2, 6)]),
        (Some((2, 7)), Some((2, 5)), "Unsupported", &[(1, 1), (2, 6)]),
        (None, Some((2, 0)), "Malformed", &[(1, 1), (2, 6)]),
        (None, Some((2, 6)), "done", &[(1, 1)]),
        (None, Some((2, 6)), "done", &[(1, 1)]),
        (Some((2, 7)), Some((2, 6)), "done", &[(1, 1), (2, 7)]),
        (None, Some((1, 1)), "Unsupported", &[(1, 1), (2, 7)]),
    ] {
        assert_eq!(world.change_members(add, remove), outcome, "{add:?} {remove:?}");
        assert_eq!(members(&world), left, "{add:?} {remove:?}");
        // Nobody has heard of a node 2: a vote of his would be one that is never given.
        assert_eq!(world.shard.group_members(0).unwrap().voters, [replica_id(1, 1)]);
    }
}

/// What a node of five has to say about its place in each group of a shard with five groups.
fn ranks(node: u32, shard: u32) -> Vec<usize> {
    let mut options = options();
    options.identity = Identity { node, shard, ..options.identity };
    let founder = |node| Member { node, ..options.founders[0].clone() };
    options.founders = (1..=5).map(founder).collect();
    options.groups = (0..5).map(GroupId).collect();
    options.groups.iter().map(|group| options.rank(*group)).collect()
}

#[test]
fn each_founder_has_a_place_of_its_own() {
    for shard in 0..8 {
        let nodes: Vec<Vec<usize>> = (1..=5).map(|node| ranks(node, shard)).collect();
        for group in 0..5 {
            let mut places: Vec<usize> = nodes.iter().map(|ranks| ranks[group]).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3, 4]);
        }
    }
}

#[test]
fn what_a_lost_node_led_is_spread() {
    let leads_of_first = |shard| (0..5).find(|group| ranks(1, shard)[*group] == 0).unwrap();
    let next = |shard| (2..=5).find(|node| ranks(*node, shard)[leads_of_first(shard)] == 1).unwrap();
    assert_eq!([0, 1, 2, 3].map(next).iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn who_came_later_stands_behind_the_founders() {
    assert!(ranks(9, 0).iter().all(|rank| *rank >= 5));
}
