//! What a replica is started from: what recovery found on the disk, put in order and judged.

use crate::{Entry, EntryKind, Error, HardState, Index, Term, Terms, membership};

/// Recovery fills it, record by record, then hands it to `Replica::new`.
#[derive(Clone, Default, Debug)]
pub struct Restored {
    /// The newest of all records of the group and of its checkpoint.
    pub hard_state: HardState,
    /// As it was at `applied`. Empty: the voters of the options.
    pub conf_state: Vec<u8>,
    /// The last entry that the checkpoint stands for; entries up to it are not needed.
    pub base: (Index, Term),
    /// Of entries up to the base that the caller can read back; `None`: of none.
    pub past: Option<Terms>,
    /// Consecutive, from base + 1.
    pub entries: Vec<Entry>,
    /// The state machine has these already. Invariant: base ≤ applied ≤ the last entry.
    pub applied: Index,
}

impl Restored {
    /// A group that never was.
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn last(&self) -> (Index, Term) {
        self.entries.last().map_or(self.base, |entry| (entry.index, entry.term))
    }

    /// A hard state that was found: of a record of any kind, or of the checkpoint. In any order, for a checkpoint is
    /// read before the older records behind it.
    pub fn note(&mut self, found: HardState) {
        let known = &mut self.hard_state;
        // Within a term a vote is given once and never taken back.
        if found.term > known.term || (found.term == known.term && known.vote == 0) {
            (known.term, known.vote) = (found.term, found.vote);
        }
        known.commit = known.commit.max(found.commit);
        assert!(known.term >= found.term);
    }

    /// The next entry in the order of the log, with the hard state of its record. One at or below the last index
    /// was written by a later leader: it replaces what is there, and everything behind it. One that the checkpoint
    /// stands for already is left out, but what it replaced goes all the same.
    pub fn append(&mut self, entry: Entry, hard_state: HardState) -> Result<(), Error> {
        let (index, base, next) = (entry.index.0, self.base.0.0, self.last().0.0 + 1);
        if index > next {
            return Err(Error::Gap { expected: next, found: index });
        }
        self.note(hard_state);
        // The entries from base + 1 to index - 1 stay: none of them, if index is not above the base.
        self.entries.truncate(index.saturating_sub(base + 1) as usize);
        if index > base {
            self.entries.push(entry);
        }
        assert_eq!(self.last().0.0, base + self.entries.len() as u64);
        Ok(())
    }

    /// Every entry in its place, and nothing promised that is not there.
    pub(crate) fn judge(&self) -> Result<(), Error> {
        let (mut index, mut term) = (self.base.0.0, self.base.1.0);
        if let Some(past) = &self.past
            && (past.last(), past.of(past.last())) != (self.base.0, Some(self.base.1))
        {
            return Err(Error::Gap { expected: index, found: past.last().0 });
        }
        for entry in &self.entries {
            index += 1;
            if entry.index.0 != index {
                return Err(Error::Gap { expected: index, found: entry.index.0 });
            }
            if entry.term.0 < term {
                return Err(Error::TermFell { index, before: term, found: entry.term.0 });
            }
            term = entry.term.0;
            if entry.kind == EntryKind::Membership && membership::read_change(&entry.data).is_none() {
                return Err(Error::MembershipEntry { index });
            }
        }
        if term > self.hard_state.term {
            return Err(Error::TermBeyondHardState { index, term, hard_state: self.hard_state.term });
        }
        // Never pull the commit index back to the end of the log: what it promises was acknowledged, so the log has
        // lost entries, and a replica that votes without them can lose them for everybody.
        if self.hard_state.commit > index {
            return Err(Error::CommitBeyondLog { commit: self.hard_state.commit, last: index });
        }
        if self.applied < self.base.0 || self.applied.0 > index {
            let (applied, base) = (self.applied.0, self.base.0.0);
            return Err(Error::AppliedOutsideLog { applied, base, last: index });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
