//! Finding messages that keep a log segment from being used again, moving them, and letting go of what was purged.

use ringmain_wal::Position;

use super::Engine;
use super::application::note_extent;
use crate::checkpoint::Place;
use crate::command::{Extent, QueueId};

/// A live message in a segment that is to be emptied.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    pub queue: QueueId,
    pub priority: u8,
    pub sequence: u64,
    pub position: Position,
    pub bytes: u32,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// The budget is spent; the next call goes on from here.
    More,
    /// Every message that was there when the round began has been looked at.
    Round,
}

/// The message that is looked at next.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct SweepCursor {
    slot: u32,
    priority: u8,
    sequence: u64,
}

impl Engine {
    /// Looks at about `budget` messages and names those that lie where `is_victim` says.
    pub fn sweep(
        &mut self,
        budget: usize,
        mut is_victim: impl FnMut(Position) -> bool,
        strays: &mut Vec<Stray>,
    ) -> Sweep {
        let mut looked_at = 0;
        while looked_at < budget {
            let Some((slot, queue)) = self.queues.next_used(self.sweep.slot) else {
                self.sweep = SweepCursor::default();
                return Sweep::Round;
            };
            if slot > self.sweep.slot {
                self.sweep = SweepCursor { slot, ..SweepCursor::default() };
            }
            // A queue without messages is work too.
            looked_at += 1;
            let cursor = &mut self.sweep;
            let Some(level) = queue.levels().iter().find(|level| level.priority() >= cursor.priority) else {
                *cursor = SweepCursor { slot: slot + 1, ..SweepCursor::default() };
                continue;
            };
            if level.priority() > cursor.priority {
                *cursor = SweepCursor { slot, priority: level.priority(), sequence: 0 };
            }
            let Some((messages, end)) = level.chunk_from(cursor.sequence) else {
                *cursor = match cursor.priority.checked_add(1) {
                    Some(priority) => SweepCursor { slot, priority, sequence: 0 },
                    None => SweepCursor { slot: slot + 1, ..SweepCursor::default() },
                };
                continue;
            };
            for (sequence, message) in messages {
                looked_at += 1;
                let position = message.position;
                if is_victim(position) {
                    let (priority, bytes) = (level.priority(), message.stored_bytes);
                    strays.push(Stray { queue: queue.id, priority, sequence, position, bytes });
                }
            }
            cursor.sequence = end;
        }
        Sweep::More
    }

    /// The message was copied to another place in the log. False: it is gone, or was moved already; the copy is of no
    /// use. Checkpoints made before still name the old place.
    pub fn relocate(&mut self, stray: &Stray, to: Position) -> bool {
        let Some(queue) = self.queues.find_mut(stray.queue.0) else { return false };
        let Some(rank) = queue.rank(stray.priority) else { return false };
        let Some(slot) = queue.slot_mut(rank, stray.sequence) else { return false };
        let is_there = { slot.position } == stray.position;
        if is_there {
            slot.position = to;
        }
        is_there
    }

    /// The message at this place or behind it: its queue and how many bytes it has.
    pub(crate) fn message_at(&self, place: &mut Place) -> Option<(QueueId, u32)> {
        loop {
            let (slot, queue) = self.queues.next_used(place.slot)?;
            if slot != place.slot {
                *place = Place { slot, ..Place::default() };
            }
            let Some(level) = queue.levels().get(place.rank) else {
                *place = Place { slot: slot + 1, ..Place::default() };
                continue;
            };
            let Some((sequence, message)) = level.iter_from(place.sequence).next() else {
                *place = Place { slot, rank: place.rank + 1, sequence: 0 };
                continue;
            };
            place.sequence = sequence;
            return Some((queue.id, message.stored_bytes));
        }
    }

    /// The message that `message_at` has just named lies here now.
    pub(crate) fn store_at(&mut self, place: &mut Place, position: Position) {
        let id = self.queues.next_used(place.slot).map(|(_, queue)| queue.id);
        let queue = id.and_then(|id| self.queues.find_mut(id.0));
        let slot = queue.and_then(|queue| queue.slot_mut(place.rank, place.sequence));
        slot.expect("the message was named just now").position = position;
        place.sequence += 1;
    }

    /// What was purged and deleted during a replay holds nothing: only what is live at its end is held.
    pub(crate) fn forget_buried(&mut self) {
        self.buried.clear();
    }

    /// Lets go of about `budget` messages of purged and deleted queues; they are gone from the state already, but still
    /// hold the log. Says whether there are more.
    pub fn reap(&mut self, budget: usize, released: &mut Vec<Extent>) -> bool {
        let mut left = budget;
        while left > 0
            && let Some(chunk) = self.buried.pop_front()
        {
            chunk.live_slots().for_each(|slot| note_extent(released, slot.position, slot.stored_bytes));
            left = left.saturating_sub(chunk.slots_count());
        }
        !self.buried.is_empty()
    }
}
