//! Writes checkpoints into the shard's own log, a part at a time, and moves the recovery floor.
//!
//! Lives inside the shard. A checkpoint is an image of every group at one moment, without payloads.
//! It is appended as ordinary records between the others, so that no turn is stalled by it:
//!
//! ```text
//!  Idle ──enough log since the last──▶ Writing ──last part appended──▶ Syncing ──durable──▶ Superblock ──written──▶ Idle
//! ```
//!
//! Recovery starts at `replay_from`: the first record that was not yet applied when the image was
//! taken, or the first part, whichever comes first. Only when the superblock that names it is durable
//! does the floor move; a crash at any step before that recovers from the previous checkpoint.
//!
//! The payload of a part, little endian:
//!
//! ```text
//!   0  u64  checkpoint number      16  u64  applied index        32  u32  membership bytes (first part, else 0)
//!   8  u32  part number            24  u64  applied term         36  membership, then the engine's bytes
//!  12  u32  flags: 1 = last part
//! ```

use crate::checkpoint::Checkpoint;
use crate::group::Group;
use bytes::Bytes;
use ringmain_wal::{Appended, GroupId, HardState, Index, Log, Position, Record, RecordKind, Sequence, Term};

/// Payload of one part: small beside a turn's budget.
pub(crate) const PART_BYTES_MAX: usize = 256 << 10;
const PART_HEADER_BYTES: usize = 36;
const FLAG_LAST: u32 = 1;
/// A checkpoint is due when the log grew by this many times the size of the previous one,
/// so that checkpoints are at most a quarter of what is written.
const GROWTH_FACTOR: u64 = 4;

pub(crate) struct Checkpointer {
    /// Log bytes between two checkpoints at least.
    interval_bytes: u64,

    number: u64,
    started_at: Position,
    size_bytes: u64,
    state: State,
}

enum State {
    Idle,
    Writing(Writing),
    Syncing { last: Sequence, replay_from: ReplayFrom },
    Superblock { replay_from: ReplayFrom },
}

struct Writing {
    replay_from: Option<ReplayFrom>,
    /// Images not yet wholly written, the current one last.
    images: Vec<Image>,
    part: u32,
}

/// The state of one group at the moment the checkpoint began.
pub(crate) struct Image {
    pub(crate) group: GroupId,
    pub(crate) applied: Index,
    pub(crate) term: Term,
    pub(crate) membership: Vec<u8>,
    pub(crate) hard_state: HardState,
    pub(crate) state: Checkpoint,
}

/// One part, as it is read back.
pub(crate) struct Part<'a> {
    pub(crate) number: u64,
    pub(crate) part: u32,
    pub(crate) is_last: bool,
    pub(crate) applied: Index,
    pub(crate) term: Term,
    pub(crate) membership: &'a [u8],
    pub(crate) state: &'a [u8],
}

/// Where recovery begins to read, and the record it finds there.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReplayFrom {
    pub position: Position,
    pub sequence: Sequence,
}

impl Checkpointer {
    pub(crate) fn new(interval_bytes: u64, number: u64, tail: Position) -> Self {
        Self { interval_bytes, number, started_at: tail, size_bytes: 0, state: State::Idle }
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Enough was logged since the last checkpoint began, and the first part fits at once: were an entry logged
    /// between the image and its first part, recovery would begin behind it.
    pub(crate) fn is_due(&self, log: &Log) -> bool {
        let due_after = self.interval_bytes.max(GROWTH_FACTOR * self.size_bytes);
        let is_enough = due_after <= log.tail().0 - self.started_at.0;
        self.is_idle() && is_enough && log.room((PART_BYTES_MAX + PART_HEADER_BYTES) as u64)
    }

    pub(crate) fn begin(&mut self, groups: &[Group], log: &Log) {
        assert!(self.is_idle());
        self.number += 1;
        self.started_at = log.tail();
        self.size_bytes = 0;
        let replay_from = groups.iter().filter_map(Group::first_unapplied).min_by_key(|from| from.sequence);
        let images = groups.iter().map(Group::image).collect();
        self.state = State::Writing(Writing { replay_from, images, part: 0 });
    }

    /// Appends at most one part; answers the checkpoint to name in the superblock once it is durable.
    pub(crate) fn advance(&mut self, log: &mut Log) -> Option<ReplayFrom> {
        match &mut self.state {
            State::Idle | State::Superblock { .. } => None,
            State::Writing(_) => {
                self.write_part(log);
                None
            }
            State::Syncing { last, replay_from } => {
                if log.durable_upto() < *last {
                    return None;
                }
                let replay_from = *replay_from;
                self.state = State::Superblock { replay_from };
                Some(replay_from)
            }
        }
    }

    /// The superblock is durable: nothing before the checkpoint is needed for recovery any more.
    pub(crate) fn on_superblock_written(&mut self, log: &mut Log) {
        let State::Superblock { replay_from } = self.state else {
            panic!("a superblock was written that nobody asked for");
        };
        assert!(replay_from.sequence <= log.durable_upto());
        log.set_floor(replay_from.position);
        self.state = State::Idle;
    }

    fn write_part(&mut self, log: &mut Log) {
        let State::Writing(writing) = &mut self.state else { return };
        // `begin` takes one image per group and a shard has at least one group.
        let image = writing.images.last_mut().expect("an image is left while writing");
        let written = append_part(log, image, self.number, writing.part, RecordKind::Checkpoint);
        let Some(WrittenPart { appended, bytes, is_last }) = written else { return };
        self.size_bytes += bytes;
        let first = ReplayFrom { position: appended.record, sequence: appended.sequence };
        let replay_from = *writing.replay_from.get_or_insert(first);
        writing.part += 1;
        if is_last {
            writing.images.pop();
            writing.part = 0;
        }
        if writing.images.is_empty() {
            self.state = State::Syncing { last: appended.sequence, replay_from };
        }
    }
}

/// A part that the log has taken.
pub(crate) struct WrittenPart {
    pub(crate) appended: Appended,
    pub(crate) bytes: u64,
    pub(crate) is_last: bool,
}

/// Appends the next part of an image, and says whether it was the last. `None`: the log has no room now.
pub(crate) fn append_part(
    log: &mut Log,
    image: &mut Image,
    number: u64,
    part: u32,
    kind: RecordKind,
) -> Option<WrittenPart> {
    if !log.room((PART_BYTES_MAX + PART_HEADER_BYTES) as u64) {
        return None;
    }
    let mut payload = Vec::with_capacity(PART_BYTES_MAX + PART_HEADER_BYTES);
    image.encode_header(number, part, &mut payload);
    let is_last = image.state.encode_some(&mut payload, PART_BYTES_MAX - image.membership.len());
    if is_last {
        payload[12..16].copy_from_slice(&FLAG_LAST.to_le_bytes());
    }
    let bytes = payload.len() as u64;
    let appended = log.append(Record {
        group: image.group,
        kind,
        tag: 0,
        term: image.term,
        index: image.applied,
        hard_state: image.hard_state,
        payload: Bytes::from(payload),
    });
    Some(WrittenPart { appended, bytes, is_last })
}

impl Image {
    /// The last-part flag is set once it is known.
    fn encode_header(&self, number: u64, part: u32, out: &mut Vec<u8>) {
        let membership: &[u8] = if part == 0 { &self.membership } else { &[] };
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&part.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.applied.0.to_le_bytes());
        out.extend_from_slice(&self.term.0.to_le_bytes());
        out.extend_from_slice(&(membership.len() as u32).to_le_bytes());
        assert_eq!(out.len(), PART_HEADER_BYTES);
        out.extend_from_slice(membership);
    }
}

impl<'a> Part<'a> {
    /// `None`: these bytes are no part of a checkpoint.
    pub(crate) fn decode(payload: &'a [u8]) -> Option<Self> {
        let (header, rest) = payload.split_first_chunk::<PART_HEADER_BYTES>()?;
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let flags = u32_at(12);
        if flags & !FLAG_LAST != 0 {
            return None;
        }
        let (membership, state) = rest.split_at_checked(u32_at(32) as usize)?;
        Some(Self {
            number: u64_at(0),
            part: u32_at(8),
            is_last: flags == FLAG_LAST,
            applied: Index(u64_at(16)),
            term: Term(u64_at(24)),
            membership,
            state,
        })
    }
}
