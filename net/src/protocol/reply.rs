//! What a shard sends.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    ArchivedDeliveryHead, Code, DETAIL_BYTES_MAX, DeliveredMessages, DeliveryHead, GroupsShown,
    ITEMS_PER_FRAME_MAX, Kind, NAME_BYTES_MAX, NODES_MAX, PRIORITIES_MAX, QUEUES_PER_LIST_MAX,
    RECEIPT_DUPLICATE, SHARDS_MAX, Words, check_count, check_count_max, check_text, read_alone,
};
use crate::archive::{self, Slice, Str};
use crate::frame::{Frame, FrameError};

/// The answer to `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Welcome {
    pub protocol: u16,
    pub cluster: u64,
    pub node: u32,
    /// How often this node was set up anew.
    pub incarnation: u32,
    /// The shard at this end of the connection.
    pub shard: u32,
    /// Groups of each shard.
    pub groups: u32,
    /// Key, headers and payload of one message together.
    pub message_bytes_max: u32,
    pub frame_bytes_max: u32,
    /// Publishes of one session that may be unanswered.
    pub inflight_frames_max: u32,
    /// Where each shard of this node listens; the index is the shard's number.
    pub shards: Vec<ShardAddress>,
    /// All nodes of the cluster, this one included.
    pub nodes: Vec<NodeAddress>,
}

/// The answer to `Metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Cluster {
    pub cluster: u64,
    pub node: u32,
    pub incarnation: u32,
    pub shard: u32,
    pub groups: u32,
    pub shards: Vec<ShardAddress>,
    pub nodes: Vec<NodeAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ShardAddress {
    /// "": the host that the client dialled.
    pub host: String,
    pub port: u16,
}

/// Where a node listens: its first shard at `port`, shard `i` at `port + i`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct NodeAddress {
    pub node: u32,
    /// "": the host that the client dialled.
    pub host: String,
    pub port: u16,
}

/// The answer to `OpenQueue`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct QueueOpened {
    /// The queue's number on this shard, for `OpenSession`, `Publish` and `Subscribe`.
    pub queue: u64,
    pub settings: QueueSettings,
}

/// The answer to `ShowQueue`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct QueueShown {
    pub info: QueueInfo,
}

/// The answer to `ListQueues`: queues of one group in name order, without their levels.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct QueueList {
    pub queues: Vec<QueueInfo>,
    /// Whether this group has queues behind the last one here.
    pub more: bool,
}

/// The answer to requests that change something and have no answer of their own.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Done {
    /// The commit index that made it so.
    pub index: u64,
    /// Messages concerned.
    pub count: u64,
}

/// The answer to `OpenSession`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct SessionOpened {
    pub session: u64,
    pub epoch: u32,
    /// The last sequence that is stored; 0: none.
    pub last_sequence: u64,
}

/// All publishes of this session from the first to the last sequence are durable.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Archive, Serialize)]
pub struct Receipt {
    pub session: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub group: u32,
    pub term: u64,
    pub index: u64,
    /// From received to proposed.
    pub waited_us: u32,
    /// From proposed to committed.
    pub durable_us: u32,
    /// Bit 0: [`RECEIPT_DUPLICATE`].
    pub flags: u8,
}

/// The answer to `Subscribe`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Subscribed {
    /// The consumer's number on this connection.
    pub consumer: u32,
}

/// The answer to `Settle`: the outcomes are durable.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Settled {
    pub consumer: u32,
    /// Messages settled.
    pub accepted: u32,
    /// Messages whose lease was over: they are someone else's now, or nobody's.
    pub stale: u32,
}

/// The answer to `Ping`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Pong;

/// Messages for a consumer, unasked. The body holds key, headers and payload of each.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Delivery<'a> {
    pub consumer: u32,
    pub queue: u64,
    #[rkyv(with = Slice)]
    pub messages: &'a [DeliveryHead],
}

/// The answer to any request that was not carried out. Nothing of it was.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Archive, Serialize)]
pub struct Refused<'a> {
    /// A [`Code`].
    pub code: u16,
    /// Of the publish refused, else 0.
    pub session: u64,
    /// Of the publish refused, else 0.
    pub sequence: u64,
    /// How long to wait before the next try; 0: no advice.
    pub retry_after_ms: u32,
    /// One sentence for a person; at most 1024 bytes.
    #[rkyv(with = Str)]
    pub detail: &'a str,
    /// Where to go instead; port 0: nowhere. "": the host that the client dialled.
    #[rkyv(with = Str)]
    pub redirect_host: &'a str,
    pub redirect_port: u16,
}

/// The last frame before the shard closes the connection, unasked.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Closing<'a> {
    /// A [`Code`].
    pub code: u16,
    /// One sentence for a person; at most 1024 bytes.
    #[rkyv(with = Str)]
    pub detail: &'a str,
}

/// A consumer is no more, unasked: what it had not settled is void.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ConsumerEnded<'a> {
    pub consumer: u32,
    /// A [`Code`]: `NotLeader`, the leadership moved; `NoSuchQueue`, the queue was deleted.
    pub code: u16,
    /// One sentence for a person; at most 1024 bytes.
    #[rkyv(with = Str)]
    pub detail: &'a str,
}

/// How a queue behaves; fixed when it is created.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct QueueSettings {
    /// 1 to 256 levels, of which 0 is the lowest.
    pub priorities: u16,
    /// 0: on the disks of a majority before it is acknowledged.
    pub durability: u8,
    /// 0: what does not fit is refused.
    pub overflow: u8,
    /// Messages, ready and in flight together; 0: no limit.
    pub max_length: u64,
    /// Bytes of key, headers and payload, ready and in flight together; 0: no limit.
    pub max_bytes: u64,
    /// How long a delivered message may stay unsettled before it returns.
    pub lease_ms: u32,
    /// Deliveries before a message goes to the dead-letter queue; 0: no limit.
    pub max_deliveries: u32,
    /// Reserved: 0, no limit.
    pub ttl_ms: u64,
    /// Name of the dead-letter queue; "": none.
    pub dead_letter: String,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            priorities: 1,
            durability: 0,
            overflow: 0,
            max_length: 0,
            max_bytes: 0,
            lease_ms: 30_000,
            max_deliveries: 0,
            ttl_ms: 0,
            dead_letter: String::new(),
        }
    }
}

/// A queue and what is in it, exact at commit `index` of `term`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct QueueInfo {
    pub name: String,
    pub queue: u64,
    pub settings: QueueSettings,
    pub shard: u32,
    pub group: u32,
    pub term: u64,
    pub index: u64,
    pub consumers: u32,
    pub ready: u64,
    pub ready_bytes: u64,
    pub in_flight: u64,
    pub in_flight_bytes: u64,
    /// Messages ever published.
    pub published: u64,
    /// Messages ever acknowledged.
    pub acknowledged: u64,
    /// The levels that hold messages, lowest first; empty in a list of queues.
    pub levels: Vec<LevelInfo>,
}

/// One priority level of a queue.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LevelInfo {
    pub priority: u8,
    pub ready: u64,
    pub ready_bytes: u64,
    pub in_flight: u64,
    pub in_flight_bytes: u64,
}

const _: () = assert!(size_of::<ArchivedWelcome>() == 54);
const _: () = assert!(size_of::<ArchivedCluster>() == 40);
const _: () = assert!(size_of::<ArchivedShardAddress>() == 10);
const _: () = assert!(size_of::<ArchivedNodeAddress>() == 14);
const _: () = assert!(size_of::<ArchivedQueueSettings>() == 44);
const _: () = assert!(size_of::<ArchivedQueueInfo>() == 144);
const _: () = assert!(size_of::<ArchivedLevelInfo>() == 33);
const _: () = assert!(size_of::<ArchivedQueueOpened>() == 52);
const _: () = assert!(size_of::<ArchivedReceipt>() == 53);
const _: () = assert!(size_of::<ArchivedDelivery<'_>>() == 20);
const _: () = assert!(size_of::<ArchivedRefused<'_>>() == 40);
const _: () = assert!(size_of::<ArchivedConsumerEnded<'_>>() == 14);

words! {
    Welcome => Welcome;
    Cluster => Cluster;
    QueueOpened => QueueOpened;
    QueueShown => QueueShown;
    QueueList => QueueList;
    Done => Done;
    SessionOpened => SessionOpened;
    Receipt => Receipt;
    Subscribed => Subscribed;
    Settled => Settled;
    Pong => Pong;
    Delivery<'_> => Delivery;
    Refused<'_> => Refused;
    Closing<'_> => Closing;
    ConsumerEnded<'_> => ConsumerEnded;
}

/// A decoded reply or push, borrowed from the receive buffer where it is large or frequent.
#[derive(Clone, Debug)]
pub enum Reply<'a> {
    Welcome(Welcome),
    Cluster(Cluster),
    QueueOpened(QueueOpened),
    QueueShown(QueueShown),
    QueueList(QueueList),
    Done(Done),
    SessionOpened(SessionOpened),
    Receipt(Receipt),
    Subscribed(Subscribed),
    Settled(Settled),
    Pong,
    Delivery(DeliveryView<'a>),
    Refused(Refused<'a>),
    Closing(Closing<'a>),
    GroupsShown(GroupsShown),
    ConsumerEnded(ConsumerEnded<'a>),
}

/// A received `Delivery`. The lengths in its heads add up to its body.
#[derive(Clone, Debug)]
pub struct DeliveryView<'a> {
    pub consumer: u32,
    pub queue: u64,
    /// 1 to [`ITEMS_PER_FRAME_MAX`].
    pub heads: &'a [ArchivedDeliveryHead],
    /// Key, headers and payload of all messages.
    pub body: &'a [u8],

    messages: DeliveredMessages<'a>,
}

impl<'a> DeliveryView<'a> {
    pub fn messages(&self) -> DeliveredMessages<'a> {
        self.messages.clone()
    }
}

impl Receipt {
    pub fn is_duplicate(&self) -> bool {
        self.flags & RECEIPT_DUPLICATE != 0
    }
}

impl Refused<'_> {
    pub fn code(&self) -> Code {
        Code::from(self.code)
    }
}

impl Closing<'_> {
    pub fn code(&self) -> Code {
        Code::from(self.code)
    }
}

impl ConsumerEnded<'_> {
    pub fn code(&self) -> Code {
        Code::from(self.code)
    }
}

impl<'a> Reply<'a> {
    /// Reads what a shard sent.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, FrameError> {
        let kind = Kind::try_from(frame.kind)?;
        Ok(match kind {
            Kind::Welcome => Self::Welcome(decode_welcome(frame)?),
            Kind::Cluster => Self::Cluster(decode_cluster(frame)?),
            Kind::QueueOpened => {
                let archived: &ArchivedQueueOpened = read_alone(kind, frame)?;
                let settings = QueueSettings::read(kind, &archived.settings)?;
                Self::QueueOpened(QueueOpened { queue: archived.queue.to_native(), settings })
            }
            Kind::QueueShown => {
                let archived: &ArchivedQueueShown = read_alone(kind, frame)?;
                Self::QueueShown(QueueShown { info: QueueInfo::read(kind, &archived.info)? })
            }
            Kind::QueueList => Self::QueueList(decode_queue_list(frame)?),
            Kind::Done => {
                let archived: &ArchivedDone = read_alone(kind, frame)?;
                Self::Done(Done { index: archived.index.to_native(), count: archived.count.to_native() })
            }
            Kind::SessionOpened => Self::SessionOpened(decode_session_opened(frame)?),
            Kind::Receipt => Self::Receipt(decode_receipt(frame)?),
            Kind::Subscribed => {
                let archived: &ArchivedSubscribed = read_alone(kind, frame)?;
                Self::Subscribed(Subscribed { consumer: archived.consumer.to_native() })
            }
            Kind::Settled => Self::Settled(decode_settled(frame)?),
            Kind::Pong => {
                let ArchivedPong = read_alone(kind, frame)?;
                Self::Pong
            }
            Kind::Delivery => Self::Delivery(decode_delivery(frame)?),
            Kind::Refused => Self::Refused(decode_refused(frame)?),
            Kind::Closing => {
                let archived: &ArchivedClosing<'_> = read_alone(kind, frame)?;
                let detail = check_text(kind, archived.detail.as_str(), DETAIL_BYTES_MAX)?;
                Self::Closing(Closing { code: archived.code.to_native(), detail })
            }
            Kind::GroupsShown => Self::GroupsShown(GroupsShown::decode(frame)?),
            Kind::ConsumerEnded => Self::ConsumerEnded(decode_consumer_ended(frame)?),
            kind => return Err(FrameError::UnexpectedKind { kind }),
        })
    }
}

fn decode_welcome(frame: &Frame<'_>) -> Result<Welcome, FrameError> {
    let archived: &ArchivedWelcome = read_alone(Kind::Welcome, frame)?;
    Ok(Welcome {
        protocol: archived.protocol.to_native(),
        cluster: archived.cluster.to_native(),
        node: archived.node.to_native(),
        incarnation: archived.incarnation.to_native(),
        shard: archived.shard.to_native(),
        groups: archived.groups.to_native(),
        message_bytes_max: archived.message_bytes_max.to_native(),
        frame_bytes_max: archived.frame_bytes_max.to_native(),
        inflight_frames_max: archived.inflight_frames_max.to_native(),
        shards: read_shards(Kind::Welcome, &archived.shards)?,
        nodes: read_nodes(Kind::Welcome, &archived.nodes)?,
    })
}

fn decode_cluster(frame: &Frame<'_>) -> Result<Cluster, FrameError> {
    let archived: &ArchivedCluster = read_alone(Kind::Cluster, frame)?;
    Ok(Cluster {
        cluster: archived.cluster.to_native(),
        node: archived.node.to_native(),
        incarnation: archived.incarnation.to_native(),
        shard: archived.shard.to_native(),
        groups: archived.groups.to_native(),
        shards: read_shards(Kind::Cluster, &archived.shards)?,
        nodes: read_nodes(Kind::Cluster, &archived.nodes)?,
    })
}

fn read_shards(kind: Kind, archived: &[ArchivedShardAddress]) -> Result<Vec<ShardAddress>, FrameError> {
    check_count(kind, archived.len(), SHARDS_MAX)?;
    let read = |address: &ArchivedShardAddress| {
        let host = check_text(kind, address.host.as_str(), NAME_BYTES_MAX)?.to_owned();
        Ok(ShardAddress { host, port: address.port.to_native() })
    };
    archived.iter().map(read).collect()
}

fn read_nodes(kind: Kind, archived: &[ArchivedNodeAddress]) -> Result<Vec<NodeAddress>, FrameError> {
    check_count_max(kind, archived.len(), NODES_MAX)?;
    let read = |address: &ArchivedNodeAddress| {
        let host = check_text(kind, address.host.as_str(), NAME_BYTES_MAX)?.to_owned();
        Ok(NodeAddress { node: address.node.to_native(), host, port: address.port.to_native() })
    };
    archived.iter().map(read).collect()
}

fn decode_queue_list(frame: &Frame<'_>) -> Result<QueueList, FrameError> {
    let kind = Kind::QueueList;
    let archived: &ArchivedQueueList = read_alone(kind, frame)?;
    check_count_max(kind, archived.queues.len(), QUEUES_PER_LIST_MAX)?;
    let queues = archived.queues.iter().map(|info| QueueInfo::read(kind, info)).collect::<Result<_, _>>()?;
    Ok(QueueList { queues, more: archived.more })
}

fn decode_session_opened(frame: &Frame<'_>) -> Result<SessionOpened, FrameError> {
    let archived: &ArchivedSessionOpened = read_alone(Kind::SessionOpened, frame)?;
    Ok(SessionOpened {
        session: archived.session.to_native(),
        epoch: archived.epoch.to_native(),
        last_sequence: archived.last_sequence.to_native(),
    })
}

fn decode_receipt(frame: &Frame<'_>) -> Result<Receipt, FrameError> {
    let archived: &ArchivedReceipt = read_alone(Kind::Receipt, frame)?;
    Ok(Receipt {
        session: archived.session.to_native(),
        first_sequence: archived.first_sequence.to_native(),
        last_sequence: archived.last_sequence.to_native(),
        group: archived.group.to_native(),
        term: archived.term.to_native(),
        index: archived.index.to_native(),
        waited_us: archived.waited_us.to_native(),
        durable_us: archived.durable_us.to_native(),
        flags: archived.flags,
    })
}

fn decode_settled(frame: &Frame<'_>) -> Result<Settled, FrameError> {
    let archived: &ArchivedSettled = read_alone(Kind::Settled, frame)?;
    Ok(Settled {
        consumer: archived.consumer.to_native(),
        accepted: archived.accepted.to_native(),
        stale: archived.stale.to_native(),
    })
}

fn decode_delivery<'a>(frame: &Frame<'a>) -> Result<DeliveryView<'a>, FrameError> {
    let kind = Kind::Delivery;
    let archived: &ArchivedDelivery<'_> = archive::read(frame.archive).ok_or(FrameError::Archive { kind })?;
    let heads = archived.messages.as_slice();
    check_count(kind, heads.len(), ITEMS_PER_FRAME_MAX)?;
    Ok(DeliveryView {
        consumer: archived.consumer.to_native(),
        queue: archived.queue.to_native(),
        heads,
        body: frame.body,
        messages: DeliveredMessages::new(heads, frame.body)?,
    })
}

fn decode_refused<'a>(frame: &Frame<'a>) -> Result<Refused<'a>, FrameError> {
    let kind = Kind::Refused;
    let archived: &ArchivedRefused<'_> = read_alone(kind, frame)?;
    Ok(Refused {
        code: archived.code.to_native(),
        session: archived.session.to_native(),
        sequence: archived.sequence.to_native(),
        retry_after_ms: archived.retry_after_ms.to_native(),
        detail: check_text(kind, archived.detail.as_str(), DETAIL_BYTES_MAX)?,
        redirect_host: check_text(kind, archived.redirect_host.as_str(), NAME_BYTES_MAX)?,
        redirect_port: archived.redirect_port.to_native(),
    })
}

fn decode_consumer_ended<'a>(frame: &Frame<'a>) -> Result<ConsumerEnded<'a>, FrameError> {
    let kind = Kind::ConsumerEnded;
    let archived: &ArchivedConsumerEnded<'_> = read_alone(kind, frame)?;
    Ok(ConsumerEnded {
        consumer: archived.consumer.to_native(),
        code: archived.code.to_native(),
        detail: check_text(kind, archived.detail.as_str(), DETAIL_BYTES_MAX)?,
    })
}

impl QueueSettings {
    pub(super) fn read(kind: Kind, archived: &ArchivedQueueSettings) -> Result<Self, FrameError> {
        check_text(kind, archived.dead_letter.as_str(), NAME_BYTES_MAX)?;
        rkyv::api::low::deserialize::<_, rkyv::rancor::Failure>(archived)
            .map_err(|_| FrameError::Archive { kind })
    }
}

impl QueueInfo {
    fn read(kind: Kind, archived: &ArchivedQueueInfo) -> Result<Self, FrameError> {
        check_text(kind, archived.name.as_str(), NAME_BYTES_MAX)?;
        check_text(kind, archived.settings.dead_letter.as_str(), NAME_BYTES_MAX)?;
        check_count_max(kind, archived.levels.len(), u32::from(PRIORITIES_MAX))?;
        rkyv::api::low::deserialize::<_, rkyv::rancor::Failure>(archived)
            .map_err(|_| FrameError::Archive { kind })
    }
}
