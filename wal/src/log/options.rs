//! What may be chosen about a log, and what follows from it.

use crate::record::RECORD_HEADER_BYTES;
use crate::segment::SEGMENT_DATA_AT;
use crate::words::{Identity, PAGE_BYTES};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogOptions {
    pub identity: Identity,
    /// Size of a segment: a power of two. Cannot be changed once there is a segment.
    pub segment_bytes: u64,
    /// A write takes no more than this, unless it is a single larger record.
    pub write_bytes_max: u32,
    pub writes_in_flight_max: u32,
    /// A second write leaves beside one in flight only when this much is pending: small writes in parallel are worse
    /// than one that takes what came meanwhile.
    pub overlap_bytes_min: u32,
    /// Segments kept ready beyond the current one.
    pub segments_ready: u32,
    /// Recent payloads and pages read back, in memory.
    pub cache_bytes_max: u64,
}

impl LogOptions {
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            segment_bytes: 64 << 20,
            write_bytes_max: 256 << 10,
            writes_in_flight_max: 4,
            overlap_bytes_min: 64 << 10,
            segments_ready: 2,
            cache_bytes_max: 256 << 20,
        }
    }

    /// The largest payload of one record: a segment that holds nothing else.
    pub fn payload_bytes_max(&self) -> u64 {
        self.segment_bytes - SEGMENT_DATA_AT - RECORD_HEADER_BYTES as u64
    }

    /// The largest buffer that `Log::poll_write` can ask for, if no payload is larger than `payload_bytes`.
    pub fn write_bytes_largest(&self, payload_bytes: u64) -> u64 {
        let one_record = crate::words::page_ceil(crate::record::record_bytes(payload_bytes));
        one_record.max(u64::from(self.write_bytes_max))
    }

    pub fn allows_segment_bytes(segment_bytes: u64) -> bool {
        // Payload lengths are 32 bits wide.
        segment_bytes.is_power_of_two() && (4 * PAGE_BYTES..=1 << 31).contains(&segment_bytes)
    }

    /// Beyond it a position would not fit into 64 bits.
    pub(crate) fn segment_number_max(&self) -> u64 {
        (u64::MAX >> 1) / self.segment_bytes
    }

    pub(crate) fn check(&self) {
        assert!(Self::allows_segment_bytes(self.segment_bytes));
        assert!(u64::from(self.write_bytes_max) >= PAGE_BYTES);
        assert!(u64::from(self.write_bytes_max) % PAGE_BYTES == 0);
        assert!(self.writes_in_flight_max >= 1);
        assert!(self.segments_ready >= 1);
    }
}
