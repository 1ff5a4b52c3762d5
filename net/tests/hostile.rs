//! Bytes from outside never panic a decoder and never make it allocate out of proportion.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringmain_net::frame::{self, FRAME_BYTES_MAX, HEADER_BYTES};
use ringmain_net::protocol::{
    ChangeMembers, Closing, Cluster, ConsumerEnded, CreateQueue, Delivery, DeliveryHead, GroupInfo,
    GroupsShown, Hello, Kind, LevelInfo, ListQueues, MemberInfo, MessageHead, NodeAddress, OpenSession,
    Outcome, Publish, QueueInfo, QueueList, QueueSettings, QueueShown, Receipt, Refused, Reply, Request,
    Settle, SettleRun, ShardAddress, ShowQueue, Words,
};

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// An allocator that counts cannot be written without this trait.
#[allow(unsafe_code)]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.with(|total| total.set(total.get() + layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// xorshift64*: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Decodes a frame in both directions, walks over everything in it, and answers the bytes allocated.
fn digest(bytes: &[u8], frame_bytes_max: u32) -> usize {
    let before = ALLOCATED.with(Cell::get);
    if let Ok(Some(frame)) = frame::split(bytes, frame_bytes_max) {
        assert!(frame.bytes <= bytes.len());
        match Request::decode(&frame) {
            Ok(Request::Publish(publish)) => {
                let walked: usize = publish.messages().map(|message| message.bytes.len()).sum();
                assert_eq!(walked, frame.body.len());
            }
            Ok(Request::Settle(settle)) => assert!(settle.runs().count() > 0),
            Ok(_) | Err(_) => {}
        }
        if let Ok(Reply::Delivery(delivery)) = Reply::decode(&frame) {
            let bytes =
                |m: ringmain_net::protocol::Delivered<'_>| m.key.len() + m.headers.len() + m.payload.len();
            assert_eq!(delivery.messages().map(bytes).sum::<usize>(), frame.body.len());
        }
    }
    ALLOCATED.with(Cell::get) - before
}

/// Every decoded list owns at most this many bytes per byte received (a queue of 144 bytes, 33 a level, 29 a member).
const GROWTH_MAX: usize = 4;

fn check(bytes: &[u8]) {
    let allocated = digest(bytes, FRAME_BYTES_MAX);
    assert!(allocated <= GROWTH_MAX * bytes.len() + 1024, "{allocated} bytes for a frame of {}", bytes.len());
}

fn encoded(words: &impl Words, body: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, 7, words, body);
    out
}

fn samples() -> Vec<Vec<u8>> {
    let long = "a name that is longer than eight bytes";
    let settings = QueueSettings { dead_letter: long.to_owned(), ..QueueSettings::default() };
    let info = QueueInfo {
        name: long.to_owned(),
        settings: settings.clone(),
        levels: vec![LevelInfo::default(); 5],
        ..QueueInfo::default()
    };
    let heads = vec![MessageHead { payload_bytes: 4, key_bytes: 1, ..MessageHead::default() }; 20];
    let delivered = vec![DeliveryHead { payload_bytes: 4, headers_bytes: 1, ..DeliveryHead::default() }; 20];
    let body = [b'x'; 100];
    let run = SettleRun { sequence: 1, count: 2, deliveries: 1, priority: 0, outcome: Outcome::Nack };
    let address = ShardAddress { host: long.to_owned(), port: 1 };
    let node = NodeAddress { node: 1, host: long.to_owned(), port: 1 };
    let cluster = Cluster {
        cluster: 1,
        node: 2,
        incarnation: 3,
        shard: 4,
        groups: 5,
        shards: vec![address; 8],
        nodes: vec![node; 8],
    };
    let member = MemberInfo { host: long.to_owned(), ..MemberInfo::default() };
    let group = GroupInfo { members: vec![member, MemberInfo::default()], ..GroupInfo::default() };
    let groups = GroupsShown { node: 1, incarnation: 2, shard: 3, groups: vec![group; 4] };
    let change =
        ChangeMembers { group: 1, add_node: 2, add_incarnation: 3, host: long, port: 4, remove_node: 5 };
    vec![
        encoded(&Hello { protocol: 1, cluster: 0, agent: long }, &[]),
        encoded(&CreateQueue { name: long, settings }, &[]),
        encoded(&ShowQueue { name: long }, &[]),
        encoded(&ListQueues { group: 1, after: long, limit: 10 }, &[]),
        encoded(&Publish { queue: 1, session: 2, epoch: 3, sequence: 4, messages: &heads }, &[&body]),
        encoded(&Settle { consumer: 1, items: &[run; 10] }, &[]),
        encoded(&cluster, &[]),
        encoded(&QueueShown { info: info.clone() }, &[]),
        encoded(&QueueList { queues: vec![info; 6], more: true }, &[]),
        encoded(&Receipt::default(), &[]),
        encoded(&Delivery { consumer: 1, queue: 2, messages: &delivered }, &[&body]),
        encoded(&Refused { detail: long, redirect_host: long, ..Refused::default() }, &[]),
        encoded(&Closing { code: 1, detail: long }, &[]),
        encoded(&OpenSession { queue: 1, producer: long }, &[]),
        encoded(&change, &[]),
        encoded(&groups, &[]),
        encoded(&ConsumerEnded { consumer: 1, code: 4, detail: long }, &[]),
    ]
}

/// Length and checksum that fit the bytes, so that the mutation reaches the decoder behind them.
fn reseal(bytes: &mut [u8]) {
    let length = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn random_bytes_are_survived() {
    let mut random = Random(1);
    for _ in 0..50_000 {
        let bytes: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
        check(&bytes);
    }
}

#[test]
fn random_archives_of_every_kind_are_survived() {
    let mut random = Random(2);
    for round in 0..100_000_usize {
        let mut bytes = vec![0; HEADER_BYTES + random.below(200)];
        for byte in &mut bytes[HEADER_BYTES..] {
            // Small numbers make lengths and offsets that nearly fit.
            *byte = if random.below(2) == 0 { random.below(16) as u8 } else { random.next() as u8 };
        }
        bytes[8] = 1;
        bytes[9] = round as u8;
        let archive_bytes = random.below(bytes.len() - HEADER_BYTES + 1) as u32;
        bytes[12..16].copy_from_slice(&archive_bytes.to_le_bytes());
        reseal(&mut bytes);
        check(&bytes);
    }
}

#[test]
fn every_truncation_is_survived() {
    for sample in samples() {
        for cut in 0..sample.len() {
            check(&sample[..cut]);
            if cut >= HEADER_BYTES {
                let mut shorter = sample[..cut].to_vec();
                reseal(&mut shorter);
                check(&shorter);
                let archive_bytes = (cut - HEADER_BYTES) as u32;
                shorter[12..16].copy_from_slice(&archive_bytes.to_le_bytes());
                reseal(&mut shorter);
                check(&shorter);
            }
        }
    }
}

#[test]
fn mutations_with_a_right_checksum_are_survived() {
    let mut random = Random(3);
    for sample in samples() {
        for _ in 0..8_000 {
            let mut bytes = sample.clone();
            for _ in 0..1 + random.below(4) {
                let at = 8 + random.below(bytes.len() - 8);
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at] ^ (1 << random.below(8)),
                    _ => random.next() as u8,
                };
            }
            reseal(&mut bytes);
            check(&bytes);
        }
    }
}

#[test]
fn a_frame_read_as_another_kind_is_survived() {
    for sample in samples() {
        for kind in 0..=255 {
            let mut bytes = sample.clone();
            bytes[9] = kind;
            reseal(&mut bytes);
            check(&bytes);
            assert_eq!(
                Kind::try_from(kind).is_ok(),
                matches!(kind, 1..=17 | 64..=68 | 72..=77 | 80..=81 | 129..=144)
            );
        }
    }
}

#[test]
fn an_oversized_frame_is_refused_before_it_is_there() {
    for length in [FRAME_BYTES_MAX + 1, 1 << 30, u32::MAX] {
        let bytes = length.to_le_bytes();
        let verdict = frame::split(&bytes, FRAME_BYTES_MAX);
        assert_eq!(verdict, Err(frame::FrameError::TooLong { length, max: FRAME_BYTES_MAX }));
        assert_eq!(digest(&bytes, FRAME_BYTES_MAX), 0);
    }
}

#[test]
fn requests_on_the_hot_path_decode_without_allocating() {
    let samples = samples();
    for index in [4, 5, 9, 10, 11] {
        assert_eq!(digest(&samples[index], FRAME_BYTES_MAX), 0);
    }
}

#[test]
fn hot_frames_are_encoded_without_allocating() {
    let heads = [MessageHead { payload_bytes: 4, ..MessageHead::default() }; 100];
    let delivered = [DeliveryHead { payload_bytes: 4, ..DeliveryHead::default() }; 100];
    let run = SettleRun { sequence: 1, count: 2, deliveries: 1, priority: 0, outcome: Outcome::Ack };
    let body = [0; 400];
    let mut out = Vec::with_capacity(1 << 20);
    let before = ALLOCATED.with(Cell::get);
    let publish = Publish { queue: 1, session: 2, epoch: 3, sequence: 4, messages: &heads };
    frame::encode(&mut out, 1, &publish, &[&body]);
    frame::encode(&mut out, 0, &Delivery { consumer: 1, queue: 2, messages: &delivered }, &[&body]);
    frame::encode(&mut out, 1, &Receipt::default(), &[]);
    frame::encode(&mut out, 1, &Settle { consumer: 1, items: &[run; 50] }, &[]);
    assert_eq!(ALLOCATED.with(Cell::get), before);
}
