//! What is done to valid bytes. Few changes at a time: bytes that are wrong everywhere are refused at the door.

use crate::rng::Rng;

/// Numbers at which parsers break.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];
/// Inputs stay about as long as the samples, however often something is doubled.
const GROWTH_BYTES_MAX: usize = 4096;

pub(super) fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let longest = bytes.len().max(other.len()) + GROWTH_BYTES_MAX;
    for _ in 0..rng.skewed(6) {
        change(bytes, other, rng);
        bytes.truncate(longest);
    }
}

fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    if bytes.is_empty() {
        bytes.resize(rng.skewed(64) as usize, 0);
        rng.fill(bytes);
        return;
    }
    let at = rng.below(bytes.len() as u64) as usize;
    match rng.below(12) {
        0..=2 => bytes[at] ^= 1 << rng.below(8),
        3 => bytes[at] = rng.draw() as u8,
        4..=5 => put(bytes, at, *rng.pick(&EDGES), rng),
        6 => {
            let step = rng.skewed(16);
            let number = u64_at(bytes, at);
            let moved = if rng.one_in(2) { number.wrapping_add(step) } else { number.wrapping_sub(step) };
            put(bytes, at, moved, rng);
        }
        7 => bytes.truncate(at),
        8 => {
            let range = range(bytes.len(), at, rng);
            bytes.drain(range);
        }
        9 => {
            let range = range(bytes.len(), at, rng);
            let copied = bytes[range].to_vec();
            let to = rng.below(bytes.len() as u64 + 1) as usize;
            if rng.one_in(2) {
                bytes.splice(to..to, copied);
            } else {
                let end = bytes.len().min(to + copied.len());
                bytes[to..end].copy_from_slice(&copied[..end - to]);
            }
        }
        10 => {
            let from = rng.below(other.len() as u64 + 1) as usize;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let range = range(bytes.len(), at, rng);
            if rng.one_in(2) { bytes[range].fill(0) } else { rng.fill(&mut bytes[range]) }
        }
    }
}

fn range(bytes: usize, at: usize, rng: &mut Rng) -> std::ops::Range<usize> {
    at..bytes.min(at + rng.skewed(bytes as u64) as usize)
}

/// A little-endian number of any width, cut off where the bytes end.
fn put(bytes: &mut [u8], at: usize, number: u64, rng: &mut Rng) {
    let width = 1 << rng.below(4);
    let end = bytes.len().min(at + width);
    bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    let end = bytes.len().min(at + 8);
    number[..end - at].copy_from_slice(&bytes[at..end]);
    u64::from_le_bytes(number)
}

/// Nothing in these bytes says that they are whole.
pub(super) fn leave(_: &mut Vec<u8>, _: &mut Rng) {}
