//! What comes over a connection, in both directions.

use ringmain_net::frame::{self, FRAME_BYTES_MAX, HEADER_BYTES};
use ringmain_net::headers;
use ringmain_net::protocol::{
    ChangeMembers, Closing, Cluster, ConsumerEnded, CreateQueue, DeleteQueue, Delivery, DeliveryHead, Done,
    GroupInfo, GroupsShown, Hello, LevelInfo, ListQueues, MemberInfo, MessageHead, Metadata, MoveLeader,
    NodeAddress, OpenQueue, OpenSession, Outcome, PROTOCOL, Ping, Pong, Publish, PurgeQueue, QueueInfo,
    QueueList, QueueOpened, QueueSettings, QueueShown, Receipt, Refused, Reply, Request, SessionOpened,
    Settle, SettleRun, Settled, ShardAddress, ShowGroups, ShowQueue, Subscribe, Subscribed, Unsubscribe,
    Welcome, Words,
};

use super::Target;
use super::mutation::leave;
use crate::rng::Rng;

pub(super) const FRAME: Target = Target {
    name: "frame",
    samples: frames,
    repair: |bytes, rng| seal(bytes, rng),
    feed: feed_frame,
    // A list of queues takes four bytes of memory for each of its bytes.
    memory_bytes: 1024,
    memory_per_byte: 4,
};

pub(super) const HEADERS: Target = Target {
    name: "headers",
    samples: || {
        let mut blob = Vec::new();
        headers::append(&mut blob, "trace", b"4bf92f35").expect("it is short");
        headers::append(&mut blob, "", b"").expect("it is short");
        headers::append(&mut blob, "größe", &[0xff; 300]).expect("it is short");
        vec![blob, Vec::new()]
    },
    repair: leave,
    feed: |bytes| {
        let walked: usize = headers::iterate(bytes)
            .map_while(Result::ok)
            .map(|(name, value)| 6 + name.len() + value.len())
            .sum();
        assert!(walked <= bytes.len());
        std::hint::black_box(headers::find(bytes, "trace"));
    },
    memory_bytes: 0,
    memory_per_byte: 0,
};

pub(super) fn encoded(words: &impl Words, body: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, 7, words, body);
    out
}

fn frames() -> Vec<Vec<u8>> {
    [requests(), replies()].concat()
}

fn requests() -> Vec<Vec<u8>> {
    let name = "a name that is longer than eight bytes";
    let settings = QueueSettings { dead_letter: name.to_owned(), ..QueueSettings::default() };
    let heads = [MessageHead { payload_bytes: 4, key_bytes: 1, ..MessageHead::default() }; 20];
    let change = ChangeMembers {
        group: 1,
        add_node: 2,
        add_incarnation: 3,
        host: name,
        port: 4,
        remove_node: 5,
        remove_incarnation: 6,
    };
    let run = SettleRun { sequence: 1, count: 2, deliveries: 1, priority: 0, outcome: Outcome::Nack };
    vec![
        encoded(&Hello { protocol: PROTOCOL, cluster: 0, agent: name }, &[]),
        encoded(&Metadata, &[]),
        encoded(&CreateQueue { name, settings }, &[]),
        encoded(&ShowQueue { name }, &[]),
        encoded(&ListQueues { group: 1, after: name, limit: 10 }, &[]),
        encoded(&DeleteQueue { name }, &[]),
        encoded(&PurgeQueue { name }, &[]),
        encoded(&OpenQueue { name }, &[]),
        encoded(&OpenSession { queue: 1, producer: name }, &[]),
        encoded(&Publish { queue: 1, session: 2, epoch: 3, sequence: 4, messages: &heads }, &[&[b'x'; 100]]),
        encoded(&Subscribe { queue: 1, credit: 10 }, &[]),
        encoded(&Settle { consumer: 1, items: &[run; 10] }, &[]),
        encoded(&Unsubscribe { consumer: 1 }, &[]),
        encoded(&Ping, &[]),
        encoded(&ShowGroups, &[]),
        encoded(&MoveLeader { group: 1, node: 2 }, &[]),
        encoded(&change, &[]),
    ]
}

fn replies() -> Vec<Vec<u8>> {
    let name = "a name that is longer than eight bytes";
    let settings = QueueSettings { dead_letter: name.to_owned(), ..QueueSettings::default() };
    let levels = vec![LevelInfo::default(); 5];
    let info =
        QueueInfo { name: name.to_owned(), settings: settings.clone(), levels, ..QueueInfo::default() };
    let heads = [DeliveryHead { payload_bytes: 4, headers_bytes: 1, ..DeliveryHead::default() }; 20];
    let shards = vec![ShardAddress { host: name.to_owned(), port: 1 }; 8];
    let nodes = vec![NodeAddress { node: 1, host: name.to_owned(), port: 1 }; 3];
    let member = MemberInfo { host: name.to_owned(), ..MemberInfo::default() };
    let group = GroupInfo { members: vec![member; 3], ..GroupInfo::default() };
    let welcome = Welcome {
        protocol: PROTOCOL,
        cluster: 1,
        node: 1,
        incarnation: 2,
        shard: 0,
        groups: 3,
        message_bytes_max: 1 << 20,
        frame_bytes_max: 4 << 20,
        inflight_frames_max: 4096,
        shards: shards.clone(),
        nodes: nodes.clone(),
    };
    vec![
        encoded(&welcome, &[]),
        encoded(&Cluster { cluster: 1, node: 2, incarnation: 4, shard: 3, groups: 2, shards, nodes }, &[]),
        encoded(&QueueOpened { queue: 1, settings }, &[]),
        encoded(&QueueShown { info: info.clone() }, &[]),
        encoded(&QueueList { queues: vec![info; 6], more: true }, &[]),
        encoded(&Done { index: 1, count: 2 }, &[]),
        encoded(&SessionOpened { session: 1, epoch: 2, last_sequence: 3 }, &[]),
        encoded(&Receipt::default(), &[]),
        encoded(&Subscribed { consumer: 1 }, &[]),
        encoded(&Settled { consumer: 1, accepted: 2, stale: 3 }, &[]),
        encoded(&Pong, &[]),
        encoded(&Delivery { consumer: 1, queue: 2, messages: &heads }, &[&[b'x'; 100]]),
        encoded(&Refused { detail: name, redirect_host: name, ..Refused::default() }, &[]),
        encoded(&Closing { code: 1, detail: name }, &[]),
        encoded(&GroupsShown { node: 1, incarnation: 2, shard: 0, groups: vec![group; 2] }, &[]),
        encoded(&ConsumerEnded { consumer: 1, code: 4, detail: name }, &[]),
    ]
}

/// Length and checksum that fit; often the version and the archive's length too.
pub(super) fn seal(bytes: &mut [u8], rng: &mut Rng) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let length = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    if !rng.one_in(8) {
        bytes[8] = frame::VERSION;
        bytes[10..12].fill(0);
    }
    if rng.one_in(2) {
        let rest = (bytes.len() - HEADER_BYTES) as u32;
        let archive_bytes = if rng.one_in(2) { rest } else { rng.below(u64::from(rest) + 1) as u32 };
        bytes[12..16].copy_from_slice(&archive_bytes.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// As both sides would: cut, decode, walk over everything in it.
fn feed_frame(bytes: &[u8]) {
    let Ok(Some(frame)) = frame::split(bytes, FRAME_BYTES_MAX) else { return };
    assert!(frame.bytes <= bytes.len());
    match Request::decode(&frame) {
        Ok(Request::Publish(publish)) => {
            let walked: usize = publish.messages().map(|message| message.bytes.len()).sum();
            assert_eq!(walked, frame.body.len());
            for message in publish.messages() {
                std::hint::black_box(headers::find(message.headers, "a"));
            }
        }
        Ok(Request::Settle(settle)) => assert!(settle.runs().count() > 0),
        Ok(_) | Err(_) => {}
    }
    if let Ok(Reply::Delivery(delivery)) = Reply::decode(&frame) {
        let walked: usize = delivery
            .messages()
            .map(|message| message.key.len() + message.headers.len() + message.payload.len())
            .sum();
        assert_eq!(walked, frame.body.len());
    }
}
