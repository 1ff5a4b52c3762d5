//! The tail of the log in memory, as the engine reads it. The durable copy is the shard's log; this one is bounded
//! by the replica, which drops applied entries from its front.

use std::collections::VecDeque;

use raft::eraftpb::{self, ConfState, Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// What one entry costs in memory beside its data: the engine's struct, rounded up.
pub const ENTRY_BYTES_OVERHEAD: u64 = 128;

pub(crate) struct Log {
    /// Only read when the engine starts.
    hard_state: eraftpb::HardState,

    /// As of the last applied entry.
    conf_state: ConfState,
    /// Index and term of the entry before the first one here.
    base: (u64, u64),
    /// Invariant: consecutive from base + 1, terms never fall.
    entries: VecDeque<Entry>,
    /// Of all entries here, data and overhead.
    bytes: u64,
    /// A checkpoint that this follower has, and may be told to continue from.
    offer: Option<(u64, Snapshot)>,
}

impl Log {
    pub(crate) fn new(hard_state: eraftpb::HardState, conf_state: ConfState, base: (u64, u64)) -> Self {
        assert!(base.0 == 0 || base.1 > 0);
        Self { hard_state, conf_state, base, entries: VecDeque::new(), bytes: 0, offer: None }
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
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(low <= high);
        assert!(high <= self.last() + 1);
        let bytes_max = bytes_max.into().unwrap_or(u64::MAX);
        // Both are counted from base + 1 and at most entries.len(), which is an address in memory.
        let range = (low - self.base.0 - 1) as usize..(high - self.base.0 - 1) as usize;
        let mut taken = Vec::with_capacity(range.len().min(64));
        let mut bytes = 0;
        for entry in self.entries.range(range) {
            bytes += entry_bytes(entry);
            // The first one always: an entry larger than the limit must get through as well.
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        let found = self.entries.get((index - self.base.0 - 1) as usize);
        found.map(|entry| entry.term).ok_or(StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
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
                if *whose == to && snapshot.get_metadata().index >= request_index.max(self.base.0) =>
            {
                Ok(snapshot.clone())
            }
            _ => Err(StorageError::SnapshotTemporarilyUnavailable.into()),
        }
    }
}

#[cfg(test)]
mod tests;
