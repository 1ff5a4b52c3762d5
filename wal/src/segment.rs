//! A segment: one file of the log, of a fixed size, wholly written before its first use and used again by renaming.
//!
//! ```text
//!        0  header page
//!     4096  write │ write │ write │ …            each begins on a page
//!           write = records back to back, each at a multiple of 8, then zeros to the end of the page
//!           after the last write: zeros, or what an earlier life of the file left
//!
//!   header page, little endian:
//!        0  u32  checksum: crc32c of bytes 4..4096
//!        4  u32  version, 1
//!        8  8 B  "RINGMAIN"
//!       16  u64  segment number
//!       24  u64  segment bytes (size of the file)
//!       32  u64  cluster
//!       40  u32  node
//!       44  u32  shard
//!       48  u32  incarnation
//!       52  zeros
//! ```
//!
//! A record never spans two segments, and a write never does. A page that is durable is never written again in the
//! same life of the file. A file gets its final name only when its header page is durable, so a header page that cannot
//! be read was damaged afterwards.

use crate::record::{u32_at, u64_at};
use crate::words::{Identity, PAGE_BYTES};

pub(crate) const SEGMENT_VERSION: u32 = 1;
/// Where the first write of a segment begins.
pub const SEGMENT_DATA_AT: u64 = PAGE_BYTES;
const MAGIC: [u8; 8] = *b"RINGMAIN";
const USED_BYTES: usize = 52;
const PAGE: usize = PAGE_BYTES as usize;
const _: () = assert!(USED_BYTES < PAGE);

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub number: u64,
    pub segment_bytes: u64,
    pub identity: Identity,
}

/// Why a page is not the header of a segment.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum SegmentHeaderFault {
    Short,
    Blank,
    Checksum,
    Magic,
    /// The checksum holds: another version of the program wrote it.
    Version(u32),
}

impl std::fmt::Display for SegmentHeaderFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => write!(f, "the file is too short to hold a header page"),
            Self::Blank => write!(f, "the header page holds only zeros"),
            Self::Checksum => write!(f, "the checksum of the header page does not match"),
            Self::Magic => write!(f, "the header page is not one of a segment"),
            Self::Version(version) => write!(f, "the segment has version {version}, not {SEGMENT_VERSION}"),
        }
    }
}

impl SegmentHeader {
    /// Fills the header page.
    pub fn encode(&self, page: &mut [u8]) {
        assert!(page.len() == PAGE);
        page.fill(0);
        page[4..8].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        page[8..16].copy_from_slice(&MAGIC);
        page[16..24].copy_from_slice(&self.number.to_le_bytes());
        page[24..32].copy_from_slice(&self.segment_bytes.to_le_bytes());
        encode_identity(&self.identity, &mut page[32..USED_BYTES]);
        seal_page(page);
    }

    pub fn decode(page: &[u8]) -> Result<Self, SegmentHeaderFault> {
        let Some(page) = page.get(..PAGE) else {
            return Err(SegmentHeaderFault::Short);
        };
        if !page_is_sealed(page) {
            let blank = page.iter().all(|&byte| byte == 0);
            return Err(if blank { SegmentHeaderFault::Blank } else { SegmentHeaderFault::Checksum });
        }
        if page[8..16] != MAGIC {
            return Err(SegmentHeaderFault::Magic);
        }
        let version = u32_at(page, 4);
        if version != SEGMENT_VERSION {
            return Err(SegmentHeaderFault::Version(version));
        }
        Ok(Self {
            number: u64_at(page, 16),
            segment_bytes: u64_at(page, 24),
            identity: decode_identity(&page[32..USED_BYTES]),
        })
    }
}

/// `segment-00000000000000000001.wal`: as wide as the largest number, so that names sort as numbers do.
pub fn segment_file_name(number: u64) -> String {
    format!("segment-{number:020}.wal")
}

/// The number in a segment's file name; nothing for any other name.
pub fn segment_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix("segment-")?.strip_suffix(".wal")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

pub(crate) fn encode_identity(identity: &Identity, out: &mut [u8]) {
    out[0..8].copy_from_slice(&identity.cluster.to_le_bytes());
    out[8..12].copy_from_slice(&identity.node.to_le_bytes());
    out[12..16].copy_from_slice(&identity.shard.to_le_bytes());
    out[16..20].copy_from_slice(&identity.incarnation.to_le_bytes());
}

pub(crate) fn decode_identity(bytes: &[u8]) -> Identity {
    Identity {
        cluster: u64_at(bytes, 0),
        node: u32_at(bytes, 8),
        shard: u32_at(bytes, 12),
        incarnation: u32_at(bytes, 16),
    }
}

/// Both special pages (segment header, superblock slot) begin with the checksum of the rest of the page.
pub(crate) fn seal_page(page: &mut [u8]) {
    let crc = crc32c::crc32c(&page[4..]);
    page[0..4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn page_is_sealed(page: &[u8]) -> bool {
    assert!(page.len() == PAGE);
    u32_at(page, 0) == crc32c::crc32c(&page[4..])
}
