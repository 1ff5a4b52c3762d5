//! What nodes say to each other, and its archives in bytes.
//!
//! Peers speak in the same frames as clients, on the same ports: a connection whose first frame is a `PeerHello` is
//! a peer's. Its shard answers `PeerWelcome`, or `PeerRefused` and closes. From then on both sides send what they
//! like; nothing is answered as such, and `request` is 0 in every frame. Every frame behind the greeting names
//! cluster, group, sender and receiver, so that none that comes late, or to the wrong one, is taken for another.
//! A replica's id is the incarnation of its node << 32 | the number of its node.
//!
//! Two peers have one connection for messages, and whoever sends a checkpoint opens another one for that: the lane in
//! `PeerHello` says which it is. Over the bulk lane goes what the source of a transfer says, `TransferBegin` to
//! `TransferPayloads` and its `TransferAborted`, one way; everything else, the target's answers included, goes over the
//! lane of messages.
//!
//! A node that does not serve yet asks and answers with `FormHello` and `FormReply`.
//!
//! A checkpoint travels as one transfer at a time per group and peer: `TransferBegin`, then its parts and the
//! messages that are alive in it, each counted from 0; `TransferAck` says how many of each are durable, and
//! `TransferStaged` that all are. Either side may end it by `TransferAborted`.
//!
//! # Archives in bytes
//!
//! As in [`crate::protocol`]: the *root* is the end of the archive, `vec` and `str` have 8 bytes, integers are little
//! endian, nothing is aligned, no byte is padding.
//!
//! | kind | peer to peer | root |
//! |---|---|---|
//! | 64 | `PeerHello` | 0 protocol u16 · 2 cluster u64 · 10 node u32 · 14 incarnation u32 · 18 shard u32 · 22 shards u32 · 26 groups u32 · 30 to node u32 · 34 replaces u32 · 38 lane u8 (0 messages, 1 bulk) · 39 host str · 47 port u16 · = 49 |
//! | 65 | `PeerWelcome` | 0 cluster u64 · 8 node u32 · 12 incarnation u32 · 16 shard u32 · = 20 |
//! | 66 | `PeerRefused` | 0 code u16 · 2 detail str · = 10 |
//! | 67 | `Replicate` | 0 cluster u64 · 8 group u32 · 12 from u64 · 20 to u64 · 28 kind u8 · 29 reject u8 (0 or 1) · 30 term u64 · 38 log term u64 · 46 index u64 · 54 commit u64 · 62 commit term u64 · 70 reject hint u64 · 78 request snapshot u64 · 86 priority i64 · 94 context bytes u8 · 95 context (16) · 111 snapshot index u64 · 119 snapshot term u64 · 127 snapshot transfer u64 · 135 membership bytes u32 · 139 entries vec of head (21) · = 147 |
//! | 68 | `Received` | 0 cluster u64 · 8 group u32 · 12 from u64 · 20 to u64 · 28 term u64 · 36 index u64 · = 44 |
//! | 72 | `TransferBegin` | transfer (36) · 36 index u64 · 44 term u64 · 52 parts u32 (0 unknown) · = 56 |
//! | 73 | `TransferPart` | transfer (36) · 36 number u32 · 40 last u8 (0 or 1) · = 41 |
//! | 74 | `TransferPayloads` | transfer (36) · 36 number u32 · 40 messages u32 · 44 last u8 (0 or 1) · = 45 |
//! | 75 | `TransferAck` | transfer (36) · 36 to part u32 · 40 to payload u32 · = 44 |
//! | 76 | `TransferStaged` | transfer (36) · 36 index u64 · 44 term u64 · = 52 |
//! | 77 | `TransferAborted` | transfer (36) · 36 code u16 · 38 detail str · = 46 |
//! | 80 | `FormHello` | 0 protocol u16 · 2 node u32 · 6 incarnation u32 · 10 shards u32 · 14 groups u32 · 18 segment bytes u64 · 26 state u8 (0 forming, 1 formed, 2 joining) · 27 cluster u64 · 35 host str · 43 port u16 · 45 list hash u64 · 53 founders vec of founder (18) · = 61 |
//! | 81 | `FormReply` | as `FormHello` |
//!
//! | item | bytes |
//! |---|---|
//! | head in `Replicate` | 0 term u64 · 8 index u64 · 16 bytes u32 · 20 kind u8 (0 normal, 1 membership) · = 21 |
//! | transfer | 0 cluster u64 · 8 group u32 · 12 from u64 · 20 to u64 · 28 transfer u64 · = 36 |
//! | founder | 0 node u32 · 4 incarnation u32 · 8 port u16 · 10 host str · = 18 |
//!
//! The kind in `Replicate` is 1 append, 2 append response, 3 request vote, 4 request vote response, 5 heartbeat,
//! 6 heartbeat response, 7 request pre-vote, 8 request pre-vote response, 9 snapshot, 10 timeout now. Its body is the
//! membership of the snapshot and the data of the entries back to back; the lengths add up to the body exactly.
//! Snapshot index, term and transfer and the membership are there in kind 9 only, entries in kind 1 only.
//!
//! The body of `TransferBegin` is the membership at its index, of `TransferPart` one part of the checkpoint, of
//! `TransferPayloads` stored messages back to back. All other bodies are empty.

mod formation;
mod greeting;
mod replicate;
mod transfer;

use rkyv::api::low::{LowDeserializer, LowValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Portable};

use crate::archive;
use crate::frame::{Frame, FrameError, HEADER_BYTES};
use crate::protocol::{Kind, Words, check_body};

pub use formation::{FormHello, FormReply, FormState, Formation, Founder};
pub use greeting::{Lane, PeerCode, PeerHello, PeerRefused, PeerWelcome};
pub use replicate::{
    Apart, Entries, EntryHead, EntryKind, MessageKind, Received, ReplicateHead, ReplicateView, SnapshotHead,
    encode_replicate, encode_replicate_apart, is_urgent,
};
pub use transfer::{
    TransferAborted, TransferAck, TransferBegin, TransferPart, TransferPayloads, TransferStaged,
};

/// The protocol that `PeerHello` and `FormHello` name.
pub const PEER_PROTOCOL: u16 = 2;

/// Entries in one `Replicate`. The engine sends 1 MiB of entries at a time, and counts at least 30 bytes for the
/// smallest batch of commands: 34,953 entries.
pub const ENTRIES_MAX: u32 = 65_536;
/// What the engine may say beside the numbers: its longest word is `CampaignTransfer`.
pub const CONTEXT_BYTES_MAX: usize = 16;
/// The encoded membership of a group: four lists of at most 64 ids, and 16 bytes before them.
pub const MEMBERSHIP_BYTES_MAX: u32 = 4 << 10;
/// One part of a checkpoint: 256 KiB, and what stands before them.
pub const TRANSFER_PART_BYTES_MAX: u32 = (256 << 10) + 64;
/// Several stored messages in one `TransferPayloads`.
pub const TRANSFER_PAYLOADS_BYTES_MAX: u32 = 256 << 10;
/// One stored message in a `TransferPayloads`: a message has at most 16 MiB, its key and headers fit a frame beside it.
pub const TRANSFER_PAYLOAD_BYTES_MAX: u32 = 17 << 20;
/// Nodes that found a cluster.
pub const FOUNDERS_MAX: u32 = 64;
/// The largest `FormHello` or `FormReply`: 64 founders with hosts of 255 bytes are 17 KiB.
pub const FORM_BYTES_MAX: u32 = 32 << 10;

/// The largest frame between peers: room for two of the largest entries, so that an engine that joins two appends
/// stays within it, and for 1 MiB of others.
pub const PEER_FRAME_BYTES_MAX: u32 = 40 << 20;

/// A message of 16 MiB, 64 KiB that its frame has beside it, and 64 KiB that an entry has beside a frame.
const ENTRY_BYTES_MAX: usize = (16 << 20) + (64 << 10) + (64 << 10);
const OTHER_ENTRIES_BYTES_MAX: usize = 1 << 20;
const REPLICATE_BYTES_MAX: usize = HEADER_BYTES
    + replicate::ENTRY_HEAD_BYTES * ENTRIES_MAX as usize
    + replicate::ROOT_BYTES
    + MEMBERSHIP_BYTES_MAX as usize
    + 2 * ENTRY_BYTES_MAX
    + OTHER_ENTRIES_BYTES_MAX;
const _: () = assert!(REPLICATE_BYTES_MAX <= PEER_FRAME_BYTES_MAX as usize);
const _: () = assert!(OTHER_ENTRIES_BYTES_MAX / 30 < ENTRIES_MAX as usize);
const _: () = assert!(16 + 4 * 64 * size_of::<u64>() <= MEMBERSHIP_BYTES_MAX as usize);
const _: () = assert!(TRANSFER_PAYLOAD_BYTES_MAX < PEER_FRAME_BYTES_MAX);

/// A decoded frame of a peer, borrowed from the receive buffer where it is large or frequent.
#[derive(Clone, Debug)]
pub enum PeerFrame<'a> {
    PeerHello(PeerHello<'a>),
    PeerWelcome(PeerWelcome),
    PeerRefused(PeerRefused<'a>),
    Replicate(ReplicateView<'a>),
    Received(Received),
    TransferBegin { begin: TransferBegin, membership: &'a [u8] },
    TransferPart { part: TransferPart, bytes: &'a [u8] },
    TransferPayloads { payloads: TransferPayloads, bytes: &'a [u8] },
    TransferAck(TransferAck),
    TransferStaged(TransferStaged),
    TransferAborted(TransferAborted<'a>),
    FormHello(Formation),
    FormReply(Formation),
}

impl<'a> PeerFrame<'a> {
    /// Reads what a peer sent. Whether it is meant for this replica, and makes sense to it, is for the shard.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, FrameError> {
        let kind = Kind::try_from(frame.kind)?;
        Ok(match kind {
            Kind::PeerHello => Self::PeerHello(greeting::decode_hello(frame)?),
            Kind::PeerWelcome => Self::PeerWelcome(read_flat(frame)?),
            Kind::PeerRefused => Self::PeerRefused(greeting::decode_refused(frame)?),
            Kind::Replicate => Self::Replicate(replicate::decode(frame)?),
            Kind::Received => Self::Received(read_flat(frame)?),
            Kind::TransferBegin => {
                check_body_max(kind, MEMBERSHIP_BYTES_MAX, frame)?;
                Self::TransferBegin { begin: read_beside_body(frame)?, membership: frame.body }
            }
            Kind::TransferPart => {
                check_body_max(kind, TRANSFER_PART_BYTES_MAX, frame)?;
                Self::TransferPart { part: read_beside_body(frame)?, bytes: frame.body }
            }
            Kind::TransferPayloads => {
                Self::TransferPayloads { payloads: transfer::decode_payloads(frame)?, bytes: frame.body }
            }
            Kind::TransferAck => Self::TransferAck(read_flat(frame)?),
            Kind::TransferStaged => Self::TransferStaged(read_flat(frame)?),
            Kind::TransferAborted => Self::TransferAborted(transfer::decode_aborted(frame)?),
            Kind::FormHello => Self::FormHello(formation::decode(kind, frame)?),
            Kind::FormReply => Self::FormReply(formation::decode(kind, frame)?),
            kind => return Err(FrameError::UnexpectedKind { kind }),
        })
    }
}

/// Reads words that own all they carry, and demands that the frame has no body.
fn read_flat<T>(frame: &Frame<'_>) -> Result<T, FrameError>
where
    T: Words + Archive,
    T::Archived:
        Portable + for<'b> CheckBytes<LowValidator<'b, Failure>> + Deserialize<T, LowDeserializer<Failure>>,
{
    check_body(T::KIND, 0, frame)?;
    read_beside_body(frame)
}

/// Reads words that own all they carry, whatever the body is.
fn read_beside_body<T>(frame: &Frame<'_>) -> Result<T, FrameError>
where
    T: Words + Archive,
    T::Archived:
        Portable + for<'b> CheckBytes<LowValidator<'b, Failure>> + Deserialize<T, LowDeserializer<Failure>>,
{
    let kind = T::KIND;
    let archived: &T::Archived = archive::read(frame.archive).ok_or(FrameError::Archive { kind })?;
    rkyv::api::low::deserialize::<T, Failure>(archived).map_err(|_| FrameError::Archive { kind })
}

fn check_body_max(kind: Kind, max: u32, frame: &Frame<'_>) -> Result<(), FrameError> {
    let bytes = frame.body.len() as u64;
    if bytes > u64::from(max) {
        return Err(FrameError::BodyTooLong { kind, bytes, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
