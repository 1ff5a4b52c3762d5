//! One machine: a replica, its state machine, its disk, and what it knows of checkpoints on their way.

use std::collections::{BTreeMap, VecDeque};

use super::disk::{Disk, Image, Record};
use super::oracle::Oracle;
use crate::{EntryKind, Index, Replica, Write};

#[derive(Default)]
pub(super) struct Machine {
    /// The replica's; with the disk, for all time.
    pub(super) id: u64,
    pub(super) disk: Disk,

    /// None: the process does not run.
    pub(super) replica: Option<Replica>,
    /// Rises with every start: what was under way in an earlier life concerns nobody.
    pub(super) life: u64,
    /// Until then it neither hears nor ticks.
    pub(super) paused_until: u64,
    /// Until then its writes take long.
    pub(super) stalled_until: u64,
    /// The state machine; its membership is the replica's to tell.
    pub(super) state: Image,
    /// Index and sequence of the entries that are not applied.
    pub(super) places: VecDeque<(u64, u64)>,
    /// Token and sequence of the writes that are not reported.
    pub(super) writes: VecDeque<(u64, u64)>,
    pub(super) source: Option<Source>,
    pub(super) target: Option<Target>,
    /// Begun in this life.
    pub(super) transfers: u64,
    /// Asked in this life, and not answered: what each must show at least.
    pub(super) reads: BTreeMap<u64, u64>,
    pub(super) reads_asked: u64,
}

/// A state on its way to a peer.
pub(super) struct Source {
    pub(super) to: u64,
    pub(super) transfer: u64,
    pub(super) image: Image,
    pub(super) heard: u64,
}

/// A peer's state on its way to here.
pub(super) struct Target {
    pub(super) from: u64,
    pub(super) transfer: u64,
    pub(super) image: Image,
    /// Of its record.
    pub(super) sequence: u64,
    pub(super) is_staged: bool,
    pub(super) heard: u64,
}

impl Machine {
    pub(super) fn new(id: u64) -> Self {
        Self { id, ..Self::default() }
    }

    /// The process ends; its disk keeps so many of the records that were on their way.
    pub(super) fn crash(&mut self, kept: usize, oracle: &mut Oracle) {
        assert!(self.replica.take().is_some());
        self.life += 1;
        self.disk.crash(kept, oracle);
        oracle.on_crash(self.id);
        self.places.clear();
        self.writes.clear();
        (self.source, self.target, self.transfers) = (None, None, 0);
        self.reads.clear();
        (self.reads_asked, self.paused_until, self.stalled_until) = (0, 0, 0);
    }

    /// Answers the last record of the write.
    pub(super) fn write(&mut self, write: &Write, oracle: &mut Oracle) -> u64 {
        let mut last = None;
        if let Some(install) = &write.install {
            let target = self.target.as_ref().expect("what is installed was staged");
            assert!(target.is_named((install.transfer, install.index.0, install.term.0)));
            assert_eq!(target.image.conf_state, install.conf_state);
            let record = Record::Install { hard_state: write.hard_state, transfer: install.transfer };
            last = Some(self.disk.append(record));
            self.places.clear();
        }
        for (at, entry) in write.entries.iter().enumerate() {
            let sequence = self.disk.append(Record::Entry(write.hard_state_at(at), entry.clone()));
            while self.places.back().is_some_and(|(index, _)| entry.index.0 <= *index) {
                self.places.pop_back();
            }
            self.places.push_back((entry.index.0, sequence));
            if entry.kind == EntryKind::Membership {
                oracle.on_membership_written(entry.index.0);
            }
            last = Some(sequence);
        }
        let sequence = last.unwrap_or_else(|| self.disk.append(Record::State(write.hard_state)));
        self.writes.push_back((write.token, sequence));
        sequence
    }

    /// What was staged takes the place of the state.
    pub(super) fn install(&mut self, oracle: &Oracle) {
        let target = self.target.take().expect("what is installed was staged");
        self.state = target.image;
        assert_eq!(self.state.digest, oracle.digest(self.state.index), "a state of another history");
    }

    /// The present state, as its replica would start from it. Everything that the replica handed out is applied.
    pub(super) fn image(&self) -> Image {
        let replica = self.replica.as_ref().expect("a process that runs");
        let (index, term) = replica.applied();
        assert_eq!((index.0, term.0), (self.state.index, self.state.term));
        Image { conf_state: replica.conf_state(), ..self.state.clone() }
    }

    /// Where recovery would have to begin, beside a checkpoint taken now.
    pub(super) fn replay_from(&self) -> u64 {
        let first = self.places.front().map(|(_, sequence)| *sequence);
        let staged = self.target.as_ref().map(|target| target.sequence);
        first.into_iter().chain(staged).min().unwrap_or(self.disk.appended() + 1)
    }

    pub(super) fn end_source(&mut self) {
        let (Some(source), Some(replica)) = (self.source.take(), self.replica.as_mut()) else { return };
        replica.withdraw_checkpoint(source.to);
        replica.hold_log(None);
    }

    /// The state machine has no need of the entries up to here.
    pub(super) fn compact(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.compact(Index(self.state.index));
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.replica.as_ref().is_some_and(Replica::is_leader)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.replica.as_ref().is_some_and(Replica::is_serving)
    }

    /// A crash now meets a checkpoint on its way.
    pub(super) fn is_transferring(&self) -> bool {
        self.source.is_some() || self.target.is_some() || self.disk.is_installing()
    }
}

impl Target {
    pub(super) fn is_named(&self, (transfer, index, term): (u64, u64, u64)) -> bool {
        self.is_staged && (self.transfer, self.image.index, self.image.term) == (transfer, index, term)
    }
}
