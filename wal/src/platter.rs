//! For tests: a disk in memory, and a log on it whose writes land when and how the test says.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    Appended, Error, GroupId, HardState, Identity, Index, Log, LogOptions, LogStart, PAGE_BYTES, Position,
    PrepareSegment, Record, RecordHeader, RecordKind, Recovered, Recovery, SegmentFile, SegmentHeader,
    Superblock, Term, WriteAt,
};

const PAGE: usize = PAGE_BYTES as usize;

pub(crate) const IDENTITY: Identity =
    Identity { cluster: 0xC1A5_7E12_0000_0001, node: 7, shard: 3, incarnation: 0x1CA2_0001 };

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        write_bytes_max: 16 << 10,
        writes_in_flight_max: 4,
        overlap_bytes_min: 0,
        segments_ready: 2,
        cache_bytes_max: 1 << 20,
        ..LogOptions::new(IDENTITY)
    }
}

/// Small, fast, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) header: RecordHeader,
    pub(crate) position: Position,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Platter {
    pub(crate) options: LogOptions,
    pub(crate) slots: [Vec<u8>; 2],
    pub(crate) segments: BTreeMap<u64, Vec<u8>>,
}

impl Platter {
    pub(crate) fn new(options: LogOptions) -> Self {
        Self { options, slots: [Vec::new(), Vec::new()], segments: BTreeMap::new() }
    }

    pub(crate) fn prepare(&mut self, prepare: PrepareSegment) {
        let segment_bytes = self.options.segment_bytes;
        let (number, mut bytes) = match prepare {
            PrepareSegment::Create { number } => (number, vec![0; segment_bytes as usize]),
            PrepareSegment::Recycle { from, number } => {
                (number, self.segments.remove(&from).expect("the segment exists"))
            }
        };
        SegmentHeader { number, segment_bytes, identity: self.options.identity }.encode(&mut bytes[..PAGE]);
        self.segments.insert(number, bytes);
    }

    pub(crate) fn write(&mut self, at: WriteAt, bytes: &[u8]) {
        let from = at.offset as usize;
        let segment = self.segments.get_mut(&at.segment).expect("the segment exists");
        // Writing behind the end of a file makes it longer.
        segment.resize(segment.len().max(from + bytes.len()), 0);
        segment[from..from + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn write_superblock(&mut self, superblock: Superblock) {
        let mut page = vec![0; PAGE];
        superblock.encode(&mut page);
        self.slots[superblock.slot() as usize] = page;
    }

    pub(crate) fn flip(&mut self, segment: u64, offset: u64) {
        self.segments.get_mut(&segment).expect("the segment exists")[offset as usize] ^= 0x10;
    }

    pub(crate) fn zero(&mut self, segment: u64, offset: u64, bytes: u64) {
        let segment = self.segments.get_mut(&segment).expect("the segment exists");
        segment[offset as usize..(offset + bytes) as usize].fill(0);
    }

    pub(crate) fn recover(&self) -> Result<(Recovered, Vec<Row>), Error> {
        let header = |bytes: &Vec<u8>| bytes[..bytes.len().min(PAGE)].to_vec();
        let files =
            self.segments.iter().map(|(&number, bytes)| SegmentFile { number, header: header(bytes) });
        let slots = [self.slots[0].as_slice(), self.slots[1].as_slice()];
        let mut recovery = Recovery::new(&self.options, slots, files.collect())?;
        let mut rows = Vec::new();
        while let Some(read) = recovery.poll_read() {
            let bytes = &self.segments[&read.segment];
            let from = (read.offset as usize).min(bytes.len());
            recovery.on_read(&bytes[from..bytes.len().min(from + read.bytes)]);
            while let Some(view) = recovery.next_record() {
                rows.push(Row {
                    header: view.header.clone(),
                    position: view.position,
                    payload: view.payload.to_vec(),
                });
            }
        }
        Ok((recovery.finish()?, rows))
    }
}

/// A log on a platter.
pub(crate) struct Machine {
    pub(crate) log: Log,
    pub(crate) platter: Platter,
    /// Polled, not landed.
    pub(crate) flying: Vec<(WriteAt, Vec<u8>)>,
    next_index: u64,
}

impl Machine {
    pub(crate) fn new(options: LogOptions) -> Self {
        Self::start(Platter::new(options), LogStart::empty())
    }

    pub(crate) fn start(platter: Platter, start: LogStart) -> Self {
        let log = Log::new(platter.options.clone(), start);
        let mut machine = Self { log, platter, flying: Vec::new(), next_index: 1 };
        machine.prepare();
        machine
    }

    /// A crash: what flies is lost, and the log starts again from what the platter holds.
    pub(crate) fn restart(self) -> (Self, Vec<Row>) {
        let (recovered, rows) = self.platter.recover().expect("nothing is destroyed");
        (Self::start(self.platter, recovered.start), rows)
    }

    pub(crate) fn prepare(&mut self) {
        while let Some(prepare) = self.log.poll_segment() {
            self.platter.prepare(prepare);
            self.log.on_segment_ready(prepare.number());
        }
    }

    pub(crate) fn put(&mut self, payload: &[u8]) -> Appended {
        self.prepare();
        let record = Record {
            group: GroupId(2),
            kind: RecordKind::Entry,
            tag: 9,
            term: Term(4),
            index: Index(self.next_index),
            hard_state: HardState { term: 4, vote: 1, commit: self.next_index },
            payload: Bytes::copy_from_slice(payload),
        };
        self.next_index += 1;
        let appended = self.log.append(record);
        self.log.check();
        appended
    }

    /// Polls one write.
    pub(crate) fn take(&mut self) -> Option<WriteAt> {
        let mut page = vec![0xEE; self.log.next_write_bytes()?];
        let at = self.log.poll_write(&mut page).expect("there is a next write");
        assert!(at.bytes == page.len());
        self.flying.push((at, page));
        self.log.check();
        Some(at)
    }

    /// Lands what was polled `index`th of what still flies.
    pub(crate) fn land(&mut self, index: usize) {
        let (at, bytes) = self.flying.remove(index);
        self.platter.write(at, &bytes);
        self.log.on_written(at.id);
        self.log.check();
    }

    pub(crate) fn flush(&mut self) {
        loop {
            while self.take().is_some() {}
            if self.flying.is_empty() {
                break;
            }
            self.land(0);
        }
    }

    /// Appends, writes and lands one record in a write of its own.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Appended {
        let appended = self.put(payload);
        self.flush();
        assert!(self.log.durable_upto() == appended.sequence);
        appended
    }
}
