//! Recent payloads in memory, in a budget of bytes: what was appended lately, and pages that were read back.
//!
//! Payloads that are not durable yet cannot be read from anywhere else and always stay, budget or not; how many they
//! are is the business of whoever bounds what is pending.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::words::{Position, Sequence};

/// What keeping one payload costs beside its bytes.
const ENTRY_BYTES: u64 = 64;
/// Pages read back may take this share of the budget: a reader of old messages must not push out what everyone else
/// is about to consume.
const PAGES_SHARE: u64 = 4;

#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: u64,

    /// Ascending by position and sequence.
    recent: VecDeque<Recent>,
    recent_bytes: u64,
    pages: BTreeMap<Position, Bytes>,
    /// The keys of `pages`, oldest first.
    pages_order: VecDeque<Position>,
    pages_bytes: u64,
}

#[derive(Debug)]
struct Recent {
    position: Position,
    sequence: Sequence,
    payload: Bytes,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            recent: VecDeque::new(),
            recent_bytes: 0,
            pages: BTreeMap::new(),
            pages_order: VecDeque::new(),
            pages_bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, position: Position, sequence: Sequence, payload: Bytes) {
        if let Some(last) = self.recent.back() {
            assert!(last.position < position);
            assert!(last.sequence < sequence);
        }
        self.recent_bytes += payload.len() as u64 + ENTRY_BYTES;
        self.recent.push_back(Recent { position, sequence, payload });
    }

    pub(crate) fn on_page_read(&mut self, position: Position, bytes: Bytes) {
        self.pages_bytes += bytes.len() as u64 + ENTRY_BYTES;
        match self.pages.insert(position, bytes) {
            Some(old) => self.pages_bytes -= old.len() as u64 + ENTRY_BYTES,
            None => self.pages_order.push_back(position),
        }
        // The one that was just read stays whatever the budget: somebody waits for it.
        while self.pages_bytes > self.bytes_max / PAGES_SHARE && self.pages.len() > 1 {
            let Some(oldest) = self.pages_order.pop_front() else { break };
            if oldest == position {
                self.pages_order.push_back(oldest);
                continue;
            }
            let old = self.pages.remove(&oldest).expect("every key in the order is a page");
            self.pages_bytes -= old.len() as u64 + ENTRY_BYTES;
        }
    }

    /// Forgets the oldest payloads beyond the budget that are durable.
    pub(crate) fn evict(&mut self, durable_upto: Sequence) {
        let budget = self.bytes_max.saturating_sub(self.pages_bytes);
        while self.recent_bytes > budget {
            match self.recent.front() {
                Some(front) if front.sequence <= durable_upto => {
                    self.recent_bytes -= front.payload.len() as u64 + ENTRY_BYTES;
                    self.recent.pop_front();
                }
                _ => break,
            }
        }
    }

    pub(crate) fn read(&self, position: Position, bytes: usize) -> Option<&[u8]> {
        let after = self.recent.partition_point(|recent| recent.position <= position);
        let recent = after.checked_sub(1).and_then(|at| self.recent.get(at));
        if let Some(found) = recent.and_then(|recent| part(recent.position, &recent.payload, position, bytes))
        {
            return Some(found);
        }
        let (&start, page) = self.pages.range(..=position).next_back()?;
        part(start, page, position, bytes)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.recent_bytes + self.pages_bytes
    }

    pub(crate) fn check(&self, durable_upto: Sequence) {
        let recent: u64 = self.recent.iter().map(|recent| recent.payload.len() as u64 + ENTRY_BYTES).sum();
        assert!(recent == self.recent_bytes);
        let pages: u64 = self.pages.values().map(|page| page.len() as u64 + ENTRY_BYTES).sum();
        assert!(pages == self.pages_bytes);
        assert!(self.pages.len() == self.pages_order.len());
        if let Some(front) = self.recent.front()
            && front.sequence <= durable_upto
        {
            // An eviction follows each durable write and each page read.
            assert!(self.recent_bytes <= self.bytes_max || self.pending_bytes(durable_upto) > 0);
        }
    }

    fn pending_bytes(&self, durable_upto: Sequence) -> u64 {
        let pending = self.recent.iter().rev().take_while(|recent| recent.sequence > durable_upto);
        pending.map(|recent| recent.payload.len() as u64).sum()
    }
}

/// `bytes` bytes at `position` out of what begins at `start`, if they are all in it.
fn part(start: Position, all: &Bytes, position: Position, bytes: usize) -> Option<&[u8]> {
    let from = usize::try_from(position.0 - start.0).ok()?;
    all.get(from..from.checked_add(bytes)?)
}
