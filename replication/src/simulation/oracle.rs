//! What may be, whatever happens: held against every replica after every step.

use std::collections::BTreeMap;

use super::config::Config;
use super::disk::Disk;
use crate::{Entry, EntryKind, Kind, Plain, Replica};

/// What an entry does, without its padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Placed {
    kind: EntryKind,
    name: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Applied {
    term: u64,
    placed: Placed,
    /// Of the state behind it.
    digest: u64,
}

struct Proposed {
    by: u64,
    name: u64,
}

#[derive(Default)]
pub(super) struct Oracle {
    /// By term.
    leaders: BTreeMap<u64, u64>,
    /// Replica and term → whom it voted for, as far as it said so.
    votes: BTreeMap<(u64, u64), u64>,
    /// The highest term in which a replica said anything.
    spoken: BTreeMap<u64, u64>,
    /// Term and index → the term before it, if known, and what it is. Of all that was durable anywhere, or sent.
    entries: BTreeMap<(u64, u64), (Option<u64>, Placed)>,
    /// The one history: entry 1 first.
    history: Vec<Applied>,
    /// By the index of the entry that made it; the first at 0.
    configs: BTreeMap<u64, Config>,
    /// Term and index of the newest entry that a leader called committed.
    committed: (u64, u64),
    /// Highest index of an entry that changes the membership, whatever became of it.
    membership_upto: u64,
    /// By term and index; their fate is not known. Whoever proposed it waits for it.
    proposed: BTreeMap<(u64, u64), Proposed>,
    acknowledged: BTreeMap<u64, u64>,
    /// Disks that are gone, by the replica that they were.
    graves: BTreeMap<u64, Disk>,
}

impl Oracle {
    pub(super) fn new(voters: &[u64]) -> Self {
        let configs = BTreeMap::from([(0, Config::of(voters))]);
        Self { configs, ..Self::default() }
    }

    pub(super) fn terms(&self) -> usize {
        self.leaders.len()
    }

    pub(super) fn changes(&self) -> usize {
        self.configs.len() - 1
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// What a read that is asked for now must show.
    pub(super) fn committed(&self) -> u64 {
        self.committed.1.max(self.history.len() as u64)
    }

    /// In force where everything up to `index` is applied.
    pub(super) fn config(&self, index: u64) -> &Config {
        self.configs.range(..=index).next_back().map(|(_, config)| config).expect("the first at 0")
    }

    pub(super) fn newest_config(&self) -> &Config {
        self.config(u64::MAX)
    }

    /// Of the entry that made it.
    pub(super) fn newest_config_index(&self) -> u64 {
        *self.configs.last_key_value().expect("the first at 0").0
    }

    /// No other membership than the newest can come of anything that was said so far.
    pub(super) fn is_membership_settled(&self) -> bool {
        self.membership_upto <= self.history.len() as u64 && !self.newest_config().is_joint()
    }

    pub(super) fn is_gone(&self, id: u64) -> bool {
        self.graves.contains_key(&id)
    }

    pub(super) fn bury(&mut self, id: u64, disk: Disk) {
        let before = self.graves.insert(id, disk);
        assert!(before.is_none(), "replica {id} was lost twice");
    }

    pub(super) fn digest(&self, index: u64) -> u64 {
        if index == 0 { 0 } else { self.history[index as usize - 1].digest }
    }

    pub(super) fn on_proposed(&mut self, by: u64, place: (u64, u64), data: &[u8]) {
        self.proposed.insert(place, Proposed { by, name: name(EntryKind::Normal, data) });
    }

    /// Nobody waits any more: a lone voter may lead the same term again, if nothing of it was durable.
    pub(super) fn on_crash(&mut self, id: u64) {
        self.proposed.retain(|_, proposed| proposed.by != id);
    }

    pub(super) fn on_membership_written(&mut self, index: u64) {
        self.membership_upto = self.membership_upto.max(index);
    }

    /// Two logs with an entry of the same term and index are the same up to there.
    pub(super) fn on_entry(&mut self, before: Option<u64>, entry: &Entry) {
        let placed = placed(entry);
        let known = self.entries.entry((entry.term.0, entry.index.0)).or_insert((before, placed));
        known.0 = known.0.or(before);
        assert_eq!(known.1, placed, "two entries {} of term {}", entry.index.0, entry.term.0);
        if before.is_some() {
            assert_eq!(known.0, before, "entry {} of term {}", entry.index.0, entry.term.0);
        }
    }

    /// An entry made way on a disk for another one, or for another one before it.
    pub(super) fn on_taken_off(&self, (index, term): (u64, u64), by: &Entry) {
        let is_same = index == by.index.0 && term == by.term.0;
        let kept = self.history.get(index as usize - 1).is_some_and(|applied| applied.term == term);
        assert!(is_same || !kept, "committed entry {index} was taken off a disk");
    }

    /// An entry made way on a disk for a checkpoint of this index.
    pub(super) fn on_replaced(&self, (index, term): (u64, u64), checkpoint: u64) {
        let kept = self.history.get(index as usize - 1).is_some_and(|applied| applied.term == term);
        assert!(index <= checkpoint || !kept, "committed entry {index} made way for an older checkpoint");
    }

    pub(super) fn on_leader(&mut self, replica: &Replica) {
        let (id, term) = (replica.id(), replica.term().0);
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "two leaders in term {term}");
        self.leader_is_complete(replica);
    }

    /// Whoever leads after an entry was committed has it.
    pub(super) fn leader_is_complete(&self, leader: &Replica) {
        let (term, index) = self.committed;
        if term < leader.term().0 && leader.base().0.0 < index {
            let has = leader.has(crate::Index(index), crate::Term(term));
            assert!(has, "leader {} lacks committed entry {index}", leader.id());
        }
    }

    /// Whoever waits for what was proposed in this term is told so.
    pub(super) fn on_committed(&mut self, (term, index): (u64, u64)) {
        self.committed = self.committed.max((term, index));
        while let Some((&place, _)) = self.proposed.range((term, 0)..=(term, index)).next() {
            let proposed = self.proposed.remove(&place).expect("the proposal just seen");
            self.acknowledged.insert(place.1, proposed.name);
        }
    }

    /// By a leader that had applied `from` and now has applied `to`: by one of the memberships on that way. `disk` answers
    /// by id, of a replica that is there.
    pub(super) fn is_by_majority<'a>(
        &self,
        (from, to): (u64, u64),
        (term, index): (u64, u64),
        disk: impl Fn(u64) -> Option<&'a Disk>,
    ) {
        let has = |id| disk(id).or_else(|| self.graves.get(&id)).is_some_and(|disk| disk.has(index, term));
        let mut configs = self.configs.range(from..=to).map(|(_, config)| config);
        let is_by_majority =
            self.config(from).is_majority(has) || configs.any(|config| config.is_majority(has));
        assert!(is_by_majority, "entry {index} of term {term} is committed without a majority");
    }

    pub(super) fn on_apply(&mut self, entry: &Entry, before: u64) -> u64 {
        let (index, placed) = (entry.index.0, placed(entry));
        let digest = (before ^ placed.name ^ entry.term.0 << 48).wrapping_mul(0x0100_0000_01B3) ^ index;
        let applied = Applied { term: entry.term.0, placed, digest };
        if let Some(known) = self.history.get(index as usize - 1) {
            assert_eq!(*known, applied, "two entries {index}");
            return digest;
        }
        assert_eq!(index, self.history.len() as u64 + 1);
        self.history.push(applied);
        if let Some(name) = self.acknowledged.get(&index) {
            assert_eq!(*name, placed.name, "acknowledged entry {index} was replaced");
        }
        if entry.kind == EntryKind::Membership {
            let config = self.newest_config().after(&entry.data);
            self.configs.insert(index, config);
        }
        digest
    }

    /// What leaves a replica cannot be taken back.
    pub(super) fn on_message(&mut self, plain: &Plain) {
        let vote = match plain.kind {
            Kind::RequestVote => Some(plain.from),
            Kind::RequestVoteResponse if !plain.reject => Some(plain.to),
            // Of a term that does not exist yet.
            Kind::RequestPreVote | Kind::RequestPreVoteResponse => return,
            Kind::Append => {
                let mut before = Some(plain.log_term);
                for entry in &plain.entries {
                    self.on_entry(before, entry);
                    before = Some(entry.term.0);
                }
                None
            }
            Kind::Snapshot => {
                let snapshot = plain.snapshot.as_ref().expect("what the message is about");
                let applied = self.history.get(snapshot.index.0 as usize - 1).map(|applied| applied.term);
                assert_eq!(applied, Some(snapshot.term.0), "a checkpoint of another history");
                None
            }
            Kind::AppendResponse
            | Kind::RequestVoteResponse
            | Kind::Heartbeat
            | Kind::HeartbeatResponse
            | Kind::TimeoutNow => None,
        };
        if let Some(vote) = vote {
            let first = *self.votes.entry((plain.from, plain.term)).or_insert(vote);
            assert_eq!(first, vote, "two votes of replica {} in term {}", plain.from, plain.term);
        }
        let spoken = self.spoken.entry(plain.from).or_default();
        *spoken = plain.term.max(*spoken);
    }

    /// An honest disk has what the replica on it promised.
    pub(super) fn on_restart(&self, id: u64, hard_state: crate::HardState) {
        let spoken = self.spoken.get(&id).copied().unwrap_or(0);
        assert!(hard_state.term >= spoken, "replica {id} forgot term {spoken}");
        let vote = self.votes.get(&(id, hard_state.term)).copied().unwrap_or(hard_state.vote);
        assert_eq!(hard_state.vote, vote, "replica {id} forgot its vote in term {}", hard_state.term);
    }

    /// What was acknowledged is there, and so many entries are to be applied by everyone.
    pub(super) fn judge(&self) -> u64 {
        for (index, name) in &self.acknowledged {
            let applied = self.history.get(*index as usize - 1).map(|applied| applied.placed.name);
            assert_eq!(applied, Some(*name), "acknowledged entry {index} was lost");
        }
        assert!(!self.newest_config().is_joint(), "a change of membership was left in its midst");
        self.history.len() as u64
    }
}

fn placed(entry: &Entry) -> Placed {
    Placed { kind: entry.kind, name: name(entry.kind, &entry.data) }
}

/// Batches begin with a number of their own; what follows is padding, too much of it to be read.
fn name(kind: EntryKind, data: &[u8]) -> u64 {
    let read = match kind {
        EntryKind::Normal => &data[..data.len().min(8)],
        EntryKind::Membership => data,
    };
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    read.iter().fold(0xCBF2_9CE4_8422_2325 ^ data.len() as u64, fold)
}
