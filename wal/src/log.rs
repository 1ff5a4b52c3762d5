//! The writing half of a shard's log. One thread's, view of one shard. No clock, no file: what is to be written leaves
//! through `poll_write`, what was written comes back through `on_written`.
//!
//! Records wait in batches. A batch is one write to be: it takes records until it is polled, is full, or the segment
//! ends; so what arrives while a write is on its way leaves together with the next one, and nobody waits for a timer.
//! The place of a record is known when it is appended, because only the last batch grows.
//!
//! Invariant: durable_upto ≤ last written ≤ last appended sequence. Writes may finish in any order; `durable_upto`
//! only counts the prefix.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::cache::Cache;
use crate::record::{RECORD_HEADER_BYTES, Record, RecordHeader, RecordKind, record_bytes};
use crate::retention::{PrepareSegment, Retention, SegmentState};
use crate::segment::SEGMENT_DATA_AT;
use crate::words::{GroupId, HardState, Index, PAGE_BYTES, Position, Sequence, Term, page_ceil};

mod options;
pub use options::LogOptions;

/// Where writing begins: what recovery found, or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogStart {
    /// The number of this start; 1 for the first.
    pub(crate) boot: u32,
    pub(crate) last_sequence: Sequence,
    /// Header checksum of the last record.
    pub(crate) previous: u32,
    /// Segment and offset (on a page) behind the last record. Segment 0: there is none yet.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// All segments that exist, ascending; those up to `segment` are used.
    pub(crate) segments: Vec<(u64, SegmentState)>,
}

impl LogStart {
    pub fn empty() -> Self {
        Self { boot: 1, last_sequence: Sequence(0), previous: 0, segment: 0, offset: 0, segments: Vec::new() }
    }

    pub fn boot(&self) -> u32 {
        self.boot
    }

    pub fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }
}

/// Where a record went.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    pub sequence: Sequence,
    /// Of the record's header: the place a checkpoint names.
    pub record: Position,
    /// Of the first byte of the payload.
    pub payload: Position,
}

#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WriteId(pub u64);

/// One write: whole pages at a page of a segment.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct WriteAt {
    pub id: WriteId,
    pub segment: u64,
    pub offset: u64,
    pub bytes: usize,
}

#[derive(Debug)]
struct Pending {
    header: RecordHeader,
    payload: Bytes,
}

/// A write to be: `records` of the pending records, back to back.
#[derive(Debug)]
struct Batch {
    segment: u64,
    /// On a page.
    offset: u64,
    /// Without the padding.
    bytes: u64,
    records: u64,
}

#[derive(Debug)]
struct InFlight {
    last_sequence: Sequence,
    end: Position,
    written: bool,
}

#[derive(Debug)]
pub struct Log {
    options: LogOptions,
    boot: u32,

    /// Of the last record that has a place.
    last_sequence: Sequence,
    /// Of the last record that was polled.
    last_polled: Sequence,
    /// Header checksum of that record.
    previous: u32,
    durable_upto: Sequence,
    /// Behind the pages of that record. What lies from here on may be written still.
    durable_end: Position,
    /// The highest durable_upto that was polled: a later start will know that everything up to here was durable.
    vouched_upto: Sequence,
    /// The last record that says something: not a Boot, not a Vouch.
    said_upto: Sequence,
    /// The next record of the last batch goes to this offset of the current segment.
    offset: u64,
    /// The Boot record of this start has a place. Nothing goes before it.
    booted: bool,
    pending: VecDeque<Pending>,
    batches: VecDeque<Batch>,
    /// The pages that `batches` will take.
    pending_bytes: u64,
    in_flight: VecDeque<InFlight>,
    /// Number of `in_flight[0]`.
    first_in_flight: u64,
    cache: Cache,
    retention: Retention,
}

impl Log {
    pub fn new(options: LogOptions, start: LogStart) -> Self {
        options.check();
        assert!(start.offset.is_multiple_of(PAGE_BYTES));
        assert!(start.offset <= options.segment_bytes);
        let retention = Retention::new(
            options.segment_bytes,
            u64::from(options.segments_ready),
            &start.segments,
            start.segment,
        );
        let mut log = Self {
            boot: start.boot,
            last_sequence: start.last_sequence,
            last_polled: start.last_sequence,
            previous: start.previous,
            durable_upto: start.last_sequence,
            durable_end: Position(start.segment * options.segment_bytes + start.offset),
            vouched_upto: Sequence(0),
            said_upto: start.last_sequence,
            offset: start.offset,
            booted: false,
            pending: VecDeque::new(),
            batches: VecDeque::new(),
            pending_bytes: 0,
            in_flight: VecDeque::new(),
            first_in_flight: 0,
            cache: Cache::new(options.cache_bytes_max),
            retention,
            options,
        };
        log.append_boot();
        log.check();
        log
    }

    /// Whether one record with this much payload fits into segments that are ready.
    pub fn room(&self, payload_bytes: u64) -> bool {
        self.booted && self.fits(record_bytes(payload_bytes))
    }

    pub fn append(&mut self, record: Record) -> Appended {
        assert!(self.room(record.payload.len() as u64));
        assert!(record.kind != RecordKind::Boot);
        assert!(record.kind != RecordKind::Vouch);
        let appended = self.place(record);
        self.said_upto = appended.sequence;
        appended
    }

    /// The size of the next write. None: nothing is pending, enough is in flight, or too little is pending to be
    /// worth a second write beside the one in flight.
    pub fn next_write_bytes(&self) -> Option<usize> {
        let batch = self.batches.front()?;
        let in_flight = self.in_flight.len();
        if in_flight >= self.options.writes_in_flight_max as usize {
            return None;
        }
        if in_flight > 0 && self.pending_bytes < u64::from(self.options.overlap_bytes_min) {
            return None;
        }
        Some(page_ceil(batch.bytes) as usize)
    }

    /// Fills the caller's buffer with the next write, which is its first `bytes` bytes.
    pub fn poll_write(&mut self, page: &mut [u8]) -> Option<WriteAt> {
        let bytes = self.next_write_bytes()?;
        assert!(page.len() >= bytes);
        let batch = self.batches.pop_front().expect("next_write_bytes found one");
        let mut at = 0;
        for _ in 0..batch.records {
            let position = Position::new(batch.segment, batch.offset + at as u64, self.options.segment_bytes);
            at += self.encode_next(position, &mut page[at..bytes]);
        }
        assert!(at as u64 == batch.bytes);
        page[at..bytes].fill(0);

        self.pending_bytes -= bytes as u64;
        self.vouched_upto = self.durable_upto;
        let id = WriteId(self.first_in_flight + self.in_flight.len() as u64);
        let end = Position(batch.segment * self.options.segment_bytes + batch.offset + bytes as u64);
        self.in_flight.push_back(InFlight { last_sequence: self.last_polled, end, written: false });
        // What follows begins on the next page: this one must never be written again.
        if self.batches.is_empty() {
            self.offset = page_ceil(self.offset);
        }
        Some(WriteAt { id, segment: batch.segment, offset: batch.offset, bytes })
    }

    /// A write is durable. Answers up to which sequence everything is.
    pub fn on_written(&mut self, id: WriteId) -> Sequence {
        let at = id.0.checked_sub(self.first_in_flight).expect("a write is reported once");
        let write = self.in_flight.get_mut(at as usize).expect("only what was polled is written");
        assert!(!write.written);
        write.written = true;
        while let Some(first) = self.in_flight.front()
            && first.written
        {
            assert!(first.last_sequence > self.durable_upto);
            assert!(first.end > self.durable_end);
            (self.durable_upto, self.durable_end) = (first.last_sequence, first.end);
            self.in_flight.pop_front();
            self.first_in_flight += 1;
        }
        self.cache.evict(self.durable_upto);
        self.durable_upto
    }

    pub fn durable_upto(&self) -> Sequence {
        self.durable_upto
    }

    /// Pages before this are as they will always be; those from here on may be written after they were read.
    pub fn durable_end(&self) -> Position {
        self.durable_end
    }

    pub fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }

    /// Behind the last record; `Position(0)` while there is no segment.
    pub fn tail(&self) -> Position {
        match self.retention.current() {
            0 => Position(0),
            // At the very end of a segment this is the first byte of the next one, where no record ever is.
            segment => Position(segment * self.options.segment_bytes + self.offset),
        }
    }

    pub fn boot(&self) -> u32 {
        self.boot
    }

    pub fn writes_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that no write has taken yet.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// To be called when the log has been idle for a moment: if a later start could not tell that the last records
    /// were durable, says it in a record of its own. Answers whether it did.
    pub fn vouch(&mut self) -> bool {
        // What is on its way or pending is followed by something, or by an idle moment.
        if !self.in_flight.is_empty() || !self.pending.is_empty() || !self.room(0) {
            return false;
        }
        if self.said_upto <= self.vouched_upto {
            return false;
        }
        self.place(own_record(RecordKind::Vouch));
        true
    }

    pub fn poll_segment(&mut self) -> Option<PrepareSegment> {
        self.retention.poll_segment()
    }

    pub fn on_segment_ready(&mut self, number: u64) {
        self.retention.on_segment_ready(number);
        self.append_boot();
    }

    /// There was no space for it. Nothing is tried again before `retry_segments`, but for recycling, which needs none.
    pub fn on_segment_refused(&mut self, number: u64) {
        self.retention.on_segment_refused(number);
    }

    pub fn retry_segments(&mut self) {
        self.retention.retry();
    }

    /// Until `thaw` no segment is recycled: what was live at this moment can be read until then. Freezing twice is
    /// freezing once.
    pub fn freeze(&mut self) {
        self.retention.set_frozen(true);
    }

    pub fn thaw(&mut self) {
        self.retention.set_frozen(false);
    }

    /// Segments from this position on are kept as long as there is space for others, whether anything in them is live or
    /// not; `None`: no more than must be. Said anew as often as it changes.
    pub fn keep_from(&mut self, position: Option<Position>) {
        let segment = position.map(|position| position.segment(self.options.segment_bytes));
        self.retention.keep_from(segment.unwrap_or(u64::MAX));
    }

    /// A segment was refused, and nobody has retried since.
    pub fn segments_refused(&self) -> bool {
        self.retention.is_refused()
    }

    /// From memory, if it is there.
    pub fn read(&self, position: Position, bytes: usize) -> Option<&[u8]> {
        self.cache.read(position, bytes)
    }

    /// What was read back, from `position` on.
    pub fn on_page_read(&mut self, position: Position, bytes: Bytes) {
        self.cache.on_page_read(position, bytes);
        self.cache.evict(self.durable_upto);
    }

    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// The owner needs these bytes. While it replays it may name a segment that no longer exists, because what lay
    /// there was settled later on: see `lost_segments`.
    pub fn hold(&mut self, position: Position, bytes: u64) {
        self.retention.hold(position.segment(self.options.segment_bytes), bytes);
    }

    pub fn release(&mut self, position: Position, bytes: u64) {
        self.retention.release(position.segment(self.options.segment_bytes), bytes);
    }

    /// Whether the segment of this position is there to be read.
    pub fn is_readable(&self, position: Position) -> bool {
        self.retention.is_used(position.segment(self.options.segment_bytes))
    }

    /// A read from disk begins here, in a segment that is there: it is not recycled before `unpin`.
    pub fn pin(&mut self, position: Position) {
        self.retention.pin(position.segment(self.options.segment_bytes));
    }

    /// A read that was announced with `pin` is over.
    pub fn unpin(&mut self, position: Position) {
        self.retention.unpin(position.segment(self.options.segment_bytes));
    }

    /// Recovery needs everything from `floor` on. Not before the superblock that says so is durable. The first call
    /// after a start comes when everything live is held again: it may make segments recyclable.
    pub fn set_floor(&mut self, floor: Position) {
        assert!(floor <= self.tail());
        self.retention.set_floor(floor);
    }

    /// Segments worth copying forward, ascending: below the floor, less than half live, while the disk holds more than
    /// twice what is live and a few segments.
    pub fn sparse_segments(&self, out: &mut Vec<u64>) {
        self.retention.sparse(out);
    }

    /// Segments in which something is held and which do not exist. Once the owner has replayed everything there is
    /// none, unless somebody removed a file.
    pub fn lost_segments(&self, out: &mut Vec<u64>) {
        self.retention.lost(out);
    }

    pub fn live_bytes(&self) -> u64 {
        self.retention.live_bytes()
    }

    pub fn disk_bytes(&self) -> u64 {
        self.retention.disk_bytes()
    }

    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    pub fn check(&self) {
        assert!(self.durable_upto <= self.last_polled);
        assert!(self.last_polled <= self.last_sequence);
        assert!(self.vouched_upto <= self.durable_upto);
        assert!(self.pending.len() as u64 == self.last_sequence.0 - self.last_polled.0);
        assert!(self.pending.len() as u64 == self.batches.iter().map(|batch| batch.records).sum::<u64>());
        let pages: u64 = self.batches.iter().map(|batch| page_ceil(batch.bytes)).sum();
        assert!(pages == self.pending_bytes);
        assert!(self.in_flight.len() <= self.options.writes_in_flight_max as usize);
        assert!(self.in_flight.front().is_none_or(|first| !first.written));
        for batch in &self.batches {
            assert!(batch.offset >= SEGMENT_DATA_AT);
            assert!(batch.offset % PAGE_BYTES == 0);
            assert!(batch.offset + page_ceil(batch.bytes) <= self.options.segment_bytes);
        }
        if let Some(last) = self.batches.back() {
            assert!(last.segment == self.retention.current());
            assert!(last.offset + last.bytes == self.offset);
        } else {
            assert!(self.offset.is_multiple_of(PAGE_BYTES));
        }
        self.cache.check(self.durable_upto);
        self.retention.check();
    }

    fn append_boot(&mut self) {
        if !self.booted && self.fits(record_bytes(0)) {
            self.booted = true;
            self.place(own_record(RecordKind::Boot));
        }
    }

    fn fits(&self, bytes: u64) -> bool {
        let here =
            self.retention.current() > 0 && page_ceil(self.offset) + bytes <= self.options.segment_bytes;
        here || (self.retention.next_is_ready() && SEGMENT_DATA_AT + bytes <= self.options.segment_bytes)
    }

    /// Gives a record its sequence and its place.
    fn place(&mut self, record: Record) -> Appended {
        let payload_bytes = u32::try_from(record.payload.len()).expect("a record fits into a segment");
        self.last_sequence = self.last_sequence.next();
        let header = RecordHeader {
            kind: record.kind,
            tag: record.tag,
            payload_crc: 0, // computed when the payload is copied out, while it is at hand
            payload_bytes,
            sequence: self.last_sequence,
            boot: self.boot,
            previous: 0,               // known when the record before is written
            durable_upto: Sequence(0), // as fresh as can be: when it is written
            identity: self.options.identity,
            group: record.group,
            term: record.term,
            index: record.index,
            hard_state: record.hard_state,
        };
        let position = self.place_bytes(header.record_bytes());
        let payload = position.advance(RECORD_HEADER_BYTES as u64);
        if payload_bytes > 0 {
            self.cache.push(payload, header.sequence, record.payload.clone());
        }
        self.pending.push_back(Pending { header, payload: record.payload });
        Appended { sequence: self.last_sequence, record: position, payload }
    }

    fn place_bytes(&mut self, bytes: u64) -> Position {
        let write_bytes_max = u64::from(self.options.write_bytes_max);
        let segment_bytes = self.options.segment_bytes;
        if let Some(batch) = self.batches.back_mut()
            && batch.bytes + bytes <= write_bytes_max
            && self.offset + bytes <= segment_bytes
        {
            self.pending_bytes += page_ceil(batch.bytes + bytes) - page_ceil(batch.bytes);
            batch.bytes += bytes;
            batch.records += 1;
        } else {
            self.offset = page_ceil(self.offset);
            if self.retention.current() == 0 || self.offset + bytes > segment_bytes {
                self.retention.advance();
                self.offset = SEGMENT_DATA_AT;
            }
            assert!(self.offset + bytes <= segment_bytes);
            let segment = self.retention.current();
            self.batches.push_back(Batch { segment, offset: self.offset, bytes, records: 1 });
            self.pending_bytes += page_ceil(bytes);
        }
        let position = Position::new(self.retention.current(), self.offset, segment_bytes);
        self.offset += bytes;
        position
    }

    /// Writes the first pending record to the front of `out`; answers its length.
    fn encode_next(&mut self, position: Position, out: &mut [u8]) -> usize {
        let Pending { mut header, payload } =
            self.pending.pop_front().expect("a batch counts pending records");
        let bytes = header.record_bytes() as usize;
        let (head, tail) = out[..bytes].split_at_mut(RECORD_HEADER_BYTES);
        tail[..payload.len()].copy_from_slice(&payload);
        tail[payload.len()..].fill(0);
        header.payload_crc = crc32c::crc32c(&tail[..payload.len()]);
        header.previous = self.previous;
        header.durable_upto = self.durable_upto;
        assert!(header.sequence == self.last_polled.next());
        let head = head.try_into().expect("split at the length of a header");
        self.previous = header.encode(position, head);
        self.last_polled = header.sequence;
        bytes
    }
}

/// Boot and Vouch belong to no group.
fn own_record(kind: RecordKind) -> Record {
    Record {
        group: GroupId(0),
        kind,
        tag: 0,
        term: Term(0),
        index: Index(0),
        hard_state: HardState::default(),
        payload: Bytes::new(),
    }
}

#[cfg(test)]
mod tests;
