//! What the frames of each kind mean, and their archives in bytes.
//!
//! A client opens a connection to a shard and sends `Hello`; the shard answers `Welcome`, or `Refused` and
//! closes. From then on the client sends requests and the shard answers each of them once, in any order
//! between different kinds of request. `Delivery`, `ConsumerEnded` and `Closing` come unasked. One `Receipt` may answer
//! many publishes of a session: all with sequences from its first to its last.
//!
//! # Archives in bytes
//!
//! The *root* is the last so many bytes of the archive; offsets below are from its start. Integers are
//! little endian, nothing is aligned, no byte is padding.
//!
//! - `vec` is 8 bytes: i32 distance from here to the first item (negative: items lie before the root), u32
//!   count. Items lie back to back.
//! - `str` is 8 bytes. Up to 8 bytes of UTF-8 are inline, filled up with `ff`. A longer one has u32 length
//!   `n` stored as `(n & 3f) | 80 | (n >> 6) << 8`, so that its first byte is `80`–`bf` and never UTF-8's
//!   first, then i32 distance from here to the first byte.
//!
//! | kind | client to shard | root |
//! |---|---|---|
//! | 1 | `Hello` | 0 protocol u16 · 2 cluster u64 · 10 agent str · = 18 |
//! | 2 | `Metadata` | = 0 |
//! | 3 | `CreateQueue` | 0 name str · 8 settings (44, below) · = 52 |
//! | 4 | `ShowQueue` | 0 name str · = 8 |
//! | 5 | `ListQueues` | 0 group u32 · 4 after str · 12 limit u32 · = 16 |
//! | 6 | `DeleteQueue` | 0 name str · = 8 |
//! | 7 | `PurgeQueue` | 0 name str · = 8 |
//! | 8 | `OpenQueue` | 0 name str · = 8 |
//! | 9 | `OpenSession` | 0 queue u64 · 8 producer str · = 16 |
//! | 10 | `Publish` | 0 queue u64 · 8 session u64 · 16 epoch u32 · 20 sequence u64 · 28 messages vec of head (20) · = 36 |
//! | 11 | `Subscribe` | 0 queue u64 · 8 credit u32 · = 12 |
//! | 12 | `Settle` | 0 consumer u32 · 4 items vec of run (16) · = 12 |
//! | 13 | `Unsubscribe` | 0 consumer u32 · = 4 |
//! | 14 | `Ping` | = 0 |
//! | 15 | `ShowGroups` | = 0 |
//! | 16 | `MoveLeader` | 0 group u32 · 4 node u32 · = 8 |
//! | 17 | `ChangeMembers` | 0 group u32 · 4 add node u32 · 8 add incarnation u32 · 12 host str · 20 port u16 · 22 remove node u32 · 26 remove incarnation u32 · = 30 |
//!
//! | kind | shard to client | root |
//! |---|---|---|
//! | 129 | `Welcome` | 0 protocol u16 · 2 cluster u64 · 10 node u32 · 14 incarnation u32 · 18 shard u32 · 22 groups u32 · 26 message bytes max u32 · 30 frame bytes max u32 · 34 in-flight frames max u32 · 38 shards vec of address (10) · 46 nodes vec of node (14) · = 54 |
//! | 130 | `Cluster` | 0 cluster u64 · 8 node u32 · 12 incarnation u32 · 16 shard u32 · 20 groups u32 · 24 shards vec of address (10) · 32 nodes vec of node (14) · = 40 |
//! | 131 | `QueueOpened` | 0 queue u64 · 8 settings (44) · = 52 |
//! | 132 | `QueueShown` | 0 info (144, below) · = 144 |
//! | 133 | `QueueList` | 0 queues vec of info (144) · 8 more u8 (0 or 1) · = 9 |
//! | 134 | `Done` | 0 index u64 · 8 count u64 · = 16 |
//! | 135 | `SessionOpened` | 0 session u64 · 8 epoch u32 · 12 last sequence u64 · = 20 |
//! | 136 | `Receipt` | 0 session u64 · 8 first sequence u64 · 16 last sequence u64 · 24 group u32 · 28 term u64 · 36 index u64 · 44 waited µs u32 · 48 durable µs u32 · 52 flags u8 (bit 0 duplicate) · = 53 |
//! | 137 | `Subscribed` | 0 consumer u32 · = 4 |
//! | 138 | `Settled` | 0 consumer u32 · 4 accepted u32 · 8 stale u32 · = 12 |
//! | 139 | `Pong` | = 0 |
//! | 140 | `Delivery` | 0 consumer u32 · 4 queue u64 · 12 messages vec of head (30) · = 20 |
//! | 141 | `Refused` | 0 code u16 · 2 session u64 · 10 sequence u64 · 18 retry after ms u32 · 22 detail str · 30 redirect host str · 38 redirect port u16 · = 40 |
//! | 142 | `Closing` | 0 code u16 · 2 detail str · = 10 |
//! | 143 | `GroupsShown` | 0 node u32 · 4 incarnation u32 · 8 shard u32 · 12 groups vec of group (49) · = 20 |
//! | 144 | `ConsumerEnded` | 0 consumer u32 · 4 code u16 · 6 detail str · = 14 |
//!
//! | item | bytes |
//! |---|---|
//! | head in `Publish` | 0 payload bytes u32 · 4 headers bytes u32 · 8 key bytes u16 · 10 priority u8 · 11 flags u8 · 12 ttl ms u32 · 16 delay ms u32 · = 20 |
//! | head in `Delivery` | 0 sequence u64 · 8 published µs u64 · 16 payload bytes u32 · 20 headers bytes u32 · 24 key bytes u16 · 26 deliveries u16 · 28 priority u8 · 29 flags u8 (bit 0 redelivered) · = 30 |
//! | run in `Settle` | 0 sequence u64 · 8 count u32 · 12 deliveries u16 · 14 priority u8 · 15 outcome u8 (0 ack, 1 nack, 2 reject) · = 16 |
//! | address | 0 host str · 8 port u16 · = 10 |
//! | node | 0 node u32 · 4 host str · 12 port u16 · = 14 |
//! | group | 0 group u32 · 4 leader u32 · 8 is leader u8 (0 or 1) · 9 term u64 · 17 committed u64 · 25 applied u64 · 33 last u64 · 41 members vec of member (29) · = 49 |
//! | member | 0 node u32 · 4 incarnation u32 · 8 host str · 16 port u16 · 18 is voter u8 (0 or 1) · 19 is active u8 (0 or 1) · 20 state u8 (0 unknown, 1 current, 2 behind, 3 receives a checkpoint, 4 unreachable) · 21 matched u64 · = 29 |
//! | settings | 0 priorities u16 · 2 durability u8 · 3 overflow u8 · 4 max length u64 · 12 max bytes u64 · 20 lease ms u32 · 24 max deliveries u32 · 28 ttl ms u64 · 36 dead letter str · = 44 |
//! | info | 0 name str · 8 queue u64 · 16 settings (44) · 60 shard u32 · 64 group u32 · 68 term u64 · 76 index u64 · 84 consumers u32 · 88 ready u64 · 96 ready bytes u64 · 104 in flight u64 · 112 in-flight bytes u64 · 120 published u64 · 128 acknowledged u64 · 136 levels vec of level (33) · = 144 |
//! | level | 0 priority u8 · 1 ready u64 · 9 ready bytes u64 · 17 in flight u64 · 25 in-flight bytes u64 · = 33 |
//!
//! The body of `Publish` and `Delivery` is, for each head in order, key, headers and payload back to back;
//! the lengths in the heads add up to the body exactly. All other bodies are empty.

/// Says which kind of frame carries a struct.
macro_rules! words {
    ($($words:ty => $kind:ident;)*) => {
        $(impl Words for $words { const KIND: Kind = Kind::$kind; })*
    };
}
pub(crate) use words;

mod code;
mod group;
mod message;
mod reply;
mod request;

use rkyv::Serialize;

use crate::archive::ArchiveWriter;
use crate::frame::{Frame, FrameError};

pub use code::Code;
pub use group::{GroupInfo, GroupsShown, MemberInfo, MemberState};
pub use message::{
    ArchivedDeliveryHead, ArchivedMessageHead, ArchivedSettleRun, Delivered, DeliveredMessages, DeliveryHead,
    Message, MessageHead, Messages, Outcome, SettleRun,
};
pub use reply::{
    Closing, Cluster, ConsumerEnded, Delivery, DeliveryView, Done, LevelInfo, NodeAddress, Pong, QueueInfo,
    QueueList, QueueOpened, QueueSettings, QueueShown, Receipt, Refused, Reply, SessionOpened, Settled,
    ShardAddress, Subscribed, Welcome,
};
pub(crate) use request::PUBLISH_ROOT_BYTES;
pub use request::{
    ChangeMembers, CreateQueue, DeleteQueue, Hello, ListQueues, Metadata, MoveLeader, OpenQueue, OpenSession,
    Ping, Publish, PublishView, PurgeQueue, Request, Settle, SettleView, ShowGroups, ShowQueue, Subscribe,
    Unsubscribe, publish_frame_bytes,
};

/// The protocol that `Hello` and `Welcome` name.
pub const PROTOCOL: u16 = 1;

/// Messages in one `Publish` or `Delivery`, and runs in one `Settle`.
pub const ITEMS_PER_FRAME_MAX: u32 = 16_384;
/// Queues in one `QueueList`; a shard answers with fewer if it likes, and says that there are more.
pub const QUEUES_PER_LIST_MAX: u32 = 256;
/// Shards of one node, and so addresses in one `Welcome`.
pub const SHARDS_MAX: u32 = 1024;
/// Nodes of a cluster, and so addresses of nodes in one `Welcome`.
pub const NODES_MAX: u32 = 64;
/// Groups that one shard hosts, and so groups in one `GroupsShown`.
pub const GROUPS_PER_SHARD_MAX: u32 = 16;
/// Members of a group, the nodes that leave or come included.
pub const MEMBERS_MAX: u32 = 64;
/// Priority levels of a queue.
pub const PRIORITIES_MAX: u16 = 256;
/// A client's description of itself.
pub const AGENT_BYTES_MAX: u32 = 64;
/// A queue's name, a producer's name, a host's name.
pub const NAME_BYTES_MAX: u32 = 255;
/// The explanation in a refusal.
pub const DETAIL_BYTES_MAX: u32 = 1024;

/// In `DeliveryHead::flags`: this message was delivered before.
pub const DELIVERY_REDELIVERED: u8 = 1;
/// In `Receipt::flags`: the messages had been stored by an earlier try.
pub const RECEIPT_DUPLICATE: u8 = 1;

/// A struct that a frame can carry; its kind follows from its type.
pub trait Words: for<'a> Serialize<ArchiveWriter<'a>> {
    const KIND: Kind;
}

/// What a frame is. Requests are below 64, what peers say to each other below 96, replies and pushes above 128.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Metadata = 2,
    CreateQueue = 3,
    ShowQueue = 4,
    ListQueues = 5,
    DeleteQueue = 6,
    PurgeQueue = 7,
    OpenQueue = 8,
    OpenSession = 9,
    Publish = 10,
    Subscribe = 11,
    Settle = 12,
    Unsubscribe = 13,
    Ping = 14,
    ShowGroups = 15,
    MoveLeader = 16,
    ChangeMembers = 17,

    PeerHello = 64,
    PeerWelcome = 65,
    PeerRefused = 66,
    Replicate = 67,
    Received = 68,
    TransferBegin = 72,
    TransferPart = 73,
    TransferPayloads = 74,
    TransferAck = 75,
    TransferStaged = 76,
    TransferAborted = 77,
    FormHello = 80,
    FormReply = 81,

    Welcome = 129,
    Cluster = 130,
    QueueOpened = 131,
    QueueShown = 132,
    QueueList = 133,
    Done = 134,
    SessionOpened = 135,
    Receipt = 136,
    Subscribed = 137,
    Settled = 138,
    Pong = 139,
    Delivery = 140,
    Refused = 141,
    Closing = 142,
    GroupsShown = 143,
    ConsumerEnded = 144,
}

impl TryFrom<u8> for Kind {
    type Error = FrameError;

    fn try_from(kind: u8) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => Self::Hello,
            2 => Self::Metadata,
            3 => Self::CreateQueue,
            4 => Self::ShowQueue,
            5 => Self::ListQueues,
            6 => Self::DeleteQueue,
            7 => Self::PurgeQueue,
            8 => Self::OpenQueue,
            9 => Self::OpenSession,
            10 => Self::Publish,
            11 => Self::Subscribe,
            12 => Self::Settle,
            13 => Self::Unsubscribe,
            14 => Self::Ping,
            15 => Self::ShowGroups,
            16 => Self::MoveLeader,
            17 => Self::ChangeMembers,
            64 => Self::PeerHello,
            65 => Self::PeerWelcome,
            66 => Self::PeerRefused,
            67 => Self::Replicate,
            68 => Self::Received,
            72 => Self::TransferBegin,
            73 => Self::TransferPart,
            74 => Self::TransferPayloads,
            75 => Self::TransferAck,
            76 => Self::TransferStaged,
            77 => Self::TransferAborted,
            80 => Self::FormHello,
            81 => Self::FormReply,
            129 => Self::Welcome,
            130 => Self::Cluster,
            131 => Self::QueueOpened,
            132 => Self::QueueShown,
            133 => Self::QueueList,
            134 => Self::Done,
            135 => Self::SessionOpened,
            136 => Self::Receipt,
            137 => Self::Subscribed,
            138 => Self::Settled,
            139 => Self::Pong,
            140 => Self::Delivery,
            141 => Self::Refused,
            142 => Self::Closing,
            143 => Self::GroupsShown,
            144 => Self::ConsumerEnded,
            _ => return Err(FrameError::UnknownKind { kind }),
        })
    }
}

/// Reads an archive, and demands that the frame has no body.
pub(crate) fn read_alone<'a, T>(kind: Kind, frame: &Frame<'a>) -> Result<&'a T, FrameError>
where
    T: rkyv::Portable
        + for<'b> rkyv::bytecheck::CheckBytes<rkyv::api::low::LowValidator<'b, rkyv::rancor::Failure>>,
{
    check_body(kind, 0, frame)?;
    crate::archive::read(frame.archive).ok_or(FrameError::Archive { kind })
}

pub(crate) fn check_body(kind: Kind, expected: u64, frame: &Frame<'_>) -> Result<(), FrameError> {
    let actual = frame.body.len() as u64;
    if actual != expected {
        return Err(FrameError::Body { kind, expected, actual });
    }
    Ok(())
}

/// A list must have at least one item and at most `max`.
pub(crate) fn check_count(kind: Kind, count: usize, max: u32) -> Result<(), FrameError> {
    if count == 0 {
        return Err(FrameError::Count { kind, count: 0, max });
    }
    check_count_max(kind, count, max)
}

/// A list may be empty and must have at most `max` items.
pub(crate) fn check_count_max(kind: Kind, count: usize, max: u32) -> Result<(), FrameError> {
    if count > max as usize {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        return Err(FrameError::Count { kind, count, max });
    }
    Ok(())
}

pub(crate) fn check_text(kind: Kind, text: &str, max: u32) -> Result<&str, FrameError> {
    if text.len() > max as usize {
        let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
        return Err(FrameError::Text { kind, bytes, max });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
