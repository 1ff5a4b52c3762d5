//! Every frame in bytes, and the way back.

use super::*;
use crate::frame::{FRAME_BYTES_MAX, encode, split};
use crate::protocol::{DETAIL_BYTES_MAX, NAME_BYTES_MAX, Ping, Pong, Reply, Request};

/// Written from the tables in this module's documentation by another program, not by this crate.
const GOLDEN: &[(&str, &str)] = &[
    (
        "PeerHello",
        "560000004431765c014000003e00000000000000000000006e6f6465312e6578616d706c650200887766554433221101000000050000000200000004000000030000000200000006000000018d000000ccffffffe81c",
    ),
    (
        "PeerWelcome",
        "2c00000098f47464014100001400000000000000000000008877665544332211020000000600000002000000",
    ),
    (
        "PeerRefused",
        "38000000cee7b3c30142000020000000000000000000000074686973206e6f646520686173203820736861726473080096000000e8ffffff",
    ),
    (
        "Replicate",
        "f100000097f79d7f01430000d2000000000000000000000007000000000000002900000000000000050000000007000000000000002a00000000000000000000000007000000000000002b0000000000000002000000018877665544332211030000000100000005000000020000000600000001000700000000000000060000000000000028000000000000002700000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000036ffffff0300000068656c6c6f6363",
    ),
    (
        "Replicate",
        "ab00000058d067b201430000930000000000000000000000887766554433221103000000010000000500000002000000060000000300080000000000000007000000000000002b000000000000002700000000000000070000000000000000000000000000000000000000000000feffffffffffffff1043616d706169676e5472616e736665720000000000000000000000000000000000000000000000000000000075ffffff00000000",
    ),
    (
        "Replicate",
        "ab00000015adb6c0014300009300000000000000000000008877665544332211030000000100000005000000020000000600000002010700000000000000060000000000000028000000000000002700000000000000000000000000000026000000000000002500000000000000000000000000000002616200000000000000000000000000000000000000000000000000000000000000000000000000000000000075ffffff00000000",
    ),
    (
        "Replicate",
        "b1000000ff888796014300009300000000000000000000008877665544332211030000000100000005000000020000000600000009000700000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001e0000000000000005000000000000004d000000000000000600000075ffffff00000000766f74657273",
    ),
    (
        "Received",
        "4400000074e90071014400002c00000000000000000000008877665544332211030000000100000005000000020000000600000007000000000000002b00000000000000",
    ),
    (
        "TransferBegin",
        "560000002088119a01480000380000000000000000000000887766554433221103000000010000000500000002000000060000004d000000000000001e00000000000000050000000000000004000000766f74657273",
    ),
    (
        "TransferPart",
        "45000000129590de01490000290000000000000000000000887766554433221103000000010000000500000002000000060000004d00000000000000030000000170617274",
    ),
    (
        "TransferPayloads",
        "4b0000009d7c0e0b014a00002d0000000000000000000000887766554433221103000000010000000500000002000000060000004d000000000000000900000002000000006f6e6574776f",
    ),
    (
        "TransferAck",
        "44000000df96ec97014b00002c0000000000000000000000887766554433221103000000010000000500000002000000060000004d00000000000000040000000a000000",
    ),
    (
        "TransferStaged",
        "4c000000e986d7fb014c0000340000000000000000000000887766554433221103000000010000000500000002000000060000004d000000000000001e000000000000000500000000000000",
    ),
    (
        "TransferAborted",
        "52000000c6f968e6014d00003a00000000000000000000006469736b2069732066756c6c887766554433221103000000010000000500000002000000060000004d0000000000000009008c000000ceffffff",
    ),
    (
        "FormHello",
        "55000000e3e0ca4b015000003d000000000000000000000002000100000005000000040000000c0000000000000400000000000000000000000000ffffffffffffffffe81ccdab000000000000cbffffff00000000",
    ),
    (
        "FormReply",
        "93000000327a2ad5015100007b00000000000000000000006e6f6465312e6578616d706c656e6f6465312e6578616d706c650100000005000000e81c8d000000e9ffffff0200000006000000e81c6e6f646532ffffff02000100000005000000040000000c00000000000004000000000188776655443322118d0000009fffffffe81ccdab000000000000a7ffffff02000000",
    ),
];

const CLUSTER: u64 = 0x1122_3344_5566_7788;
const FROM: u64 = 5 << 32 | 1;
const TO: u64 = 6 << 32 | 2;

fn encoded(words: &impl Words, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = encode(&mut out, 0, words, &[body]);
    assert_eq!(bytes, out.len());
    out
}

fn replicate(head: &ReplicateHead<'_>, entries: &[(EntryHead, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = encode_replicate(&mut out, head, entries.iter().copied());
    assert_eq!(bytes, out.len());
    out
}

fn append() -> ReplicateHead<'static> {
    ReplicateHead {
        cluster: CLUSTER,
        group: 3,
        from: FROM,
        to: TO,
        kind: MessageKind::Append,
        reject: false,
        term: 7,
        log_term: 6,
        index: 40,
        commit: 39,
        commit_term: 0,
        reject_hint: 0,
        request_snapshot: 0,
        priority: 0,
        context: &[],
        snapshot: None,
    }
}

fn snapshot() -> ReplicateHead<'static> {
    ReplicateHead {
        kind: MessageKind::Snapshot,
        log_term: 0,
        index: 0,
        commit: 0,
        snapshot: Some(SnapshotHead { index: 30, term: 5, transfer: 77, membership: b"voters" }),
        ..append()
    }
}

fn entries() -> [(EntryHead, &'static [u8]); 3] {
    [
        (EntryHead { term: 7, index: 41, bytes: 5, kind: EntryKind::Normal }, b"hello"),
        (EntryHead { term: 7, index: 42, bytes: 0, kind: EntryKind::Normal }, b""),
        (EntryHead { term: 7, index: 43, bytes: 2, kind: EntryKind::Membership }, b"cc"),
    ]
}

fn greetings() -> Vec<Vec<u8>> {
    let hello = PeerHello {
        protocol: PEER_PROTOCOL,
        cluster: CLUSTER,
        node: 1,
        incarnation: 5,
        shard: 2,
        shards: 4,
        groups: 3,
        to_node: 2,
        replaces: 6,
        lane: Lane::Bulk as u8,
        host: "node1.example",
        port: 7400,
    };
    vec![
        encoded(&hello, &[]),
        encoded(&PeerWelcome { cluster: CLUSTER, node: 2, incarnation: 6, shard: 2 }, &[]),
        encoded(&PeerRefused { code: PeerCode::Layout as u16, detail: "this node has 8 shards" }, &[]),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    let vote = ReplicateHead {
        kind: MessageKind::RequestVote,
        term: 8,
        log_term: 7,
        index: 43,
        commit_term: 7,
        priority: -2,
        context: b"CampaignTransfer",
        ..append()
    };
    let answer = ReplicateHead {
        kind: MessageKind::AppendResponse,
        reject: true,
        reject_hint: 38,
        request_snapshot: 37,
        context: b"ab",
        ..append()
    };
    let received = Received { cluster: CLUSTER, group: 3, from: FROM, to: TO, term: 7, index: 43 };
    vec![
        replicate(&append(), &entries()),
        replicate(&vote, &[]),
        replicate(&answer, &[]),
        replicate(&snapshot(), &[]),
        encoded(&received, &[]),
    ]
}

fn payloads(messages: u32) -> TransferPayloads {
    let (cluster, group, from, to, transfer) = (CLUSTER, 3, FROM, TO, 77);
    TransferPayloads { cluster, group, from, to, transfer, number: 9, messages, is_last: false }
}

fn begin() -> TransferBegin {
    let (cluster, group, from, to, transfer) = (CLUSTER, 3, FROM, TO, 77);
    TransferBegin { cluster, group, from, to, transfer, index: 30, term: 5, parts: 4 }
}

fn part() -> TransferPart {
    let (cluster, group, from, to, transfer) = (CLUSTER, 3, FROM, TO, 77);
    TransferPart { cluster, group, from, to, transfer, number: 3, is_last: true }
}

fn aborted(detail: &str) -> TransferAborted<'_> {
    let (cluster, group, from, to, transfer) = (CLUSTER, 3, FROM, TO, 77);
    TransferAborted { cluster, group, from, to, transfer, code: PeerCode::Busy as u16, detail }
}

fn transfers() -> Vec<Vec<u8>> {
    let (cluster, group, from, to, transfer) = (CLUSTER, 3, FROM, TO, 77);
    vec![
        encoded(&begin(), b"voters"),
        encoded(&part(), b"part"),
        encoded(&payloads(2), b"onetwo"),
        encoded(&TransferAck { cluster, group, from, to, transfer, to_part: 4, to_payload: 10 }, &[]),
        encoded(&TransferStaged { cluster, group, from, to, transfer, index: 30, term: 5 }, &[]),
        encoded(&aborted("disk is full"), &[]),
    ]
}

fn forming() -> Formation {
    Formation {
        protocol: PEER_PROTOCOL,
        node: 1,
        incarnation: 5,
        shards: 4,
        groups: 12,
        segment_bytes: 64 << 20,
        state: FormState::Forming,
        cluster: 0,
        host: String::new(),
        port: 7400,
        list_hash: 0xabcd,
        founders: Vec::new(),
    }
}

fn founder(node: u32, incarnation: u32, host: &str) -> Founder {
    Founder { node, incarnation, port: 7400, host: host.to_owned() }
}

fn forms() -> Vec<Vec<u8>> {
    let formed = Formation {
        state: FormState::Formed,
        cluster: CLUSTER,
        host: "node1.example".to_owned(),
        founders: vec![founder(1, 5, "node1.example"), founder(2, 6, "node2")],
        ..forming()
    };
    vec![encoded(&FormHello(forming()), &[]), encoded(&FormReply(formed), &[])]
}

fn frames() -> Vec<Vec<u8>> {
    [greetings(), messages(), transfers(), forms()].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    split(bytes, PEER_FRAME_BYTES_MAX).unwrap().unwrap()
}

fn refusal(bytes: &[u8]) -> FrameError {
    PeerFrame::decode(&whole(bytes)).unwrap_err()
}

#[test]
fn every_frame_has_the_documented_bytes() {
    let frames = frames();
    assert_eq!(frames.len(), GOLDEN.len());
    for (frame, (name, golden)) in frames.iter().zip(GOLDEN) {
        assert_eq!(&hex(frame), golden, "{name}");
        assert_eq!(format!("{:?}", Kind::try_from(frame[9]).unwrap()), *name);
    }
}

/// Encodes again what was decoded.
fn encode_again(decoded: PeerFrame<'_>) -> Vec<u8> {
    match decoded {
        PeerFrame::PeerHello(words) => encoded(&words, &[]),
        PeerFrame::PeerWelcome(words) => encoded(&words, &[]),
        PeerFrame::PeerRefused(words) => encoded(&words, &[]),
        PeerFrame::Replicate(view) => {
            let entries: Vec<_> = view.entries().collect();
            replicate(&view.head, &entries)
        }
        PeerFrame::Received(words) => encoded(&words, &[]),
        PeerFrame::TransferBegin { begin, membership } => encoded(&begin, membership),
        PeerFrame::TransferPart { part, bytes } => encoded(&part, bytes),
        PeerFrame::TransferPayloads { payloads, bytes } => encoded(&payloads, bytes),
        PeerFrame::TransferAck(words) => encoded(&words, &[]),
        PeerFrame::TransferStaged(words) => encoded(&words, &[]),
        PeerFrame::TransferAborted(words) => encoded(&words, &[]),
        PeerFrame::FormHello(formation) => encoded(&FormHello(formation), &[]),
        PeerFrame::FormReply(formation) => encoded(&FormReply(formation), &[]),
    }
}

#[test]
fn every_frame_decodes_to_what_was_encoded() {
    for bytes in frames() {
        let decoded = PeerFrame::decode(&whole(&bytes)).unwrap();
        assert_eq!(encode_again(decoded), bytes);
    }
}

#[test]
fn peers_and_clients_do_not_take_each_others_frames() {
    for bytes in frames() {
        let frame = whole(&bytes);
        let kind = Kind::try_from(frame.kind).unwrap();
        assert_eq!(Request::decode(&frame).unwrap_err(), FrameError::UnexpectedKind { kind });
        assert_eq!(Reply::decode(&frame).unwrap_err(), FrameError::UnexpectedKind { kind });
    }
    assert_eq!(refusal(&encoded(&Ping, &[])), FrameError::UnexpectedKind { kind: Kind::Ping });
    assert_eq!(refusal(&encoded(&Pong, &[])), FrameError::UnexpectedKind { kind: Kind::Pong });
}

#[test]
fn entries_come_apart_where_they_were_joined() {
    let bytes = &messages()[0];
    let PeerFrame::Replicate(view) = PeerFrame::decode(&whole(bytes)).unwrap() else {
        panic!("not a message of the engine")
    };
    assert_eq!(view.head, append());
    assert_eq!(view.entries().len(), 3);
    assert_eq!(view.entries().collect::<Vec<_>>(), entries());
}

#[test]
fn entries_sent_from_elsewhere_make_the_same_frame() {
    let check = |apart_bytes_min: usize, expected: &[usize]| {
        let (mut bytes, mut all) = (b"before".to_vec(), Vec::new());
        let length =
            encode_replicate_apart(&mut bytes, &append(), entries().into_iter(), apart_bytes_min, |apart| {
                all.push(apart)
            });
        assert_eq!(all.iter().map(|apart| apart.entry).collect::<Vec<_>>(), expected);
        for apart in all.into_iter().rev() {
            bytes.splice(apart.at..apart.at, entries()[apart.entry].1.iter().copied());
        }
        assert_eq!((&bytes[6..], length), (&messages()[0][..], messages()[0].len()));
    };
    check(6, &[]);
    check(5, &[0]);
    check(2, &[0, 2]);
    check(0, &[0, 1, 2]);
}

#[test]
fn a_snapshot_comes_with_its_membership() {
    let bytes = &messages()[3];
    let PeerFrame::Replicate(view) = PeerFrame::decode(&whole(bytes)).unwrap() else {
        panic!("not a message of the engine")
    };
    assert_eq!(view.head, snapshot());
    assert_eq!(view.entries().len(), 0);
}

/// A `Replicate` frame with some bytes changed, counted from the start of its root, and length and checksum right.
fn changed(frame: &[u8], at: isize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let archive_bytes = u32::from_le_bytes(frame[12..16].try_into().unwrap());
    let root = HEADER_BYTES + archive_bytes as usize - replicate::ROOT_BYTES;
    let at = root.checked_add_signed(at).unwrap();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    let length = frame.len() as u32;
    frame[0..4].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    frame
}

#[test]
fn messages_that_contradict_themselves_are_refused() {
    let [append, vote, answer, snapshot]: [_; 4] = messages()[..4].to_vec().try_into().unwrap();
    let is_malformed = |frame: &[u8], at: isize, bytes: &[u8]| {
        let expected = FrameError::Archive { kind: Kind::Replicate };
        assert_eq!(refusal(&changed(frame, at, bytes)), expected, "{bytes:?} at {at}");
    };
    // Kinds that peers do not send, and a truth that is neither.
    is_malformed(&append, 28, &[0]);
    is_malformed(&append, 28, &[11]);
    is_malformed(&answer, 29, &[2]);
    // Entries, a snapshot, or none in the wrong kind.
    is_malformed(&append, 28, &[2]);
    is_malformed(&snapshot, 28, &[5]);
    is_malformed(&vote, 28, &[9]);
    is_malformed(&snapshot, 111, &[0; 8]);
    is_malformed(&append, 111, &[1]);
    is_malformed(&append, 119, &[1]);
    is_malformed(&append, 127, &[1]);
    // More context than there is room for, and context beyond its length.
    is_malformed(&vote, 94, &[17]);
    is_malformed(&vote, 94, &[15]);
    // A list that begins elsewhere or has more items than fit.
    is_malformed(&append, 143, &[4]);
    is_malformed(&append, 143, &[0xff; 4]);
    is_malformed(&append, 139, &[0xff; 4]);
}

#[test]
fn lengths_must_add_up_to_the_body() {
    let kind = Kind::Replicate;
    let append = &messages()[0];
    // Heads lie before the root, and a length 5 bytes before the end of its head.
    for bytes in [0, 1, 3, u32::MAX] {
        let expected = 5 + u64::from(bytes);
        let lying = changed(append, -5, &bytes.to_le_bytes());
        assert_eq!(refusal(&lying), FrameError::Body { kind, expected, actual: 7 });
    }
    let lying = changed(append, 135, &u32::MAX.to_le_bytes());
    let expected = 7 + u64::from(u32::MAX);
    assert_eq!(refusal(&lying), FrameError::Body { kind, expected, actual: 7 });
    let shorter = changed(&messages()[3], 135, &[5]);
    assert_eq!(refusal(&shorter), FrameError::Body { kind, expected: 5, actual: 6 });
}

#[test]
fn entries_are_counted() {
    let of = |count: usize| {
        let head = EntryHead { term: 1, index: 1, bytes: 0, kind: EntryKind::Normal };
        replicate(&append(), &vec![(head, &[][..]); count])
    };
    let most = of(ENTRIES_MAX as usize);
    assert!(most.len() < FRAME_BYTES_MAX as usize);
    assert!(PeerFrame::decode(&whole(&most)).is_ok());
    // One head more in front of the others, and a vector that reaches it.
    let mut more = most;
    more.splice(HEADER_BYTES..HEADER_BYTES, [0; replicate::ENTRY_HEAD_BYTES]);
    let archive_bytes = (more.len() - HEADER_BYTES) as u32;
    more[12..16].copy_from_slice(&archive_bytes.to_le_bytes());
    // The vector is the last 8 bytes of the archive.
    let distance = 8 - archive_bytes as i32;
    let more = changed(&more, 139, &distance.to_le_bytes());
    let more = changed(&more, 143, &(ENTRIES_MAX + 1).to_le_bytes());
    let expected = FrameError::Count { kind: Kind::Replicate, count: ENTRIES_MAX + 1, max: ENTRIES_MAX };
    assert_eq!(refusal(&more), expected);
}

#[test]
fn the_largest_entry_fits_a_frame() {
    let data = vec![7; ENTRY_BYTES_MAX];
    let head = EntryHead { term: 1, index: 1, bytes: data.len() as u32, kind: EntryKind::Normal };
    let bytes = replicate(&append(), &[(head, &data)]);
    assert!(matches!(split(&bytes, FRAME_BYTES_MAX), Err(FrameError::TooLong { .. })));
    assert!(PeerFrame::decode(&whole(&bytes)).is_ok());
}

#[test]
fn bodies_are_limited() {
    let check = |words: &dyn Fn(&[u8]) -> Vec<u8>, kind: Kind, max: u32| {
        let body = vec![1; max as usize + 1];
        assert!(PeerFrame::decode(&whole(&words(&body[1..]))).is_ok());
        let bytes = u64::from(max) + 1;
        assert_eq!(refusal(&words(&body)), FrameError::BodyTooLong { kind, bytes, max });
    };
    check(&|body| encoded(&begin(), body), Kind::TransferBegin, MEMBERSHIP_BYTES_MAX);
    check(&|body| encoded(&part(), body), Kind::TransferPart, TRANSFER_PART_BYTES_MAX);
    let kind = Kind::TransferPayloads;
    check(&|body| encoded(&payloads(1), body), kind, TRANSFER_PAYLOAD_BYTES_MAX);
    check(&|body| encoded(&payloads(2), body), kind, TRANSFER_PAYLOADS_BYTES_MAX);
    let error = refusal(&encoded(&begin(), &vec![1; 4097]));
    assert_eq!(error.to_string(), "TransferBegin has a body of 4097 bytes: at most 4096 are accepted");
}

#[test]
fn messages_of_a_transfer_are_counted() {
    let kind = Kind::TransferPayloads;
    assert!(PeerFrame::decode(&whole(&encoded(&payloads(0), b""))).is_ok());
    let error = refusal(&encoded(&payloads(0), b"one"));
    assert_eq!(error, FrameError::Body { kind, expected: 0, actual: 3 });
    let error = refusal(&encoded(&payloads(4), b"one"));
    assert_eq!(error, FrameError::Count { kind, count: 4, max: 3 });
}

#[test]
fn texts_are_limited() {
    let host = "x".repeat(NAME_BYTES_MAX as usize + 1);
    let detail = "x".repeat(DETAIL_BYTES_MAX as usize + 1);
    let hello = PeerHello {
        protocol: PEER_PROTOCOL,
        cluster: 0,
        node: 1,
        incarnation: 1,
        shard: 0,
        shards: 1,
        groups: 1,
        to_node: 2,
        replaces: 0,
        lane: 0,
        host: &host,
        port: 1,
    };
    let named = Formation { host: host.clone(), ..forming() };
    let founded = Formation { founders: vec![founder(1, 1, &host)], ..forming() };
    let check = |bytes: &[u8], kind: Kind, max: u32| {
        assert_eq!(refusal(bytes), FrameError::Text { kind, bytes: max + 1, max });
    };
    check(&encoded(&hello, &[]), Kind::PeerHello, NAME_BYTES_MAX);
    check(&encoded(&FormHello(named), &[]), Kind::FormHello, NAME_BYTES_MAX);
    check(&encoded(&FormReply(founded), &[]), Kind::FormReply, NAME_BYTES_MAX);
    check(&encoded(&PeerRefused { code: 1, detail: &detail }, &[]), Kind::PeerRefused, DETAIL_BYTES_MAX);
    check(&encoded(&aborted(&detail), &[]), Kind::TransferAborted, DETAIL_BYTES_MAX);
}

#[test]
fn founders_are_counted() {
    let of = |count: u32| {
        let host = "x".repeat(NAME_BYTES_MAX as usize);
        let founders = (1..=count).map(|node| founder(node, 1, &host)).collect();
        encoded(&FormReply(Formation { founders, host, ..forming() }), &[])
    };
    let PeerFrame::FormReply(formation) = PeerFrame::decode(&whole(&of(FOUNDERS_MAX))).unwrap() else {
        panic!("not a reply")
    };
    assert_eq!(formation.founders.len(), FOUNDERS_MAX as usize);
    let expected = FrameError::Count { kind: Kind::FormReply, count: FOUNDERS_MAX + 1, max: FOUNDERS_MAX };
    assert_eq!(refusal(&of(FOUNDERS_MAX + 1)), expected);
    let length = of(200).len() as u32;
    assert_eq!(refusal(&of(200)), FrameError::TooLong { length, max: FORM_BYTES_MAX });
}

#[test]
fn only_what_has_no_entries_is_urgent() {
    let bulk = [MessageKind::Append, MessageKind::Snapshot];
    assert!(bulk.iter().all(|&kind| !is_urgent(kind)));
    let urgent = [MessageKind::AppendResponse, MessageKind::Heartbeat, MessageKind::RequestVote];
    assert!(urgent.iter().all(|&kind| is_urgent(kind)));
}

#[test]
fn lanes_keep_their_numbers() {
    let bytes = &greetings()[0];
    let PeerFrame::PeerHello(hello) = PeerFrame::decode(&whole(bytes)).unwrap() else {
        panic!("not a hello")
    };
    let lane = |lane: u8| PeerHello { lane, ..hello }.lane();
    for known in [Lane::Messages, Lane::Bulk] {
        assert_eq!(lane(known as u8), Some(known));
    }
    assert!((2..=u8::MAX).all(|unknown| lane(unknown).is_none()));
}

#[test]
fn codes_keep_their_numbers() {
    for number in 1..=9 {
        assert_eq!(PeerCode::from(number) as u16, number);
    }
    assert_eq!(PeerCode::from(0), PeerCode::Malformed);
    assert_eq!(PeerCode::from(999), PeerCode::Malformed);
    assert_eq!(PeerCode::Layout.to_string(), "another number of shards or groups");
}
