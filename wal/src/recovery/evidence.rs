//! What the rest of the log says about a record that is not where it should be.

use std::ops::Bound;

use super::{Break, Outcome, Peek, Reach, Recovery, Search, Stage, Step, Verdict};
use crate::record::RecordHeader;
use crate::segment::SEGMENT_DATA_AT;
use crate::words::{PAGE_BYTES, Position, Sequence, page_ceil};

impl Recovery {
    /// From the next page on: each write begins on one.
    pub(super) fn search_from(&self, cut: Break) -> Stage {
        Stage::Evidence(cut, Search { segment: cut.segment, offset: page_ceil(cut.offset), later: None })
    }

    pub(super) fn search(&mut self, cut: Break, mut search: Search) -> Step {
        loop {
            if search.offset >= self.segment_bytes {
                let after = (Bound::Excluded(search.segment), Bound::Unbounded);
                let next = self.segments.range(after).next().map(|(&number, _)| number);
                let Some(next) = next.filter(|_| self.reach != Reach::OneSegment) else {
                    return self.judge(cut, search.later);
                };
                search.segment = next;
                search.offset = SEGMENT_DATA_AT;
            }
            match self.peek(search.segment, search.offset) {
                Peek::Wait => {
                    self.stage = Stage::Evidence(cut, search);
                    return Step::Wait;
                }
                Peek::Header(header) if self.is_later(&header, cut) => {
                    let here = Position::new(search.segment, search.offset, self.segment_bytes);
                    let later = *search.later.get_or_insert(here);
                    if header.durable_upto >= self.destroyed_sequence(&header) {
                        return self.judge_rot(cut, Some(later));
                    }
                }
                Peek::Header(_) | Peek::Nothing => {}
            }
            search.offset += PAGE_BYTES;
        }
    }

    fn is_later(&self, header: &RecordHeader, cut: Break) -> bool {
        let after = header.sequence > self.expected_sequence();
        // The missing record itself, on the next page: what was taken for it was the padding before it.
        let itself = header.sequence == self.expected_sequence() && cut.begun && !cut.headed;
        header.boot >= self.boot && (after || itself) && header.durable_upto < header.sequence
    }

    /// If everything up to here was durable, then so was what is broken: the expected record, or the padding of the
    /// write before it.
    fn destroyed_sequence(&self, later: &RecordHeader) -> Sequence {
        Sequence(self.expected_sequence().0.min(later.sequence.0 - 1))
    }

    fn judge(&mut self, cut: Break, later: Option<Position>) -> Step {
        let destroyed = match self.reach {
            Reach::Whole => self.known_durable() >= self.expected_sequence(),
            Reach::Rest => self.records > 0 && self.known_durable() >= self.expected_sequence(),
            Reach::OneSegment => later.is_some() || cut.headed,
        };
        if destroyed {
            return self.judge_rot(cut, later);
        }
        // The log begins in segment 1 and leaves it when it is full of records.
        if self.records == 0 && self.first_segment != 1 && self.reach == Reach::Whole {
            let (segment, offset) = (self.first_segment, SEGMENT_DATA_AT);
            let why = "there is no record, though the segments before were used";
            return self.rot(segment, offset, self.segment_bytes - offset, why);
        }
        let verdict = if later.is_some() {
            Verdict::Hole { offset: cut.offset }
        } else if cut.begun {
            Verdict::TornTail { offset: cut.offset }
        } else {
            Verdict::Intact
        };
        self.stage = Stage::Done(Outcome::End(cut, verdict));
        Step::Again
    }

    fn judge_rot(&mut self, cut: Break, later: Option<Position>) -> Step {
        let next = cut.segment + 1;
        let later_segment = later.map(|later| later.segment(self.segment_bytes));
        if !cut.begun && later_segment.is_some_and(|later| later > next) && !self.segments.contains_key(&next)
        {
            return self.rot(next, 0, self.segment_bytes, "the file of the segment is missing");
        }
        // The record was to be here or there, and what follows it is there, not here.
        if let Some(later) = later.filter(|_| !cut.begun && later_segment == Some(next)) {
            let end = later.offset(self.segment_bytes);
            if end > SEGMENT_DATA_AT {
                let why = "no record is where the segment should begin";
                return self.rot(next, SEGMENT_DATA_AT, end - SEGMENT_DATA_AT, why);
            }
        }
        let end = match later {
            Some(later) if later_segment == Some(cut.segment) => later.offset(self.segment_bytes),
            _ => self.segment_bytes,
        };
        // A segment that was full has nothing behind its end: its neighbour's beginning is gone.
        if cut.offset == self.segment_bytes {
            return self.rot(next, 0, self.segment_bytes, "the segment does not continue the one before it");
        }
        self.rot(cut.segment, cut.offset, end - cut.offset, cut.why)
    }
}
