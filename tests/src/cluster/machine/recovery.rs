//! A log is read back: what is found on the disk must be all that was durable, or be refused by name.

use ringmain_core::boot::Replay;
use ringmain_core::failure::Failure;
use ringmain_core::shard::{Shard, ShardOptions};
use ringmain_wal::{Error, HardState, PAGE_BYTES, Position, RecordKind, Recovery, SegmentFile, Sequence};

use crate::cluster::{Plant, Run, SEGMENT_BYTES};
use crate::disk::{Disk, Place};

const PAGE: usize = PAGE_BYTES as usize;

pub(super) struct Booted {
    pub(super) shard: Shard,
    pub(super) last: Sequence,
    /// Behind the last record.
    pub(super) end: Option<Position>,
    pub(super) installed: u64,
}

/// Reads the log back and replays it, as the product does.
fn boot(disk: &Disk, options: &ShardOptions, plant: Plant) -> Result<Booted, Failure> {
    let header = |number| SegmentFile { number, header: disk.read(Place::Segment(number), 0..PAGE).to_vec() };
    let slots = [Place::Slot(0), Place::Slot(1)].map(|slot| disk.read(slot, 0..PAGE));
    let mut recovery = Recovery::new(&options.log, slots, disk.segments().map(header).collect())?;
    let mut replay = Replay::new(options.clone());
    let (mut end, mut installed) = (None, 0);
    while let Some(read) = recovery.poll_read() {
        let from = read.offset as usize;
        recovery.on_read(disk.read(Place::Segment(read.segment), from..from + read.bytes));
        while let Some(mut record) = recovery.next_record() {
            end = Some(record.payload_position.advance(record.payload.len() as u64));
            installed += u64::from(record.header.kind == RecordKind::Install);
            let mut header = record.header.clone();
            match plant {
                Plant::VoteForgotten => header.hard_state = HardState { vote: 0, ..header.hard_state },
                Plant::CommitForgotten => header.hard_state = HardState { commit: 0, ..header.hard_state },
                Plant::PromiseDropped if header.kind == RecordKind::HardState => continue,
                _ => {}
            }
            record.header = &header;
            replay.on_record(&record)?;
        }
    }
    let recovered = recovery.finish()?;
    let last = recovered.start.last_sequence();
    Ok(Booted { shard: replay.finish(recovered)?, last, end, installed })
}

impl Run {
    /// Nothing: the disk has lost what it should have.
    pub(super) fn recover(&mut self, node: usize) -> Result<Option<Booted>, String> {
        let machine = &mut self.machines[node];
        let found = boot(&machine.disk, &machine.options, self.plant);
        let refused = |why| format!("durable: a sound log is refused on node {}: {why}", node + 1);
        if !machine.disk.is_harmed() {
            return found.map(Some).map_err(refused);
        }
        let mut sound = machine.disk.clone();
        sound.heal();
        let expected = boot(&sound, &machine.options, self.plant).map_err(refused)?;
        match found {
            // It does not matter to this one; but it could to whoever is lost next.
            Ok(found) if found.last == expected.last => {
                machine.disk = sound;
                return Ok(Some(expected));
            }
            // Nothing on the disk says that what is rotten was durable: somebody has to know it.
            Ok(_) => self.report.unprovable += 1,
            Err(why) => self.check_rot(node, &why)?,
        }
        Ok(None)
    }

    /// A refusal to boot names bytes, and something near them is indeed not what it was.
    fn check_rot(&self, node: usize, why: &Failure) -> Result<(), String> {
        let disk = &self.machines[node].disk;
        let harmed = |place| disk.is_harmed_in(place, 0..SEGMENT_BYTES as usize);
        let slots = [Place::Slot(0), Place::Slot(1)].into_iter().any(harmed);
        match why {
            Failure::Wal(Error::Rot { segment, .. }) if slots || harmed(Place::Segment(*segment)) => Ok(()),
            // A superblock that was never written names what is no more.
            Failure::Replay { .. } | Failure::LostSegment { .. } if slots => Ok(()),
            _ => Err(format!("honest: a harmed log is refused for another reason: {why}")),
        }
    }
}
