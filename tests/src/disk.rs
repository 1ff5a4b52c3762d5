//! The disk of one shard, in memory: segment files and the two slots of the superblock.
//!
//! A write is on its way for a while and may finish after a later one. What a crash leaves of it is drawn sector by
//! sector. Beside what is there, the disk knows what an honest disk would have: `honest` holds every write that was
//! reported as done. Where the two differ on such a page the disk has harmed durable bytes, and only there.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use ringmain_wal::{Identity, PAGE_BYTES, PrepareSegment, SegmentHeader};

use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND};

const PAGE: usize = PAGE_BYTES as usize;
/// What a drive writes wholly or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    Segment(u64),
    Slot(u64),
}

impl Place {
    pub fn number(self) -> u64 {
        match self {
            Self::Segment(number) | Self::Slot(number) => number,
        }
    }
}

/// How often the disk does what it should not, each in a million writes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// A hundred times as long as usual.
    pub slow: u64,
    /// Never reported as done; a crash may find any part of it.
    pub stuck: u64,
    /// Never reported as done, and nothing of it is ever there.
    pub lost: u64,
    /// Reported as done, but nothing is there.
    pub phantom: u64,
    /// Reported as done, but it went to another page.
    pub misdirected: u64,
    /// One bit is wrong.
    pub flipped: u64,
}

impl Faults {
    pub fn none() -> Self {
        Self::default()
    }

    /// Only what a sound disk does as well.
    pub fn of_a_sound_disk(rng: &mut Rng) -> Self {
        let drawn = |rng: &mut Rng| if rng.one_in(2) { 0 } else { rng.skewed(20_000) };
        Self { slow: drawn(rng), stuck: drawn(rng) / 8, lost: drawn(rng) / 8, ..Self::none() }
    }

    pub fn of_a_rotten_disk(rng: &mut Rng) -> Self {
        let drawn = |rng: &mut Rng| if rng.one_in(2) { 0 } else { rng.skewed(10_000) };
        let sound = Self::of_a_sound_disk(rng);
        Self { phantom: drawn(rng), misdirected: drawn(rng), flipped: drawn(rng), ..sound }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Flight(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Stored,
    Stuck,
    Lost,
    Phantom,
    Misdirected,
    Flipped,
}

#[derive(Clone, Debug)]
struct Write {
    place: Place,
    offset: usize,
    bytes: Vec<u8>,
    fate: Fate,
}

#[derive(Clone, Debug)]
struct File {
    actual: Vec<u8>,
    honest: Vec<u8>,
    /// Pages whose last write was reported as done.
    done: Vec<bool>,
}

impl File {
    fn new(bytes: Vec<u8>) -> Self {
        assert!(bytes.len().is_multiple_of(PAGE));
        let done = vec![false; bytes.len() / PAGE];
        Self { honest: bytes.clone(), actual: bytes, done }
    }

    fn harmed_pages(&self) -> impl Iterator<Item = usize> {
        (0..self.done.len()).filter(|&page| {
            let range = page * PAGE..(page + 1) * PAGE;
            self.done[page] && self.actual[range.clone()] != self.honest[range]
        })
    }
}

#[derive(Clone, Debug)]
pub struct Disk {
    identity: Identity,
    segment_bytes: usize,
    pub faults: Faults,
    /// There is no space for more segments than this.
    pub segments_max: usize,

    files: BTreeMap<Place, File>,
    writes: BTreeMap<Flight, Write>,
    next_flight: u64,
}

impl Disk {
    pub fn new(identity: Identity, segment_bytes: u64) -> Self {
        let slots = [Place::Slot(0), Place::Slot(1)].map(|slot| (slot, File::new(vec![0; PAGE])));
        Self {
            identity,
            segment_bytes: segment_bytes as usize,
            faults: Faults::none(),
            segments_max: usize::MAX,
            files: slots.into_iter().collect(),
            writes: BTreeMap::new(),
            next_flight: 0,
        }
    }

    pub fn segments(&self) -> impl Iterator<Item = u64> {
        self.files.keys().filter_map(|place| match place {
            Place::Segment(number) => Some(*number),
            Place::Slot(_) => None,
        })
    }

    pub fn writes_in_flight(&self) -> usize {
        self.writes.len()
    }

    /// What is there; fewer bytes where the file ends or is missing.
    pub fn read(&self, place: Place, range: Range<usize>) -> &[u8] {
        let Some(file) = self.files.get(&place) else { return &[] };
        let end = range.end.min(file.actual.len());
        &file.actual[range.start.min(end)..end]
    }

    /// Whole pages to a page. Answers how long it takes, or nothing if it never ends.
    pub fn submit(
        &mut self,
        place: Place,
        offset: u64,
        bytes: Vec<u8>,
        rng: &mut Rng,
    ) -> (Flight, Option<u64>) {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(PAGE));
        assert!(bytes.len().is_multiple_of(PAGE));
        assert!(!bytes.is_empty());
        let file = self.files.get(&place).expect("a write goes to a file that is there");
        assert!(offset + bytes.len() <= file.actual.len(), "a write beyond the end of its file");
        if let Place::Segment(number) = place {
            let pages = offset / PAGE..(offset + bytes.len()) / PAGE;
            assert!(
                !file.done[pages].contains(&true),
                "segment {number}: a durable page is written again at {offset}"
            );
        }
        let fate = self.draw_fate(rng);
        let usual = rng.between(10, 60) * MICROSECOND;
        let delay = if rng.per_million(self.faults.slow) { rng.between(1, 100) * MILLISECOND } else { usual };
        let flight = Flight(self.next_flight);
        self.next_flight += 1;
        self.writes.insert(flight, Write { place, offset, bytes, fate });
        (flight, (!matches!(fate, Fate::Stuck | Fate::Lost)).then_some(delay))
    }

    /// It is reported as done.
    pub fn finish(&mut self, flight: Flight, rng: &mut Rng) {
        let write = self.writes.remove(&flight).expect("a write ends once");
        let file = self.files.get_mut(&write.place).expect("files with writes in flight stay");
        let range = write.offset..write.offset + write.bytes.len();
        file.honest[range.clone()].copy_from_slice(&write.bytes);
        file.done[write.offset / PAGE..range.end / PAGE].fill(true);
        match write.fate {
            Fate::Stored => file.actual[range].copy_from_slice(&write.bytes),
            Fate::Flipped => {
                file.actual[range.clone()].copy_from_slice(&write.bytes);
                let byte = range.start + rng.below(write.bytes.len() as u64) as usize;
                file.actual[byte] ^= 1 << rng.below(8);
            }
            Fate::Misdirected => self.store_elsewhere(&write.bytes, rng),
            Fate::Phantom => {}
            Fate::Stuck | Fate::Lost => unreachable!("a write that never ends has ended"),
        }
    }

    /// Whether a segment can be made. What is recycled needs no space.
    pub fn has_space(&self, prepare: PrepareSegment) -> bool {
        match prepare {
            PrepareSegment::Create { .. } => self.segments().count() < self.segments_max,
            PrepareSegment::Recycle { .. } => true,
        }
    }

    pub fn prepare(&mut self, prepare: PrepareSegment) {
        let number = prepare.number();
        let mut bytes = match prepare {
            PrepareSegment::Create { .. } => vec![0; self.segment_bytes],
            PrepareSegment::Recycle { from, .. } => {
                self.files.remove(&Place::Segment(from)).expect("what is recycled is there").actual
            }
        };
        let segment_bytes = self.segment_bytes as u64;
        SegmentHeader { number, segment_bytes, identity: self.identity }.encode(&mut bytes[..PAGE]);
        let mut file = File::new(bytes);
        file.done[0] = true;
        // A file that was prepared before a crash is taken as it is, unless its header page was harmed since.
        let before = self.files.insert(Place::Segment(number), file);
        let replaceable = before.is_none_or(|before| before.actual[..PAGE] != before.honest[..PAGE]);
        assert!(replaceable, "segment {number} was there already");
    }

    /// The file that was to be recycled has lost its old name and not got the new one.
    pub fn prepare_interrupted(&mut self, prepare: PrepareSegment) {
        if let PrepareSegment::Recycle { from, .. } = prepare {
            self.files.remove(&Place::Segment(from));
        }
    }

    /// Nothing of what is on its way will ever be there.
    pub fn lose_writes(&mut self) {
        self.writes.values_mut().for_each(|write| write.fate = Fate::Lost);
    }

    /// Of every write on its way, whatever part of it reached the disk.
    pub fn crash(&mut self, rng: &mut Rng) {
        for write in std::mem::take(&mut self.writes).into_values() {
            if write.fate == Fate::Lost {
                continue;
            }
            let all = rng.one_in(4);
            for (page, bytes) in write.bytes.chunks(PAGE).enumerate() {
                let at = write.offset + page * PAGE;
                // A page is there, is not, or is torn.
                let kind = if all { 0 } else { rng.below(3) };
                let file = self.files.get_mut(&write.place).expect("files with writes in flight stay");
                for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                    if kind == 0 || (kind == 1 && rng.one_in(2)) {
                        let at = at + sector * SECTOR;
                        file.actual[at..at + SECTOR].copy_from_slice(bytes);
                    }
                }
                if matches!(write.place, Place::Slot(_)) {
                    // What the slot held before is gone, and nobody was told of what it holds now.
                    file.done[0] = false;
                }
            }
        }
    }

    /// A bit of a durable page changes while nobody looks.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<(Place, usize)> {
        let done: Vec<(Place, usize)> = self
            .files
            .iter()
            .flat_map(|(place, file)| {
                (0..file.done.len()).filter(|&page| file.done[page]).map(|page| (*place, page))
            })
            .collect();
        if done.is_empty() {
            return None;
        }
        let (place, page) = *rng.pick(&done);
        let offset = page * PAGE + rng.below(PAGE_BYTES) as usize;
        let file = self.files.get_mut(&place).expect("it was just seen");
        file.actual[offset] ^= 1 << rng.below(8);
        Some((place, offset))
    }

    /// A log was recovered that ends here. What lies before is durable now, whether it was reported as done or only
    /// survived; what lies behind is no longer wanted. The header page of a segment stays.
    pub fn settle(&mut self, segment: u64, offset: u64) {
        for (place, file) in &mut self.files {
            let Place::Segment(number) = *place else {
                // Whichever superblock it was, the next one follows it.
                file.honest.clone_from(&file.actual);
                continue;
            };
            let end = match number.cmp(&segment) {
                Ordering::Less => file.done.len(),
                Ordering::Equal => offset as usize / PAGE,
                Ordering::Greater => 0,
            };
            for page in 1..file.done.len() {
                let bytes = page * PAGE..(page + 1) * PAGE;
                // What is cut off may begin on the last page before the end: its bytes are past healing.
                if page < end && (!file.done[page] || (number == segment && page + 1 == end)) {
                    file.honest[bytes.clone()].copy_from_slice(&file.actual[bytes]);
                }
                file.done[page] = page < end;
            }
        }
    }

    /// Zeros from here on, as if nothing had been there: what a careless repair does.
    pub fn wipe(&mut self, segment: u64, offset: u64) {
        for (place, file) in &mut self.files {
            let Place::Segment(number) = *place else { continue };
            if number >= segment {
                let from = if number == segment { offset as usize } else { PAGE };
                file.actual[from..].fill(0);
            }
        }
    }

    pub fn is_harmed(&self) -> bool {
        self.files.values().any(|file| file.harmed_pages().next().is_some())
    }

    /// Whether a durable byte of this range is not what it was.
    pub fn is_harmed_in(&self, place: Place, range: Range<usize>) -> bool {
        let Some(file) = self.files.get(&place) else { return true };
        file.harmed_pages().any(|page| {
            let common = range.start.max(page * PAGE)..range.end.min((page + 1) * PAGE);
            !common.is_empty() && file.actual[common.clone()] != file.honest[common]
        })
    }

    /// What an honest disk would hold now.
    pub fn heal(&mut self) {
        for file in self.files.values_mut() {
            let harmed: Vec<usize> = file.harmed_pages().collect();
            for page in harmed {
                let range = page * PAGE..(page + 1) * PAGE;
                file.actual[range.clone()].copy_from_slice(&file.honest[range]);
            }
        }
        assert!(!self.is_harmed());
    }

    fn draw_fate(&self, rng: &mut Rng) -> Fate {
        let faults = [
            (self.faults.stuck, Fate::Stuck),
            (self.faults.lost, Fate::Lost),
            (self.faults.phantom, Fate::Phantom),
            (self.faults.misdirected, Fate::Misdirected),
            (self.faults.flipped, Fate::Flipped),
        ];
        let drawn = faults.into_iter().find(|(chance, _)| rng.per_million(*chance));
        drawn.map_or(Fate::Stored, |(_, fate)| fate)
    }

    fn store_elsewhere(&mut self, bytes: &[u8], rng: &mut Rng) {
        let segments: Vec<u64> = self.segments().collect();
        if segments.is_empty() {
            return;
        }
        let Some(file) = self.files.get_mut(&Place::Segment(*rng.pick(&segments))) else { return };
        let pages = (file.actual.len() - bytes.len()) / PAGE;
        let at = rng.below(pages as u64 + 1) as usize * PAGE;
        file.actual[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
