//! Rebuilds a shard from its log: records in, a running `Shard` out.
//!
//! Pure: the runtime, the simulator and tests feed it the records that `wal::Recovery` verified, in log
//! order. The state of a group is its first complete checkpoint plus the committed entries behind it:
//!
//! ```text
//!  replay_from        checkpoint parts             last record
//!      ▼ entries not applied │▓▓ ▓▓▓ ▓▓▓▓│ entries …   ▼
//!      └─ kept until the image is whole ─┘ └ applied as soon as a record says they are committed
//! ```
//!
//! Later checkpoints are passed over: what they say follows from the entries. An earlier one, whose entries before
//! `replay_from` are not read any more, is passed over too. Entries that no record
//! calls committed are handed to the engine of consensus, which decides about them.

use crate::checkpoint::Restore;
use crate::checkpointer::Part;
use crate::engine::{Applied, Engine, EngineEffects, EngineOptions};
use crate::failure::Failure;
use crate::group::{Group, GroupStart, Place, entry_kind};
use crate::member::{Book, decode_membership};
use crate::relocation;
use crate::shard::{Shard, ShardOptions, ShardStart};
use crate::trail::{Step, Trail};
use crate::transfer::INSTALL_COMMIT;
use bytes::Bytes;
use ringmain_replication::{Entry, EntryKind, Restored, Terms};
use ringmain_wal::{GroupId, HardState, Index, RecordKind, RecordView, Recovered, Sequence, Term};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

pub struct Replay {
    options: ShardOptions,

    /// The log does not reach back to its first record, so each group must find a checkpoint.
    needs_checkpoint: bool,
    groups: BTreeMap<GroupId, GroupReplay>,
    checkpoint_number: u64,
    records: u64,
}

struct GroupReplay {
    options: EngineOptions,
    /// Entries before those that are read are gone: only a checkpoint knows what they did.
    needs_checkpoint: bool,

    source: Source,
    /// Another replica's state, as far as its parts were read.
    staged: Option<Staged>,
    membership: Vec<u8>,
    hard_state: HardState,
    base: (Index, Term),
    /// Consecutive entries after `base` that are not applied.
    pending: VecDeque<(Entry, Place)>,
    /// Of the entries that were read, those that are applied included.
    trail: Trail,
    /// Of the same entries, and the one before them. Invariant: both end with the same entry.
    terms: Terms,
    effects: EngineEffects,
}

/// Where the state comes from so far.
enum Source {
    AwaitingCheckpoint,
    Restoring { number: u64, next_part: u32, restore: Box<Restore> },
    Live(Box<Engine>),
}

struct Staged {
    transfer: u64,
    next_part: u32,
    is_whole: bool,
    membership: Vec<u8>,
    restore: Box<Restore>,
}

impl Replay {
    pub fn new(options: ShardOptions) -> Self {
        Self { options, needs_checkpoint: false, groups: BTreeMap::new(), checkpoint_number: 0, records: 0 }
    }

    pub fn on_record(&mut self, record: &RecordView<'_>) -> Result<(), Failure> {
        if self.records == 0 {
            self.needs_checkpoint = record.header.sequence != Sequence(1);
        }
        self.records += 1;
        match record.header.kind {
            // What is staged counts once an Install record names it, and that says all that matters of it.
            RecordKind::Boot | RecordKind::Vouch | RecordKind::Staged => Ok(()),
            RecordKind::Install => self.on_install(record),
            RecordKind::Entry => self.on_entry(record),
            RecordKind::HardState => self.group(record.header.group)?.on_hard_state(record.header.hard_state),
            RecordKind::Checkpoint => self.on_checkpoint(record),
            RecordKind::Relocation => self.group(record.header.group)?.on_relocation(record),
        }
    }

    fn group(&mut self, id: GroupId) -> Result<&mut GroupReplay, Failure> {
        let needs_checkpoint = self.needs_checkpoint;
        let Some(ordinal) = self.options.ordinal(id) else {
            return Err(Failure::Replay { why: "a record belongs to a group that is not on this shard" });
        };
        let messages_max = self.options.limits.messages_max;
        let (remembered, segment_bytes) =
            (self.options.limits.entries_remembered_max, self.options.log.segment_bytes);
        let options = EngineOptions { group: id, ordinal: ordinal as u32, messages_max };
        Ok(self.groups.entry(id).or_insert_with(|| GroupReplay {
            options,
            needs_checkpoint,
            source: match needs_checkpoint {
                true => Source::AwaitingCheckpoint,
                false => Source::Live(Box::new(Engine::new(options))),
            },
            staged: None,
            membership: Vec::new(),
            hard_state: HardState::default(),
            base: (Index(0), Term(0)),
            pending: VecDeque::new(),
            trail: Trail::new(remembered, segment_bytes),
            terms: Terms::default(),
            effects: EngineEffects::default(),
        }))
    }

    fn on_entry(&mut self, record: &RecordView<'_>) -> Result<(), Failure> {
        let header = &record.header;
        let entry = Entry {
            term: header.term,
            index: header.index,
            kind: entry_kind(header.tag).ok_or(Failure::Replay { why: "an entry of an unknown kind" })?,
            data: Bytes::copy_from_slice(record.payload),
        };
        let place = Place {
            index: header.index,
            record: record.position,
            sequence: header.sequence,
            payload: record.payload_position,
        };
        let hard_state = header.hard_state;
        let group = self.group(header.group)?;
        group.on_entry(entry, place)?;
        group.on_hard_state(hard_state)
    }

    fn on_checkpoint(&mut self, record: &RecordView<'_>) -> Result<(), Failure> {
        let part =
            Part::decode(record.payload).ok_or(Failure::Replay { why: "a checkpoint part is malformed" })?;
        self.checkpoint_number = self.checkpoint_number.max(part.number);
        let hard_state = record.header.hard_state;
        let group = self.group(record.header.group)?;
        group.on_part(part)?;
        group.on_hard_state(hard_state)
    }

    fn on_install(&mut self, record: &RecordView<'_>) -> Result<(), Failure> {
        let header = &record.header;
        let group = self.group(header.group)?;
        if header.tag == INSTALL_COMMIT {
            let transfer = record.payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let transfer = transfer.ok_or(Failure::Replay { why: "an install record is too short" })?;
            group.install(transfer, (header.index, header.term))?;
        } else {
            let part = Part::decode(record.payload)
                .ok_or(Failure::Replay { why: "a checkpoint part is malformed" })?;
            group.stage(part)?;
        }
        group.on_hard_state(header.hard_state)
    }

    /// Every record was seen: the shard as it was, with nothing in flight.
    pub fn finish(mut self, recovered: Recovered) -> Result<Shard, Failure> {
        let mut groups = Vec::with_capacity(self.options.groups.len());
        for id in self.options.groups.clone() {
            let replay = {
                self.group(id)?;
                self.groups.remove(&id).ok_or(Failure::Replay { why: "a group is listed twice" })?
            };
            groups.push(replay.finish(id, &self.options)?);
        }
        let start = ShardStart {
            log: recovered.start,
            groups,
            checkpoint_number: self.checkpoint_number,
            superblock: recovered.superblock,
        };
        let shard = Shard::new(self.options, start);
        match shard.lost_segments().first() {
            None => Ok(shard),
            Some(&segment) => Err(Failure::LostSegment { segment }),
        }
    }
}

/// What holds after both. A part of a checkpoint says what was promised when its image was taken, and may be written
/// behind what was promised since: a vote that was given stays given.
fn latest(known: HardState, said: HardState) -> HardState {
    let vote = match said.term.cmp(&known.term) {
        Ordering::Less => known.vote,
        Ordering::Equal => known.vote.max(said.vote),
        Ordering::Greater => said.vote,
    };
    HardState { term: known.term.max(said.term), vote, commit: known.commit.max(said.commit) }
}

impl GroupReplay {
    /// Where it lies, and of which term it is: a follower may lack it. Where it does not follow on what is known it is the
    /// first of which anything is known, and itself only good to be compared with.
    fn remember(&mut self, entry: &Entry, place: &Place) {
        let index = entry.index;
        if self.terms.floor().0 < index && index <= self.terms.last() {
            self.terms.truncate(index);
        }
        let last = self.terms.last();
        if index.0 == last.0 + 1 && self.terms.of(last) <= Some(entry.term) {
            self.terms.push(index, entry.term);
            // What was read lies in one segment.
            self.trail.push(index, Step { record: place.record, payload_bytes: entry.data.len() as u32 });
        } else {
            self.begin_trail((index, entry.term));
        }
    }

    fn begin_trail(&mut self, floor: (Index, Term)) {
        self.terms = Terms::behind(floor);
        self.trail.restart(Index(floor.0.0 + 1));
    }

    fn on_entry(&mut self, entry: Entry, place: Place) -> Result<(), Failure> {
        self.remember(&entry, &place);
        let next = self.next_index();
        if entry.index <= self.base.0 {
            // The state has it already; but whoever wrote it here replaced everything behind it.
            self.pending.clear();
            return Ok(());
        }
        // A leader of a later term replaced the tail: the log is truncated from here on.
        while self.pending.back().is_some_and(|(last, _)| entry.index <= last.index) {
            self.pending.pop_back();
        }
        let is_awaiting = !matches!(self.source, Source::Live(_));
        if next < entry.index && !(is_awaiting && self.pending.is_empty()) {
            if is_awaiting || !self.needs_checkpoint {
                return Err(Failure::Replay { why: "an entry is missing" });
            }
            self.await_checkpoint();
            self.pending.clear();
        }
        self.pending.push_back((entry, place));
        Ok(())
    }

    fn next_index(&self) -> Index {
        Index(self.pending.back().map_or(self.base.0.0, |(last, _)| last.index.0) + 1)
    }

    /// A record says how far the log is committed: apply so far, once the state is there to apply to.
    fn on_hard_state(&mut self, hard_state: HardState) -> Result<(), Failure> {
        self.hard_state = latest(self.hard_state, hard_state);
        let hard_state = self.hard_state;
        let Source::Live(engine) = &mut self.source else { return Ok(()) };
        while let Some((entry, place)) = self.pending.front() {
            // A change of membership is applied by the consensus engine, and all behind it after it.
            if hard_state.commit < entry.index.0 || entry.kind != EntryKind::Normal {
                break;
            }
            let (index, term, position) = (entry.index, entry.term, place.payload);
            self.effects.clear();
            engine.apply(Applied { index, term, position, data: &entry.data }, &mut self.effects)?;
            self.base = (entry.index, entry.term);
            self.pending.pop_front();
        }
        Ok(())
    }

    fn on_part(&mut self, part: Part<'_>) -> Result<(), Failure> {
        // Reading began behind entries of this group that only a later checkpoint knows, which the superblock names. Where
        // no entry came after them, there was no gap to show that the one taken so far is too old.
        if self.needs_checkpoint && part.part == 0 && self.next_index() <= part.applied {
            self.await_checkpoint();
            self.pending.clear();
        }
        match &mut self.source {
            Source::Live(_) => return Ok(()),
            Source::AwaitingCheckpoint => {
                if part.part != 0 {
                    return Ok(());
                }
                self.membership = part.membership.to_vec();
                let restore = Box::new(Restore::new(self.options));
                self.source = Source::Restoring { number: part.number, next_part: 0, restore };
            }
            // A newer checkpoint was begun: the one before it never became whole.
            Source::Restoring { number, next_part, restore } if *number != part.number || part.part == 0 => {
                if part.part != 0 {
                    return Err(Failure::Replay { why: "a checkpoint part is missing" });
                }
                self.membership = part.membership.to_vec();
                (*number, *next_part, **restore) = (part.number, 0, Restore::new(self.options));
            }
            Source::Restoring { .. } => {}
        }
        let Source::Restoring { next_part, restore, .. } = &mut self.source else { return Ok(()) };
        if *next_part != part.part {
            return Err(Failure::Replay { why: "a checkpoint part is missing" });
        }
        *next_part += 1;
        restore.feed(part.state)?;
        if part.is_last {
            self.become_live(part.applied, part.term)?;
        }
        Ok(())
    }

    fn become_live(&mut self, applied: Index, term: Term) -> Result<(), Failure> {
        let source = std::mem::replace(&mut self.source, Source::AwaitingCheckpoint);
        let Source::Restoring { restore, .. } = source else { return Ok(()) };
        let engine = restore.finish()?;
        if self.pending.front().is_some_and(|(entry, _)| Index(applied.0 + 1) < entry.index) {
            self.await_checkpoint();
            return Ok(());
        }
        self.source = Source::Live(Box::new(engine));
        self.base = (applied, term);
        while self.pending.front().is_some_and(|(entry, _)| entry.index <= applied) {
            self.pending.pop_front();
        }
        Ok(())
    }

    /// A part of a state that was sent by a peer. One that was begun and not finished is of no meaning.
    fn stage(&mut self, part: Part<'_>) -> Result<(), Failure> {
        if part.part == 0 {
            self.staged = Some(Staged {
                transfer: part.number,
                next_part: 0,
                is_whole: false,
                membership: part.membership.to_vec(),
                restore: Box::new(Restore::new(self.options)),
            });
        }
        // Reading began in the midst of one whose commit is not to come: recovery begins before those that count.
        let Some(staged) = self.staged.as_mut() else { return Ok(()) };
        if staged.transfer != part.number || staged.next_part != part.part {
            self.staged = None;
            return Ok(());
        }
        staged.restore.feed(part.state)?;
        staged.next_part += 1;
        staged.is_whole = part.is_last;
        Ok(())
    }

    /// The state that was staged took the place of the one before.
    fn install(&mut self, transfer: u64, applied: (Index, Term)) -> Result<(), Failure> {
        let staged = self.staged.take().filter(|staged| staged.is_whole && staged.transfer == transfer);
        let Some(staged) = staged else {
            if !self.needs_checkpoint {
                return Err(Failure::Replay { why: "a checkpoint was installed that is not there" });
            }
            // Reading began behind its parts, where another group needs it: the checkpoint that the superblock names
            // comes later, and knows what was installed.
            self.await_checkpoint();
            self.pending.clear();
            return Ok(());
        };
        let engine = staged.restore.finish()?;
        if engine.applied() != applied {
            return Err(Failure::Replay { why: "a checkpoint was installed that is of another index" });
        }
        self.source = Source::Live(Box::new(engine));
        self.membership = staged.membership;
        self.base = applied;
        self.pending.clear();
        self.begin_trail(applied);
        Ok(())
    }

    /// What was restored does not reach to the entries that are here: reading began where a later checkpoint, which the
    /// superblock names, needs it, and this is an earlier one that was still being written there.
    ///
    /// ```text
    ///   entries 756 … 759 │ 760 │ parts of the earlier, up to 755 │ restart │ parts of the later, up to 759 │ …
    ///                     └ replay_from: 760 was not known to be committed
    /// ```
    fn await_checkpoint(&mut self) {
        self.source = Source::AwaitingCheckpoint;
        self.base = (Index(0), Term(0));
    }

    fn on_relocation(&mut self, record: &RecordView<'_>) -> Result<(), Failure> {
        // What the relocated messages became part of must be applied first.
        self.on_hard_state(record.header.hard_state)?;
        // A checkpoint begins only when no relocation is under way, so it knows all that came before it.
        let Source::Live(engine) = &mut self.source else { return Ok(()) };
        relocation::replay(engine, record.payload, record.payload_position)
            .map_err(|why| Failure::Replay { why })
    }

    /// Of the entries that were read and are applied; `None`: of none, or they are not what the state was made of.
    fn past(&mut self) -> Option<Terms> {
        let last = self.pending.back().map_or(self.base.0, |(last, _)| last.index);
        if self.trail.next().0 != last.0 + 1 {
            self.begin_trail((last, Term(0)));
        }
        let mut past = self.terms.clone();
        if past.of(self.base.0) != Some(self.base.1) {
            return None;
        }
        past.truncate(Index(self.base.0.0 + 1));
        Some(past)
    }

    fn finish(mut self, id: GroupId, options: &ShardOptions) -> Result<Group, Failure> {
        let past = self.past();
        let Source::Live(mut engine) = self.source else {
            return Err(Failure::Replay { why: "no complete checkpoint was found" });
        };
        engine.forget_buried();
        let (conf_state, book) = match self.membership.as_slice() {
            [] => (Vec::new(), Book::new(options.founders.clone())),
            bytes => decode_membership(bytes)
                .ok_or(Failure::Replay { why: "a checkpoint has a membership that cannot be read" })?,
        };
        let places: VecDeque<Place> = self.pending.iter().map(|(_, place)| *place).collect();
        let restored = Restored {
            hard_state: self.hard_state,
            conf_state,
            base: self.base,
            past,
            entries: self.pending.into_iter().map(|(entry, _)| entry).collect(),
            applied: self.base.0,
        };
        let trail = self.trail;
        Group::new(GroupStart { id, engine: *engine, restored, places, trail, book }, options)
    }
}

#[cfg(test)]
mod tests;
