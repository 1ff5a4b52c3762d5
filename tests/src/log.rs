//! A log alone, on a virtual disk: records are appended, written, and lost or kept by crashes; checkpoints move the
//! floor, segments are recycled, what is live is copied forward. The code between log and disk is this file: the part
//! that the shard's runtime plays in the product.
//!
//! After every recovery: everything reported as durable is there; nothing is there that was not written so; what is
//! live can be read. Rot is an error as soon as anything on the disk proves that the rotten bytes were durable.

mod history;
mod owner;

use std::collections::BTreeSet;

use bytes::Bytes;
use ringmain_wal::{
    Error, GroupId, HardState, Identity, Index, Log, LogOptions, LogStart, PAGE_BYTES, Position,
    PrepareSegment, Record, RecordKind, Recovered, Recovery, SegmentFile, Superblock, Term, WriteId,
};

use crate::disk::{Disk, Faults, Flight, Place};
use crate::world::{MICROSECOND, MILLISECOND, Trace, World};
use history::{History, Row, raw_record};
use owner::{Change, Owner};

const PAGE: usize = PAGE_BYTES as usize;
const IDENTITY: Identity = Identity { cluster: 0xC0FF_EE00_0000_0001, node: 3, shard: 1, incarnation: 9 };

/// What the surroundings of the log do wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    Nothing,
    /// A write is reported as durable when it is submitted.
    DurableEarly,
    /// Recovery's end is not taken for the end: one more record is accepted, torn or not.
    TornAccepted,
    /// Records of an earlier life behind the end are accepted: nobody looks at the chain.
    LeftoversAccepted,
    /// Rot is treated like a torn tail: cut off and forgotten.
    RotCut,
    /// Segments may be recycled before the superblock that no longer needs them is durable.
    FloorEarly,
    /// What a record settles is let go before the record is durable.
    ReleasedEarly,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub trace: u64,
    pub records: u64,
    pub durable: u64,
    pub crashes: u64,
    pub cut: u64,
    pub rot: u64,
    pub recycled: u64,
    pub refused: u64,
    pub relocated: u64,
    pub checkpoints: u64,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Work,
    Written { life: u64, flight: Flight, write: WriteId },
    SlotWritten { life: u64, flight: Flight, floor: Position },
    Prepared { life: u64, prepare: PrepareSegment },
    Space,
}

/// A checkpoint record that is not durable yet.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    sequence: u64,
    /// The state it holds is that after this record.
    upto: u64,
}

struct Run {
    world: World<Event>,
    plant: Plant,
    options: LogOptions,
    disk: Disk,
    log: Log,
    owner: Owner,
    history: History,
    report: Report,

    life: u64,
    preparing: Option<PrepareSegment>,
    checkpoint: Option<Checkpoint>,
    /// The newest that was submitted.
    superblock: Option<Superblock>,
    slot_in_flight: bool,
    moving: BTreeSet<u64>,
    next_id: u64,
    crash_one_in: u64,
    rots: bool,
}

/// Some thousand steps of one seed, or the first thing that went wrong.
pub fn run(seed: u64, steps: u64, plant: Plant, trace: Trace) -> Result<Report, String> {
    let mut run = Run::new(seed, plant, trace);
    run.pump();
    run.world.after(0, Event::Work);
    for _ in 0..steps {
        run.step()?;
        run.log.check();
    }
    run.crash()?;
    run.report.trace = run.world.trace.hash();
    run.report.durable = run.history.durable();
    Ok(run.report)
}

impl Run {
    fn new(seed: u64, plant: Plant, trace: Trace) -> Self {
        let mut world = World::new(seed, trace);
        let rng = &mut world.rng;
        let options = LogOptions {
            segment_bytes: 32 << rng.between(10, 12),
            write_bytes_max: 4096 << rng.below(4),
            writes_in_flight_max: rng.between(1, 6) as u32,
            overlap_bytes_min: if rng.one_in(2) { 0 } else { 8192 },
            segments_ready: rng.between(1, 3) as u32,
            cache_bytes_max: 1 << rng.between(12, 18),
            ..LogOptions::new(IDENTITY)
        };
        let mut disk = Disk::new(IDENTITY, options.segment_bytes);
        let rots = rng.one_in(3);
        disk.faults = if rots { Faults::of_a_rotten_disk(rng) } else { Faults::of_a_sound_disk(rng) };
        disk.segments_max = if rng.one_in(2) { usize::MAX } else { rng.between(4, 12) as usize };
        let crash_one_in = 40 << rng.below(6);
        Self {
            world,
            plant,
            disk,
            log: Log::new(options.clone(), LogStart::empty()),
            options,
            owner: Owner::default(),
            history: History::default(),
            report: Report::default(),
            life: 0,
            preparing: None,
            checkpoint: None,
            superblock: None,
            slot_in_flight: false,
            moving: BTreeSet::new(),
            next_id: 1,
            crash_one_in,
            rots,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let event = self.world.advance().expect("work is always planned");
        match event {
            Event::Work => self.work()?,
            Event::Written { life, flight, write } => {
                if life == self.life {
                    self.disk.finish(flight, &mut self.world.rng);
                    if self.plant != Plant::DurableEarly {
                        self.on_written(write);
                    }
                }
            }
            Event::SlotWritten { life, flight, floor } => {
                if life == self.life {
                    self.disk.finish(flight, &mut self.world.rng);
                    self.slot_in_flight = false;
                    self.report.checkpoints += 1;
                    self.log.set_floor(floor);
                }
            }
            Event::Prepared { life, prepare } => {
                if life == self.life {
                    self.on_prepared(prepare);
                }
            }
            Event::Space => self.log.retry_segments(),
        }
        self.pump();
        Ok(())
    }

    fn work(&mut self) -> Result<(), String> {
        let pause = self.world.rng.skewed(200) * MICROSECOND;
        self.world.after(pause, Event::Work);
        if self.world.rng.one_in(self.crash_one_in) {
            return self.crash();
        }
        match self.world.rng.below(40) {
            0 => self.take_checkpoint(),
            1 => self.copy_forward()?,
            2 => _ = self.log.vouch(),
            3..=6 => self.read_back()?,
            7 if self.rots && self.world.rng.one_in(10) => {
                if let Some((_, offset)) = self.disk.rot(&mut self.world.rng) {
                    self.world.note("rot", &[offset as u64]);
                }
            }
            _ => (0..self.world.rng.skewed(12)).for_each(|_| self.append_entry()),
        }
        Ok(())
    }

    /// Some messages are large, most are small, many are settled soon, some never.
    fn append_entry(&mut self) {
        let rng = &mut self.world.rng;
        let bytes_max = self.options.payload_bytes_max().min(60_000);
        let bytes = if rng.one_in(60) { rng.between(1, bytes_max) } else { rng.skewed(3000) };
        let settled = self.owner.settle_some(rng);
        let mut payload = owner::entry(self.next_id, &settled);
        let head = payload.len();
        payload.resize(head.max(bytes as usize), 0);
        rng.fill(&mut payload[head..]);
        if payload.len() as u64 > self.options.payload_bytes_max() || !self.log.room(payload.len() as u64) {
            self.owner.unsettle(&settled);
            return;
        }
        self.next_id += 1;
        self.append(RecordKind::Entry, payload);
        if self.plant == Plant::ReleasedEarly {
            for id in settled {
                if let Some(live) = self.owner.let_go(id) {
                    self.log.release(live.position, live.bytes);
                }
            }
        }
    }

    fn append(&mut self, kind: RecordKind, payload: Vec<u8>) -> u64 {
        let payload = Bytes::from(payload);
        let number = self.world.rng.draw();
        let record = Record {
            group: GroupId((number % 3) as u32),
            kind,
            tag: number as u16,
            term: Term(number % 7),
            index: Index(number % 1000),
            hard_state: HardState { term: number % 5, vote: number % 4, commit: number % 999 },
            payload: payload.clone(),
        };
        let appended = self.log.append(record);
        self.history.appended(appended.sequence.0, appended.payload, payload);
        self.report.records += 1;
        appended.sequence.0
    }

    /// Everything the log wants done now.
    fn pump(&mut self) {
        while self.preparing.is_none()
            && let Some(prepare) = self.log.poll_segment()
        {
            if self.disk.has_space(prepare) {
                self.preparing = Some(prepare);
                let delay = self.world.rng.between(50, 3_000) * MICROSECOND;
                self.world.after(delay, Event::Prepared { life: self.life, prepare });
            } else {
                self.report.refused += 1;
                self.log.on_segment_refused(prepare.number());
                self.world.after(20 * MILLISECOND, Event::Space);
            }
        }
        while let Some(bytes) = self.log.next_write_bytes() {
            let mut page = vec![0xEE; bytes + PAGE];
            let at = self.log.poll_write(&mut page).expect("there is a write of that many bytes");
            assert_eq!(at.bytes, bytes);
            page.truncate(bytes);
            self.history.polled(Position::new(at.segment, at.offset, self.options.segment_bytes), &page);
            self.world.note("write", &[at.segment, at.offset, u64::from(crc32c::crc32c(&page))]);
            let place = Place::Segment(at.segment);
            let (flight, delay) = self.disk.submit(place, at.offset, page, &mut self.world.rng);
            if let Some(delay) = delay {
                self.world.after(delay, Event::Written { life: self.life, flight, write: at.id });
            }
            if self.plant == Plant::DurableEarly {
                self.on_written(at.id);
            }
        }
    }

    fn on_written(&mut self, write: WriteId) {
        let durable = self.log.on_written(write).0;
        self.world.note("durable", &[durable]);
        self.history.on_durable(durable);
        for sequence in self.owner.applied() + 1..=durable {
            let (position, payload) = self.history.content(sequence);
            for change in self.owner.apply(sequence, self.history.kind(sequence), position, &payload) {
                self.carry_out(change);
            }
        }
        self.write_superblock();
    }

    fn carry_out(&mut self, change: Change) {
        match change {
            Change::Hold(live) => self.log.hold(live.position, live.bytes),
            Change::Release(live) => self.log.release(live.position, live.bytes),
        }
    }

    fn on_prepared(&mut self, prepare: PrepareSegment) {
        self.world.note("segment", &[prepare.number()]);
        self.report.recycled += u64::from(matches!(prepare, PrepareSegment::Recycle { .. }));
        self.disk.prepare(prepare);
        self.preparing = None;
        self.log.on_segment_ready(prepare.number());
    }

    fn take_checkpoint(&mut self) {
        let payload = self.owner.image();
        if self.checkpoint.is_some() || self.slot_in_flight || !self.log.room(payload.len() as u64) {
            return;
        }
        let upto = self.owner.applied();
        let sequence = self.append(RecordKind::Checkpoint, payload);
        self.checkpoint = Some(Checkpoint { sequence, upto });
    }

    /// Once the checkpoint's record is durable, recovery may begin behind what it stands for.
    fn write_superblock(&mut self) {
        let Some(checkpoint) = self.checkpoint.take_if(|one| one.sequence <= self.history.durable()) else {
            return;
        };
        let first = checkpoint.upto + 1;
        let floor = self.history.position(first);
        let superblock = Superblock {
            identity: IDENTITY,
            boot: self.log.boot(),
            counter: self.superblock.map_or(0, |superblock| superblock.counter) + 1,
            checkpoint: floor,
            sequence: ringmain_wal::Sequence(first),
            durable_upto: self.log.durable_upto(),
        };
        let mut page = vec![0; PAGE];
        superblock.encode(&mut page);
        self.world.note("superblock", &[superblock.counter, first]);
        let (flight, delay) = self.disk.submit(Place::Slot(superblock.slot()), 0, page, &mut self.world.rng);
        self.superblock = Some(superblock);
        self.slot_in_flight = true;
        if let Some(delay) = delay {
            self.world.after(delay, Event::SlotWritten { life: self.life, flight, floor });
        }
        if self.plant == Plant::FloorEarly {
            self.log.set_floor(floor);
        }
    }

    /// What is live in a sparse segment is written again at the end of the log.
    fn copy_forward(&mut self) -> Result<(), String> {
        let mut sparse = Vec::new();
        self.log.sparse_segments(&mut sparse);
        let Some(&segment) = sparse.first() else { return Ok(()) };
        for (id, live) in self.owner.live_in(segment, self.options.segment_bytes) {
            let Some(payload) = self.read(live)? else { continue };
            if self.log.room(payload.len() as u64) && self.moving.insert(id) {
                self.report.relocated += 1;
                self.append(RecordKind::Relocation, payload);
            }
        }
        Ok(())
    }

    fn read_back(&mut self) -> Result<(), String> {
        let Some(live) = self.owner.any(&mut self.world.rng) else { return Ok(()) };
        if let Some(payload) = self.read(live)? {
            self.log.on_page_read(live.position, Bytes::from(payload));
        }
        Ok(())
    }

    /// Nothing, if the disk has harmed it: the checksum in its record tells, so it is never served.
    fn read(&mut self, live: owner::Live) -> Result<Option<Vec<u8>>, String> {
        let bytes = live.bytes as usize;
        if let Some(cached) = self.log.read(live.position, bytes) {
            let found = crc32c::crc32c(cached);
            return if found == live.checksum {
                Ok(Some(cached.to_vec()))
            } else {
                Err(format!("the cache serves other bytes than were written at {:?}", live.position))
            };
        }
        let (segment, offset) = self.place(live.position);
        let range = offset..offset + bytes;
        let found = self.disk.read(Place::Segment(segment), range.clone());
        if crc32c::crc32c(found) == live.checksum && found.len() == bytes {
            return Ok(Some(found.to_vec()));
        }
        if self.disk.is_harmed_in(Place::Segment(segment), range)
            && self.disk.segments().any(|one| one == segment)
        {
            self.report.rot += 1;
            self.disk.heal();
            return Ok(None);
        }
        Err(format!("live bytes at {:?} are not there any more", live.position))
    }

    fn place(&self, position: Position) -> (u64, usize) {
        (position.segment(self.options.segment_bytes), position.offset(self.options.segment_bytes) as usize)
    }

    fn crash(&mut self) -> Result<(), String> {
        self.life += 1;
        self.report.crashes += 1;
        self.world.note("crash", &[self.history.durable()]);
        self.disk.crash(&mut self.world.rng);
        if let Some(prepare) = self.preparing.take() {
            match self.world.rng.below(3) {
                0 => self.disk.prepare(prepare),
                1 => self.disk.prepare_interrupted(prepare),
                _ => {}
            }
        }
        self.checkpoint = None;
        self.slot_in_flight = false;
        self.moving.clear();
        let proof =
            |run: &Self| run.history.proven_harm(&run.disk, run.options.segment_bytes, run.superblock);
        let (mut proven, mut wiped) = (proof(self), false);
        loop {
            match self.recover() {
                Ok((recovered, rows)) => return self.restart(recovered, &rows, proven),
                Err(Error::Rot { segment, offset, .. }) if self.plant == Plant::RotCut && !wiped => {
                    wiped = true;
                    self.disk.wipe(segment, offset.max(PAGE_BYTES));
                }
                Err(_) if self.disk.is_harmed() => {
                    self.report.rot += 1;
                    self.world.note("rot found", &[]);
                    self.disk.heal();
                    proven = proof(self);
                }
                Err(error) => return Err(format!("a sound log is refused: {error}")),
            }
        }
    }

    fn recover(&mut self) -> Result<(Recovered, Vec<Row>), Error> {
        let header =
            |number| SegmentFile { number, header: self.disk.read(Place::Segment(number), 0..PAGE).to_vec() };
        let segments = self.disk.segments().map(header).collect();
        let slots = [Place::Slot(0), Place::Slot(1)].map(|slot| self.disk.read(slot, 0..PAGE));
        let mut recovery = Recovery::new(&self.options, slots, segments)?;
        let mut rows = Vec::new();
        while let Some(read) = recovery.poll_read() {
            let from = read.offset as usize;
            recovery.on_read(self.disk.read(Place::Segment(read.segment), from..from + read.bytes));
            while let Some(view) = recovery.next_record() {
                rows.push(Row {
                    sequence: view.header.sequence.0,
                    kind: view.header.kind as u8,
                    position: view.position,
                    payload_position: view.payload_position,
                    payload: Bytes::copy_from_slice(view.payload),
                });
            }
        }
        let recovered = recovery.finish()?;
        match self.plant {
            Plant::TornAccepted => self.accept_behind_the_end(&mut rows, 8),
            Plant::LeftoversAccepted => self.accept_behind_the_end(&mut rows, PAGE_BYTES),
            _ => {}
        }
        Ok((recovered, rows))
    }

    /// Only ever planted: whatever looks like the next record at the next multiple of `step` is taken for it.
    fn accept_behind_the_end(&self, rows: &mut Vec<Row>, step: u64) {
        let Some(last) = rows.last() else { return };
        let end = last.payload_position.advance(last.payload.len() as u64).0.next_multiple_of(step);
        let (segment, offset) = self.place(Position(end));
        let rest = self.disk.read(Place::Segment(segment), offset..usize::MAX);
        if let Some(row) = raw_record(Position(end), rest).filter(|row| row.sequence == last.sequence + 1) {
            rows.push(row);
        }
    }

    /// `proven`: the first durable record that was harmed, if anything on the disk proves that it was durable.
    fn restart(&mut self, recovered: Recovered, rows: &[Row], proven: Option<u64>) -> Result<(), String> {
        let last = recovered.start.last_sequence().0;
        let harmed = self.history.first_harmed(&self.disk, self.options.segment_bytes);
        if let Some(proven) = proven {
            return Err(format!("record {proven} is rotten, which can be seen, and recovery ends at {last}"));
        }
        self.history.judge(rows, last, harmed)?;
        self.report.cut += self.history.cut(last);
        self.world.note("recovered", &[last, rows.len() as u64]);
        self.owner = Owner::restored(rows)?;
        let expected = self.history.replay();
        if self.owner.applied() != last || !self.owner.has_the_state_of(&expected) {
            return Err(format!("the state after record {last} is another one than before the crash"));
        }
        self.superblock = recovered.superblock;
        self.log = Log::new(self.options.clone(), recovered.start);
        for live in self.owner.live() {
            self.log.hold(live.position, live.bytes);
        }
        let mut lost = Vec::new();
        self.log.lost_segments(&mut lost);
        if let Some(lost) = lost.first() {
            return Err(format!("segment {lost} is gone, and something in it is live"));
        }
        self.settle(rows.last());
        for live in self.owner.live() {
            self.read(live)?;
        }
        self.log.set_floor(recovered.superblock.map_or(Position(0), |superblock| superblock.checkpoint));
        self.log.check();
        Ok(())
    }

    /// The bytes behind the last record are free to be written again.
    fn settle(&mut self, last: Option<&Row>) {
        let Some(last) = last else { return self.disk.settle(0, 0) };
        let end = last.payload_position.advance(last.payload.len() as u64).0.next_multiple_of(PAGE_BYTES);
        // The end of a segment is the beginning of the next.
        let (segment, offset) = self.place(Position(end));
        self.disk.settle(segment, offset as u64);
    }
}

#[cfg(test)]
mod tests;
