//! What a client sends.

use rkyv::{Archive, Serialize};

use super::{
    AGENT_BYTES_MAX, ArchivedMessageHead, ArchivedSettleRun, ITEMS_PER_FRAME_MAX, Kind, MessageHead,
    Messages, NAME_BYTES_MAX, QueueSettings, SettleRun, Words, check_body, check_count, check_text,
    read_alone,
};
use crate::archive::{self, Slice, Str};
use crate::frame::{Frame, FrameError, HEADER_BYTES};

/// The first frame of a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Hello<'a> {
    /// [`super::PROTOCOL`].
    pub protocol: u16,
    /// The cluster expected; 0: any.
    pub cluster: u64,
    /// Who is calling, for the broker's log; at most 64 bytes.
    #[rkyv(with = Str)]
    pub agent: &'a str,
}

/// Asks for the addresses of the cluster; answered by `Cluster`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Metadata;

/// Answered by `Done`; creating a queue again with equal settings is no error.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct CreateQueue<'a> {
    #[rkyv(with = Str)]
    pub name: &'a str,
    pub settings: QueueSettings,
}

/// Answered by `QueueShown`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ShowQueue<'a> {
    #[rkyv(with = Str)]
    pub name: &'a str,
}

/// The queues of one group in name order, from the first behind `after`; answered by `QueueList`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ListQueues<'a> {
    /// The group's ordinal in the shard.
    pub group: u32,
    #[rkyv(with = Str)]
    pub after: &'a str,
    pub limit: u32,
}

/// Answered by `Done`, whose count is the messages that went with the queue.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct DeleteQueue<'a> {
    #[rkyv(with = Str)]
    pub name: &'a str,
}

/// Removes all ready messages; answered by `Done` with their count.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct PurgeQueue<'a> {
    #[rkyv(with = Str)]
    pub name: &'a str,
}

/// Asks for the number of a queue; answered by `QueueOpened`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct OpenQueue<'a> {
    #[rkyv(with = Str)]
    pub name: &'a str,
}

/// Answered by `SessionOpened`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct OpenSession<'a> {
    /// The number of any queue: the session belongs to that queue's group.
    pub queue: u64,
    /// "": a new anonymous session. A name: its epoch rises by one, older epochs are fenced, and its last
    /// sequence is remembered.
    #[rkyv(with = Str)]
    pub producer: &'a str,
}

/// Messages for one queue, stored wholly or not at all; answered by `Receipt` or `Refused`.
///
/// Order across a change of leaders: once a shard has refused a publish with `NotLeader`, it refuses in the same way
/// those of its session that follow on the same connection without a gap, though it may lead again meanwhile. The
/// client sends the refused one and those behind it again, from the first without an answer, wherever `OpenQueue` is
/// answered; if others had been taken in between, it could not be stored any more.
///
/// The body holds key, headers and payload of each message.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Publish<'a> {
    pub queue: u64,
    pub session: u64,
    pub epoch: u32,
    /// One per frame, rising by one within a session.
    pub sequence: u64,
    #[rkyv(with = Slice)]
    pub messages: &'a [MessageHead],
}

/// Answered by `Subscribed`; deliveries follow while fewer than `credit` messages are unsettled.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Subscribe {
    pub queue: u64,
    pub credit: u32,
}

/// Outcomes of delivered messages; answered by `Settled` once they are durable.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Settle<'a> {
    pub consumer: u32,
    #[rkyv(with = Slice)]
    pub items: &'a [SettleRun],
}

/// Ends a consumer; what it has not settled returns to the queue. Answered by `Done`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Unsubscribe {
    pub consumer: u32,
}

/// Answered by `Pong`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Ping;

/// Asks how this shard's groups are; answered by `GroupsShown`, at a node that follows as well.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ShowGroups;

/// Makes another node the group's leader; answered by `Done`, at once if it leads already.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct MoveLeader {
    /// The group's number in the cluster.
    pub group: u32,
    pub node: u32,
}

/// Adds a node to a group's members, or removes one, or both; answered by `Done`, at once if it is so already. Both are named
/// as replicas: a node that has got another data directory meanwhile is somebody else, and is neither.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ChangeMembers<'a> {
    /// The group's number in the cluster.
    pub group: u32,
    /// 0: none.
    pub add_node: u32,
    pub add_incarnation: u32,
    /// Where the node to add listens; the port is that of its first shard.
    #[rkyv(with = Str)]
    pub host: &'a str,
    pub port: u16,
    /// 0: none.
    pub remove_node: u32,
    pub remove_incarnation: u32,
}

/// Bytes of the root of a `Publish` archive.
pub(crate) const PUBLISH_ROOT_BYTES: usize = 36;

const _: () = assert!(size_of::<ArchivedHello<'_>>() == 18);
const _: () = assert!(size_of::<ArchivedCreateQueue<'_>>() == 52);
const _: () = assert!(size_of::<ArchivedListQueues<'_>>() == 16);
const _: () = assert!(size_of::<ArchivedOpenSession<'_>>() == 16);
const _: () = assert!(size_of::<ArchivedPublish<'_>>() == PUBLISH_ROOT_BYTES);
const _: () = assert!(size_of::<ArchivedSubscribe>() == 12);
const _: () = assert!(size_of::<ArchivedSettle<'_>>() == 12);
const _: () = assert!(size_of::<ArchivedMoveLeader>() == 8);
const _: () = assert!(size_of::<ArchivedChangeMembers<'_>>() == 30);

words! {
    Hello<'_> => Hello;
    Metadata => Metadata;
    CreateQueue<'_> => CreateQueue;
    ShowQueue<'_> => ShowQueue;
    ListQueues<'_> => ListQueues;
    DeleteQueue<'_> => DeleteQueue;
    PurgeQueue<'_> => PurgeQueue;
    OpenQueue<'_> => OpenQueue;
    OpenSession<'_> => OpenSession;
    Publish<'_> => Publish;
    Subscribe => Subscribe;
    Settle<'_> => Settle;
    Unsubscribe => Unsubscribe;
    Ping => Ping;
    ShowGroups => ShowGroups;
    MoveLeader => MoveLeader;
    ChangeMembers<'_> => ChangeMembers;
}

/// Length of a `Publish` frame of so many messages, whose key, headers and payload have so many bytes together.
pub fn publish_frame_bytes(messages: usize, body_bytes: u64) -> u64 {
    (HEADER_BYTES + PUBLISH_ROOT_BYTES + messages * size_of::<ArchivedMessageHead>()) as u64 + body_bytes
}

/// A decoded request, borrowed from the receive buffer.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    Hello(Hello<'a>),
    Metadata,
    CreateQueue(CreateQueue<'a>),
    ShowQueue(ShowQueue<'a>),
    ListQueues(ListQueues<'a>),
    DeleteQueue(DeleteQueue<'a>),
    PurgeQueue(PurgeQueue<'a>),
    OpenQueue(OpenQueue<'a>),
    OpenSession(OpenSession<'a>),
    Publish(PublishView<'a>),
    Subscribe(Subscribe),
    Settle(SettleView<'a>),
    Unsubscribe(Unsubscribe),
    Ping,
    ShowGroups,
    MoveLeader(MoveLeader),
    ChangeMembers(ChangeMembers<'a>),
}

/// A received `Publish`. The lengths in its heads add up to its body.
#[derive(Clone, Debug)]
pub struct PublishView<'a> {
    pub queue: u64,
    pub session: u64,
    pub epoch: u32,
    pub sequence: u64,
    /// 1 to [`ITEMS_PER_FRAME_MAX`].
    pub heads: &'a [ArchivedMessageHead],
    /// Key, headers and payload of all messages.
    pub body: &'a [u8],

    messages: Messages<'a>,
}

/// A received `Settle`.
#[derive(Copy, Clone, Debug)]
pub struct SettleView<'a> {
    pub consumer: u32,
    /// 1 to [`ITEMS_PER_FRAME_MAX`].
    pub items: &'a [ArchivedSettleRun],
}

impl<'a> PublishView<'a> {
    pub fn messages(&self) -> Messages<'a> {
        self.messages.clone()
    }
}

impl<'a> SettleView<'a> {
    pub fn runs(&self) -> impl ExactSizeIterator<Item = SettleRun> + Clone + 'a {
        self.items.iter().map(ArchivedSettleRun::to_native)
    }
}

impl<'a> Request<'a> {
    /// Reads what a client sent. Whether names, settings, numbers and counts make sense is for the shard.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, FrameError> {
        let kind = Kind::try_from(frame.kind)?;
        Ok(match kind {
            Kind::Hello => Self::Hello(decode_hello(frame)?),
            Kind::Metadata => {
                let ArchivedMetadata = read_alone(kind, frame)?;
                Self::Metadata
            }
            Kind::CreateQueue => Self::CreateQueue(decode_create_queue(frame)?),
            Kind::ShowQueue => {
                let archived: &ArchivedShowQueue<'_> = read_alone(kind, frame)?;
                Self::ShowQueue(ShowQueue { name: name(kind, archived.name.as_str())? })
            }
            Kind::ListQueues => Self::ListQueues(decode_list_queues(frame)?),
            Kind::DeleteQueue => {
                let archived: &ArchivedDeleteQueue<'_> = read_alone(kind, frame)?;
                Self::DeleteQueue(DeleteQueue { name: name(kind, archived.name.as_str())? })
            }
            Kind::PurgeQueue => {
                let archived: &ArchivedPurgeQueue<'_> = read_alone(kind, frame)?;
                Self::PurgeQueue(PurgeQueue { name: name(kind, archived.name.as_str())? })
            }
            Kind::OpenQueue => {
                let archived: &ArchivedOpenQueue<'_> = read_alone(kind, frame)?;
                Self::OpenQueue(OpenQueue { name: name(kind, archived.name.as_str())? })
            }
            Kind::OpenSession => Self::OpenSession(decode_open_session(frame)?),
            Kind::Publish => Self::Publish(decode_publish(frame)?),
            Kind::Subscribe => {
                let archived: &ArchivedSubscribe = read_alone(kind, frame)?;
                let credit = archived.credit.to_native();
                Self::Subscribe(Subscribe { queue: archived.queue.to_native(), credit })
            }
            Kind::Settle => Self::Settle(decode_settle(frame)?),
            Kind::Unsubscribe => {
                let archived: &ArchivedUnsubscribe = read_alone(kind, frame)?;
                Self::Unsubscribe(Unsubscribe { consumer: archived.consumer.to_native() })
            }
            Kind::Ping => {
                let ArchivedPing = read_alone(kind, frame)?;
                Self::Ping
            }
            Kind::ShowGroups => {
                let ArchivedShowGroups = read_alone(kind, frame)?;
                Self::ShowGroups
            }
            Kind::MoveLeader => {
                let archived: &ArchivedMoveLeader = read_alone(kind, frame)?;
                let (group, node) = (archived.group.to_native(), archived.node.to_native());
                Self::MoveLeader(MoveLeader { group, node })
            }
            Kind::ChangeMembers => Self::ChangeMembers(decode_change_members(frame)?),
            kind => return Err(FrameError::UnexpectedKind { kind }),
        })
    }
}

fn name(kind: Kind, text: &str) -> Result<&str, FrameError> {
    check_text(kind, text, NAME_BYTES_MAX)
}

fn decode_hello<'a>(frame: &Frame<'a>) -> Result<Hello<'a>, FrameError> {
    let archived: &ArchivedHello<'_> = read_alone(Kind::Hello, frame)?;
    Ok(Hello {
        protocol: archived.protocol.to_native(),
        cluster: archived.cluster.to_native(),
        agent: check_text(Kind::Hello, archived.agent.as_str(), AGENT_BYTES_MAX)?,
    })
}

fn decode_create_queue<'a>(frame: &Frame<'a>) -> Result<CreateQueue<'a>, FrameError> {
    let archived: &ArchivedCreateQueue<'_> = read_alone(Kind::CreateQueue, frame)?;
    Ok(CreateQueue {
        name: name(Kind::CreateQueue, archived.name.as_str())?,
        settings: QueueSettings::read(Kind::CreateQueue, &archived.settings)?,
    })
}

fn decode_list_queues<'a>(frame: &Frame<'a>) -> Result<ListQueues<'a>, FrameError> {
    let archived: &ArchivedListQueues<'_> = read_alone(Kind::ListQueues, frame)?;
    Ok(ListQueues {
        group: archived.group.to_native(),
        after: name(Kind::ListQueues, archived.after.as_str())?,
        limit: archived.limit.to_native(),
    })
}

fn decode_open_session<'a>(frame: &Frame<'a>) -> Result<OpenSession<'a>, FrameError> {
    let archived: &ArchivedOpenSession<'_> = read_alone(Kind::OpenSession, frame)?;
    Ok(OpenSession {
        queue: archived.queue.to_native(),
        producer: name(Kind::OpenSession, archived.producer.as_str())?,
    })
}

fn decode_change_members<'a>(frame: &Frame<'a>) -> Result<ChangeMembers<'a>, FrameError> {
    let archived: &ArchivedChangeMembers<'_> = read_alone(Kind::ChangeMembers, frame)?;
    Ok(ChangeMembers {
        group: archived.group.to_native(),
        add_node: archived.add_node.to_native(),
        add_incarnation: archived.add_incarnation.to_native(),
        host: name(Kind::ChangeMembers, archived.host.as_str())?,
        port: archived.port.to_native(),
        remove_node: archived.remove_node.to_native(),
        remove_incarnation: archived.remove_incarnation.to_native(),
    })
}

fn decode_publish<'a>(frame: &Frame<'a>) -> Result<PublishView<'a>, FrameError> {
    let kind = Kind::Publish;
    let archived: &ArchivedPublish<'_> = archive::read(frame.archive).ok_or(FrameError::Archive { kind })?;
    let heads = archived.messages.as_slice();
    check_count(kind, heads.len(), ITEMS_PER_FRAME_MAX)?;
    Ok(PublishView {
        queue: archived.queue.to_native(),
        session: archived.session.to_native(),
        epoch: archived.epoch.to_native(),
        sequence: archived.sequence.to_native(),
        heads,
        body: frame.body,
        messages: Messages::new(heads, frame.body)?,
    })
}

fn decode_settle<'a>(frame: &Frame<'a>) -> Result<SettleView<'a>, FrameError> {
    let kind = Kind::Settle;
    check_body(kind, 0, frame)?;
    let archived: &ArchivedSettle<'_> = archive::read(frame.archive).ok_or(FrameError::Archive { kind })?;
    check_count(kind, archived.items.len(), ITEMS_PER_FRAME_MAX)?;
    Ok(SettleView { consumer: archived.consumer.to_native(), items: archived.items.as_slice() })
}
