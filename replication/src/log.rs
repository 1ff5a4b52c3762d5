//! The tail of the log in memory, as the engine reads it. The durable copy is the shard's log; this one is bounded
//! by the replica, which drops applied entries from its front.
//!
//! ```text
//!            floor              base             last
//!   forgotten  │ can be read back │ in memory      │
//! ```
//!
//! The engine may ask for what can be read back only in order to send it, and is told to wait: the caller reads it, and
//! has it sent while it is at hand (`read_back`). While a checkpoint is on offer it is told that these entries are gone, so
//! that it looks for the checkpoint.

use std::collections::VecDeque;

use raft::eraftpb::{self, ConfState, Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::{Index, Term, Terms};

/// What one entry costs in memory beside its data: the engine's struct, rounded up.
pub const ENTRY_BYTES_OVERHEAD: u64 = 128;

pub(crate) struct Log {
    /// Only read when the engine starts.
    hard_state: eraftpb::HardState,

    /// As of the last applied entry.
    conf_state: ConfState,
    /// Index and term of the entry before the first one here.
    base: (u64, u64),
    /// Of the entries up to `base` that can be read back.
    past: Terms,
    /// The caller's log has the entries from here on.
    readable_from: u64,
    /// What the caller has just read back, while it is being sent.
    read_back: Vec<Entry>,
    /// Invariant: consecutive from base + 1, terms never fall.
    entries: VecDeque<Entry>,
    /// Of all entries here, data and overhead.
    bytes: u64,
    /// A checkpoint that this follower has, and may be told to continue from.
    offer: Option<(u64, Snapshot)>,
}

impl Log {
    /// What there is in memory begins where `past` ends.
    pub(crate) fn new(hard_state: eraftpb::HardState, conf_state: ConfState, past: Terms) -> Self {
        let base = (past.last().0, past.of(past.last()).map_or(0, |term| term.0));
        assert!(base.0 == 0 || base.1 > 0);
        Self {
            hard_state,
            conf_state,
            base,
            readable_from: if past.floor().0 < past.last() { past.floor().0.0 + 1 } else { u64::MAX },
            past,
            read_back: Vec::new(),
            entries: VecDeque::new(),
            bytes: 0,
            offer: None,
        }
    }

    /// The entry before the first one that can be had, from memory or by reading it back.
    pub(crate) fn floor(&self) -> u64 {
        self.past.floor().0.0
    }

    /// The caller's log has the entries from this one on.
    pub(crate) fn set_readable_from(&mut self, index: u64) {
        assert!(index > 0);
        self.readable_from = index;
        let floor = (index - 1).min(self.base.0);
        if self.floor() < floor {
            self.past.cut(Index(floor));
        }
    }

    /// What the engine may send now, until it is called with nothing.
    pub(crate) fn set_read_back(&mut self, entries: Vec<Entry>) {
        for entry in &entries {
            assert!(self.floor() < entry.index);
            assert!(entry.index <= self.base.0);
            assert_eq!(self.past.of(Index(entry.index)), Some(Term(entry.term)));
        }
        assert!(entries.is_sorted_by(|a, b| a.index + 1 == b.index));
        self.read_back = entries;
    }

    pub(crate) fn base(&self) -> (u64, u64) {
        self.base
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    pub(crate) fn set_conf_state(&mut self, mut conf_state: ConfState) {
        assert!(!conf_state.voters.is_empty());
        // The engine keeps a set, in no order.
        conf_state.voters.sort_unstable();
        self.conf_state = conf_state;
    }

    /// Consecutive entries. They may begin at or below our last: a new leader's entries replace the old ones.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0);
        assert!(first.index <= self.last() + 1);
        while self.last() >= first.index {
            // last ≥ first > base, so there is one.
            let dropped = self.entries.pop_back().expect("an entry at the last index");
            self.bytes -= entry_bytes(&dropped);
        }
        for entry in entries {
            assert_eq!(entry.index, self.last() + 1);
            self.bytes += entry_bytes(&entry);
            self.entries.push_back(entry);
        }
    }

    pub(crate) fn set_offer(&mut self, offer: Option<(u64, Snapshot)>) {
        self.offer = offer;
    }

    /// Begins anew behind a checkpoint.
    pub(crate) fn reset_to(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        assert!(metadata.index > self.base.0);
        self.base = (metadata.index, metadata.term);
        self.past = Terms::behind((Index(metadata.index), Term(metadata.term)));
        self.entries.clear();
        self.bytes = 0;
        self.offer = None;
        self.set_conf_state(metadata.get_conf_state().clone());
    }

    /// Forgets the first entry if it is at or below `to`.
    pub(crate) fn drop_first(&mut self, to: u64) -> bool {
        if self.base.0 >= to {
            return false;
        }
        let Some(first) = self.entries.pop_front() else { return false };
        assert_eq!(first.index, self.base.0 + 1);
        assert!(first.term >= self.base.1);
        self.base = (first.index, first.term);
        self.past.push(Index(first.index), Term(first.term));
        if first.index < self.readable_from {
            self.past.cut(Index(first.index));
        }
        self.bytes -= entry_bytes(&first);
        true
    }

    pub(crate) fn check(&self) {
        let (mut index, mut term) = self.base;
        for entry in &self.entries {
            index += 1;
            assert_eq!(entry.index, index);
            assert!(entry.term >= term);
            term = entry.term;
        }
        assert_eq!(self.bytes, self.entries.iter().map(entry_bytes).sum::<u64>());
        self.past.check();
        assert_eq!(self.past.last().0, self.base.0);
        assert_eq!(self.past.of(self.past.last()), Some(Term(self.base.1)));
        assert!(self.floor() + 1 >= self.readable_from.min(self.base.0 + 1));
        assert!(self.read_back.is_empty());
    }

    /// `entries` as far as they go within `bytes_max`.
    fn take<'a>(entries: impl ExactSizeIterator<Item = &'a Entry>, bytes_max: Option<u64>) -> Vec<Entry> {
        let bytes_max = bytes_max.unwrap_or(u64::MAX);
        let mut taken = Vec::with_capacity(entries.len().min(64));
        let mut bytes = 0;
        for entry in entries {
            bytes += entry_bytes(entry);
            // The first one always: an entry larger than the limit must get through as well.
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_BYTES_OVERHEAD
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.floor() {
            return Err(StorageError::Compacted.into());
        }
        assert!(low <= high);
        assert!(high <= self.last() + 1);
        let bytes_max = bytes_max.into();
        if low <= self.base.0 {
            // Whatever else it asks for is not applied, and in memory.
            assert!(context.can_async(), "entry {low} is only wanted to be sent");
            if self.read_back.first().is_none_or(|first| first.index != low) {
                let is_offered = self.offer.is_some();
                let why = if is_offered {
                    StorageError::Compacted
                } else {
                    StorageError::LogTemporarilyUnavailable
                };
                return Err(why.into());
            }
            // An address in memory, as all of these.
            let wanted = self.read_back.len().min((high - low) as usize);
            return Ok(Self::take(self.read_back[..wanted].iter(), bytes_max));
        }
        // Both are counted from base + 1 and at most entries.len(), which is an address in memory.
        let range = (low - self.base.0 - 1) as usize..(high - self.base.0 - 1) as usize;
        Ok(Self::take(self.entries.range(range), bytes_max))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index <= self.base.0 {
            return self.past.of(Index(index)).map(|term| term.0).ok_or(StorageError::Compacted.into());
        }
        let found = self.entries.get((index - self.base.0 - 1) as usize);
        found.map(|entry| entry.term).ok_or(StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.floor() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// What `to` has been brought, and nothing else. Never one whose membership leaves out `to`, for the receiver would
    /// ignore it silently, again and again: `Replica::offer_checkpoint` has seen to it.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.offer {
            // The entries behind it must be there, or it would help nobody.
            Some((whose, snapshot))
                if *whose == to && snapshot.get_metadata().index >= request_index.max(self.floor()) =>
            {
                Ok(snapshot.clone())
            }
            _ => Err(StorageError::SnapshotTemporarilyUnavailable.into()),
        }
    }
}

#[cfg(test)]
mod tests;
