//! The log of one shard: an append-only sequence of checksummed records of many groups, in segments of a fixed size.
#![forbid(unsafe_op_in_unsafe_fn)]

mod words;
pub use words::{GroupId, HardState, Identity, Index, PAGE_BYTES, Position, Sequence, Term};

mod record;
pub use record::{RECORD_HEADER_BYTES, Record, RecordHeader, RecordKind, record_bytes};

mod segment;
pub use segment::{SEGMENT_DATA_AT, SegmentHeader, SegmentHeaderFault, segment_file_name, segment_number};

mod superblock;
pub use superblock::{SUPERBLOCK_FILE_NAME, Slot, Superblock, choose};

mod cache;
mod retention;
pub use retention::PrepareSegment;

mod log;
pub use log::{Appended, Log, LogOptions, LogStart, WriteAt, WriteId};

mod recovery;
pub use recovery::{READ_BYTES_MAX, ReadAt, RecordView, Recovered, Recovery, SegmentFile, Verdict};

#[cfg(test)]
mod platter;

mod error;
pub use error::Error;

#[cfg(feature = "disk")]
pub mod disk;
