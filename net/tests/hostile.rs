//! Bytes from outside never panic a decoder and never make it allocate out of proportion.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringmain_net::frame::{self, FRAME_BYTES_MAX, Frame, HEADER_BYTES};
use ringmain_net::peer::{
    EntryHead, EntryKind, FormHello, FormReply, FormState, Formation, Founder, MessageKind, PeerFrame,
    PeerHello, PeerRefused, PeerWelcome, Received, ReplicateHead, SnapshotHead, TransferAborted, TransferAck,
    TransferBegin, TransferPart, TransferPayloads, TransferStaged, encode_replicate,
};
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

/// Decodes a frame as every side would, walks over everything in it, and answers the bytes allocated.
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
        digest_of_peer(&frame);
    }
    ALLOCATED.with(Cell::get) - before
}

fn digest_of_peer(frame: &Frame<'_>) {
    if let Ok(PeerFrame::Replicate(message)) = PeerFrame::decode(frame) {
        let membership = message.head.snapshot.map_or(0, |snapshot| snapshot.membership.len());
        let walked: usize = message.entries().map(|(_, data)| data.len()).sum();
        assert_eq!(membership + walked, frame.body.len());
        assert!(message.head.context.len() <= 16);
    }
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
    [client_samples(), peer_samples()].concat()
}

fn client_samples() -> Vec<Vec<u8>> {
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
    let change = ChangeMembers {
        group: 1,
        add_node: 2,
        add_incarnation: 3,
        host: long,
        port: 4,
        remove_node: 5,
        remove_incarnation: 6,
    };
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

const APPEND: ReplicateHead<'_> = ReplicateHead {
    cluster: 1,
    group: 2,
    from: 3,
    to: 4,
    kind: MessageKind::Append,
    reject: false,
    term: 5,
    log_term: 6,
    index: 7,
    commit: 8,
    commit_term: 9,
    reject_hint: 10,
    request_snapshot: 11,
    priority: 12,
    context: b"CampaignTransfer",
    snapshot: None,
};
const ENTRY: EntryHead = EntryHead { term: 1, index: 2, bytes: 4, kind: EntryKind::Normal };

fn replicate(head: &ReplicateHead<'_>, entries: &[(EntryHead, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_replicate(&mut out, head, entries.iter().copied());
    out
}

fn peer_samples() -> Vec<Vec<u8>> {
    let long = "a name that is longer than eight bytes";
    let hello = PeerHello {
        protocol: 1,
        cluster: 2,
        node: 3,
        incarnation: 4,
        shard: 5,
        shards: 6,
        groups: 7,
        to_node: 8,
        replaces: 9,
        lane: 1,
        host: long,
        port: 10,
    };
    let snapshot = SnapshotHead { index: 1, term: 2, transfer: 3, membership: &[7; 40] };
    let snapshot = ReplicateHead { kind: MessageKind::Snapshot, snapshot: Some(snapshot), ..APPEND };
    let (cluster, group, from, to, transfer) = (1, 2, 3, 4, 5);
    let payloads =
        TransferPayloads { cluster, group, from, to, transfer, number: 6, messages: 2, is_last: false };
    let founder = Founder { node: 1, incarnation: 2, port: 3, host: long.to_owned() };
    let formation = Formation {
        protocol: 1,
        node: 2,
        incarnation: 3,
        shards: 4,
        groups: 5,
        segment_bytes: 6,
        state: FormState::Formed,
        cluster: 7,
        host: long.to_owned(),
        port: 8,
        list_hash: 9,
        founders: vec![founder; 5],
    };
    vec![
        encoded(&hello, &[]),
        encoded(&PeerWelcome { cluster, node: 2, incarnation: 3, shard: 4 }, &[]),
        encoded(&PeerRefused { code: 1, detail: long }, &[]),
        replicate(&APPEND, &[(ENTRY, &b"data"[..]); 20]),
        replicate(&snapshot, &[]),
        encoded(&Received { cluster, group, from, to, term: 5, index: 6 }, &[]),
        encoded(&TransferBegin { cluster, group, from, to, transfer, index: 6, term: 7, parts: 8 }, &[b"x"]),
        encoded(&TransferPart { cluster, group, from, to, transfer, number: 6, is_last: true }, &[b"xy"]),
        encoded(&payloads, &[b"xyz"]),
        encoded(&TransferAck { cluster, group, from, to, transfer, to_part: 6, to_payload: 7 }, &[]),
        encoded(&TransferStaged { cluster, group, from, to, transfer, index: 6, term: 7 }, &[]),
        encoded(&TransferAborted { cluster, group, from, to, transfer, code: 1, detail: long }, &[]),
        encoded(&FormHello(formation.clone()), &[]),
        encoded(&FormReply(formation), &[]),
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
fn every_sample_of_a_peer_is_whole() {
    for sample in peer_samples() {
        let frame = frame::split(&sample, FRAME_BYTES_MAX).unwrap().unwrap();
        assert!(PeerFrame::decode(&frame).is_ok(), "kind {}", frame.kind);
    }
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
fn every_flipped_bit_is_survived() {
    for sample in samples() {
        for at in 8 * 8..sample.len() * 8 {
            let mut bytes = sample.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            reseal(&mut bytes);
            check(&bytes);
        }
    }
}

/// A length or count is four bytes; here each is as large as it gets, and nearly right.
#[test]
fn lengths_that_lie_are_survived() {
    for sample in samples() {
        for at in 8..sample.len() - 4 {
            let told = u32::from_le_bytes(sample[at..at + 4].try_into().unwrap());
            for lie in [u32::MAX, 1 << 31, 1 << 16, told.wrapping_add(1), told.wrapping_sub(1)] {
                let mut bytes = sample.clone();
                bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                reseal(&mut bytes);
                check(&bytes);
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
    // Nodes that are not a cluster yet are in no hurry.
    for sample in &peer_samples()[..12] {
        assert_eq!(digest(sample, FRAME_BYTES_MAX), 0);
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
    encode_replicate(&mut out, &APPEND, std::iter::repeat_n((ENTRY, &b"data"[..]), 10_000));
    assert_eq!(ALLOCATED.with(Cell::get), before);
}
