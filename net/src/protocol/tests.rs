//! Every frame in bytes, and the way back.

use super::*;
use crate::frame::{FRAME_BYTES_MAX, encode, split};

/// Written from the tables in this module's documentation by another program, not by this crate.
const GOLDEN: &[(&str, &str)] = &[
    (
        "Hello",
        "3b000000c8158fc30101000023000000010000000000000072696e676d61696e2d636c69656e742f310100887766554433221191000000e5ffffff",
    ),
    ("Metadata", "18000000589719ed01020000000000000200000000000000"),
    (
        "CreateQueue",
        "57000000a2ec74ea010300003f00000003000000000000006f72646572732e646561646f7264657273ffff04000000e8030000000000000000100000000000307500000500000000000000000000008b000000c9ffffff",
    ),
    ("ShowQueue", "20000000c56b2864010400000800000004000000000000006f7264657273ffff"),
    ("ListQueues", "28000000eca3bbc60105000010000000050000000000000003000000ffffffffffffffff64000000"),
    ("DeleteQueue", "20000000b8e67b6e010600000800000006000000000000006f7264657273ffff"),
    ("PurgeQueue", "200000007e1ba4e9010700000800000007000000000000006f7264657273ffff"),
    ("OpenQueue", "20000000cb44c159010800000800000008000000000000006f7264657273ffff"),
    (
        "OpenSession",
        "35000000b049d24e010900001d00000009000000000000007269736b2d656e67696e652d3107000000000000008d000000ebffffff",
    ),
    (
        "Publish",
        "6e00000058b50388010a00004c0000000a000000000000000500000000000000020003000000000000000000030000000000000000000000000000000000000007000000000000000800000000000000010000002a00000000000000bcffffff020000006b3168656c6c6f616263",
    ),
    ("Subscribe", "24000000697db3b4010b00000c0000000b00000000000000070000000000000040000000"),
    (
        "Settle",
        "44000000c3965c44010c00002c0000000c00000000000000640000000000000003000000010003000900000000000000010000000200000201000000dcffffff02000000",
    ),
    ("Unsubscribe", "1c000000c5ac9a67010d0000040000000d0000000000000001000000"),
    ("Ping", "1800000001e0ab27010e0000000000000e00000000000000"),
    ("ShowGroups", "1800000027601909010f0000000000000f00000000000000"),
    ("MoveLeader", "20000000aeb58028011000000800000010000000000000002100000002000000"),
    (
        "ChangeMembers",
        "43000000c0f52867011100002b00000011000000000000006e6f6465342e6578616d706c652100000004000000020000008d000000e7ffffff141e0300000005000000",
    ),
    (
        "Welcome",
        "8b0000007e3c7d3301810000730000000100000000000000ffffffffffffffffe81c6e6f646531ffffffe91c6e6f6465322e6578616d706c6501000000ffffffffffffffffe81c020000008d000000e1ffffff4c1d01008877665544332211010000000200000000000000100000000000100000004000001000009dffffff02000000b6ffffff02000000",
    ),
    (
        "Cluster",
        "73000000a9127f30018200005b0000000200000000000000ffffffffffffffffe81c6e6f6465322e6578616d706c6501000000ffffffffffffffffe81c020000008d000000e1ffffff4c1d887766554433221101000000020000000000000010000000b5ffffff01000000c4ffffff02000000",
    ),
    (
        "QueueOpened",
        "570000006407debd018300003f00000008000000000000006f72646572732e64656164070000000000000004000000e8030000000000000000100000000000307500000500000000000000000000008b000000c9ffffff",
    ),
    (
        "QueueShown",
        "e1000000e19d114c01840000c900000004000000000000006f72646572732e6575726f70656f72646572732e646561640306000000000000000700000000000000080000000000000009000000000000008d000000c7ffffff070000000000000004000000e8030000000000000000100000000000307500000500000000000000000000008b000000a0ffffff0100000002000000030000000000000004000000000000000500000006000000000000000700000000000000080000000000000009000000000000000a000000000000000b0000000000000057ffffff01000000",
    ),
    (
        "QueueList",
        "b1000000e48f9c6b018500009900000005000000000000006f7264657273ffff0700000000000000010000000000000000000000000000000000000030750000000000000000000000000000ffffffffffffffff0100000002000000030000000000000004000000000000000500000006000000000000000700000000000000080000000000000009000000000000000a000000000000000b0000000000000078ffffff0000000070ffffff0100000001",
    ),
    ("Done", "28000000f81e6581018600001000000006000000000000004d000000000000000300000000000000"),
    (
        "SessionOpened",
        "2c00000074a9949b018700001400000009000000000000000800000000000000010000002900000000000000",
    ),
    (
        "Receipt",
        "4d0000001324a14101880000350000000c0000000000000008000000000000002a000000000000002c0000000000000002000000030000000000000063000000000000000f0000007800000001",
    ),
    ("Subscribed", "1c0000007630c9aa01890000040000000b0000000000000001000000"),
    ("Settled", "2400000013dae4f0018a00000c0000000c00000000000000010000000300000001000000"),
    ("Pong", "180000005635f1f1018b0000000000000e00000000000000"),
    (
        "Delivery",
        "530000009c46a967018c0000320000000000000000000000640000000000000000401e18240a06000500000002000000020002000301010000000700000000000000d6ffffff010000006b31686868656c6c6f",
    ),
    (
        "Refused",
        "56000000b2024e8d018d00003e0000000a000000000000007175657565206c69766573206f6e2073686172642031050008000000000000002a000000000000000a00000096000000d4ffffff6e6f646531ffffffe91c",
    ),
    ("Closing", "220000002228f7da018e00000a0000000000000000000000140073746f7070696e67"),
    (
        "GroupsShown",
        "d5000000787fc064018f0000bd0000000f000000000000006e6f6465322e6578616d706c650100000001000000ffffffffffffffffe81c010101630000000000000002000000050000008d000000ceffffff4c1d000102280000000000000020000000010000000103000000000000006200000000000000610000000000000063000000000000009dffffff020000002100000000000000000400000000000000000000000000000000000000000000000000000000000000a6ffffff0000000001000000020000000200000092ffffff02000000",
    ),
    (
        "ConsumerEnded",
        "3200000094dce309019000001a00000000000000000000006e6f64652032206c656164730100000004008c000000eeffffff",
    ),
];

fn settings() -> QueueSettings {
    QueueSettings {
        priorities: 4,
        max_length: 1000,
        max_bytes: 1 << 20,
        max_deliveries: 5,
        dead_letter: "orders.dead".to_owned(),
        ..QueueSettings::default()
    }
}

fn info(name: &str, settings: QueueSettings, levels: Vec<LevelInfo>) -> QueueInfo {
    QueueInfo {
        name: name.to_owned(),
        queue: 7,
        settings,
        shard: 1,
        group: 2,
        term: 3,
        index: 4,
        consumers: 5,
        ready: 6,
        ready_bytes: 7,
        in_flight: 8,
        in_flight_bytes: 9,
        published: 10,
        acknowledged: 11,
        levels,
    }
}

fn address(host: &str, port: u16) -> ShardAddress {
    ShardAddress { host: host.to_owned(), port }
}

fn nodes() -> Vec<NodeAddress> {
    let node = |node, host: &str, port| NodeAddress { node, host: host.to_owned(), port };
    vec![node(1, "", 7400), node(2, "node2.example", 7500)]
}

fn cluster_with(shards: Vec<ShardAddress>, nodes: Vec<NodeAddress>) -> Cluster {
    let cluster = 0x1122_3344_5566_7788;
    Cluster { cluster, node: 1, incarnation: 2, shard: 0, groups: 16, shards, nodes }
}

fn groups() -> GroupsShown {
    let members = vec![
        MemberInfo {
            node: 1,
            incarnation: 1,
            port: 7400,
            is_voter: true,
            is_active: true,
            state: MemberState::Current as u8,
            matched: 99,
            ..MemberInfo::default()
        },
        MemberInfo {
            node: 2,
            incarnation: 5,
            host: "node2.example".to_owned(),
            port: 7500,
            is_active: true,
            state: MemberState::Behind as u8,
            matched: 40,
            ..MemberInfo::default()
        },
    ];
    let leads = GroupInfo {
        group: 32,
        leader: 1,
        is_leader: true,
        term: 3,
        committed: 98,
        applied: 97,
        last: 99,
        members,
    };
    let headless = GroupInfo { group: 33, term: 4, ..GroupInfo::default() };
    GroupsShown { node: 1, incarnation: 2, shard: 2, groups: vec![leads, headless] }
}

fn encoded(request: u64, words: &impl Words, body: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = encode(&mut out, request, words, body);
    assert_eq!(bytes, out.len());
    out
}

fn requests() -> Vec<Vec<u8>> {
    let name = "orders";
    let cluster = 0x1122_3344_5566_7788;
    let messages = [
        MessageHead { payload_bytes: 5, key_bytes: 2, priority: 3, ..MessageHead::default() },
        MessageHead { payload_bytes: 3, ..MessageHead::default() },
    ];
    let items = [
        SettleRun { sequence: 100, count: 3, deliveries: 1, priority: 3, outcome: Outcome::Ack },
        SettleRun { sequence: 9, count: 1, deliveries: 2, priority: 0, outcome: Outcome::Reject },
    ];
    let publish = Publish { queue: 7, session: 8, epoch: 1, sequence: 42, messages: &messages };
    let change = ChangeMembers {
        group: 33,
        add_node: 4,
        add_incarnation: 2,
        host: "node4.example",
        port: 7700,
        remove_node: 3,
        remove_incarnation: 5,
    };
    vec![
        encoded(1, &Hello { protocol: PROTOCOL, cluster, agent: "ringmain-client/1" }, &[]),
        encoded(2, &Metadata, &[]),
        encoded(3, &CreateQueue { name, settings: settings() }, &[]),
        encoded(4, &ShowQueue { name }, &[]),
        encoded(5, &ListQueues { group: 3, after: "", limit: 100 }, &[]),
        encoded(6, &DeleteQueue { name }, &[]),
        encoded(7, &PurgeQueue { name }, &[]),
        encoded(8, &OpenQueue { name }, &[]),
        encoded(9, &OpenSession { queue: 7, producer: "risk-engine-1" }, &[]),
        encoded(10, &publish, &[b"k1", b"hello", b"abc"]),
        encoded(11, &Subscribe { queue: 7, credit: 64 }, &[]),
        encoded(12, &Settle { consumer: 1, items: &items }, &[]),
        encoded(13, &Unsubscribe { consumer: 1 }, &[]),
        encoded(14, &Ping, &[]),
        encoded(15, &ShowGroups, &[]),
        encoded(16, &MoveLeader { group: 33, node: 2 }, &[]),
        encoded(17, &change, &[]),
    ]
}

fn replies() -> Vec<Vec<u8>> {
    let cluster = 0x1122_3344_5566_7788;
    let welcome = Welcome {
        protocol: PROTOCOL,
        cluster,
        node: 1,
        incarnation: 2,
        shard: 0,
        groups: 16,
        message_bytes_max: 1 << 20,
        frame_bytes_max: FRAME_BYTES_MAX,
        inflight_frames_max: 4096,
        shards: vec![address("", 7400), address("node1", 7401)],
        nodes: nodes(),
    };
    let level = LevelInfo { priority: 3, ready: 6, ready_bytes: 7, in_flight: 8, in_flight_bytes: 9 };
    let receipt = Receipt {
        session: 8,
        first_sequence: 42,
        last_sequence: 44,
        group: 2,
        term: 3,
        index: 99,
        waited_us: 15,
        durable_us: 120,
        flags: RECEIPT_DUPLICATE,
    };
    let head = DeliveryHead {
        sequence: 100,
        published_us: 1_700_000_000_000_000,
        payload_bytes: 5,
        headers_bytes: 2,
        key_bytes: 2,
        deliveries: 2,
        priority: 3,
        flags: DELIVERY_REDELIVERED,
    };
    let refused = Refused {
        code: Code::WrongShard as u16,
        session: 8,
        sequence: 42,
        retry_after_ms: 10,
        detail: "queue lives on shard 1",
        redirect_host: "node1",
        redirect_port: 7401,
    };
    let ended = ConsumerEnded { consumer: 1, code: Code::NotLeader as u16, detail: "node 2 leads" };
    let queues = vec![info("orders", QueueSettings::default(), Vec::new())];
    vec![
        encoded(1, &welcome, &[]),
        encoded(2, &cluster_with(vec![address("", 7400)], nodes()), &[]),
        encoded(8, &QueueOpened { queue: 7, settings: settings() }, &[]),
        encoded(4, &QueueShown { info: info("orders.europe", settings(), vec![level]) }, &[]),
        encoded(5, &QueueList { queues, more: true }, &[]),
        encoded(6, &Done { index: 77, count: 3 }, &[]),
        encoded(9, &SessionOpened { session: 8, epoch: 1, last_sequence: 41 }, &[]),
        encoded(12, &receipt, &[]),
        encoded(11, &Subscribed { consumer: 1 }, &[]),
        encoded(12, &Settled { consumer: 1, accepted: 3, stale: 1 }, &[]),
        encoded(14, &Pong, &[]),
        encoded(0, &Delivery { consumer: 1, queue: 7, messages: &[head] }, &[b"k1", b"hh", b"hello"]),
        encoded(10, &refused, &[]),
        encoded(0, &Closing { code: Code::ShuttingDown as u16, detail: "stopping" }, &[]),
        encoded(15, &groups(), &[]),
        encoded(0, &ended, &[]),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    split(bytes, FRAME_BYTES_MAX).unwrap().unwrap()
}

#[test]
fn every_frame_has_the_documented_bytes() {
    let frames: Vec<_> = requests().into_iter().chain(replies()).collect();
    assert_eq!(frames.len(), GOLDEN.len());
    for (frame, (name, golden)) in frames.iter().zip(GOLDEN) {
        assert_eq!(&hex(frame), golden, "{name}");
        assert_eq!(format!("{:?}", Kind::try_from(frame[9]).unwrap()), *name);
    }
}

/// Encodes again what was decoded.
fn encode_request(request: u64, decoded: Request<'_>) -> Vec<u8> {
    match decoded {
        Request::Hello(words) => encoded(request, &words, &[]),
        Request::Metadata => encoded(request, &Metadata, &[]),
        Request::CreateQueue(words) => encoded(request, &words, &[]),
        Request::ShowQueue(words) => encoded(request, &words, &[]),
        Request::ListQueues(words) => encoded(request, &words, &[]),
        Request::DeleteQueue(words) => encoded(request, &words, &[]),
        Request::PurgeQueue(words) => encoded(request, &words, &[]),
        Request::OpenQueue(words) => encoded(request, &words, &[]),
        Request::OpenSession(words) => encoded(request, &words, &[]),
        Request::Publish(view) => {
            let heads: Vec<_> = view.messages().map(|message| message.head).collect();
            let bytes: Vec<_> = view.messages().map(|message| message.bytes).collect();
            let PublishView { queue, session, epoch, sequence, .. } = view;
            encoded(request, &Publish { queue, session, epoch, sequence, messages: &heads }, &bytes)
        }
        Request::Subscribe(words) => encoded(request, &words, &[]),
        Request::Settle(view) => {
            let items: Vec<_> = view.runs().collect();
            encoded(request, &Settle { consumer: view.consumer, items: &items }, &[])
        }
        Request::Unsubscribe(words) => encoded(request, &words, &[]),
        Request::Ping => encoded(request, &Ping, &[]),
        Request::ShowGroups => encoded(request, &ShowGroups, &[]),
        Request::MoveLeader(words) => encoded(request, &words, &[]),
        Request::ChangeMembers(words) => encoded(request, &words, &[]),
    }
}

fn encode_reply(request: u64, decoded: Reply<'_>) -> Vec<u8> {
    match decoded {
        Reply::Welcome(words) => encoded(request, &words, &[]),
        Reply::Cluster(words) => encoded(request, &words, &[]),
        Reply::QueueOpened(words) => encoded(request, &words, &[]),
        Reply::QueueShown(words) => encoded(request, &words, &[]),
        Reply::QueueList(words) => encoded(request, &words, &[]),
        Reply::Done(words) => encoded(request, &words, &[]),
        Reply::SessionOpened(words) => encoded(request, &words, &[]),
        Reply::Receipt(words) => encoded(request, &words, &[]),
        Reply::Subscribed(words) => encoded(request, &words, &[]),
        Reply::Settled(words) => encoded(request, &words, &[]),
        Reply::Pong => encoded(request, &Pong, &[]),
        Reply::Delivery(view) => {
            let heads: Vec<_> = view.messages().map(|message| message.head).collect();
            let parts: Vec<_> = view.messages().flat_map(|m| [m.key, m.headers, m.payload]).collect();
            let words = Delivery { consumer: view.consumer, queue: view.queue, messages: &heads };
            encoded(request, &words, &parts)
        }
        Reply::Refused(words) => encoded(request, &words, &[]),
        Reply::Closing(words) => encoded(request, &words, &[]),
        Reply::GroupsShown(words) => encoded(request, &words, &[]),
        Reply::ConsumerEnded(words) => encoded(request, &words, &[]),
    }
}

#[test]
fn every_frame_decodes_to_what_was_encoded() {
    for bytes in requests() {
        let frame = whole(&bytes);
        let decoded = Request::decode(&frame).unwrap();
        assert_eq!(encode_request(frame.request, decoded), bytes);
        let kind = Kind::try_from(frame.kind).unwrap();
        assert_eq!(Reply::decode(&frame).unwrap_err(), FrameError::UnexpectedKind { kind });
    }
    for bytes in replies() {
        let frame = whole(&bytes);
        let decoded = Reply::decode(&frame).unwrap();
        assert_eq!(encode_reply(frame.request, decoded), bytes);
        let kind = Kind::try_from(frame.kind).unwrap();
        assert_eq!(Request::decode(&frame).unwrap_err(), FrameError::UnexpectedKind { kind });
    }
}

#[test]
fn the_length_of_a_publish_is_known_before_it_is_encoded() {
    let bytes = &requests()[9];
    assert_eq!(publish_frame_bytes(2, 10), bytes.len() as u64);
}

#[test]
fn messages_come_apart_where_they_were_joined() {
    let bytes = &requests()[9];
    let Request::Publish(view) = Request::decode(&whole(bytes)).unwrap() else { panic!("not a publish") };
    let messages: Vec<_> = view.messages().map(|m| (m.head.priority, m.key, m.headers, m.payload)).collect();
    assert_eq!(messages, [(3, &b"k1"[..], &b""[..], &b"hello"[..]), (0, b"", b"", b"abc")]);
    let bytes = &replies()[11];
    let Reply::Delivery(view) = Reply::decode(&whole(bytes)).unwrap() else { panic!("not a delivery") };
    let messages: Vec<_> = view.messages().map(|m| (m.head.sequence, m.key, m.headers, m.payload)).collect();
    assert_eq!(messages, [(100, &b"k1"[..], &b"hh"[..], &b"hello"[..])]);
}

#[test]
fn heads_must_add_up_to_the_body() {
    let messages = [MessageHead { payload_bytes: 5, ..MessageHead::default() }];
    let publish = Publish { queue: 7, session: 8, epoch: 1, sequence: 42, messages: &messages };
    for body in [&b"1234"[..], b"123456", b""] {
        let bytes = encoded(1, &publish, &[body]);
        let actual = body.len() as u64;
        let error = Request::decode(&whole(&bytes)).unwrap_err();
        assert_eq!(error, FrameError::Body { kind: Kind::Publish, expected: 5, actual });
    }
    let error = Request::decode(&whole(&encoded(1, &Ping, &[b"x"]))).unwrap_err();
    assert_eq!(error.to_string(), "Ping announces a body of 0 bytes and carries 1");
}

#[test]
fn empty_and_endless_lists_are_refused() {
    let publish = |messages: &[MessageHead]| {
        encoded(1, &Publish { queue: 7, session: 8, epoch: 1, sequence: 42, messages }, &[])
    };
    let head = MessageHead::default();
    let max = ITEMS_PER_FRAME_MAX as usize;
    assert!(Request::decode(&whole(&publish(&vec![head; max]))).is_ok());
    for count in [0, max + 1] {
        let bytes = publish(&vec![head; count]);
        let expected =
            FrameError::Count { kind: Kind::Publish, count: count as u32, max: ITEMS_PER_FRAME_MAX };
        assert_eq!(Request::decode(&whole(&bytes)).unwrap_err(), expected);
    }
}

#[test]
fn texts_are_limited() {
    let name = "x".repeat(255);
    assert!(Request::decode(&whole(&encoded(1, &ShowQueue { name: &name }, &[]))).is_ok());
    let name = "x".repeat(256);
    let error = Request::decode(&whole(&encoded(1, &ShowQueue { name: &name }, &[]))).unwrap_err();
    assert_eq!(error.to_string(), "ShowQueue has a text of 256 bytes: at most 255 are accepted");
    let settings = QueueSettings { dead_letter: name, ..QueueSettings::default() };
    let bytes = encoded(1, &CreateQueue { name: "q", settings }, &[]);
    assert!(matches!(Request::decode(&whole(&bytes)), Err(FrameError::Text { .. })));
}

#[test]
fn the_longest_lists_can_be_encoded() {
    let long = "x".repeat(255);
    let shards = vec![address(&long, 1); SHARDS_MAX as usize];
    let nodes = vec![NodeAddress { node: 1, host: long.clone(), port: 1 }; NODES_MAX as usize];
    let bytes = encoded(1, &cluster_with(shards, nodes), &[]);
    assert!(matches!(Reply::decode(&whole(&bytes)), Ok(Reply::Cluster(_))));
    let levels = vec![LevelInfo::default(); usize::from(PRIORITIES_MAX)];
    let settings = QueueSettings { dead_letter: long.clone(), ..QueueSettings::default() };
    let queues = vec![info(&long, settings, levels); QUEUES_PER_LIST_MAX as usize];
    let bytes = encoded(1, &QueueList { queues, more: false }, &[]);
    assert!(matches!(Reply::decode(&whole(&bytes)), Ok(Reply::QueueList(_))));
    let bytes = encoded(1, &groups_of(GROUPS_PER_SHARD_MAX, MEMBERS_MAX), &[]);
    assert!(matches!(Reply::decode(&whole(&bytes)), Ok(Reply::GroupsShown(_))));
}

/// So many groups with so many members each.
fn groups_of(groups: u32, members: u32) -> GroupsShown {
    let member = MemberInfo { host: "x".repeat(255), ..MemberInfo::default() };
    let group = GroupInfo { members: vec![member; members as usize], ..GroupInfo::default() };
    GroupsShown { node: 1, incarnation: 1, shard: 0, groups: vec![group; groups as usize] }
}

#[test]
fn lists_of_nodes_groups_and_members_are_limited() {
    let node = NodeAddress { node: 1, host: String::new(), port: 1 };
    let nodes = |count: u32| cluster_with(vec![address("", 1)], vec![node.clone(); count as usize]);
    let refused = |bytes: &[u8], kind, count, max| {
        assert_eq!(Reply::decode(&whole(bytes)).unwrap_err(), FrameError::Count { kind, count, max });
    };
    assert!(Reply::decode(&whole(&encoded(1, &nodes(0), &[]))).is_ok());
    assert!(Reply::decode(&whole(&encoded(1, &nodes(NODES_MAX), &[]))).is_ok());
    refused(&encoded(1, &nodes(NODES_MAX + 1), &[]), Kind::Cluster, 65, NODES_MAX);
    assert!(Reply::decode(&whole(&encoded(1, &groups_of(0, 0), &[]))).is_ok());
    refused(&encoded(1, &groups_of(17, 1), &[]), Kind::GroupsShown, 17, GROUPS_PER_SHARD_MAX);
    refused(&encoded(1, &groups_of(1, 65), &[]), Kind::GroupsShown, 65, MEMBERS_MAX);
    let mut long = groups_of(1, 1);
    long.groups[0].members[0].host = "x".repeat(256);
    let error = Reply::decode(&whole(&encoded(1, &long, &[]))).unwrap_err();
    assert_eq!(error, FrameError::Text { kind: Kind::GroupsShown, bytes: 256, max: NAME_BYTES_MAX });
}

#[test]
fn states_keep_their_numbers() {
    for number in 0..=4 {
        assert_eq!(MemberState::from(number) as u8, number);
    }
    assert_eq!(MemberState::from(99), MemberState::Unknown);
}

#[test]
fn codes_and_kinds_keep_their_numbers() {
    for number in 1..=24 {
        assert_eq!(Code::from(number) as u16, number);
    }
    assert_eq!(Code::from(0), Code::Internal);
    assert_eq!(Code::from(999), Code::Internal);
    for number in 0..=255 {
        match Kind::try_from(number) {
            Ok(kind) => assert_eq!(kind as u8, number),
            Err(error) => assert_eq!(error, FrameError::UnknownKind { kind: number }),
        }
    }
}
