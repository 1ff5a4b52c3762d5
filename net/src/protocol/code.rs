//! Why a request was refused or a connection is being closed.

use std::fmt;

/// The reason in `Refused` and `Closing`. A number this crate does not know reads as [`Code::Internal`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Code {
    /// The bytes were no frame, or the frame not what its kind says. The connection closes.
    Malformed = 1,
    /// Another version of frame or protocol. The connection closes.
    UnsupportedVersion = 2,
    /// `Hello` named another cluster.
    WrongCluster = 3,
    /// Another node leads this group: see the redirect. Without one, no leader is known, as during an election.
    NotLeader = 4,
    /// Another shard owns this queue: see the redirect.
    WrongShard = 5,
    /// No queue has this name or number.
    NoSuchQueue = 6,
    /// A queue of this name exists with other settings.
    QueueExists = 7,
    /// A queue or producer cannot be called so.
    InvalidName = 8,
    /// A queue cannot be set up so, or the message asks for a level that the queue does not have.
    InvalidSettings = 9,
    /// The queue's length or byte limit: room comes when messages are acknowledged.
    Full = 10,
    /// Buffers of the shard are full, or it is not ready: try again after the time given.
    Busy = 11,
    /// The disk has no room for another log segment.
    DiskFull = 12,
    /// A message or frame beyond the limits of the `Welcome`.
    TooLarge = 13,
    /// The session is unknown or has expired.
    NoSuchSession = 14,
    /// A newer epoch of this producer is open: this one may not publish any more.
    Fenced = 15,
    /// The sequence is further ahead than the in-flight window, or later ones were decided before this one: it is not
    /// stored.
    OutOfOrder = 16,
    /// The consumer does not exist on this connection.
    NoSuchConsumer = 17,
    /// A limit on the number of queues, sessions, consumers or connections.
    TooMany = 18,
    /// This version of the broker does not do that.
    Unsupported = 19,
    /// The node is stopping.
    ShuttingDown = 20,
    /// A defect of the broker: see its log.
    Internal = 21,
    /// This node is no longer a member of the cluster.
    Removed = 22,
    /// Another change of the group's members is under way.
    MembershipPending = 23,
    /// The node has taken the request, and leads no more: whether it is carried out is unknown. The next leader may be
    /// asked, see the redirect, and may answer as if it were asked for the second time.
    LeaderLost = 24,
}

impl Code {
    /// Whether the same request may succeed later, here or where the redirect points; a publish with a new sequence.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::NotLeader
            | Self::WrongShard
            | Self::Full
            | Self::Busy
            | Self::DiskFull
            | Self::OutOfOrder
            | Self::TooMany
            | Self::ShuttingDown
            | Self::MembershipPending
            | Self::LeaderLost => true,
            Self::Malformed
            | Self::UnsupportedVersion
            | Self::WrongCluster
            | Self::NoSuchQueue
            | Self::QueueExists
            | Self::InvalidName
            | Self::InvalidSettings
            | Self::TooLarge
            | Self::NoSuchSession
            | Self::Fenced
            | Self::NoSuchConsumer
            | Self::Unsupported
            | Self::Internal
            | Self::Removed => false,
        }
    }
}

impl From<u16> for Code {
    fn from(code: u16) -> Self {
        match code {
            1 => Self::Malformed,
            2 => Self::UnsupportedVersion,
            3 => Self::WrongCluster,
            4 => Self::NotLeader,
            5 => Self::WrongShard,
            6 => Self::NoSuchQueue,
            7 => Self::QueueExists,
            8 => Self::InvalidName,
            9 => Self::InvalidSettings,
            10 => Self::Full,
            11 => Self::Busy,
            12 => Self::DiskFull,
            13 => Self::TooLarge,
            14 => Self::NoSuchSession,
            15 => Self::Fenced,
            16 => Self::OutOfOrder,
            17 => Self::NoSuchConsumer,
            18 => Self::TooMany,
            19 => Self::Unsupported,
            20 => Self::ShuttingDown,
            22 => Self::Removed,
            23 => Self::MembershipPending,
            24 => Self::LeaderLost,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed frame",
            Self::UnsupportedVersion => "unsupported version",
            Self::WrongCluster => "wrong cluster",
            Self::NotLeader => "not the leader",
            Self::WrongShard => "wrong shard",
            Self::NoSuchQueue => "no such queue",
            Self::QueueExists => "queue exists with other settings",
            Self::InvalidName => "invalid name",
            Self::InvalidSettings => "invalid settings",
            Self::Full => "queue is full",
            Self::Busy => "busy",
            Self::DiskFull => "disk is full",
            Self::TooLarge => "too large",
            Self::NoSuchSession => "no such session",
            Self::Fenced => "fenced by a newer epoch",
            Self::OutOfOrder => "sequence out of order",
            Self::NoSuchConsumer => "no such consumer",
            Self::TooMany => "too many",
            Self::Unsupported => "unsupported",
            Self::ShuttingDown => "shutting down",
            Self::Internal => "internal error",
            Self::Removed => "this node is no longer a member of the cluster",
            Self::MembershipPending => "another change of members is under way",
            Self::LeaderLost => "the leader that took the request leads no more",
        })
    }
}
