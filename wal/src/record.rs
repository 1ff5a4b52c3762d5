//! A record: what the log frames and checksums. Whoever reads one trusts nothing that its checksums do not cover.
//!
//! ```text
//!   offset
//!     0  u32  header checksum: crc32c of bytes 4..104, begun with a hash of the record's position
//!     4  u8   version, 1
//!     5  u8   kind
//!     6  u16  tag: the owner's, never looked at here
//!     8  u32  payload checksum: crc32c of the payload
//!    12  u32  payload bytes
//!    16  u64  sequence: one more than the record before
//!    24  u32  boot: how many times this data was started when the record was made
//!    28  u32  previous: header checksum of the record before (the chain)
//!    32  u64  durable_upto: every record up to this sequence was durable when this one was submitted
//!    40  u64  cluster
//!    48  u32  node
//!    52  u32  shard
//!    56  u32  incarnation
//!    60  u32  group
//!    64  u64  term
//!    72  u64  index
//!    80  u64  hard state: term
//!    88  u64  hard state: vote
//!    96  u64  hard state: commit
//!   104  payload, then zeros up to a multiple of 8
//! ```
//!
//! All integers are little endian. The first 8 bytes of a record are never all zero (the version is among them), so
//! zeros where a record could begin are padding or the end.
//!
//! The checksum depends on the position: a write that landed elsewhere, and what an earlier life of a recycled segment
//! left behind, is not a record, however well-formed its bytes.

use bytes::Bytes;

use crate::words::{GroupId, HardState, Identity, Index, Position, Sequence, Term};

pub const RECORD_HEADER_BYTES: usize = 104;
pub(crate) const RECORD_VERSION: u8 = 1;
/// Records begin at multiples of this.
pub(crate) const RECORD_ALIGN: u64 = 8;

const CLUSTER_AT: usize = 40;
const INCARNATION_AT: usize = 56;
const HARD_STATE_AT: usize = 80;
const _: () = assert!(HARD_STATE_AT + 3 * 8 == RECORD_HEADER_BYTES);
const _: () = assert!((RECORD_HEADER_BYTES as u64).is_multiple_of(RECORD_ALIGN));
const _: () = assert!(crate::words::PAGE_BYTES.is_multiple_of(RECORD_ALIGN));

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// The first record of each start of the process, written by the log itself.
    Boot = 1,
    Entry = 2,
    HardState = 3,
    Checkpoint = 4,
    Relocation = 5,
    /// Says nothing but its `durable_upto`, written by the log itself when it falls idle.
    Vouch = 6,
    /// Messages of a checkpoint that a peer sends; they count once an `Install` record names them.
    Staged = 7,
    /// Parts of such a checkpoint, and the record that puts it in the place of what the group was before.
    Install = 8,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Boot),
            2 => Some(Self::Entry),
            3 => Some(Self::HardState),
            4 => Some(Self::Checkpoint),
            5 => Some(Self::Relocation),
            6 => Some(Self::Vouch),
            7 => Some(Self::Staged),
            8 => Some(Self::Install),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Entry => "entry",
            Self::HardState => "hard-state",
            Self::Checkpoint => "checkpoint",
            Self::Relocation => "relocation",
            Self::Vouch => "vouch",
            Self::Staged => "staged",
            Self::Install => "install",
        }
    }
}

/// What the owner of the log wants kept.
#[derive(Clone, Debug)]
pub struct Record {
    pub group: GroupId,
    pub kind: RecordKind,
    pub tag: u16,
    pub term: Term,
    pub index: Index,
    pub hard_state: HardState,
    pub payload: Bytes,
}

/// The header of a record as it is on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    pub kind: RecordKind,
    pub tag: u16,
    pub payload_crc: u32,
    pub payload_bytes: u32,
    pub sequence: Sequence,
    pub boot: u32,
    pub previous: u32,
    pub durable_upto: Sequence,
    pub identity: Identity,
    pub group: GroupId,
    pub term: Term,
    pub index: Index,
    pub hard_state: HardState,
}

/// Why bytes are not a header of this log at this position.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum HeaderFault {
    /// Zeros: nothing was written here.
    Blank,
    Version,
    Identity,
    Checksum,
    Kind,
}

impl HeaderFault {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Blank => "nothing is written where a record should be",
            Self::Version => "no record of a known version is where one should be",
            Self::Identity => "what is where a record should be does not belong to this log",
            Self::Checksum => "the checksum of a record header does not match",
            Self::Kind => "a record is of an unknown kind",
        }
    }
}

impl RecordHeader {
    /// Writes the header of a record at `position`; answers its checksum, which the next record carries.
    pub(crate) fn encode(&self, position: Position, out: &mut [u8; RECORD_HEADER_BYTES]) -> u32 {
        assert!(position.0.is_multiple_of(RECORD_ALIGN));
        out[4] = RECORD_VERSION;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.tag.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.boot.to_le_bytes());
        out[28..32].copy_from_slice(&self.previous.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable_upto.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.identity.cluster.to_le_bytes());
        out[48..52].copy_from_slice(&self.identity.node.to_le_bytes());
        out[52..56].copy_from_slice(&self.identity.shard.to_le_bytes());
        out[56..60].copy_from_slice(&self.identity.incarnation.to_le_bytes());
        out[60..64].copy_from_slice(&self.group.0.to_le_bytes());
        out[64..72].copy_from_slice(&self.term.0.to_le_bytes());
        out[72..80].copy_from_slice(&self.index.0.to_le_bytes());
        out[80..88].copy_from_slice(&self.hard_state.term.to_le_bytes());
        out[88..96].copy_from_slice(&self.hard_state.vote.to_le_bytes());
        out[96..104].copy_from_slice(&self.hard_state.commit.to_le_bytes());
        let crc = header_crc(out, position);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads the header of a record of `identity` at `position`; answers it with its checksum.
    pub(crate) fn decode(
        bytes: &[u8; RECORD_HEADER_BYTES],
        position: Position,
        identity: &Identity,
    ) -> Result<(Self, u32), HeaderFault> {
        if bytes[..8] == [0; 8] {
            return Err(HeaderFault::Blank);
        }
        if bytes[4] != RECORD_VERSION {
            return Err(HeaderFault::Version);
        }
        // Before the checksum, because it tells most of what is not a record faster.
        let found = decode_identity(bytes);
        if found != *identity {
            return Err(HeaderFault::Identity);
        }
        let crc = u32_at(bytes, 0);
        if crc != header_crc(bytes, position) {
            return Err(HeaderFault::Checksum);
        }
        let Some(kind) = RecordKind::from_byte(bytes[5]) else {
            return Err(HeaderFault::Kind);
        };
        let header = Self {
            kind,
            tag: u16::from_le_bytes([bytes[6], bytes[7]]),
            payload_crc: u32_at(bytes, 8),
            payload_bytes: u32_at(bytes, 12),
            sequence: Sequence(u64_at(bytes, 16)),
            boot: u32_at(bytes, 24),
            previous: u32_at(bytes, 28),
            durable_upto: Sequence(u64_at(bytes, 32)),
            identity: found,
            group: GroupId(u32_at(bytes, 60)),
            term: Term(u64_at(bytes, 64)),
            index: Index(u64_at(bytes, 72)),
            hard_state: HardState {
                term: u64_at(bytes, 80),
                vote: u64_at(bytes, 88),
                commit: u64_at(bytes, 96),
            },
        };
        Ok((header, crc))
    }

    /// The record of `identity` at `position` that `bytes` begin with: its header and its payload. `None`: they are no
    /// such record, or not all of it. What precedes and what follows it is not looked at.
    pub fn prove<'a>(bytes: &'a [u8], position: Position, identity: &Identity) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let (header, _) = Self::decode(head, position, identity).ok()?;
        let payload = rest.get(..header.payload_bytes as usize)?;
        (crc32c::crc32c(payload) == header.payload_crc).then_some((header, payload))
    }

    /// Header, payload and the zeros behind it.
    pub fn record_bytes(&self) -> u64 {
        record_bytes(u64::from(self.payload_bytes))
    }
}

/// What a record with this much payload takes in the log.
pub const fn record_bytes(payload_bytes: u64) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_bytes + (RECORD_ALIGN - 1)) & !(RECORD_ALIGN - 1)
}

fn decode_identity(bytes: &[u8; RECORD_HEADER_BYTES]) -> Identity {
    Identity {
        cluster: u64_at(bytes, CLUSTER_AT),
        node: u32_at(bytes, CLUSTER_AT + 8),
        shard: u32_at(bytes, CLUSTER_AT + 12),
        incarnation: u32_at(bytes, INCARNATION_AT),
    }
}

fn header_crc(bytes: &[u8; RECORD_HEADER_BYTES], position: Position) -> u32 {
    // A checksum is linear: beginning it with another number changes it for certain. The multiplication spreads
    // positions that differ only in their segment number over all 32 bits.
    let seed = ((position.0 / RECORD_ALIGN).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
    crc32c::crc32c_append(seed, &bytes[4..])
}

/// Both read within the bytes they are given; callers pass constant offsets.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cluster: 7, node: 1, shard: 0, incarnation: 1 };
    const AT: Position = Position(4096 + 8);

    fn record(payload: &[u8]) -> Vec<u8> {
        let header = RecordHeader {
            kind: RecordKind::Entry,
            tag: 0,
            payload_crc: crc32c::crc32c(payload),
            payload_bytes: payload.len() as u32,
            sequence: Sequence(9),
            boot: 1,
            previous: 77,
            durable_upto: Sequence(8),
            identity: IDENTITY,
            group: GroupId(2),
            term: Term(3),
            index: Index(4),
            hard_state: HardState::default(),
        };
        let mut head = [0; RECORD_HEADER_BYTES];
        header.encode(AT, &mut head);
        [&head[..], payload, &[0xEE; 5]].concat()
    }

    #[test]
    fn a_record_proves_itself_alone() {
        let bytes = record(b"payload");
        let (header, payload) = RecordHeader::prove(&bytes, AT, &IDENTITY).unwrap();
        assert_eq!((header.group, header.term, header.index), (GroupId(2), Term(3), Index(4)));
        assert_eq!(payload, b"payload");
    }

    #[test]
    fn what_is_no_record_proves_nothing() {
        let bytes = record(b"payload");
        let other = Identity { incarnation: 2, ..IDENTITY };
        assert!(RecordHeader::prove(&bytes, AT, &other).is_none());
        assert!(RecordHeader::prove(&bytes, Position(AT.0 + (1 << 26)), &IDENTITY).is_none());
        let whole = RECORD_HEADER_BYTES + b"payload".len();
        for at in 0..whole {
            let mut harmed = bytes.clone();
            harmed[at] ^= 4;
            assert!(RecordHeader::prove(&harmed, AT, &IDENTITY).is_none(), "byte {at}");
            assert!(RecordHeader::prove(&bytes[..at], AT, &IDENTITY).is_none(), "{at} bytes");
        }
        assert!(RecordHeader::prove(&bytes[..whole], AT, &IDENTITY).is_some());
    }
}
