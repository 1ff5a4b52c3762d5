//! The shard and its disk: what the runtime does in the product, with virtual devices.

use bytes::Bytes;
use ringmain_core::boot::Replay;
use ringmain_core::failure::Failure;
use ringmain_core::shard::{Input, Output, Shard, ShardOptions};
use ringmain_wal::{
    Error, GroupId, HardState, Index, PAGE_BYTES, Position, PrepareSegment, RECORD_HEADER_BYTES,
    RecordHeader, RecordKind, RecordView, Recovery, SegmentFile, Sequence, Term, WriteId,
};

use super::{Event, Plant, Run, SEGMENT_BYTES};
use crate::disk::{Disk, Flight, Place};
use crate::world::{MICROSECOND, MILLISECOND, SECOND};

const PAGE: usize = PAGE_BYTES as usize;

/// What a disk holds, up and running.
pub(super) struct Booted {
    pub(super) shard: Shard,
    pub(super) last: Sequence,
    /// Behind the last record.
    pub(super) end: Option<Position>,
    pub(super) relocations: u64,
}

/// Reads the log back and replays it, as the product does.
pub(super) fn boot(disk: &Disk, options: &ShardOptions, plant: Plant) -> Result<Booted, Failure> {
    let header = |number| SegmentFile { number, header: disk.read(Place::Segment(number), 0..PAGE).to_vec() };
    let slots = [Place::Slot(0), Place::Slot(1)].map(|slot| disk.read(slot, 0..PAGE));
    let mut recovery = Recovery::new(&options.log, slots, disk.segments().map(header).collect())?;
    let mut replay = Replay::new(options.clone());
    let (mut end, mut relocations, mut last) = (None, 0, None);
    while let Some(read) = recovery.poll_read() {
        let from = read.offset as usize;
        recovery.on_read(disk.read(Place::Segment(read.segment), from..from + read.bytes));
        while let Some(record) = recovery.next_record() {
            replay.on_record(&record)?;
            end = Some(record.payload_position.advance(record.payload.len() as u64));
            relocations += u64::from(record.header.kind == RecordKind::Relocation);
            last = Some(record.header.clone());
        }
    }
    let recovered = recovery.finish()?;
    if let (Plant::TornAccepted, Some(end), Some(last)) = (plant, end, last) {
        accept_torn(disk, end, &last, &mut replay)?;
    }
    let last = recovered.start.last_sequence();
    Ok(Booted { shard: replay.finish(recovered)?, last, end, relocations })
}

/// Only ever planted: what stands where the next record would be is taken for it, whatever its checksums say.
fn accept_torn(disk: &Disk, end: Position, last: &RecordHeader, replay: &mut Replay) -> Result<(), Failure> {
    for step in [8, PAGE_BYTES] {
        let position = Position(end.0.next_multiple_of(step));
        let (segment, offset) = place(position);
        let rest = disk.read(Place::Segment(segment), offset..SEGMENT_BYTES as usize);
        let Some(bytes) = rest.get(..RECORD_HEADER_BYTES) else { continue };
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let payload_bytes = (number(8) >> 32) as usize;
        let Some(payload) = rest[RECORD_HEADER_BYTES..].get(..payload_bytes) else { continue };
        if number(16) != last.sequence.0 + 1 || bytes[5] != RecordKind::Entry as u8 {
            continue;
        }
        let header = RecordHeader {
            kind: RecordKind::Entry,
            tag: 0,
            payload_bytes: payload_bytes as u32,
            sequence: Sequence(number(16)),
            group: GroupId(0),
            term: Term(number(64)),
            index: Index(number(72)),
            hard_state: HardState { commit: number(72), ..last.hard_state },
            ..last.clone()
        };
        let payload_position = position.advance(RECORD_HEADER_BYTES as u64);
        return replay.on_record(&RecordView { header: &header, position, payload, payload_position });
    }
    Ok(())
}

fn place(position: Position) -> (u64, usize) {
    (position.segment(SEGMENT_BYTES), position.offset(SEGMENT_BYTES) as usize)
}

impl Run {
    /// One step of the shard, and what came of it. A turn follows, as in the product.
    pub(super) fn input(&mut self, input: Input<'_>) -> Result<(usize, bool), String> {
        if !matches!(input, Input::Turn) {
            self.plan_turn();
        }
        let now = self.now();
        let mut output = std::mem::take(&mut self.output);
        self.shard.step(now, input, &mut output);
        self.shard.check();
        let received = (output.consumed, output.is_paused);
        let carried = self.carry(&mut output);
        output.clear();
        self.output = output;
        carried.map(|()| received)
    }

    pub(super) fn plan_turn(&mut self) {
        if !self.turn_planned {
            self.turn_planned = true;
            let delay = self.world.rng.skewed(4) * MICROSECOND;
            self.world.after(delay, Event::Turn { life: self.life });
        }
    }

    pub(super) fn turn(&mut self) -> Result<(), String> {
        let life = self.life;
        self.turn_planned = false;
        self.tap.checker.turned(self.now().0);
        self.input(Input::Turn)?;
        if life != self.life {
            return Ok(());
        }
        self.submit_writes()?;
        let next = self.shard.next_deadline().map(|deadline| deadline.0);
        if let Some(next) = next
            && self.deadline_planned.is_none_or(|planned| next < planned)
        {
            self.deadline_planned = Some(next);
            self.world.after(next.saturating_sub(self.now().0).max(1), Event::Deadline { life });
        }
        let is_idle = self.disk.writes_in_flight() == 0 && self.preparing.is_none() && !self.is_refused;
        if is_idle && !self.turn_planned && next.is_none_or(|next| next > self.now().0) {
            self.tap.checker.quiet();
        }
        Ok(())
    }

    fn carry(&mut self, output: &mut Output) -> Result<(), String> {
        if let Some(failure) = output.failure.take() {
            return self.fail(&failure);
        }
        for connection in output.resumes.drain(..) {
            self.resume(connection);
        }
        for window in output.reads.drain(..) {
            self.report.reads += 1;
            let delay = self.world.rng.skewed(400) * MICROSECOND;
            let (position, bytes) = (window.position, window.bytes);
            self.world.after(delay, Event::Read { life: self.life, position, bytes });
        }
        self.segments.extend(output.segments.drain(..));
        self.prepare_next();
        if let Some(superblock) = output.superblock.take() {
            let mut page = vec![0; PAGE];
            superblock.encode(&mut page);
            self.world.note("superblock", &[superblock.counter, superblock.checkpoint.0]);
            let slot = Place::Slot(superblock.slot());
            let (flight, delay) = self.disk.submit(slot, 0, page, &mut self.world.rng);
            if let Some(delay) = delay {
                let delay = if self.plant == Plant::FloorEarly { delay + SECOND } else { delay };
                self.world.after(delay, Event::SlotWritten { life: self.life, flight });
            }
            if self.plant == Plant::FloorEarly {
                self.report.checkpoints += 1;
                self.input_nested(Input::SuperblockWritten)?;
            }
        }
        let sends: Vec<_> = output.sends.drain(..).collect();
        sends.into_iter().try_for_each(|connection| self.take(connection.0))?;
        let closes: Vec<_> = output.closes.drain(..).collect();
        closes.into_iter().for_each(|connection| self.close(connection.0));
        let cuts: Vec<_> = output.cuts.drain(..).collect();
        cuts.into_iter().for_each(|connection| self.close(connection.0));
        self.hear_flushed()?;
        if output.is_unfinished {
            self.plan_turn();
        }
        if output.is_stopped {
            self.report.stops += 1;
            return self.crash();
        }
        Ok(())
    }

    /// While the output of another step is being carried out.
    fn input_nested(&mut self, input: Input<'_>) -> Result<(), String> {
        let (now, mut output) = (self.now(), Output::default());
        self.shard.step(now, input, &mut output);
        self.plan_turn();
        self.carry(&mut output)
    }

    fn submit_writes(&mut self) -> Result<(), String> {
        while let Some(bytes) = self.shard.next_write_bytes() {
            let mut page = vec![0xEE; bytes];
            let at = self.shard.poll_write(&mut page).expect("there is a write of that many bytes");
            assert_eq!(at.bytes, bytes);
            self.world.note("write", &[at.segment, at.offset, u64::from(crc32c::crc32c(&page))]);
            let segment = Place::Segment(at.segment);
            let (flight, delay) = self.disk.submit(segment, at.offset, page, &mut self.world.rng);
            if let Some(delay) = delay {
                self.world.after(delay, Event::Written { life: self.life, flight, write: at.id });
            }
            if self.plant == Plant::DurableEarly {
                self.input(Input::Written { id: at.id })?;
            }
        }
        Ok(())
    }

    pub(super) fn written(&mut self, flight: Flight, write: WriteId) -> Result<(), String> {
        self.disk.finish(flight, &mut self.world.rng);
        if self.plant == Plant::DurableEarly {
            return Ok(());
        }
        self.input(Input::Written { id: write }).map(|_| ())
    }

    pub(super) fn slot_written(&mut self, flight: Flight) -> Result<(), String> {
        self.disk.finish(flight, &mut self.world.rng);
        if self.plant == Plant::FloorEarly {
            return Ok(());
        }
        self.report.checkpoints += 1;
        self.input(Input::SuperblockWritten).map(|_| ())
    }

    /// Segments are made one at a time.
    fn prepare_next(&mut self) {
        if self.preparing.is_some() || self.is_refused {
            return;
        }
        let Some(prepare) = self.segments.pop_front() else { return };
        self.preparing = Some(prepare);
        let delay = self.world.rng.between(50, 3_000) * MICROSECOND;
        self.world.after(delay, Event::Prepared { life: self.life, prepare });
    }

    pub(super) fn prepared(&mut self, prepare: PrepareSegment) -> Result<(), String> {
        self.preparing = None;
        let number = prepare.number();
        if !self.disk.has_space(prepare) {
            self.report.refused += 1;
            self.is_refused = true;
            self.world.note("no space", &[number]);
            self.world.after(SECOND / 8, Event::Retry { life: self.life });
            return self.input(Input::SegmentRefused { number }).map(|_| ());
        }
        self.world.note("segment", &[number]);
        match prepare {
            PrepareSegment::Create { .. } => self.report.created += 1,
            PrepareSegment::Recycle { .. } => self.report.recycled += 1,
        }
        self.disk.prepare(prepare);
        self.input(Input::SegmentReady { number })?;
        self.prepare_next();
        Ok(())
    }

    pub(super) fn retry(&mut self) -> Result<(), String> {
        self.is_refused = false;
        if !self.shard.is_serving() {
            // It does not even have room to begin with: the product ends here, and somebody makes space.
            self.disk.segments_max = usize::MAX;
            return self.crash();
        }
        self.input(Input::RetrySegments)?;
        self.prepare_next();
        Ok(())
    }

    pub(super) fn read(&mut self, position: Position, bytes: usize) -> Result<(), String> {
        let (segment, offset) = place(position);
        let mut found = self.disk.read(Place::Segment(segment), offset..offset + bytes).to_vec();
        // The file went on to be another segment while the read was under way: whoever wanted it is gone as well.
        found.resize(bytes, 0xAA);
        self.input(Input::Read { position, bytes: Bytes::from(found) }).map(|_| ())
    }

    /// The process would end now. That must be the truth.
    fn fail(&mut self, failure: &Failure) -> Result<(), String> {
        let Failure::Rot { segment, offset, bytes } = *failure else {
            return Err(format!("honest: the shard gives up: {failure}"));
        };
        let range = offset as usize..offset as usize + bytes as usize;
        if !self.disk.is_harmed_in(Place::Segment(segment), range) {
            return Err(format!("honest: sound bytes are called rotten: {failure}"));
        }
        self.world.note("rot read", &[segment, offset]);
        self.report.rot_read += 1;
        self.disk.heal();
        self.crash()
    }

    pub(super) fn crash(&mut self) -> Result<(), String> {
        self.life += 1;
        self.report.crashes += 1;
        self.world.note("crash", &[]);
        self.disk.crash(&mut self.world.rng);
        if let Some(prepare) = self.preparing.take() {
            match self.world.rng.below(3) {
                0 if self.disk.has_space(prepare) => self.disk.prepare(prepare),
                1 => self.disk.prepare_interrupted(prepare),
                _ => {}
            }
        }
        self.segments.clear();
        (self.turn_planned, self.deadline_planned) = (false, None);
        (self.is_stopping, self.is_refused, self.ghost) = (false, false, None);
        self.tap.restarted()?;
        let links: Vec<u64> = self.links.keys().copied().collect();
        links.into_iter().try_for_each(|connection| self.forget(connection))?;
        self.flushed.clear();
        if self.world.rng.one_in(4) {
            // The clock of a machine that was down may stand anywhere.
            self.clock = self.clock - 300 * MILLISECOND + self.world.rng.below(SECOND);
        }
        let booted = self.boot()?;
        self.report.relocated += booted.relocations;
        self.world.note("booted", &[booted.last.0]);
        self.settle(booted.end);
        self.shard = booted.shard;
        self.output = Output::default();
        self.shard.check();
        self.plan_turn();
        Ok(())
    }

    /// From what the disk holds; if that is harmed, the node must say so, unless it does not matter.
    fn boot(&mut self) -> Result<Booted, String> {
        if !self.disk.is_harmed() {
            let booted = boot(&self.disk, &self.options, self.plant);
            return booted.map_err(|why| format!("durable: a sound log is refused: {why}"));
        }
        let mut sound = self.disk.clone();
        sound.heal();
        let expected = boot(&sound, &self.options, self.plant);
        let expected = expected.map_err(|why| format!("durable: a sound log is refused: {why}"))?;
        match boot(&self.disk, &self.options, self.plant) {
            Ok(booted) if booted.last == expected.last => {
                if self.world.rng.one_in(3) {
                    self.disk = sound;
                    return Ok(expected);
                }
                return Ok(booted);
            }
            // Nothing on the disk says that what is rotten was durable; see the simulation of the log alone.
            Ok(_) => self.report.rot_unprovable += 1,
            Err(why) => {
                self.check_rot(&why)?;
                self.report.rot_at_boot += 1;
                self.world.note("rot found", &[]);
            }
        }
        self.disk = sound;
        Ok(expected)
    }

    /// A refusal to boot names bytes, and something near them is indeed not what it was.
    fn check_rot(&self, why: &Failure) -> Result<(), String> {
        let harmed = |place| self.disk.is_harmed_in(place, 0..SEGMENT_BYTES as usize);
        let slots = [Place::Slot(0), Place::Slot(1)].into_iter().any(harmed);
        match why {
            Failure::Wal(Error::Rot { segment, .. }) if slots || harmed(Place::Segment(*segment)) => Ok(()),
            // A superblock that was never written names what is no more.
            Failure::Replay { .. } | Failure::LostSegment { .. } if slots => Ok(()),
            _ => Err(format!("honest: a harmed log is refused for another reason: {why}")),
        }
    }

    /// The bytes behind the last record are free to be written again.
    fn settle(&mut self, end: Option<Position>) {
        let (segment, offset) = end.map_or((0, 0), |end| place(Position(end.0.next_multiple_of(PAGE_BYTES))));
        self.disk.settle(segment, offset as u64);
    }
}
