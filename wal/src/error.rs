//! What can be wrong with a log, in words that say where.

use std::path::PathBuf;

use crate::segment::SegmentHeaderFault;
use crate::words::Identity;

#[derive(Debug)]
pub enum Error {
    /// Bytes that were durable are not what was written. Nothing may be cut, nothing may be served.
    Rot {
        segment: u64,
        offset: u64,
        bytes: u64,
        why: &'static str,
    },
    /// The data of another cluster, node, shard, or of an earlier life of this one.
    Foreign {
        what: &'static str,
        found: Identity,
        expected: Identity,
    },
    /// Another version of the program wrote it.
    Version {
        what: &'static str,
        found: u32,
    },
    /// The size of the segments was changed after there were some.
    SegmentBytes {
        segment: u64,
        found: u64,
        configured: u64,
    },
    /// No segment has such a number.
    SegmentNumber {
        number: u64,
    },
    Io {
        what: &'static str,
        path: PathBuf,
        why: String,
    },
    /// The system refuses something the log cannot do without; says what to change.
    Refused {
        why: String,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rot { segment, offset, bytes, why } => {
                write!(f, "segment {segment}: rot in bytes {offset}..{}: {why}", offset + bytes)
            }
            Self::Foreign { what, found, expected } => {
                write!(f, "{what} belongs to {found}, not to {expected}")
            }
            Self::Version { what, found } => write!(f, "{what} has version {found}, which is not known here"),
            Self::SegmentBytes { segment, found, configured } => {
                write!(
                    f,
                    "segment {segment} has {found} bytes, configured are {configured}: configure {found}"
                )
            }
            Self::SegmentNumber { number } => write!(f, "no segment can have the number {number}"),
            Self::Io { what, path, why } => write!(f, "{}: {what}: {why}", path.display()),
            Self::Refused { why } => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {}

/// In the words of rot: a damaged header page names no bytes beyond itself.
pub(crate) fn header_why(fault: SegmentHeaderFault) -> &'static str {
    match fault {
        SegmentHeaderFault::Short => "the file is too short to hold its header page",
        SegmentHeaderFault::Blank => "the header page of the segment holds only zeros",
        SegmentHeaderFault::Checksum => "the checksum of the segment's header page does not match",
        SegmentHeaderFault::Magic => "the header page is not one of a segment",
        SegmentHeaderFault::Version(_) => "the segment has an unknown version",
    }
}
