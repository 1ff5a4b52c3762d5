//! What really happened: every record as it left the log, read from the very bytes that were written, by the drawing in
//! the log's own documentation. Independent of the code that reads a log back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ringmain_wal::{PAGE_BYTES, Position, Superblock};

use super::owner::Owner;
use crate::disk::{Disk, Place};

const HEADER_BYTES: usize = 104;

/// A record that recovery has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) sequence: u64,
    pub(super) kind: u8,
    pub(super) position: Position,
    pub(super) payload_position: Position,
    pub(super) payload: Bytes,
}

#[derive(Debug)]
struct Written {
    row: Row,
    header: Vec<u8>,
    durable_upto: u64,
    /// The first of its write: on a page of its own, where a search can find it.
    is_first: bool,
    /// Header, payload and the zeros up to a multiple of 8.
    bytes: u64,
    /// To the next record, or to the end of the write's last page.
    bytes_padded: u64,
}

#[derive(Default, Debug)]
pub(super) struct History {
    /// As they left the log.
    written: BTreeMap<u64, Written>,
    /// As they were given to the log, by those who know nothing of its writes.
    appended: BTreeMap<u64, (Position, Bytes)>,
    durable: u64,
}

/// Whatever stands here, if it can be a record at all. No checksum is looked at.
pub(super) fn raw_record(position: Position, bytes: &[u8]) -> Option<Row> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    if bytes.len() < HEADER_BYTES || bytes[4] == 0 {
        return None;
    }
    let payload_bytes = (number(8) >> 32) as usize;
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + payload_bytes)?;
    Some(Row {
        sequence: number(16),
        kind: bytes[5],
        position,
        payload_position: position.advance(HEADER_BYTES as u64),
        payload: Bytes::copy_from_slice(payload),
    })
}

impl History {
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn appended(&mut self, sequence: u64, position: Position, payload: Bytes) {
        assert!(sequence > self.durable);
        self.appended.insert(sequence, (position, payload));
    }

    /// A write left the log: which records are in it?
    pub(super) fn polled(&mut self, position: Position, page: &[u8]) {
        let mut at = 0;
        while let Some(row) = raw_record(position.advance(at as u64), &page[at..]) {
            let length = (HEADER_BYTES + row.payload.len()).next_multiple_of(8);
            let header = page[at..at + HEADER_BYTES].to_vec();
            let durable_upto = u64::from_le_bytes(header[32..40].try_into().unwrap());
            assert_eq!(row.sequence, self.written.keys().next_back().map_or(1, |last| last + 1));
            assert!(durable_upto <= self.durable, "a record calls durable what is not");
            if let Some((place, payload)) = self.appended.get(&row.sequence) {
                assert_eq!(
                    (row.payload_position, &row.payload),
                    (*place, payload),
                    "record {}",
                    row.sequence
                );
            }
            let is_last = page[at + length..].iter().take(8).all(|&byte| byte == 0);
            let bytes_padded = if is_last { page.len() - at } else { length } as u64;
            let (is_first, bytes) = (at == 0, length as u64);
            let written = Written { header, durable_upto, is_first, bytes, bytes_padded, row };
            self.written.insert(written.row.sequence, written);
            at += length;
            if at >= page.len() {
                break;
            }
        }
        assert!(
            page[at.min(page.len())..].iter().all(|&byte| byte == 0),
            "what follows the records is not zero"
        );
    }

    pub(super) fn on_durable(&mut self, durable: u64) {
        assert!(durable >= self.durable);
        assert!(self.written.contains_key(&durable) || durable == 0);
        self.durable = durable;
    }

    pub(super) fn kind(&self, sequence: u64) -> u8 {
        self.written[&sequence].row.kind
    }

    pub(super) fn position(&self, sequence: u64) -> Position {
        self.written[&sequence].row.position
    }

    pub(super) fn content(&self, sequence: u64) -> (Position, Bytes) {
        let row = &self.written[&sequence].row;
        (row.payload_position, row.payload.clone())
    }

    /// The first durable record of which a byte is not what it was, the padding behind it included.
    pub(super) fn first_harmed(&self, disk: &Disk, segment_bytes: u64) -> Option<u64> {
        self.harmed_from(1, disk, segment_bytes, |written| written.bytes_padded)
    }

    /// The first harmed record that recovery must come across, if a record behind it proves that it was durable. Of
    /// padding nothing is lost, so it need not be noticed.
    pub(super) fn proven_harm(
        &self,
        disk: &Disk,
        segment_bytes: u64,
        newest: Option<Superblock>,
    ) -> Option<u64> {
        let from = newest.map_or(1, |superblock| superblock.sequence.0);
        let harmed = self.harmed_from(from, disk, segment_bytes, |written| written.bytes)?;
        let proves = |written: &Written| {
            let (segment, offset) = place(written.row.position, segment_bytes);
            let found = disk.read(Place::Segment(segment), offset..offset + HEADER_BYTES);
            written.is_first && written.durable_upto >= harmed && found == written.header
        };
        self.written.range(harmed + 1..).any(|(_, written)| proves(written)).then_some(harmed)
    }

    fn harmed_from(
        &self,
        from: u64,
        disk: &Disk,
        segment_bytes: u64,
        extent: impl Fn(&Written) -> u64,
    ) -> Option<u64> {
        if !disk.is_harmed() || from > self.durable {
            return None;
        }
        let present: BTreeSet<u64> = disk.segments().collect();
        let harmed = |written: &Written| {
            let (segment, offset) = place(written.row.position, segment_bytes);
            present.contains(&segment)
                && disk.is_harmed_in(Place::Segment(segment), offset..offset + extent(written) as usize)
        };
        let durable = self.written.range(from..=self.durable);
        durable.filter(|(_, written)| harmed(written)).map(|(sequence, _)| *sequence).next()
    }

    /// What recovery found, against what was written.
    pub(super) fn judge(&self, rows: &[Row], last: u64, harmed: Option<u64>) -> Result<(), String> {
        for (row, after) in rows.iter().zip(rows.iter().skip(1)) {
            if after.sequence != row.sequence + 1 {
                return Err(format!("record {} follows record {}", after.sequence, row.sequence));
            }
        }
        for row in rows {
            let written = self.written.get(&row.sequence);
            if written.is_none_or(|written| written.row != *row) {
                return Err(format!("record {} was never written so", row.sequence));
            }
        }
        if rows.last().is_some_and(|row| row.sequence != last) {
            return Err(format!("the log goes on behind record {last}, but its records do not end there"));
        }
        if last < self.durable && harmed.is_none_or(|harmed| last + 1 < harmed) {
            return Err(format!("record {} was durable, and the log ends at {last}", self.durable));
        }
        Ok(())
    }

    /// The records behind `last` never were. Answers how many had left the log.
    pub(super) fn cut(&mut self, last: u64) -> u64 {
        let cut = self.written.split_off(&(last + 1)).len() as u64;
        self.appended.clear();
        self.durable = last;
        cut
    }

    /// The state after the last record, from the very first one on.
    pub(super) fn replay(&self) -> Owner {
        let mut owner = Owner::default();
        for Written { row, .. } in self.written.values() {
            owner.apply(row.sequence, row.kind, row.payload_position, &row.payload);
        }
        owner
    }
}

fn place(position: Position, segment_bytes: u64) -> (u64, usize) {
    (position.segment(segment_bytes), position.offset(segment_bytes) as usize)
}

const _: () = assert!(PAGE_BYTES as usize > HEADER_BYTES);
