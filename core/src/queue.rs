//! One queue: its name, its settings, and where its messages lie in the log.
//!
//! Everything in `Queue` is replicated state: equal on every replica at the same index, but for the positions, which are
//! this replica's own. What only the leader knows — leases, consumers, which message is next — lives in `Desk`.

pub(crate) mod consumer;
pub(crate) mod desk;
pub(crate) mod lease;
pub(crate) mod level;
pub(crate) mod priorities;
mod settings;

use std::sync::Arc;

use level::{Chunk, Level, Slot};
use priorities::PrioritySet;
use ringmain_wal::Position;

pub use settings::{NAME_BYTES_MAX, Settings, is_queue_name};

use crate::command::{QueueId, Run, STORED_HEAD_BYTES};

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) name: Arc<str>,
    pub(crate) settings: Settings,

    /// The priorities that have a level. A level, once made, stays: its sequences never start again.
    present: PrioritySet,
    /// One for each member of `present`, in the same order.
    levels: Vec<Level>,
    pub(crate) totals: Totals,
}

/// Invariant: published = live + acknowledged + rejected + purged.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    pub(crate) rejected: u64,
    pub(crate) purged: u64,
    pub(crate) live: u64,
    /// Stored bytes of the live messages, heads included.
    pub(crate) live_stored_bytes: u64,
}

impl Totals {
    pub(crate) fn adds_up(&self) -> bool {
        let gone = [self.acknowledged, self.rejected, self.purged];
        let total = gone.into_iter().try_fold(self.live, u64::checked_add);
        total == Some(self.published)
    }

    /// What the live messages count for: without the heads that the log adds.
    pub(crate) fn live_bytes(&self) -> u64 {
        body_bytes(self.live, self.live_stored_bytes)
    }
}

/// Keys, headers and payloads of `count` messages that take `stored_bytes` in the log.
pub(crate) fn body_bytes(count: u64, stored_bytes: u64) -> u64 {
    stored_bytes - count * STORED_HEAD_BYTES as u64
}

impl Queue {
    pub(crate) fn new(id: QueueId, name: Arc<str>, settings: Settings) -> Self {
        let present = PrioritySet::default();
        Self { id, name, settings, present, levels: Vec::new(), totals: Totals::default() }
    }

    pub(crate) fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Where among the levels this priority is.
    pub(crate) fn rank(&self, priority: u8) -> Option<usize> {
        self.present.contains(priority).then(|| self.present.rank(priority))
    }

    pub(crate) fn level(&self, priority: u8) -> Option<&Level> {
        self.rank(priority).map(|rank| &self.levels[rank])
    }

    /// Makes the level if there is none, and says whether it did.
    pub(crate) fn open_level(&mut self, priority: u8) -> (usize, bool) {
        let rank = self.present.rank(priority);
        let is_new = !self.present.contains(priority);
        if is_new {
            self.present.insert(priority);
            self.levels.insert(rank, Level::new(priority));
        }
        (rank, is_new)
    }

    pub(crate) fn push(&mut self, rank: usize, position: Position, stored_bytes: u32) -> u64 {
        self.totals.published += 1;
        self.totals.live += 1;
        self.totals.live_stored_bytes += u64::from(stored_bytes);
        self.levels[rank].push(position, stored_bytes)
    }

    pub(crate) fn slot_mut(&mut self, rank: usize, sequence: u64) -> Option<&mut Slot> {
        self.levels[rank].slot_mut(sequence)
    }

    /// Takes a message out; the caller says on which account.
    pub(crate) fn remove(&mut self, rank: usize, sequence: u64) -> Option<Slot> {
        let slot = self.levels[rank].remove(sequence)?;
        self.totals.live -= 1;
        self.totals.live_stored_bytes -= u64::from(slot.stored_bytes);
        Some(slot)
    }

    /// Takes out everything of a level but the kept runs (ascending, not overlapping). Whole chunks go to `buried`,
    /// so that the cost does not grow with the depth; single messages beside kept ones go to `removed`.
    pub(crate) fn purge_level(
        &mut self,
        rank: usize,
        kept: &[Run],
        buried: &mut dyn FnMut(Arc<Chunk>),
        removed: &mut dyn FnMut(Slot),
    ) {
        let level = &mut self.levels[rank];
        let (live, stored_bytes) = (level.live(), level.stored_bytes());
        level.purge(kept, buried, removed);
        let purged = live - level.live();
        self.totals.live -= purged;
        self.totals.live_stored_bytes -= stored_bytes - level.stored_bytes();
        self.totals.purged += purged;
    }

    /// Puts a restored level in its place; they come in ascending order.
    pub(crate) fn restore_level(&mut self, level: Level) {
        assert!(!self.present.contains(level.priority()));
        self.totals.live += level.live();
        self.totals.live_stored_bytes += level.stored_bytes();
        self.totals.published = self.totals.published.saturating_add(level.next() - level::FIRST_SEQUENCE);
        self.present.insert(level.priority());
        self.levels.insert(self.present.rank(level.priority()), level);
    }

    pub(crate) fn check(&self) {
        let mut found = Totals::default();
        assert_eq!(self.present.len(), self.levels.len());
        for (level, priority) in self.levels.iter().zip(self.present.iter()) {
            assert_eq!(level.priority(), priority);
            assert!(u16::from(priority) < self.settings.priorities);
            level.check();
            found.live += level.live();
            found.live_stored_bytes += level.stored_bytes();
            found.published += level.next() - level::FIRST_SEQUENCE;
        }
        assert_eq!(found.live, self.totals.live);
        assert_eq!(found.live_stored_bytes, self.totals.live_stored_bytes);
        assert_eq!(found.published, self.totals.published);
        assert!(self.totals.adds_up());
        if self.settings.max_length > 0 {
            assert!(self.totals.live <= self.settings.max_length);
        }
        if self.settings.max_bytes > 0 {
            assert!(self.totals.live_bytes() <= self.settings.max_bytes);
        }
    }
}
