//! How a follower is helped with entries that are not in memory any more, while the caller can read them back.
//!
//! The engine asks for them again with whatever makes it look at that follower, and is told each time that they are not at
//! hand. Nothing is kept of that: who lacks what follows from what the engine knows of its followers.

use raft::{ProgressState, Storage};

use crate::{Entry, Index, Replica, Term, entry};

/// A follower that is heard, and whose next entry is to be read back.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Lacking {
    pub id: u64,
    pub next: Index,
    /// The last entry that it is known to have on its disk.
    pub matched: Index,
    /// It may be sent `next` now. Otherwise it has yet to answer what it was sent.
    pub may_be_sent: bool,
}

impl Replica {
    /// The caller's log has the entries from `index` on, whether they are in memory or not. It says so anew whenever that
    /// changes; before it is ever said, no entry can be read back.
    pub fn set_readable_from(&mut self, index: Index) {
        self.store_mut().set_readable_from(index.0);
    }

    /// On a leader, and only of what is not in memory but can be read back.
    pub fn lacking(&self) -> impl Iterator<Item = Lacking> + '_ {
        let (floor, base) = (self.floor().0, self.base().0.0);
        let is_leader = self.is_leader();
        let all = self.engine().prs().iter().filter(move |_| is_leader);
        let lacks = all.filter(move |(id, progress)| {
            **id != self.id()
                && self.has_heard(**id)
                && progress.state != ProgressState::Snapshot
                && floor < progress.next_idx
                && progress.next_idx <= base
        });
        lacks.map(|(&id, progress)| Lacking {
            id,
            next: Index(progress.next_idx),
            matched: Index(progress.matched),
            may_be_sent: !progress.is_paused(),
        })
    }

    /// On a leader: what a member, heard or not, is to have next and is neither in memory nor forgotten. It is worth keeping.
    pub fn missing(&self) -> impl Iterator<Item = Index> + '_ {
        let (floor, base) = (self.floor().0, self.base().0.0);
        let is_leader = self.is_leader();
        let others = self.engine().prs().iter().filter(move |(id, _)| is_leader && **id != self.id());
        let matched = others.map(|(_, progress)| progress.matched);
        matched.filter(move |matched| floor <= *matched && *matched < base).map(|matched| Index(matched + 1))
    }

    /// Of an entry that is in memory or can be read back.
    pub fn term_of(&self, index: Index) -> Option<Term> {
        self.engine().raft_log.store().term(index.0).ok().map(Term)
    }

    /// The entry before the first one that can be had, from memory or by reading it back.
    pub fn floor(&self) -> Index {
        Index(self.engine().raft_log.store().floor())
    }

    /// Sends consecutive entries, each of the term that `term_of` says. False: this follower is not in need of the first
    /// one now, and nothing was sent.
    pub fn on_read_back(&mut self, to: u64, entries: Vec<Entry>) -> bool {
        let Some(first) = entries.first().map(|entry| entry.index) else { return false };
        if !self.lacking().any(|one| one.id == to && one.next == first && one.may_be_sent) {
            return false;
        }
        self.store_mut().set_read_back(entries.into_iter().map(entry::to_engine).collect());
        self.nudge(to);
        self.store_mut().set_read_back(Vec::new());
        true
    }
}
