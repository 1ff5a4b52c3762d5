//! Parsers with the mistakes that the others must not make.

use std::thread;

use super::Target;
use super::mutation::leave;

fn samples() -> Vec<Vec<u8>> {
    let mut sample = 16_u32.to_le_bytes().to_vec();
    sample.extend_from_slice(&[7; 16]);
    vec![sample]
}

fn length(bytes: &[u8]) -> usize {
    bytes.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length) as usize)
}

/// Believes a length and slices by it.
pub(super) const PANICS: Target = Target {
    name: "canary-panics",
    samples,
    repair: leave,
    feed: |bytes| {
        let rest = bytes.get(4..).unwrap_or_default();
        std::hint::black_box(&rest[..length(bytes)]);
    },
    memory_bytes: 1024,
    memory_per_byte: 1,
};

/// Believes a length and makes room for it.
pub(super) const GREEDY: Target = Target {
    name: "canary-greedy",
    samples,
    repair: leave,
    feed: |bytes| {
        let room: Vec<u8> = Vec::with_capacity(length(bytes));
        std::hint::black_box(room);
    },
    memory_bytes: 1024,
    memory_per_byte: 1,
};

/// Waits for bytes that do not come. It sleeps instead of turning in circles: its thread outlives the finding.
pub(super) const ENDLESS: Target = Target {
    name: "canary-endless",
    samples,
    repair: leave,
    feed: |bytes| {
        while bytes.len() < length(bytes) {
            thread::park();
        }
    },
    memory_bytes: 1024,
    memory_per_byte: 1,
};
