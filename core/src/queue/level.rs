//! One priority of one queue: where each of its messages lies in the log, 20 bytes a message.
//!
//! Sequences are given without gaps in commit order, so a message is found by arithmetic, not by search. Slots lie in
//! chunks of up to 256; a removed message leaves an empty slot, a chunk without live slots is dropped, wherever in the
//! level it is: one message that nobody settles pins 256 slots at most. Chunks are shared with checkpoint images and are
//! copied when they are next written to, so an image costs a pointer for each chunk.

use std::collections::VecDeque;
use std::sync::Arc;

use ringmain_wal::Position;

use crate::command::Run;
use crate::queue::lease::NO_LEASE;

pub(crate) const CHUNK_SLOTS: usize = 256;
pub(crate) const FIRST_SEQUENCE: u64 = 1;

/// A level that runs empty keeps room for so many slots: enough that a shallow queue in steady use allocates nothing,
/// little enough for 100,000 of them.
const IDLE_SLOTS_MAX: usize = 64;

/// A restored gap of fewer slots is filled with empty ones, a wider one starts a new chunk.
const GAP_SLOTS_MAX: u64 = 8;

#[derive(Copy, Clone, Debug)]
#[repr(C, packed(4))]
pub(crate) struct Slot {
    pub(crate) position: Position,
    /// Head, key, headers and payload; zero when the message is gone.
    pub(crate) stored_bytes: u32,
    /// The leader's own: which lease holds the message, or `NO_LEASE`. Never part of the replicated state.
    pub(crate) lease: u32,
    /// Deliveries that ended in a requeue.
    pub(crate) deliveries: u16,
    /// The leader's own: it was delivered and the end of that lease was never logged.
    pub(crate) was_delivered: bool,
}

const _: () = assert!(size_of::<Slot>() == 20);

const EMPTY: Slot =
    Slot { position: Position(0), stored_bytes: 0, lease: NO_LEASE, deliveries: 0, was_delivered: false };

#[derive(Debug)]
pub(crate) struct Chunk {
    live: u32,
    slots: Vec<Slot>,
}

impl Clone for Chunk {
    /// Keeps the capacity: the copy of a chunk that is being filled must not grow past its size.
    fn clone(&self) -> Self {
        let mut slots = Vec::with_capacity(self.slots.capacity());
        slots.extend_from_slice(&self.slots);
        Self { live: self.live, slots }
    }
}

impl Chunk {
    fn with_room(slots: usize) -> Self {
        Self { live: 0, slots: Vec::with_capacity(slots) }
    }

    pub(crate) fn live_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.is_live())
    }

    pub(crate) fn slots_count(&self) -> usize {
        self.slots.len()
    }
}

/// A chunk in its place. Invariant: the ranges of a level's links ascend and do not overlap.
#[derive(Clone, Debug)]
struct Link {
    /// Sequence of the chunk's first slot.
    first: u64,
    chunk: Arc<Chunk>,
}

impl Link {
    fn end(&self) -> u64 {
        self.first + self.chunk.slots.len() as u64
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Level {
    priority: u8,
    /// The sequence of the next message. Every link ends here or before.
    next: u64,
    live: u64,
    stored_bytes: u64,
    /// Every chunk but the last has a live slot; the last may be waiting for its next.
    links: VecDeque<Link>,
}

impl Slot {
    pub(crate) fn is_live(&self) -> bool {
        self.stored_bytes != 0
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_live() && self.lease == NO_LEASE
    }
}

impl Level {
    pub(crate) fn new(priority: u8) -> Self {
        Self { priority, next: FIRST_SEQUENCE, live: 0, stored_bytes: 0, links: VecDeque::new() }
    }

    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Adds a message behind all others and says its sequence.
    pub(crate) fn push(&mut self, position: Position, stored_bytes: u32) -> u64 {
        let sequence = self.next;
        self.push_slot(Slot { position, stored_bytes, ..EMPTY });
        sequence
    }

    fn push_slot(&mut self, slot: Slot) {
        assert!(slot.is_live());
        let chunk = self.open_tail();
        chunk.slots.push(slot);
        chunk.live += 1;
        self.next += 1;
        self.live += 1;
        self.stored_bytes += u64::from(slot.stored_bytes);
    }

    pub(crate) fn slot(&self, sequence: u64) -> Option<&Slot> {
        let link = &self.links[self.find(sequence)?];
        let slot = &link.chunk.slots[(sequence - link.first) as usize];
        slot.is_live().then_some(slot)
    }

    pub(crate) fn slot_mut(&mut self, sequence: u64) -> Option<&mut Slot> {
        let at = self.find(sequence)?;
        let link = &mut self.links[at];
        // Asking before copying: a message that is gone must not cost a chunk.
        let offset = (sequence - link.first) as usize;
        if !link.chunk.slots[offset].is_live() {
            return None;
        }
        Some(&mut Arc::make_mut(&mut link.chunk).slots[offset])
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Slot> {
        let at = self.find(sequence)?;
        let is_last = at + 1 == self.links.len();
        let link = &mut self.links[at];
        let offset = (sequence - link.first) as usize;
        let slot = link.chunk.slots[offset];
        if !slot.is_live() {
            return None;
        }
        self.live -= 1;
        self.stored_bytes -= u64::from(slot.stored_bytes);
        if link.chunk.live > 1 || is_last {
            let chunk = Arc::make_mut(&mut link.chunk);
            chunk.slots[offset] = EMPTY;
            chunk.live -= 1;
            if is_last {
                self.rest_tail();
            }
        } else {
            // Consumption is near one end of the level, so this moves few links.
            self.links.remove(at);
        }
        Some(slot)
    }

    /// The first live message at `from` or behind it.
    pub(crate) fn next_live(&self, from: u64) -> Option<u64> {
        let mut at = self.find(from).unwrap_or_else(|| self.links.partition_point(|link| link.end() <= from));
        while let Some(link) = self.links.get(at) {
            let start = from.saturating_sub(link.first) as usize;
            if let Some(offset) = link.chunk.slots[start..].iter().position(Slot::is_live) {
                return Some(link.first + (start + offset) as u64);
            }
            at += 1;
        }
        None
    }

    /// The live messages of the chunk that holds `from`, or of the next one, from there on; and where it ends.
    pub(crate) fn chunk_from(&self, from: u64) -> Option<(impl Iterator<Item = (u64, &Slot)>, u64)> {
        let at = self.links.partition_point(|link| link.end() <= from);
        let link = self.links.get(at)?;
        let start = from.saturating_sub(link.first);
        let slots = (link.first + start..).zip(&link.chunk.slots[start as usize..]);
        Some((slots.filter(|(_, slot)| slot.is_live()), link.end()))
    }

    pub(crate) fn iter_from(&self, from: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let at = self.links.partition_point(|link| link.end() <= from);
        let slots = self.links.range(at..).flat_map(|link| (link.first..).zip(&link.chunk.slots));
        slots.skip_while(move |(sequence, _)| *sequence < from).filter(|(_, slot)| slot.is_live())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let slots = self.links.iter().flat_map(|link| (link.first..).zip(&link.chunk.slots));
        slots.filter(|(_, slot)| slot.is_live())
    }

    pub(crate) fn purge(
        &mut self,
        kept: &[Run],
        buried: &mut dyn FnMut(Arc<Chunk>),
        removed: &mut dyn FnMut(Slot),
    ) {
        let mut kept = kept.iter().peekable();
        self.live = 0;
        self.stored_bytes = 0;
        for mut link in std::mem::take(&mut self.links) {
            while kept.next_if(|run| run.end() <= link.first).is_some() {}
            if kept.peek().is_none_or(|run| run.sequence >= link.end()) {
                buried(link.chunk);
                continue;
            }
            let chunk = Arc::make_mut(&mut link.chunk);
            for (sequence, slot) in (link.first..).zip(&mut chunk.slots) {
                while kept.next_if(|run| run.end() <= sequence).is_some() {}
                if !slot.is_live() {
                    continue;
                }
                if kept.peek().is_some_and(|run| run.sequence <= sequence) {
                    self.live += 1;
                    self.stored_bytes += u64::from(slot.stored_bytes);
                } else {
                    removed(std::mem::replace(slot, EMPTY));
                    chunk.live -= 1;
                }
            }
            if chunk.live > 0 {
                self.links.push_back(link);
            }
        }
    }

    /// A message from a checkpoint, behind those before it. False: it does not fit there.
    #[must_use]
    pub(crate) fn restore(&mut self, sequence: u64, slot: (Position, u32, u16)) -> bool {
        let (position, stored_bytes, deliveries) = slot;
        let slot = Slot { position, stored_bytes, deliveries, ..EMPTY };
        if sequence < self.next || sequence == u64::MAX || !slot.is_live() {
            return false;
        }
        let fits = self.links.back().is_some_and(|link| {
            let gap = sequence - link.end();
            let is_near = gap < GAP_SLOTS_MAX && link.end() == self.next;
            is_near && link.chunk.slots.len() + (gap as usize) < CHUNK_SLOTS
        });
        while fits && self.next < sequence {
            self.open_tail().slots.push(EMPTY);
            self.next += 1;
        }
        self.next = sequence;
        self.push_slot(slot);
        true
    }

    /// The end of a restored level. False: it lies before messages that are there.
    #[must_use]
    pub(crate) fn restore_next(&mut self, next: u64) -> bool {
        let fits = next >= self.next;
        self.next = self.next.max(next);
        fits
    }

    pub(crate) fn check(&self) {
        let mut end = FIRST_SEQUENCE;
        let (mut live, mut stored_bytes) = (0, 0);
        for (at, link) in self.links.iter().enumerate() {
            assert!(end <= link.first);
            assert!(link.chunk.slots.len() <= CHUNK_SLOTS);
            let in_chunk = link.chunk.live_slots().count() as u32;
            assert_eq!(in_chunk, link.chunk.live);
            if at + 1 < self.links.len() {
                assert!(in_chunk > 0);
            }
            live += u64::from(in_chunk);
            stored_bytes += link.chunk.live_slots().map(|slot| u64::from(slot.stored_bytes)).sum::<u64>();
            end = link.end();
        }
        assert!(end <= self.next);
        assert_eq!(live, self.live);
        assert_eq!(stored_bytes, self.stored_bytes);
    }

    /// The bytes that the level takes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let chunk = |link: &Link| size_of::<Chunk>() + 16 + link.chunk.slots.capacity() * size_of::<Slot>();
        self.links.capacity() * size_of::<Link>() + self.links.iter().map(chunk).sum::<usize>()
    }

    /// The chunk that takes the next message.
    fn open_tail(&mut self) -> &mut Chunk {
        let next = self.next;
        let has_room = |link: &Link| link.end() == next && link.chunk.slots.len() < CHUNK_SLOTS;
        if !self.links.back().is_some_and(has_room) {
            if self.links.back().is_some_and(|link| link.chunk.live == 0) {
                self.links.pop_back();
            }
            // The first chunk grows by doubling, so that many shallow queues stay small.
            let slots = if self.links.is_empty() { 4 } else { CHUNK_SLOTS };
            self.links.push_back(Link { first: next, chunk: Arc::new(Chunk::with_room(slots)) });
        }
        let link = self.links.back_mut().expect("a link with room was found or made above");
        Arc::make_mut(&mut link.chunk)
    }

    /// Drops the last chunk, or starts it anew, when nothing in it lives any more.
    fn rest_tail(&mut self) {
        let Some(link) = self.links.back_mut() else { return };
        if link.chunk.live > 0 {
            return;
        }
        let is_full = link.chunk.slots.len() == CHUNK_SLOTS;
        let is_small = link.chunk.slots.capacity() <= IDLE_SLOTS_MAX;
        if self.live == 0 && is_small {
            link.first = self.next;
            Arc::make_mut(&mut link.chunk).slots.clear();
        } else if self.live == 0 || is_full {
            self.links.pop_back();
        }
    }

    /// The link that covers this sequence. Chunks are nearly always full and side by side, counted from the newest:
    /// the place is computed, and searched for only where chunks between were dropped.
    fn find(&self, sequence: u64) -> Option<usize> {
        let newest = self.links.len().checked_sub(1)?;
        let newest_first = self.links[newest].first;
        let covers = |link: &Link| link.first <= sequence && sequence < link.end();
        let guess = if sequence >= newest_first {
            newest
        } else {
            let back = (newest_first - 1 - sequence) / CHUNK_SLOTS as u64 + 1;
            newest.wrapping_sub(back as usize)
        };
        if self.links.get(guess).is_some_and(covers) {
            return Some(guess);
        }
        let at = self.links.partition_point(|link| link.end() <= sequence);
        self.links.get(at).is_some_and(covers).then_some(at)
    }
}
