//! What is read from a disk: header pages, superblocks, records; and the shard that starts from them.
//!
//! An input is both slots of the superblock, then the segments from number 1 on, each up to its last byte in use.

use bytes::Bytes;
use ringmain_core::boot::Replay;
use ringmain_wal::{
    GroupId, HardState, Identity, Index, Log, LogOptions, LogStart, PAGE_BYTES, Position,
    RECORD_HEADER_BYTES, Record, RecordKind, RecordView, Recovered, Recovery, SEGMENT_DATA_AT, SegmentFile,
    SegmentHeader, Slot, Superblock, Term, choose, record_bytes, segment_number,
};

use super::request::{self, SEGMENT_BYTES};
use super::{Target, chunks, join};
use crate::rng::Rng;

const PAGE: usize = PAGE_BYTES as usize;
/// A run looks at no more: each page of it is checksummed.
const SEGMENTS_MAX: usize = 16;
const SMALL_SEGMENT_BYTES: u64 = 16 << 10;
const IDENTITY: Identity = Identity { cluster: 7, node: 1, shard: 0, incarnation: 1 };

pub(super) const PAGES: Target = Target {
    name: "pages",
    samples: || {
        let (mut header, mut slot) = (vec![0; PAGE], vec![0; PAGE]);
        SegmentHeader { number: 3, segment_bytes: 64 << 20, identity: IDENTITY }.encode(&mut header);
        superblock().encode(&mut slot);
        vec![header, slot, b"segment-00000000000000000001.wal".to_vec()]
    },
    repair: |bytes, _| seal_page(bytes),
    feed: |bytes| {
        std::hint::black_box(SegmentHeader::decode(bytes).is_ok());
        let slot = Slot::decode(bytes);
        std::hint::black_box(choose([slot, Slot::decode(&bytes[bytes.len() / 2..])]));
        if let Ok(name) = std::str::from_utf8(bytes) {
            std::hint::black_box(segment_number(name));
        }
    },
    memory_bytes: 0,
    memory_per_byte: 0,
};

pub(super) const RECOVERY: Target = Target {
    name: "recovery",
    samples: small_logs,
    repair: |bytes, rng| repair(bytes, rng, SMALL_SEGMENT_BYTES),
    feed: |bytes| {
        let options = small_options();
        let mut records = 0;
        if let Some(recovered) = recover(&options, bytes, |_| records += 1) {
            assert_eq!(recovered.records, records);
            go_on(options, recovered.start);
        }
    },
    // One read, the largest record, and the log that goes on with its segments' books.
    memory_bytes: 8 << 20,
    memory_per_byte: 16,
};

pub(super) const REPLAY: Target = Target {
    name: "replay",
    samples: shard_logs,
    repair: |bytes, rng| repair(bytes, rng, SEGMENT_BYTES),
    feed: |bytes| {
        let options = request::options();
        let log = options.log.clone();
        let mut replay = Replay::new(options);
        let mut is_refused = false;
        let recovered = recover(&log, bytes, |record| {
            is_refused = is_refused || replay.on_record(record).is_err();
        });
        // A node starts only with a log of which every record was accepted.
        if let Some(recovered) = recovered
            && !is_refused
            && let Ok(shard) = replay.finish(recovered)
        {
            shard.check();
        }
    },
    memory_bytes: 16 << 20,
    memory_per_byte: 64,
};

fn small_options() -> LogOptions {
    LogOptions { segment_bytes: SMALL_SEGMENT_BYTES, write_bytes_max: 8192, ..LogOptions::new(IDENTITY) }
}

fn superblock() -> Superblock {
    Superblock {
        identity: IDENTITY,
        boot: 1,
        counter: 1,
        checkpoint: Position(SMALL_SEGMENT_BYTES + 4096),
        sequence: ringmain_wal::Sequence(1),
        durable_upto: ringmain_wal::Sequence(2),
    }
}

/// What recovery makes of an input, if it does not refuse it.
fn recover(
    options: &LogOptions,
    input: &[u8],
    mut on_record: impl FnMut(&RecordView<'_>),
) -> Option<Recovered> {
    let mut pieces = chunks(input);
    let slots = [pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default()];
    let segments: Vec<&[u8]> = pieces.take(SEGMENTS_MAX).collect();
    let files = segments
        .iter()
        .zip(1..)
        .map(|(bytes, number)| SegmentFile { number, header: bytes[..bytes.len().min(PAGE)].to_vec() })
        .collect();
    let mut recovery = Recovery::new(options, slots, files).ok()?;
    while let Some(read) = recovery.poll_read() {
        let segment = segments.get(read.segment as usize - 1).expect("only what is there is read");
        assert!(read.offset + read.bytes as u64 <= options.segment_bytes);
        let used = segment.get(read.offset as usize..).unwrap_or_default();
        let mut bytes = used[..used.len().min(read.bytes)].to_vec();
        bytes.resize(read.bytes, 0);
        recovery.on_read(&bytes);
        while let Some(record) = recovery.next_record() {
            on_record(&record);
        }
    }
    recovery.finish().ok()
}

/// Whatever recovery accepts, the log can go on with.
fn go_on(options: LogOptions, start: LogStart) {
    let mut log = Log::new(options, start);
    log.check();
    while let Some(segment) = log.poll_segment() {
        log.on_segment_ready(segment.number());
    }
    if log.room(100) {
        log.append(record(1, 100));
    }
    while let Some(bytes) = log.next_write_bytes() {
        let mut page = vec![0; bytes];
        let Some(at) = log.poll_write(&mut page) else { break };
        log.on_written(at.id);
    }
    log.check();
}

fn record(number: u64, bytes: usize) -> Record {
    Record {
        group: GroupId(0),
        kind: if number.is_multiple_of(5) { RecordKind::HardState } else { RecordKind::Entry },
        tag: 0,
        term: Term(1),
        index: Index(number),
        hard_state: HardState { term: 1, vote: 1, commit: number },
        payload: Bytes::from(vec![number as u8; bytes]),
    }
}

/// Three starts of one log in small segments, with a superblock and without.
fn small_logs() -> Vec<Vec<u8>> {
    let options = small_options();
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let mut number = 0;
    for _ in 0..3 {
        let pieces = [vec![Vec::new(), Vec::new()], segments.clone()].concat();
        let recovered = recover(&options, &join(&pieces), |_| {}).expect("what the log wrote is valid");
        let mut log = Log::new(options.clone(), recovered.start);
        for _ in 0..12 {
            number += 1;
            prepare(&mut log, &options, &mut segments);
            let bytes = (number * 173 % 2500) as usize;
            if log.room(bytes as u64) {
                log.append(record(number, bytes));
            }
            write(&mut log, &mut segments);
        }
    }
    let mut slot = vec![0; PAGE];
    superblock().encode(&mut slot);
    let cut = |mut segment: Vec<u8>| {
        let used = segment.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        segment.truncate(used);
        segment
    };
    let segments: Vec<Vec<u8>> = segments.into_iter().map(cut).collect();
    assert!((3..=SEGMENTS_MAX).contains(&segments.len()), "{} segments", segments.len());
    let with = |slots: [Vec<u8>; 2]| join(&[slots.to_vec(), segments.clone()].concat());
    vec![with([Vec::new(), Vec::new()]), with([Vec::new(), slot])]
}

fn prepare(log: &mut Log, options: &LogOptions, segments: &mut Vec<Vec<u8>>) {
    while let Some(segment) = log.poll_segment() {
        let number = segment.number();
        let mut bytes = vec![0; options.segment_bytes as usize];
        let header = SegmentHeader { number, segment_bytes: options.segment_bytes, identity: IDENTITY };
        header.encode(&mut bytes[..PAGE]);
        segments.resize(segments.len().max(number as usize), Vec::new());
        segments[number as usize - 1] = bytes;
        log.on_segment_ready(number);
    }
}

fn write(log: &mut Log, segments: &mut [Vec<u8>]) {
    while let Some(bytes) = log.next_write_bytes() {
        let mut page = vec![0; bytes];
        let at = log.poll_write(&mut page).expect("there is a write of that many bytes");
        let offset = at.offset as usize;
        segments[at.segment as usize - 1][offset..offset + bytes].copy_from_slice(&page);
        log.on_written(at.id);
    }
}

/// The log of a shard after a day of work: from its beginning, and from its last checkpoint.
fn shard_logs() -> Vec<Vec<u8>> {
    let host = request::script().1;
    let mut segments = Vec::new();
    for segment in host.segments.into_values() {
        let used = segment.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        segments.push(segment[..used].to_vec());
    }
    assert!(segments.len() <= SEGMENTS_MAX);
    assert!(
        host.superblocks.iter().any(|slot| !slot.is_empty()),
        "the script is long enough for a checkpoint"
    );
    let none = vec![Vec::new(), Vec::new()];
    vec![join(&[none, segments.clone()].concat()), join(&[host.superblocks.to_vec(), segments].concat())]
}

fn seal_page(page: &mut [u8]) {
    let end = page.len().min(PAGE);
    if end > 4 {
        let checksum = crc32c::crc32c(&page[4..end]);
        page[0..4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Every page and record gets the checksums of what it has become; sometimes only as far as a record.
fn repair(input: &mut Vec<u8>, rng: &mut Rng, segment_bytes: u64) {
    let mut pieces: Vec<Vec<u8>> = chunks(input).map(<[u8]>::to_vec).collect();
    let mut left = if rng.one_in(2) { u64::MAX } else { rng.skewed(64) };
    let mut previous = None;
    for (place, piece) in pieces.iter_mut().enumerate() {
        seal_page(piece);
        if let Some(number) = place.checked_sub(1) {
            chain(piece, number as u64 * segment_bytes, &mut previous, &mut left);
        }
    }
    *input = join(&pieces);
}

/// Seals the records of a segment and ties each to the one before.
fn chain(segment: &mut [u8], begin: u64, previous: &mut Option<u32>, left: &mut u64) {
    let mut at = SEGMENT_DATA_AT as usize;
    while at + RECORD_HEADER_BYTES <= segment.len() && *left > 0 {
        if segment[at..at + 8] == [0; 8] {
            at = (at + 1).next_multiple_of(PAGE);
            continue;
        }
        *left -= 1;
        let u32_at =
            |at: usize| u32::from_le_bytes(segment[at..at + 4].first_chunk().copied().unwrap_or_default());
        let payload_bytes = u32_at(at + 12) as usize;
        let payload_end = (at + RECORD_HEADER_BYTES).saturating_add(payload_bytes);
        if let Some(payload) = segment.get(at + RECORD_HEADER_BYTES..payload_end) {
            let checksum = crc32c::crc32c(payload);
            segment[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Some(previous) = *previous {
            segment[at + 28..at + 32].copy_from_slice(&previous.to_le_bytes());
        }
        // As the log begins the checksum of a header: with a hash of where it lies.
        let position = begin + at as u64;
        let hash = ((position / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
        let checksum = crc32c::crc32c_append(hash, &segment[at + 4..at + RECORD_HEADER_BYTES]);
        segment[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        *previous = Some(checksum);
        at = at.saturating_add(record_bytes(payload_bytes as u64) as usize);
    }
}
