//! A whole shard under requests that are nearly right: wrong numbers, wrong order, frames of other connections.
//!
//! ```text
//! event   0 what: 0 bytes received · 1 connection opened · 2 closed · 3 time passes · 1 connection · 2 the bytes
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use ringmain_core::boot::Replay;
use ringmain_core::config::{self, Limits};
use ringmain_core::connection::ConnectionId;
use ringmain_core::member::Member;
use ringmain_core::outgoing::Outgoing;
use ringmain_core::shard::{Address, Input, Output, Shard, ShardOptions};
use ringmain_core::time::Time;
use ringmain_net::frame;
use ringmain_net::protocol::{
    CreateQueue, DeleteQueue, Hello, ListQueues, MessageHead, OpenQueue, OpenSession, Outcome, PROTOCOL,
    Ping, Publish, PurgeQueue, QueueSettings, Reply, Settle, SettleRun, ShowQueue, Subscribe, Unsubscribe,
    Words,
};
use ringmain_wal::{GroupId, Identity, LogOptions, PAGE_BYTES, PrepareSegment, Recovery, SegmentHeader};

use super::wire::seal;
use super::{Target, chunks, join};
use crate::rng::Rng;

pub(super) const REQUEST: Target = Target {
    name: "request",
    samples: || vec![script().0],
    repair,
    feed: |bytes| {
        let mut host = Host::new();
        for event in chunks(bytes) {
            host.event(event);
        }
    },
    // The shard itself, its segments, its page buffers.
    memory_bytes: 24 << 20,
    memory_per_byte: 64,
};

const RECEIVED: u8 = 0;
const OPENED: u8 = 1;
const CLOSED: u8 = 2;
const TIME: u8 = 3;
const CONNECTIONS: u8 = 4;
pub(super) const SEGMENT_BYTES: u64 = 1 << 20;

pub(super) fn options() -> ShardOptions {
    let identity = Identity { cluster: 7, node: 1, shard: 0, incarnation: 1 };
    let address = Address { host: "localhost".to_owned(), port: 7411 };
    ShardOptions {
        identity,
        log: LogOptions { segment_bytes: SEGMENT_BYTES, segments_ready: 1, ..LogOptions::new(identity) },
        limits: Limits {
            // Often enough that a short script has one.
            checkpoint_bytes: config::Bytes(32 << 10),
            // What is asked for at once would hide what an input makes a shard ask for.
            entries_remembered_max: 1 << 10,
            ..Limits::default()
        },
        groups: vec![GroupId(0)],
        addresses: vec![address.clone()],
        founders: vec![Member { node: identity.node, incarnation: identity.incarnation, address }],
        layout: None,
        seed: 1,
    }
}

/// What the runtime is to a shard: a disk that does everything at once, and connections.
pub(super) struct Host {
    shard: Shard,
    output: Output,
    pub(super) segments: BTreeMap<u64, Vec<u8>>,
    pub(super) superblocks: [Vec<u8>; 2],
    now: Time,
    /// Numbers are never used again.
    next_id: u64,
    open: BTreeMap<u8, ConnectionId>,
    /// What the shard has not consumed.
    unread: BTreeMap<ConnectionId, Vec<u8>>,
    /// What the shard has said.
    said: Vec<u8>,
}

impl Host {
    pub(super) fn new() -> Self {
        let options = options();
        let recovery =
            Recovery::new(&options.log, [&[], &[]], Vec::new()).expect("nothing is there to refuse");
        let recovered = recovery.finish().expect("nothing is there to refuse");
        let shard = Replay::new(options).finish(recovered).expect("an empty log makes a shard");
        let mut host = Self {
            shard,
            output: Output::default(),
            segments: BTreeMap::new(),
            now: Time(1_000_000_000),
            superblocks: [Vec::new(), Vec::new()],
            next_id: 1,
            open: BTreeMap::new(),
            unread: BTreeMap::new(),
            said: Vec::new(),
        };
        host.turns();
        host
    }

    fn event(&mut self, event: &[u8]) {
        let [what, connection, bytes @ ..] = event else { return };
        let connection = connection % CONNECTIONS;
        match (*what, self.open.get(&connection).copied()) {
            (OPENED, None) => {
                let id = ConnectionId(self.next_id);
                self.next_id += 1;
                self.open.insert(connection, id);
                self.unread.insert(id, Vec::new());
                self.step(Input::Opened { connection: id });
            }
            (CLOSED, Some(id)) => self.close(id),
            (RECEIVED, Some(id)) => self.receive(id, bytes),
            (TIME, _) => self.now = Time(self.now.0 + u64::from(connection) * 7_000_000_000),
            _ => {}
        }
        self.turns();
    }

    fn close(&mut self, id: ConnectionId) {
        if self.unread.remove(&id).is_some() {
            self.open.retain(|_, open| *open != id);
            self.step(Input::Closed { connection: id });
        }
    }

    fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(mut unread) = self.unread.remove(&id) else { return };
        unread.extend_from_slice(bytes);
        self.shard.step(self.now, Input::Received { connection: id, bytes: &unread }, &mut self.output);
        let consumed = self.output.consumed;
        assert!(consumed <= unread.len());
        unread.drain(..consumed);
        self.unread.insert(id, unread);
        self.carry();
    }

    fn step(&mut self, input: Input<'_>) {
        self.shard.step(self.now, input, &mut self.output);
        self.carry();
    }

    /// Carries out what the last step wants done.
    fn carry(&mut self) {
        assert!(self.output.failure.is_none(), "{:?}", self.output.failure);
        for segment in std::mem::take(&mut self.output.segments) {
            self.prepare(segment);
        }
        for window in std::mem::take(&mut self.output.reads) {
            let segment = &self.segments[&window.position.segment(SEGMENT_BYTES)];
            let offset = window.position.offset(SEGMENT_BYTES) as usize;
            let bytes = Bytes::copy_from_slice(&segment[offset..offset + window.bytes]);
            self.shard.step(self.now, Input::Read { position: window.position, bytes }, &mut self.output);
        }
        if let Some(superblock) = self.output.superblock.take() {
            let mut page = vec![0; PAGE_BYTES as usize];
            superblock.encode(&mut page);
            self.superblocks[superblock.slot() as usize] = page;
            self.shard.step(self.now, Input::SuperblockWritten, &mut self.output);
        }
        for id in std::mem::take(&mut self.output.sends) {
            let mut outgoing = Outgoing::default();
            self.shard.take_outgoing(id, &mut outgoing);
            outgoing.pieces().for_each(|piece| self.said.extend_from_slice(piece));
            let bytes = outgoing.bytes();
            self.shard.step(self.now, Input::Sent { connection: id, bytes }, &mut self.output);
        }
        let (closes, cuts) = (&mut self.output.closes, &mut self.output.cuts);
        for id in closes.drain(..).chain(cuts.drain(..)).collect::<Vec<_>>() {
            self.close(id);
        }
    }

    fn prepare(&mut self, segment: PrepareSegment) {
        let (number, mut bytes) = match segment {
            PrepareSegment::Create { number } => (number, vec![0; SEGMENT_BYTES as usize]),
            PrepareSegment::Recycle { from, number } => {
                (number, self.segments.remove(&from).expect("what is recycled is there"))
            }
        };
        let header = SegmentHeader { number, segment_bytes: SEGMENT_BYTES, identity: options().identity };
        header.encode(&mut bytes[..PAGE_BYTES as usize]);
        self.segments.insert(number, bytes);
        self.shard.step(self.now, Input::SegmentReady { number }, &mut self.output);
    }

    /// Until nothing moves any more, which no request may put off for ever.
    fn turns(&mut self) {
        for _ in 0..1000 {
            self.step(Input::Turn);
            let is_unfinished = std::mem::take(&mut self.output.is_unfinished);
            let resumes = std::mem::take(&mut self.output.resumes);
            let has_resumed = !resumes.is_empty();
            for id in resumes {
                self.receive(id, &[]);
            }
            if !(self.write() || is_unfinished || has_resumed) {
                self.shard.check();
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    fn write(&mut self) -> bool {
        let mut has_written = false;
        while let Some(bytes) = self.shard.next_write_bytes() {
            let mut page = vec![0xAA; bytes];
            let Some(at) = self.shard.poll_write(&mut page) else { break };
            let offset = at.offset as usize;
            let segment = self.segments.get_mut(&at.segment).expect("the log writes to what is ready");
            segment[offset..offset + bytes].copy_from_slice(&page);
            self.step(Input::Written { id: at.id });
            has_written = true;
        }
        has_written
    }
}

/// Writes down what a client sends, and learns the numbers from what the shard says.
struct Scribe {
    host: Host,
    events: Vec<Vec<u8>>,
    request: u64,
}

impl Scribe {
    fn event(&mut self, what: u8, connection: u8, bytes: &[u8]) {
        let event = [&[what, connection], bytes].concat();
        self.host.event(&event);
        self.events.push(event);
    }

    /// Sends a frame and answers the last number that came back: of a queue, a session or a consumer.
    fn ask(&mut self, connection: u8, words: &impl Words, body: &[u8]) -> u64 {
        self.request += 1;
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, self.request, words, &[body]);
        self.event(RECEIVED, connection, &bytes);
        let said = std::mem::take(&mut self.host.said);
        let mut rest = &said[..];
        let mut number = 0;
        while let Ok(Some(frame)) = frame::split(rest, frame::FRAME_BYTES_MAX) {
            match Reply::decode(&frame).expect("the shard speaks the protocol") {
                Reply::QueueOpened(opened) => number = opened.queue,
                Reply::SessionOpened(opened) => number = opened.session,
                Reply::Subscribed(subscribed) => number = u64::from(subscribed.consumer),
                _ => {}
            }
            rest = &rest[frame.bytes..];
        }
        number
    }

    fn publish(&mut self, (queue, session, sequence): (u64, u64, u64), priorities: &[u8]) {
        let head = |&priority: &u8| MessageHead {
            payload_bytes: 6,
            headers_bytes: 2,
            key_bytes: 2,
            priority,
            ..MessageHead::default()
        };
        let messages: Vec<_> = priorities.iter().map(head).collect();
        let body = vec![b'p'; 10 * messages.len()];
        let publish = Publish { queue, session, epoch: 1, sequence, messages: &messages };
        self.ask(0, &publish, &body);
    }
}

/// A working day of two clients; and the host with the log of it.
pub(super) fn script() -> (Vec<u8>, Host) {
    let mut scribe = Scribe { host: Host::new(), events: Vec::new(), request: 0 };
    for connection in 0..2 {
        scribe.event(OPENED, connection, &[]);
        scribe.ask(connection, &Hello { protocol: PROTOCOL, cluster: 7, agent: "fuzz" }, &[]);
    }
    let settings = QueueSettings { priorities: 4, max_length: 50, ..QueueSettings::default() };
    scribe.ask(0, &CreateQueue { name: "orders", settings }, &[]);
    let queue = scribe.ask(0, &OpenQueue { name: "orders" }, &[]);
    let session = scribe.ask(0, &OpenSession { queue, producer: "fuzz" }, &[]);
    assert!(queue != 0 && session != 0);
    scribe.publish((queue, session, 1), &[0, 1, 2, 3, 3]);
    scribe.publish((queue, session, 2), &[1; 20]);
    let consumer = scribe.ask(1, &Subscribe { queue, credit: 8 }, &[]) as u32;
    assert!(consumer != 0);
    let run =
        |priority, sequence, outcome| SettleRun { sequence, count: 1, deliveries: 1, priority, outcome };
    let items = [run(3, 1, Outcome::Ack), run(3, 2, Outcome::Nack), run(2, 1, Outcome::Reject)];
    scribe.ask(1, &Settle { consumer, items: &items }, &[]);
    scribe.event(TIME, 3, &[]);
    scribe.publish((queue, session, 3), &[3]);
    scribe.ask(1, &ShowQueue { name: "orders" }, &[]);
    scribe.ask(1, &ListQueues { group: 0, after: "", limit: 10 }, &[]);
    scribe.ask(0, &PurgeQueue { name: "orders" }, &[]);
    scribe.ask(1, &Unsubscribe { consumer }, &[]);
    scribe.ask(1, &Ping, &[]);
    scribe.event(CLOSED, 1, &[]);
    scribe.publish((queue, session, 4), &[0; 5]);
    scribe.ask(0, &CreateQueue { name: "short", settings: QueueSettings::default() }, &[]);
    scribe.ask(0, &DeleteQueue { name: "short" }, &[]);
    (join(&scribe.events), scribe.host)
}

/// Each frame gets the length and checksum of what it has become; sometimes events change places.
fn repair(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let mut events: Vec<Vec<u8>> = chunks(bytes).map(<[u8]>::to_vec).collect();
    if !events.is_empty() && rng.one_in(3) {
        let (from, to) = (rng.below(events.len() as u64) as usize, rng.below(events.len() as u64) as usize);
        match rng.below(3) {
            0 => events.swap(from, to),
            1 => drop(events.remove(from)),
            _ => events.insert(to, events[from].clone()),
        }
    }
    let sealed = RefCell::new(rng);
    for event in &mut events {
        if event.first() == Some(&RECEIVED) && event.len() > 2 {
            let mut frame = event.split_off(2);
            seal_gently(&mut frame, &mut sealed.borrow_mut());
            event.extend_from_slice(&frame);
        }
    }
    *bytes = join(&events);
}

/// Frames that are still whole stay as they are.
fn seal_gently(bytes: &mut [u8], rng: &mut Rng) {
    if frame::split(bytes, frame::FRAME_BYTES_MAX).is_ok_and(|frame| frame.is_some()) {
        return;
    }
    seal(bytes, rng);
}
