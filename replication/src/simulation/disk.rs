//! A disk that takes records in order; when its machine dies it keeps some of those that it had not finished.

use std::collections::VecDeque;

use super::oracle::Oracle;
use crate::{Entry, HardState, Index, Restored, Term};

/// The state of a replica's state machine, with the membership of its moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Image {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) digest: u64,
    /// Empty: the voters that the group started with.
    pub(super) conf_state: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) enum Record {
    Entry(HardState, Entry),
    State(HardState),
    /// This replica's own checkpoint; what is not in it begins at this sequence.
    Checkpoint {
        hard_state: HardState,
        image: Image,
        replay_from: u64,
    },
    /// Another replica's state, of no meaning until it is installed.
    Staged {
        hard_state: HardState,
        transfer: u64,
        image: Image,
    },
    /// What was staged takes the place of everything before.
    Install {
        hard_state: HardState,
        transfer: u64,
    },
}

/// The newest that is whole.
#[derive(Default)]
struct Checkpoint {
    sequence: u64,
    hard_state: HardState,
    image: Image,
    replay_from: u64,
}

#[derive(Default)]
pub(super) struct Disk {
    durable: VecDeque<(u64, Record)>,
    pending: VecDeque<(u64, Record)>,
    /// Sequence of the last record.
    appended: u64,
    /// What recovery would find: the terms of the entries from base + 1.
    base: u64,
    terms: Vec<u64>,
    /// What it would call committed, at least.
    commit: u64,
}

/// What a machine starts from.
pub(super) struct Recovered {
    pub(super) restored: Restored,
    pub(super) image: Image,
    /// Of the entries behind the image: index and sequence.
    pub(super) places: VecDeque<(u64, u64)>,
}

impl Disk {
    pub(super) fn append(&mut self, record: Record) -> u64 {
        self.appended += 1;
        self.pending.push_back((self.appended, record));
        self.appended
    }

    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_installing(&self) -> bool {
        self.pending.iter().any(|(_, record)| matches!(record, Record::Install { .. }))
    }

    pub(super) fn commit(&self) -> u64 {
        self.commit
    }

    pub(super) fn last(&self) -> u64 {
        self.base + self.terms.len() as u64
    }

    /// This entry, or a checkpoint that stands for it.
    pub(super) fn has(&self, index: u64, term: u64) -> bool {
        index <= self.base || self.terms.get((index - self.base - 1) as usize) == Some(&term)
    }

    /// Every record up to this one is durable.
    pub(super) fn finish(&mut self, upto: u64, oracle: &mut Oracle) {
        while self.pending.front().is_some_and(|(sequence, _)| *sequence <= upto) {
            let (sequence, record) = self.pending.pop_front().expect("the record just seen");
            self.on_finished(&record, oracle);
            self.durable.push_back((sequence, record));
        }
    }

    pub(super) fn crash(&mut self, kept: usize, oracle: &mut Oracle) {
        let durable_upto = self.appended - self.pending.len() as u64;
        self.finish(durable_upto + kept as u64, oracle);
        // The log goes on behind the last record that is there.
        self.appended -= self.pending.len() as u64;
        self.pending.clear();
    }

    fn on_finished(&mut self, record: &Record, oracle: &mut Oracle) {
        match record {
            Record::Entry(hard_state, entry) => {
                self.commit = self.commit.max(hard_state.commit);
                let kept = entry.index.0.saturating_sub(self.base + 1) as usize;
                for (at, term) in self.terms.iter().enumerate().skip(kept) {
                    oracle.on_taken_off((self.base + 1 + at as u64, *term), entry);
                }
                self.terms.truncate(kept);
                if entry.index.0 > self.base {
                    // The term before the first one behind a checkpoint is not looked up.
                    oracle.on_entry(self.terms.last().copied(), entry);
                    self.terms.push(entry.term.0);
                }
            }
            Record::Install { transfer, .. } => {
                let image = self.staged(*transfer).expect("what is installed was staged before");
                for (index, term) in (self.base + 1..).zip(self.terms.drain(..)) {
                    oracle.on_replaced((index, term), image.index);
                }
                self.base = image.index;
                self.commit = self.commit.max(image.index);
            }
            Record::Checkpoint { image, .. } => self.commit = self.commit.max(image.index),
            Record::Staged { .. } | Record::State(_) => {}
        }
    }

    fn staged(&self, wanted: u64) -> Option<Image> {
        self.durable.iter().rev().find_map(|(_, record)| match record {
            Record::Staged { transfer, image, .. } if *transfer == wanted => Some(image.clone()),
            _ => None,
        })
    }

    /// Lets go of what the newest checkpoint makes needless.
    pub(super) fn recycle(&mut self) {
        let replay_from = self.checkpoint().replay_from;
        // The checkpoint itself is in the log as well, behind what it needs.
        while self.durable.front().is_some_and(|(sequence, _)| *sequence < replay_from) {
            self.durable.pop_front();
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let newest = self.durable.iter().rev().find_map(|(sequence, record)| match record {
            Record::Checkpoint { hard_state, image, replay_from } => Some(Checkpoint {
                sequence: *sequence,
                hard_state: *hard_state,
                image: image.clone(),
                replay_from: *replay_from,
            }),
            _ => None,
        });
        newest.unwrap_or_default()
    }

    pub(super) fn recover(&self) -> Recovered {
        assert!(self.pending.is_empty());
        let Checkpoint { sequence: taken, hard_state, mut image, replay_from } = self.checkpoint();
        let mut restored = Restored { hard_state, base: base(&image), ..Restored::empty() };
        let mut places: VecDeque<(u64, u64)> = VecDeque::new();
        for (sequence, record) in self.durable.iter().filter(|(sequence, _)| replay_from <= *sequence) {
            match record {
                // It was replaced together with what lay between, before the checkpoint was taken.
                Record::Entry(hard_state, entry)
                    if *sequence < taken && restored.last().0.0 + 1 < entry.index.0 =>
                {
                    restored.note(*hard_state);
                }
                Record::Entry(hard_state, entry) => {
                    restored.append(entry.clone(), *hard_state).expect("the log that was written");
                    while places.back().is_some_and(|(index, _)| entry.index.0 <= *index) {
                        places.pop_back();
                    }
                    if entry.index.0 > image.index {
                        places.push_back((entry.index.0, *sequence));
                    }
                }
                Record::State(hard_state)
                | Record::Checkpoint { hard_state, .. }
                | Record::Staged { hard_state, .. } => restored.note(*hard_state),
                Record::Install { hard_state, transfer } => {
                    restored.note(*hard_state);
                    restored.entries.clear();
                    places.clear();
                    // A checkpoint of this replica's own that came later knows what was installed.
                    if let Some(staged) = self.staged(*transfer).filter(|it| it.index > image.index) {
                        restored.base = base(&staged);
                        image = staged;
                    }
                }
            }
        }
        restored.applied = Index(image.index);
        restored.conf_state.clone_from(&image.conf_state);
        Recovered { restored, image, places }
    }
}

fn base(image: &Image) -> (Index, Term) {
    (Index(image.index), Term(image.term))
}
