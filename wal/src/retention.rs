//! Which segments there are, what is live in them, and which may be used again. Part of the log of one shard.
//!
//! A segment goes through: absent → (prepared by the driver) ready → used → recyclable → being prepared under a new
//! number. Numbers only grow. Used again is a segment that lies wholly below the floor (recovery does not need it) and
//! holds no live byte (the owner does not need it): both, always.
//!
//! What is live is the owner's word, through `hold` and `release`. After a start nothing is held until the owner has
//! said so again; nothing is recyclable until it then sets the floor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::words::Position;

/// What the driver has to make ready, under its final name and durably, before it answers `on_segment_ready`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum PrepareSegment {
    /// A new file: zeros all over, then its header page.
    Create { number: u64 },
    /// The file of `from` becomes that of `number`: renamed, with a new header page, the rest as it was.
    Recycle { from: u64, number: u64 },
}

impl PrepareSegment {
    pub fn number(self) -> u64 {
        match self {
            Self::Create { number } | Self::Recycle { from: _, number } => number,
        }
    }
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum SegmentState {
    /// There is no such file. Live bytes may still be counted here while the owner replays: see `lost`.
    Absent,
    /// Prepared, nothing written yet.
    Ready,
    /// Has records of this log: the current one, or one before it.
    Used,
}

#[derive(Copy, Clone, Debug)]
struct Segment {
    state: SegmentState,
    live_bytes: u64,
}

const ABSENT: Segment = Segment { state: SegmentState::Absent, live_bytes: 0 };

#[derive(Debug)]
pub(crate) struct Retention {
    segment_bytes: u64,
    /// How many segments are kept ready beyond the current one.
    ready_target: u64,

    /// Number of `table[0]`.
    first: u64,
    table: VecDeque<Segment>,
    /// The segment that takes the records now. 0: none yet.
    current: u64,
    /// Segments current + 1 ..= current + ready are ready.
    ready: u64,
    present: u64,
    live_bytes: u64,
    floor_segment: u64,
    /// Invariant: exactly the used segments below the floor and below the current one in which nothing is live.
    /// Empty until the floor is set.
    recyclable: BTreeSet<u64>,
    /// Reads under way, by segment. Such a segment keeps its file, whatever else is true of it.
    pins: BTreeMap<u64, u32>,
    preparing: Option<PrepareSegment>,
    /// Somebody reads what was live a while ago: no segment is recycled.
    is_frozen: bool,
    /// Segments from here on may be read by somebody who cannot say which: they are used again only where there is no
    /// space for others.
    kept_from: u64,
    /// There was no space for a new file.
    refused: bool,
}

impl Retention {
    /// `segments`: those that exist, ascending. `current`: 0, or one of them.
    pub(crate) fn new(
        segment_bytes: u64,
        ready_target: u64,
        segments: &[(u64, SegmentState)],
        current: u64,
    ) -> Self {
        assert!(segment_bytes.is_power_of_two());
        assert!(ready_target >= 1);
        let mut retention = Self {
            segment_bytes,
            ready_target,
            first: segments.first().map_or(1, |&(number, _)| number),
            table: VecDeque::new(),
            current,
            ready: 0,
            present: 0,
            live_bytes: 0,
            floor_segment: 0,
            recyclable: BTreeSet::new(),
            pins: BTreeMap::new(),
            preparing: None,
            is_frozen: false,
            kept_from: u64::MAX,
            refused: false,
        };
        for &(number, state) in segments {
            assert!(number >= 1);
            assert!((number <= current) == (state == SegmentState::Used));
            assert!(state != SegmentState::Absent);
            retention.at_mut(number).state = state;
            retention.present += 1;
        }
        retention.count_ready();
        retention.check();
        retention
    }

    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    pub(crate) fn next_is_ready(&self) -> bool {
        self.ready > 0
    }

    /// The next ready segment becomes the current one.
    pub(crate) fn advance(&mut self) -> u64 {
        assert!(self.ready > 0);
        self.current += 1;
        self.ready -= 1;
        let current = self.at_mut(self.current);
        assert!(current.state == SegmentState::Ready);
        current.state = SegmentState::Used;
        self.current
    }

    pub(crate) fn poll_segment(&mut self) -> Option<PrepareSegment> {
        if self.preparing.is_some() || self.ready >= self.ready_target {
            return None;
        }
        let number = self.current + self.ready + 1;
        let kept_from = self.kept_from();
        let is_free =
            |number: &u64| !self.is_frozen && *number < kept_from && !self.pins.contains_key(number);
        let recyclable = self.recyclable.iter().copied().find(is_free);
        let prepare = match recyclable {
            Some(from) => {
                self.recyclable.remove(&from);
                self.at_mut(from).state = SegmentState::Absent;
                self.present -= 1;
                PrepareSegment::Recycle { from, number }
            }
            None if self.refused => return None,
            None => PrepareSegment::Create { number },
        };
        self.preparing = Some(prepare);
        Some(prepare)
    }

    pub(crate) fn on_segment_ready(&mut self, number: u64) {
        let prepare = self.preparing.take().expect("the driver answers what it was asked");
        assert!(prepare.number() == number);
        assert!(number == self.current + self.ready + 1);
        let segment = self.at_mut(number);
        assert!(segment.state == SegmentState::Absent);
        segment.state = SegmentState::Ready;
        self.present += 1;
        self.count_ready();
        self.trim();
    }

    /// No space. A file that was to be recycled is still there under its old name.
    pub(crate) fn on_segment_refused(&mut self, number: u64) {
        let prepare = self.preparing.take().expect("the driver answers what it was asked");
        assert!(prepare.number() == number);
        self.refused = true;
        if let PrepareSegment::Recycle { from, .. } = prepare {
            self.at_mut(from).state = SegmentState::Used;
            self.present += 1;
            self.recyclable.insert(from);
        }
    }

    pub(crate) fn set_frozen(&mut self, is_frozen: bool) {
        self.is_frozen = is_frozen;
    }

    pub(crate) fn keep_from(&mut self, number: u64) {
        self.kept_from = number;
    }

    fn kept_from(&self) -> u64 {
        if self.refused { u64::MAX } else { self.kept_from }
    }

    pub(crate) fn retry(&mut self) {
        self.refused = false;
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn hold(&mut self, number: u64, bytes: u64) {
        assert!(number >= 1);
        assert!(number <= self.current);
        debug_assert!(!self.recyclable.contains(&number));
        self.live_bytes += bytes;
        self.at_mut(number).live_bytes += bytes;
    }

    pub(crate) fn release(&mut self, number: u64, bytes: u64) {
        let floor_segment = self.floor_segment.min(self.current);
        let segment = self.at_mut(number);
        assert!(segment.live_bytes >= bytes);
        segment.live_bytes -= bytes;
        if segment.live_bytes == 0 && segment.state == SegmentState::Used && number < floor_segment {
            self.recyclable.insert(number);
        }
        self.live_bytes -= bytes;
    }

    /// Whether there is a segment of this number that something may lie in.
    pub(crate) fn is_used(&self, number: u64) -> bool {
        self.state(number) == SegmentState::Used
    }

    /// A read begins. Were the segment recycled under it, the read would find no file, or another segment's bytes.
    pub(crate) fn pin(&mut self, number: u64) {
        assert!(self.is_used(number));
        *self.pins.entry(number).or_insert(0) += 1;
    }

    /// A read is over.
    pub(crate) fn unpin(&mut self, number: u64) {
        let pins = self.pins.get_mut(&number).expect("a read ends once");
        *pins -= 1;
        if *pins == 0 {
            self.pins.remove(&number);
        }
    }

    /// Recovery needs everything from here on. The floor never sinks.
    pub(crate) fn set_floor(&mut self, floor: Position) {
        // The end of the current segment is the beginning of one that may not exist.
        let target = floor.segment(self.segment_bytes).min(self.current);
        // The first call after a start looks at everything, the others at what the floor passes.
        let from = self.floor_segment.max(self.first);
        for number in from..target {
            let segment = self.at(number);
            if segment.state == SegmentState::Used && segment.live_bytes == 0 {
                self.recyclable.insert(number);
            }
        }
        self.floor_segment = self.floor_segment.max(target);
    }

    /// Segments worth copying forward, ascending. Nothing unless the disk holds more than twice what is live, and none of which
    /// the file is kept all the same.
    pub(crate) fn sparse(&self, out: &mut Vec<u64>) {
        const SLACK_SEGMENTS: u64 = 4;
        let disk_bytes = self.present * self.segment_bytes;
        if disk_bytes <= 2 * self.live_bytes + SLACK_SEGMENTS * self.segment_bytes {
            return;
        }
        let below = self.floor_segment.min(self.current).min(self.kept_from());
        for number in self.first..below {
            let segment = self.at(number);
            if segment.state == SegmentState::Used
                && segment.live_bytes > 0
                && segment.live_bytes < self.segment_bytes / 2
            {
                out.push(number);
            }
        }
    }

    /// Segments in which the owner holds bytes and which do not exist.
    pub(crate) fn lost(&self, out: &mut Vec<u64>) {
        for (number, segment) in (self.first..).zip(&self.table) {
            if segment.state == SegmentState::Absent && segment.live_bytes > 0 {
                out.push(number);
            }
        }
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.present * self.segment_bytes
    }

    fn state(&self, number: u64) -> SegmentState {
        self.at(number).state
    }

    fn at(&self, number: u64) -> Segment {
        let slot = number.checked_sub(self.first).and_then(|at| self.table.get(at as usize));
        slot.copied().unwrap_or(ABSENT)
    }

    fn at_mut(&mut self, number: u64) -> &mut Segment {
        while number < self.first {
            self.first -= 1;
            self.table.push_front(ABSENT);
        }
        let at = (number - self.first) as usize;
        if at >= self.table.len() {
            self.table.resize(at + 1, ABSENT);
        }
        &mut self.table[at]
    }

    fn count_ready(&mut self) {
        while self.state(self.current + self.ready + 1) == SegmentState::Ready {
            self.ready += 1;
        }
    }

    /// The table begins with a segment that matters, so that it does not grow with the age of the log.
    fn trim(&mut self) {
        while let Some(Segment { state: SegmentState::Absent, live_bytes: 0 }) = self.table.front() {
            self.table.pop_front();
            self.first += 1;
        }
    }

    pub(crate) fn check(&self) {
        let mut present = 0;
        let mut live_bytes = 0;
        for (number, segment) in (self.first..).zip(&self.table) {
            live_bytes += segment.live_bytes;
            if segment.state != SegmentState::Absent {
                present += 1;
            }
            if segment.state == SegmentState::Ready {
                assert!(number > self.current);
            }
            let recyclable = segment.state == SegmentState::Used
                && segment.live_bytes == 0
                && number < self.floor_segment.min(self.current);
            assert!(self.recyclable.contains(&number) == recyclable);
        }
        assert!(present == self.present);
        assert!(live_bytes == self.live_bytes);
        assert!(self.floor_segment <= self.current);
        for &number in self.pins.keys() {
            assert!(self.is_used(number));
        }
        for number in self.current + 1..=self.current + self.ready {
            assert!(self.state(number) == SegmentState::Ready);
        }
    }
}
