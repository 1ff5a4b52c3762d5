//! Reading a log back after a stop or a crash: the records, where writing goes on, and a verdict per segment. Pure and
//! streaming: whoever drives it reads what `poll_read` asks for, one read at a time, and takes records out between.
//!
//! Records are followed along the chain: position, sequence, boot, and the checksum of the record before must all fit.
//! Where the next one does not, it may legally be in one of two other places:
//!
//! 1. A crash tore a write in the middle of a page; the next start went on at the next page, with a Boot record.
//! 2. The record did not fit into the segment; it is the first of the next one.
//!
//! If it is in neither, the log ends here, or something was destroyed. The rest of the log is then searched, at every
//! page (each write begins on one), for records of this boot or a later one:
//!
//! | a later record, or the superblock, says that the missing record was durable | rot: an error |
//! | there are later records, but none says so: several writes were in flight    | hole: cut |
//! | nothing later, a record was begun here                                      | torn tail: cut |
//! | nothing later, nothing here                                                 | intact: the log ends here |
//!
//! Records of an older boot behind the end are leftovers of writes that an earlier recovery cut off: never evidence.
//!
//! Memory: one read and the largest record.

use std::collections::BTreeMap;

use crate::error::{Error, header_why};
use crate::log::{LogOptions, LogStart};
use crate::record::{RECORD_HEADER_BYTES, RecordHeader, RecordKind};
use crate::retention::SegmentState;
use crate::segment::{SEGMENT_DATA_AT, SegmentHeader, SegmentHeaderFault};
use crate::superblock::{Slot, Superblock, choose};
use crate::words::{Identity, PAGE_BYTES, Position, Sequence, page_ceil};

mod evidence;
mod window;
use window::{Look, Window};
pub use window::{READ_BYTES_MAX, ReadAt};

/// A segment's file: its number, from its name, and its first page (shorter if the file is).
pub struct SegmentFile {
    pub number: u64,
    pub header: Vec<u8>,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Intact,
    /// A write did not finish; what lies from `offset` on was never durable.
    TornTail {
        offset: u64,
    },
    /// A write did not happen although a later one did; what lies from `offset` on was never known to be durable.
    Hole {
        offset: u64,
    },
    /// Bytes that were durable are destroyed.
    Rot {
        offset: u64,
        bytes: u64,
    },
    /// Holds no record of the log: prepared, or cut off.
    Unused,
}

/// A verified record.
pub struct RecordView<'a> {
    pub header: &'a RecordHeader,
    pub position: Position,
    pub payload: &'a [u8],
    pub payload_position: Position,
}

pub struct Recovered {
    pub start: LogStart,
    /// Of the segments that were read, ascending; and of older ones whose header page is damaged.
    pub verdicts: Vec<(u64, Verdict)>,
    /// The one recovery began with. The next to be written has the counter after its.
    pub superblock: Option<Superblock>,
    pub records: u64,
}

/// The record that is not where it should be.
#[derive(Copy, Clone, Debug)]
struct Break {
    segment: u64,
    offset: u64,
    why: &'static str,
    /// A record of this log was begun here.
    begun: bool,
    /// The record's own header, chained to the one before, is whole: only what follows it is not.
    headed: bool,
}

#[derive(Copy, Clone, Debug)]
enum Stage {
    /// Records are read at the cursor.
    Records,
    /// Perhaps a later start went on at the next page.
    Restart(Break),
    /// Perhaps the record went to the next segment.
    Rollover(Break),
    /// What is said behind the break?
    Evidence(Break, Search),
    Done(Outcome),
}

#[derive(Copy, Clone, Debug)]
struct Search {
    segment: u64,
    offset: u64,
    /// The first record found behind the break.
    later: Option<Position>,
}

#[derive(Copy, Clone, Debug)]
enum Outcome {
    End(Break, Verdict),
    Rot { segment: u64, offset: u64, bytes: u64, why: &'static str },
}

/// How much of a log is looked at.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    Whole,
    /// What comes after something destroyed, which may be nothing.
    Rest,
    /// An old segment whose neighbours are gone: all of it was durable long ago.
    OneSegment,
}

enum Step {
    Found(Found),
    Again,
    /// More must be read.
    Wait,
}

#[derive(Debug)]
struct Found {
    header: RecordHeader,
    position: Position,
    /// In the window.
    payload: std::ops::Range<usize>,
}

pub struct Recovery {
    identity: Identity,
    segment_bytes: u64,
    /// All segments, with what is wrong with their header pages.
    segments: BTreeMap<u64, Option<&'static str>>,
    superblock: Option<Superblock>,
    reach: Reach,

    stage: Stage,
    /// The segment recovery began in.
    first_segment: u64,
    /// Where the next record should be.
    segment: u64,
    offset: u64,
    /// Of the next record; none: whatever it is.
    sequence: Option<Sequence>,
    /// What it says of the one before; none: whatever it says.
    previous: Option<u32>,
    /// Of the last record.
    boot: u32,
    /// The highest of any record seen.
    boot_seen: u32,
    records: u64,
    restarts_cut: u64,
    window: Window,
    /// What `next_record` answered last.
    found: Option<Found>,
}

impl Recovery {
    /// `superblock`: the two slots, empty where there is no file.
    pub fn new(
        options: &LogOptions,
        superblock: [&[u8]; 2],
        segments: Vec<SegmentFile>,
    ) -> Result<Self, Error> {
        options.check();
        let slots = superblock.map(Slot::decode);
        for slot in slots {
            match slot {
                Slot::Valid(found) if found.identity != options.identity => {
                    let expected = options.identity;
                    return Err(Error::Foreign { what: "the superblock", found: found.identity, expected });
                }
                Slot::Version(found) => return Err(Error::Version { what: "the superblock", found }),
                Slot::Valid(_) | Slot::Blank | Slot::Damaged => {}
            }
        }
        let mut table = BTreeMap::new();
        for file in segments {
            table.insert(file.number, check_header(options, &file)?);
        }
        let mut recovery = Self {
            identity: options.identity,
            segment_bytes: options.segment_bytes,
            segments: table,
            superblock: choose(slots),
            reach: Reach::Whole,
            stage: Stage::Records,
            first_segment: 0,
            segment: 0,
            offset: SEGMENT_DATA_AT,
            sequence: None,
            previous: None,
            boot: 0,
            boot_seen: 0,
            records: 0,
            restarts_cut: 0,
            window: Window::new(options.segment_bytes),
            found: None,
        };
        recovery.begin(slots.contains(&Slot::Damaged));
        Ok(recovery)
    }

    /// For looking at a log instead of starting from it: begins at the beginning of a segment.
    pub(crate) fn begin_elsewhere(&mut self, segment: u64, reach: Reach) {
        assert!(self.segments.contains_key(&segment));
        self.reach = reach;
        self.sequence = None;
        self.stage = Stage::Records;
        self.begin_at(segment, SEGMENT_DATA_AT);
    }

    fn begin(&mut self, slot_damaged: bool) {
        let checkpoint = self.superblock.filter(|superblock| superblock.checkpoint != Position(0));
        let Some(superblock) = checkpoint else {
            if slot_damaged {
                self.begin_oldest()
            } else {
                self.begin_first()
            }
            return;
        };
        let segment = superblock.checkpoint.segment(self.segment_bytes);
        let offset = superblock.checkpoint.offset(self.segment_bytes);
        if self.segments.contains_key(&segment) && offset >= SEGMENT_DATA_AT {
            self.sequence = Some(superblock.sequence);
            self.begin_at(segment, offset);
        } else if slot_damaged {
            // The readable slot is the older one: what it names may have been recycled since. The log itself has
            // all that is needed.
            self.begin_oldest();
        } else {
            let why = "the segment in which recovery begins is missing";
            self.stage = Stage::Done(Outcome::Rot { segment, offset: 0, bytes: self.segment_bytes, why });
        }
    }

    /// Without a checkpoint nothing was ever recycled: the log begins where every log begins.
    fn begin_first(&mut self) {
        if self.segments.contains_key(&1) {
            self.sequence = Some(Sequence(1));
            self.begin_at(1, SEGMENT_DATA_AT);
        } else if self.segments.is_empty() {
            self.begin_oldest();
        } else {
            let why = "the first segment is missing, and no superblock says that it is not needed";
            self.stage = Stage::Done(Outcome::Rot { segment: 1, offset: 0, bytes: self.segment_bytes, why });
        }
    }

    /// The oldest segment from which on none is missing. Those before a gap are kept only for what is live in them.
    fn begin_oldest(&mut self) {
        let mut oldest = None;
        for &number in self.segments.keys().rev() {
            if oldest.is_some_and(|oldest| number + 1 != oldest) {
                break;
            }
            oldest = Some(number);
        }
        match oldest {
            Some(number) => self.begin_at(number, SEGMENT_DATA_AT),
            None => {
                let end = Break { segment: 0, offset: 0, why: "", begun: false, headed: false };
                self.stage = if self.known_durable() > Sequence(0) {
                    let why = "all segments are missing";
                    Stage::Done(Outcome::Rot { segment: 1, offset: 0, bytes: self.segment_bytes, why })
                } else {
                    Stage::Done(Outcome::End(end, Verdict::Unused))
                };
            }
        }
    }

    fn begin_at(&mut self, segment: u64, offset: u64) {
        self.first_segment = segment;
        self.segment = segment;
        self.offset = offset;
        self.want_header();
    }

    /// The first thing to be read, before anything can be parsed.
    fn want_header(&mut self) {
        let bytes = (self.segment_bytes - self.offset).min(RECORD_HEADER_BYTES as u64);
        let _ = self.window.look(self.segment, self.offset, bytes);
    }

    /// What to read next; None: everything is known.
    pub fn poll_read(&mut self) -> Option<ReadAt> {
        match self.stage {
            Stage::Done(_) => None,
            _ => self.window.poll_read(),
        }
    }

    /// Answers the last `poll_read`. Fewer bytes than asked for: the file ends there.
    pub fn on_read(&mut self, bytes: &[u8]) {
        self.window.on_read(bytes);
    }

    /// The next record of what was read so far.
    pub fn next_record(&mut self) -> Option<RecordView<'_>> {
        loop {
            let step = match self.stage {
                Stage::Records => self.read_record(),
                Stage::Restart(cut) => self.try_restart(cut),
                Stage::Rollover(cut) => self.try_rollover(cut),
                Stage::Evidence(cut, search) => self.search(cut, search),
                Stage::Done(_) => Step::Wait,
            };
            match step {
                Step::Found(found) => {
                    self.found = Some(found);
                    break;
                }
                Step::Again => {}
                Step::Wait => return None,
            }
        }
        let found = self.found.as_ref()?;
        Some(RecordView {
            header: &found.header,
            position: found.position,
            payload: &self.window.bytes()[found.payload.clone()],
            payload_position: found.position.advance(RECORD_HEADER_BYTES as u64),
        })
    }

    /// To be called when `poll_read` has nothing more to ask.
    pub fn finish(self) -> Result<Recovered, Error> {
        let Stage::Done(outcome) = self.stage else {
            panic!("recovery was stopped before its end");
        };
        let (end, verdict) = match outcome {
            Outcome::Rot { segment, offset, bytes, why } => {
                return Err(Error::Rot { segment, offset, bytes, why });
            }
            Outcome::End(end, verdict) => (end, verdict),
        };
        let boot = self.boot_seen.max(self.superblock.map_or(0, |superblock| superblock.boot));
        let last_sequence = Sequence(self.expected_sequence().0 - 1);
        let mut start = LogStart {
            boot: boot + 1,
            last_sequence,
            previous: self.previous.unwrap_or(0),
            segment: end.segment,
            offset: page_ceil(end.offset),
            segments: Vec::new(),
        };
        // A log whose very first segment is damaged before anything was written has no segment to go on in.
        if self.records == 0 && self.header_fault(end.segment).is_some() {
            start.segment = 0;
            start.offset = 0;
        }
        start.segments = self.segment_states(start.segment);
        let verdicts = self.verdicts(end.segment, verdict);
        Ok(Recovered { start, verdicts, superblock: self.superblock, records: self.records })
    }

    /// What `finish` would complain about.
    pub(crate) fn rot_found(&self) -> Option<Error> {
        match self.stage {
            Stage::Done(Outcome::Rot { segment, offset, bytes, why }) => {
                Some(Error::Rot { segment, offset, bytes, why })
            }
            _ => None,
        }
    }

    /// The verdict per segment, for whoever wants to know more than where the first rot is.
    pub(crate) fn verdicts_so_far(&self) -> Vec<(u64, Verdict)> {
        match self.stage {
            Stage::Done(Outcome::End(end, verdict)) => self.verdicts(end.segment, verdict),
            Stage::Done(Outcome::Rot { segment, offset, bytes, .. }) => {
                self.verdicts(segment, Verdict::Rot { offset, bytes })
            }
            _ => Vec::new(),
        }
    }

    /// How often a start went on behind a torn write.
    pub(crate) fn restarts_cut(&self) -> u64 {
        self.restarts_cut
    }

    fn verdicts(&self, end: u64, verdict: Verdict) -> Vec<(u64, Verdict)> {
        let judge = |(&number, fault): (&u64, &Option<&'static str>)| {
            let judged = if number == end {
                verdict
            } else if number > end {
                Verdict::Unused
            } else if fault.is_some() {
                Verdict::Rot { offset: 0, bytes: PAGE_BYTES }
            } else if number >= self.first_segment {
                Verdict::Intact
            } else {
                return None;
            };
            Some((number, judged))
        };
        self.segments.iter().filter_map(judge).collect()
    }

    fn segment_states(&self, current: u64) -> Vec<(u64, SegmentState)> {
        // More are never prepared in advance; a number far beyond comes from nothing this program did.
        const READY_MAX: u64 = 1024;
        let state = |(&number, fault): (&u64, &Option<&'static str>)| {
            if number <= current {
                Some((number, SegmentState::Used))
            } else if fault.is_none() && number - current <= READY_MAX {
                Some((number, SegmentState::Ready))
            } else {
                None
            }
        };
        self.segments.iter().filter_map(state).collect()
    }

    fn header_fault(&self, segment: u64) -> Option<&'static str> {
        self.segments.get(&segment).copied().flatten()
    }

    fn known_durable(&self) -> Sequence {
        self.superblock.map_or(Sequence(0), |superblock| superblock.durable_upto)
    }

    fn expected_sequence(&self) -> Sequence {
        self.sequence.unwrap_or(Sequence(1))
    }

    fn position(&self) -> Position {
        Position::new(self.segment, self.offset, self.segment_bytes)
    }

    fn read_record(&mut self) -> Step {
        if self.offset == self.segment_bytes {
            return self.broken("the segment is full", Shape::Nothing);
        }
        let on_page = self.offset.is_multiple_of(PAGE_BYTES);
        let bytes = (self.segment_bytes - self.offset).min(RECORD_HEADER_BYTES as u64);
        let head = match self.window.look(self.segment, self.offset, bytes) {
            Look::Wait => return Step::Wait,
            Look::Beyond => return self.broken("the file ends before its segment does", Shape::Nothing),
            Look::At(range) => range,
        };
        if !on_page && self.window.bytes()[head.start..head.start + 8] == [0; 8] {
            return self.skip_padding();
        }
        let shape = if on_page { Shape::Nothing } else { Shape::Begun };
        let Ok(head) = <&[u8; RECORD_HEADER_BYTES]>::try_from(&self.window.bytes()[head]) else {
            return self.broken("a record would span two segments", shape);
        };
        let (header, crc) = match RecordHeader::decode(head, self.position(), &self.identity) {
            Ok(decoded) => decoded,
            Err(fault) => return self.broken(fault.why(), shape),
        };
        if let Err(why) = self.follows(&header) {
            return self.broken(why, shape);
        }
        self.read_payload(header, crc)
    }

    /// The header fits; does the rest?
    fn read_payload(&mut self, header: RecordHeader, crc: u32) -> Step {
        self.boot_seen = self.boot_seen.max(header.boot);
        let bytes = header.record_bytes();
        let all = match self.window.look(self.segment, self.offset, bytes) {
            Look::Wait => return Step::Wait,
            Look::Beyond => return self.broken("a record would not end in its segment", Shape::Headed),
            Look::At(range) => range,
        };
        let payload_at = all.start + RECORD_HEADER_BYTES;
        let payload = payload_at..payload_at + header.payload_bytes as usize;
        let window = self.window.bytes();
        if window[payload.end..all.end].iter().any(|&byte| byte != 0) {
            return self.broken("the bytes behind a payload are not zero", Shape::Headed);
        }
        if crc32c::crc32c(&window[payload.clone()]) != header.payload_crc {
            return self.broken("the checksum of a payload does not match", Shape::Headed);
        }
        // The other segments' header pages are judged when the log goes over to them.
        if self.records == 0
            && let Some(why) = self.header_fault(self.segment)
        {
            return self.rot(self.segment, 0, PAGE_BYTES, why);
        }
        let position = self.position();
        self.offset += bytes;
        self.sequence = Some(header.sequence.next());
        self.previous = Some(crc);
        self.boot = header.boot;
        self.records += 1;
        Step::Found(Found { header, position, payload })
    }

    fn skip_padding(&mut self) -> Step {
        let end = page_ceil(self.offset);
        match self.window.look(self.segment, self.offset, end - self.offset) {
            Look::Wait => Step::Wait,
            Look::Beyond => self.broken("the file ends before its segment does", Shape::Begun),
            Look::At(range) => {
                if self.window.bytes()[range].iter().any(|&byte| byte != 0) {
                    return self.broken("the bytes behind a write are not zero", Shape::Begun);
                }
                self.offset = end;
                Step::Again
            }
        }
    }

    /// Whether a whole header is that of the next record.
    fn follows(&self, header: &RecordHeader) -> Result<(), &'static str> {
        if header.boot < self.boot {
            return Err("what is where a record should be is older than the record before");
        }
        if self.sequence.is_some_and(|sequence| header.sequence != sequence) {
            return Err("a record has another sequence than should follow");
        }
        if self.previous.is_some_and(|previous| header.previous != previous) {
            return Err("a record does not name the one before it");
        }
        if self.boot != 0 && header.boot > self.boot && header.kind != RecordKind::Boot {
            return Err("a record of a later start comes before the start");
        }
        if header.sequence == Sequence(0) || header.durable_upto >= header.sequence || header.boot == 0 {
            return Err("a record says what no record says");
        }
        Ok(())
    }

    #[cold]
    fn broken(&mut self, why: &'static str, shape: Shape) -> Step {
        let cut = Break {
            segment: self.segment,
            offset: self.offset,
            why,
            begun: shape != Shape::Nothing,
            headed: shape == Shape::Headed,
        };
        // Where nothing came before, nothing tells a record in another place from a leftover.
        self.stage = if self.previous.is_some() && self.reach != Reach::OneSegment {
            Stage::Restart(cut)
        } else {
            self.search_from(cut)
        };
        Step::Again
    }

    fn try_restart(&mut self, cut: Break) -> Step {
        let offset = page_ceil(cut.offset);
        if offset == cut.offset || offset == self.segment_bytes {
            self.stage = Stage::Rollover(cut);
            return Step::Again;
        }
        match self.peek(cut.segment, offset) {
            Peek::Wait => return Step::Wait,
            Peek::Header(header) if header.kind == RecordKind::Boot && header.boot > self.boot => {
                if self.follows(&header).is_ok() {
                    self.offset = offset;
                    self.restarts_cut += 1;
                    self.stage = Stage::Records;
                    return Step::Again;
                }
            }
            Peek::Header(_) | Peek::Nothing => {}
        }
        self.stage = Stage::Rollover(cut);
        Step::Again
    }

    fn try_rollover(&mut self, cut: Break) -> Step {
        let next = cut.segment + 1;
        let Some(&fault) = self.segments.get(&next) else {
            self.stage = self.search_from(cut);
            return Step::Again;
        };
        match self.peek(next, SEGMENT_DATA_AT) {
            Peek::Wait => return Step::Wait,
            Peek::Header(header) if self.follows(&header).is_ok() => {
                if let Some(why) = fault {
                    return self.rot(next, 0, PAGE_BYTES, why);
                }
                self.segment = next;
                self.offset = SEGMENT_DATA_AT;
                self.stage = Stage::Records;
                return Step::Again;
            }
            Peek::Header(_) | Peek::Nothing => {}
        }
        self.stage = self.search_from(cut);
        Step::Again
    }

    fn rot(&mut self, segment: u64, offset: u64, bytes: u64, why: &'static str) -> Step {
        self.stage = Stage::Done(Outcome::Rot { segment, offset, bytes, why });
        Step::Again
    }

    /// The header of a record elsewhere than at the cursor, if there is one.
    fn peek(&mut self, segment: u64, offset: u64) -> Peek {
        match self.window.look(segment, offset, RECORD_HEADER_BYTES as u64) {
            Look::Wait => Peek::Wait,
            Look::Beyond => Peek::Nothing,
            Look::At(range) => {
                let position = Position::new(segment, offset, self.segment_bytes);
                let head = <&[u8; RECORD_HEADER_BYTES]>::try_from(&self.window.bytes()[range]);
                let decoded = head.ok().map(|head| RecordHeader::decode(head, position, &self.identity));
                match decoded {
                    Some(Ok((header, _))) => {
                        self.boot_seen = self.boot_seen.max(header.boot);
                        Peek::Header(header)
                    }
                    Some(Err(_)) | None => Peek::Nothing,
                }
            }
        }
    }
}

/// What is where the next record should be.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Shape {
    /// Nothing, or what an earlier life of the segment left.
    Nothing,
    /// Something in the middle of a page of this log.
    Begun,
    /// The record's header, whole.
    Headed,
}

enum Peek {
    Wait,
    Header(RecordHeader),
    Nothing,
}

/// What is wrong with a header page, unless it is so wrong that nothing should be read at all.
fn check_header(options: &LogOptions, file: &SegmentFile) -> Result<Option<&'static str>, Error> {
    if file.number == 0 || file.number > options.segment_number_max() {
        return Err(Error::SegmentNumber { number: file.number });
    }
    match SegmentHeader::decode(&file.header) {
        Ok(header) if header.identity != options.identity => {
            let expected = options.identity;
            Err(Error::Foreign { what: "a segment", found: header.identity, expected })
        }
        Ok(header) if header.segment_bytes != options.segment_bytes => Err(Error::SegmentBytes {
            segment: file.number,
            found: header.segment_bytes,
            configured: options.segment_bytes,
        }),
        Ok(header) if header.number != file.number => Ok(Some("the header page is that of another segment")),
        Ok(_) => Ok(None),
        Err(SegmentHeaderFault::Version(found)) => Err(Error::Version { what: "a segment", found }),
        Err(fault) => Ok(Some(header_why(fault))),
    }
}

#[cfg(test)]
mod tests;
