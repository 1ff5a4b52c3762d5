//! The superblock: where recovery begins. Two slots of one page, written in turn, so that one of them is always whole.
//!
//! ```text
//!   file `superblock`: slot 0 at 0, slot 1 at 4096; counter c is written to slot c mod 2
//!
//!   slot, little endian:
//!        0  u32  checksum: crc32c of bytes 4..4096
//!        4  u32  version, 1
//!        8  8 B  "RINGSUPR"
//!       16  u64  cluster
//!       24  u32  node
//!       28  u32  shard
//!       32  u32  incarnation
//!       36  u32  boot
//!       40  u64  counter: one more with each write
//!       48  u64  checkpoint: position of the first record that recovery needs
//!       56  u64  sequence: of that record; 0 with checkpoint 0: everything is needed
//!       64  u64  durable_upto: every record up to here was durable when this was written
//!       72  zeros
//! ```
//!
//! Order: the records from `checkpoint` on are durable before the superblock names them, and the superblock is durable
//! before the log's floor rises to it; otherwise a crash between the two would leave nothing to begin with.

use crate::record::{u32_at, u64_at};
use crate::segment::{decode_identity, encode_identity, page_is_sealed, seal_page};
use crate::words::{Identity, PAGE_BYTES, Position, Sequence};

pub const SUPERBLOCK_FILE_NAME: &str = "superblock";
pub(crate) const SUPERBLOCK_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"RINGSUPR";
const PAGE: usize = PAGE_BYTES as usize;

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub identity: Identity,
    pub boot: u32,
    pub counter: u64,
    /// The first record that recovery needs; `Position(0)`: all of them.
    pub checkpoint: Position,
    /// The sequence of that record.
    pub sequence: Sequence,
    pub durable_upto: Sequence,
}

/// What one slot holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Never written.
    Blank,
    Valid(Superblock),
    Damaged,
    /// The checksum holds: another version of the program wrote it.
    Version(u32),
}

impl Superblock {
    /// Which slot this is to be written to.
    pub fn slot(&self) -> u64 {
        self.counter % 2
    }

    /// Fills the page of a slot.
    pub fn encode(&self, page: &mut [u8]) {
        assert!(page.len() == PAGE);
        assert!((self.checkpoint == Position(0)) == (self.sequence == Sequence(0)));
        assert!(self.sequence <= self.durable_upto);
        page.fill(0);
        page[4..8].copy_from_slice(&SUPERBLOCK_VERSION.to_le_bytes());
        page[8..16].copy_from_slice(&MAGIC);
        encode_identity(&self.identity, &mut page[16..36]);
        page[36..40].copy_from_slice(&self.boot.to_le_bytes());
        page[40..48].copy_from_slice(&self.counter.to_le_bytes());
        page[48..56].copy_from_slice(&self.checkpoint.0.to_le_bytes());
        page[56..64].copy_from_slice(&self.sequence.0.to_le_bytes());
        page[64..72].copy_from_slice(&self.durable_upto.0.to_le_bytes());
        seal_page(page);
    }
}

impl Slot {
    /// A slot that is shorter than a page, or only zeros, was never written.
    pub fn decode(page: &[u8]) -> Self {
        if page.iter().all(|&byte| byte == 0) {
            return Self::Blank;
        }
        let Some(page) = page.get(..PAGE) else {
            return Self::Damaged;
        };
        if !page_is_sealed(page) || page[8..16] != MAGIC {
            return Self::Damaged;
        }
        let version = u32_at(page, 4);
        if version != SUPERBLOCK_VERSION {
            return Self::Version(version);
        }
        let superblock = Superblock {
            identity: decode_identity(&page[16..36]),
            boot: u32_at(page, 36),
            counter: u64_at(page, 40),
            checkpoint: Position(u64_at(page, 48)),
            sequence: Sequence(u64_at(page, 56)),
            durable_upto: Sequence(u64_at(page, 64)),
        };
        // Nothing that this program wrote is like that; an empty checkpoint has no sequence.
        let sound = (superblock.checkpoint == Position(0)) == (superblock.sequence == Sequence(0))
            && superblock.sequence <= superblock.durable_upto;
        if sound { Self::Valid(superblock) } else { Self::Damaged }
    }
}

/// The newer of the slots that can be read.
pub fn choose(slots: [Slot; 2]) -> Option<Superblock> {
    let valid = |slot| match slot {
        Slot::Valid(superblock) => Some(superblock),
        Slot::Blank | Slot::Damaged | Slot::Version(_) => None,
    };
    match (valid(slots[0]), valid(slots[1])) {
        (Some(a), Some(b)) => Some(if a.counter > b.counter { a } else { b }),
        (a, b) => a.or(b),
    }
}
