//! The log of one shard: an append-only sequence of checksummed records of many groups, in segments of a fixed size.
//!
//! One log per shard, shared by the shard's groups: whatever all of them want durable at one moment leaves in one
//! write. The log knows records, not what is in them; positions in it never change their meaning, so the owner keeps
//! references into the log instead of payloads.
//!
//! The pure half is `Log` (writing) and `Recovery` (reading back after a start): no clock, no file, no thread. Somebody
//! carries their writes and reads to a disk and back: `disk` does it with glommio (feature "disk"), the simulator with a
//! disk of its own, `inspect` with plain reads for a node that is stopped.
//!
//! What is assumed of the world: a write that was reported durable stays, unless the device destroys it; one that was
//! not may be there wholly, in any of its pages, or not at all, and in any order with others; a device may hand out
//! other bytes than were written. What follows from it:
//!
//! - Records are chained, and bound to their position, their log and the start that made them. What does not fit is not
//!   a record, wherever it came from.
//! - Each write says up to which record everything was durable when it was submitted. That tells what a crash took,
//!   which nobody was told about, from what was destroyed: the one is cut off, the other is an error that names bytes.
//! - The last records are only covered when something follows them; `Log::vouch` says it when nothing does.
//!
//! Not here: what a checkpoint holds, which group needs what, deleting anything. A file is only ever used again.

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

pub mod inspect;

#[cfg(test)]
mod platter;

mod error;
pub use error::Error;

#[cfg(feature = "disk")]
pub mod disk;
