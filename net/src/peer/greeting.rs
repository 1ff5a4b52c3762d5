//! The first frames of a connection between peers.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::archive::Str;
use crate::frame::{Frame, FrameError, HEADER_BYTES, HELLO_BYTES_MAX};
use crate::protocol::{DETAIL_BYTES_MAX, Kind, NAME_BYTES_MAX, Words, check_text, read_alone, words};

/// The first frame of a connection between peers; answered by `PeerWelcome` or `PeerRefused`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct PeerHello<'a> {
    /// [`super::PEER_PROTOCOL`].
    pub protocol: u16,
    pub cluster: u64,
    /// Who is calling.
    pub node: u32,
    pub incarnation: u32,
    pub shard: u32,
    /// Shards of the caller's node; all nodes of a cluster have equally many.
    pub shards: u32,
    /// Groups of the cluster, as the caller counts them.
    pub groups: u32,
    /// Who is called.
    pub to_node: u32,
    /// 0: not known yet.
    pub replaces: u32,
    /// A [`Lane`].
    pub lane: u8,
    /// Where the caller can be called; "": nothing is advertised.
    #[rkyv(with = Str)]
    pub host: &'a str,
    /// Of the caller's shard 0.
    pub port: u16,
}

/// The answer to `PeerHello`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PeerWelcome {
    pub cluster: u64,
    pub node: u32,
    pub incarnation: u32,
    pub shard: u32,
}

/// The answer to a `PeerHello` that is not accepted, and the last frame before a connection closes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct PeerRefused<'a> {
    /// A [`PeerCode`].
    pub code: u16,
    /// One sentence for a person; at most 1024 bytes.
    #[rkyv(with = Str)]
    pub detail: &'a str,
}

const _: () = assert!(size_of::<ArchivedPeerHello<'_>>() == 49);
const _: () = assert!(size_of::<ArchivedPeerWelcome>() == 20);
const _: () = assert!(size_of::<ArchivedPeerRefused<'_>>() == 10);
// A stranger's first frame is no larger than a client's.
const _: () = assert!(HEADER_BYTES + 49 + NAME_BYTES_MAX as usize <= HELLO_BYTES_MAX as usize);

words! {
    PeerHello<'_> => PeerHello;
    PeerWelcome => PeerWelcome;
    PeerRefused<'_> => PeerRefused;
}

/// What a connection between peers is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Everything but checkpoints. The node with the higher number dials.
    Messages = 0,
    /// Checkpoints, from the one who dialled.
    Bulk = 1,
}

/// Why a peer is refused or a transfer ended. A number this crate does not know reads as [`PeerCode::Malformed`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum PeerCode {
    /// The caller belongs to another cluster.
    WrongCluster = 1,
    /// Another version of frame or protocol.
    WrongVersion = 2,
    /// The node called is not this one.
    WrongNode = 3,
    /// The shard called is not this one, or has no such group.
    WrongShard = 4,
    /// The caller is no member of the cluster any more.
    Removed = 5,
    /// The node called, or the caller, is known by another incarnation.
    Incarnation = 6,
    /// The bytes were no frame, or the frame not what its kind says.
    Malformed = 7,
    /// The caller has another number of shards or groups.
    Layout = 8,
    /// No room now: try again later.
    Busy = 9,
}

impl PeerHello<'_> {
    /// `None`: a lane that this crate does not know.
    pub fn lane(&self) -> Option<Lane> {
        match self.lane {
            0 => Some(Lane::Messages),
            1 => Some(Lane::Bulk),
            _ => None,
        }
    }
}

impl PeerRefused<'_> {
    pub fn code(&self) -> PeerCode {
        PeerCode::from(self.code)
    }
}

impl From<u16> for PeerCode {
    fn from(code: u16) -> Self {
        match code {
            1 => Self::WrongCluster,
            2 => Self::WrongVersion,
            3 => Self::WrongNode,
            4 => Self::WrongShard,
            5 => Self::Removed,
            6 => Self::Incarnation,
            8 => Self::Layout,
            9 => Self::Busy,
            _ => Self::Malformed,
        }
    }
}

impl fmt::Display for PeerCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongCluster => "wrong cluster",
            Self::WrongVersion => "unsupported version",
            Self::WrongNode => "wrong node",
            Self::WrongShard => "wrong shard",
            Self::Removed => "removed from the cluster",
            Self::Incarnation => "another incarnation of the node",
            Self::Malformed => "malformed frame",
            Self::Layout => "another number of shards or groups",
            Self::Busy => "busy",
        })
    }
}

pub(super) fn decode_hello<'a>(frame: &Frame<'a>) -> Result<PeerHello<'a>, FrameError> {
    let archived: &ArchivedPeerHello<'_> = read_alone(Kind::PeerHello, frame)?;
    Ok(PeerHello {
        protocol: archived.protocol.to_native(),
        cluster: archived.cluster.to_native(),
        node: archived.node.to_native(),
        incarnation: archived.incarnation.to_native(),
        shard: archived.shard.to_native(),
        shards: archived.shards.to_native(),
        groups: archived.groups.to_native(),
        to_node: archived.to_node.to_native(),
        replaces: archived.replaces.to_native(),
        lane: archived.lane,
        host: check_text(Kind::PeerHello, archived.host.as_str(), NAME_BYTES_MAX)?,
        port: archived.port.to_native(),
    })
}

pub(super) fn decode_refused<'a>(frame: &Frame<'a>) -> Result<PeerRefused<'a>, FrameError> {
    let archived: &ArchivedPeerRefused<'_> = read_alone(Kind::PeerRefused, frame)?;
    Ok(PeerRefused {
        code: archived.code.to_native(),
        detail: check_text(Kind::PeerRefused, archived.detail.as_str(), DETAIL_BYTES_MAX)?,
    })
}
