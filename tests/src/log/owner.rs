//! Whoever the log belongs to: a small state machine whose whole state is what is live and where it lies.
//!
//! ```text
//! entry, relocation:  u64 id │ u32 count │ u64 id settled × count │ filler
//! checkpoint:         u64 the state is that after this record │ (u64 id, u64 position, u64 bytes, u64 checksum) …
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ringmain_wal::{Position, RecordKind};

use super::history::Row;
use crate::rng::Rng;

/// Where the payload of a live entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Live {
    pub(super) position: Position,
    pub(super) bytes: u64,
    pub(super) checksum: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Hold(Live),
    Release(Live),
}

#[derive(Default, Debug)]
pub(super) struct Owner {
    applied: u64,
    live: BTreeMap<u64, Live>,
    /// Named in an entry that is not durable yet.
    settling: BTreeSet<u64>,
}

/// More than this are settled at once: a checkpoint must fit into a segment.
const LIVE_MAX: usize = 300;

pub(super) fn entry(id: u64, settled: &[u64]) -> Vec<u8> {
    let mut out = id.to_le_bytes().to_vec();
    out.extend_from_slice(&(settled.len() as u32).to_le_bytes());
    settled.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    out
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Owner {
    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    pub(super) fn live(&self) -> Vec<Live> {
        self.live.values().copied().collect()
    }

    pub(super) fn live_in(&self, segment: u64, segment_bytes: u64) -> Vec<(u64, Live)> {
        let there = |live: &Live| live.position.segment(segment_bytes) == segment;
        self.live.iter().filter(|(_, live)| there(live)).map(|(id, live)| (*id, *live)).take(8).collect()
    }

    pub(super) fn any(&self, rng: &mut Rng) -> Option<Live> {
        let nth = rng.below(self.live.len().max(1) as u64) as usize;
        self.live.values().nth(nth).copied()
    }

    /// Chosen to be settled by the next entry: mostly the oldest, so that some stay for ever.
    pub(super) fn settle_some(&mut self, rng: &mut Rng) -> Vec<u64> {
        let wanted = if self.live.len() > LIVE_MAX { 40 } else { rng.skewed(4) as usize - 1 };
        let skipped = rng.below(12) as usize;
        let free = self.live.keys().copied().filter(|id| !self.settling.contains(id));
        let chosen: Vec<u64> = free.skip(skipped).take(wanted).collect();
        self.settling.extend(&chosen);
        chosen
    }

    pub(super) fn unsettle(&mut self, ids: &[u64]) {
        ids.iter().for_each(|id| _ = self.settling.remove(id));
    }

    pub(super) fn let_go(&mut self, id: u64) -> Option<Live> {
        self.live.remove(&id)
    }

    pub(super) fn apply(
        &mut self,
        sequence: u64,
        kind: u8,
        position: Position,
        payload: &Bytes,
    ) -> Vec<Change> {
        assert_eq!(sequence, self.applied + 1);
        self.applied = sequence;
        let mut changes = Vec::new();
        let is_entry = kind == RecordKind::Entry as u8;
        if !is_entry && kind != RecordKind::Relocation as u8 {
            return changes;
        }
        let id = number(payload, 0);
        let live = Live { position, bytes: payload.len() as u64, checksum: crc32c::crc32c(payload) };
        if is_entry {
            let count = u32::from_le_bytes(payload[8..12].try_into().unwrap()) as usize;
            for settled in (0..count).map(|nth| number(payload, 12 + 8 * nth)) {
                self.settling.remove(&settled);
                changes.extend(self.live.remove(&settled).map(Change::Release));
            }
            self.live.insert(id, live);
            changes.push(Change::Hold(live));
        } else if let Some(old) = self.live.get_mut(&id) {
            changes.extend([Change::Hold(live), Change::Release(*old)]);
            *old = live;
        }
        changes
    }

    pub(super) fn image(&self) -> Vec<u8> {
        let mut out = self.applied.to_le_bytes().to_vec();
        for (id, live) in &self.live {
            for number in [*id, live.position.0, live.bytes, u64::from(live.checksum)] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    /// From the last checkpoint whose state is not older than what was read, and the records behind it.
    pub(super) fn restored(rows: &[Row]) -> Result<Self, String> {
        let mut owner = Self::default();
        let first = rows.first().map_or(1, |row| row.sequence);
        let mut checkpoints = rows.iter().filter(|row| row.kind == RecordKind::Checkpoint as u8);
        let image = checkpoints.rfind(|row| number(&row.payload, 0) + 1 >= first);
        if let Some(image) = image {
            owner.load(&image.payload);
        } else if first > 1 {
            return Err(format!("the log begins with record {first}, and there is no checkpoint"));
        }
        for row in rows.iter().filter(|row| row.sequence > owner.applied).collect::<Vec<_>>() {
            owner.apply(row.sequence, row.kind, row.payload_position, &row.payload);
        }
        Ok(owner)
    }

    fn load(&mut self, image: &[u8]) {
        self.applied = number(image, 0);
        for at in (8..image.len()).step_by(32) {
            let position = Position(number(image, at + 8));
            let live =
                Live { position, bytes: number(image, at + 16), checksum: number(image, at + 24) as u32 };
            self.live.insert(number(image, at), live);
        }
    }

    pub(super) fn has_the_state_of(&self, other: &Self) -> bool {
        self.live == other.live
    }
}
