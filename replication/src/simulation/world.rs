//! Machines, the network between them, and time: one event after the other.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Plant;
use super::climate::Climate;
use super::disk::{Image, Recovered};
use super::machine::Machine;
use super::oracle::Oracle;
use super::rng::Rng;
use crate::{
    Effects, Entry, EntryKind, GroupId, Index, Kind, Message, MessageError, Options, Plain, Replica, Role,
    RoleChange, Term, Write, checkpoint_named, membership,
};

pub(super) const TICK: u64 = 100;
/// Every invariant is looked at after every step, of a long log after every sixteenth.
const ENTRIES_CHECKED_MAX: u64 = 64;

#[derive(Clone, Debug)]
pub(super) enum Event {
    Tick(usize),
    Deliver(Box<Plain>),
    Durable { slot: usize, life: u64, upto: u64 },
    Stage { from: u64, to: u64, transfer: u64, image: Image },
    Staged { from: u64, to: u64, transfer: u64 },
    Propose,
    Read,
    Fault,
    Restart(usize),
}

/// What happened at all: a promise that was never put to the test was not kept.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) transfers: u64,
    pub(super) installs: u64,
    /// Of these, by replicas that had entries already.
    pub(super) laggards: u64,
    pub(super) handovers: u64,
    pub(super) wipes: u64,
    pub(super) reads: u64,
    /// Restarts that began behind a checkpoint.
    pub(super) restarts: u64,
    /// Followers that have let go of entries.
    pub(super) compactions: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.transfers += other.transfers;
        self.installs += other.installs;
        self.laggards += other.laggards;
        self.handovers += other.handovers;
        self.wipes += other.wipes;
        self.reads += other.reads;
        self.restarts += other.restarts;
        self.compactions += other.compactions;
    }
}

pub(super) struct World {
    pub(super) plant: Plant,
    pub(super) rng: Rng,
    pub(super) climate: Climate,

    pub(super) now: u64,
    number: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(super) machines: Vec<Machine>,
    /// Ids never come again.
    ids: u64,
    /// From whom to whom nothing comes through.
    pub(super) cut: BTreeSet<(u64, u64)>,
    pub(super) is_healed: bool,
    /// Nothing is proposed any more.
    pub(super) is_settling: bool,
    proposals: u64,
    effects: Effects,

    pub(super) oracle: Oracle,
    pub(super) counts: Counts,
    pub(super) trace: u64,
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = Rng(seed);
        let climate = Climate::new(&mut rng);
        let founders: Vec<u64> = (1..=climate.founders).collect();
        let machines = climate.machines.max(climate.founders);
        let mut world = Self {
            plant,
            rng,
            climate,
            now: 0,
            number: 0,
            events: BTreeMap::new(),
            machines: (1..=machines).map(Machine::new).collect(),
            ids: machines,
            cut: BTreeSet::new(),
            is_healed: false,
            is_settling: false,
            proposals: 0,
            effects: Effects::default(),
            oracle: Oracle::new(&founders),
            counts: Counts::default(),
            trace: 0xCBF2_9CE4_8422_2325,
        };
        for slot in 0..world.machines.len() {
            world.restart(slot);
            let delay = world.rng.below(TICK);
            world.after(delay, Event::Tick(slot));
        }
        world.after(500, Event::Propose);
        world.after(500, Event::Read);
        world.after(3_000, Event::Fault);
        world
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.number += 1;
        self.events.insert((self.now + delay, self.number), event);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn slot(&self, id: u64) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == id)
    }

    /// All who believe to lead, and can be asked for something.
    pub(super) fn leaders(&self) -> Vec<usize> {
        let leads = |machine: &Machine| machine.is_leader() && machine.paused_until <= self.now;
        (0..self.machines.len()).filter(|slot| leads(&self.machines[*slot])).collect()
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01B3);
    }

    pub(super) fn step(&mut self) {
        // Ticks come again and again: there is always an event.
        let ((now, _), event) = self.events.pop_first().expect("a tick is always due");
        self.now = now;
        let whose = match &event {
            Event::Tick(slot) | Event::Durable { slot, .. } => Some(*slot),
            Event::Deliver(plain) => self.slot(plain.to),
            Event::Stage { to, .. } | Event::Staged { to, .. } => self.slot(*to),
            Event::Propose | Event::Read | Event::Fault | Event::Restart(_) => None,
        };
        let until = whose.map_or(0, |slot| self.machines[slot].paused_until);
        if until > now {
            self.after(until - now, event);
            return;
        }
        match event {
            Event::Tick(slot) => self.on_tick(slot),
            Event::Deliver(plain) => self.on_deliver(*plain),
            Event::Durable { slot, life, upto } => self.on_durable(slot, life, upto),
            Event::Stage { .. } => self.on_stage(event),
            Event::Staged { from, to, transfer } => self.on_staged((from, to), transfer),
            Event::Propose => self.on_propose(),
            Event::Read => self.on_read(),
            Event::Fault => self.on_fault(),
            Event::Restart(slot) => self.restart(slot),
        }
    }

    /// An input, and sooner or later what follows from it.
    pub(super) fn act(&mut self, slot: usize, input: impl FnOnce(&mut Replica)) {
        let Some(replica) = &mut self.machines[slot].replica else { return };
        input(replica);
        if !self.rng.chance(self.climate.lazy_per_thousand) {
            self.drive(slot);
        }
    }

    pub(super) fn drive(&mut self, slot: usize) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(replica) = &mut self.machines[slot].replica {
            replica.drive(&mut effects);
            let entries = replica.last_index().0 - replica.base().0.0;
            if entries < ENTRIES_CHECKED_MAX || self.number.is_multiple_of(16) {
                replica.check();
            }
            self.carry_out(slot, &mut effects);
        }
        effects.clear();
        self.effects = effects;
    }

    /// In the order in which the broker does it.
    fn carry_out(&mut self, slot: usize, effects: &mut Effects) {
        let mut is_installing = false;
        for write in effects.writes.drain(..) {
            is_installing |= write.install.is_some();
            self.write(slot, &write);
        }
        for message in effects.messages.drain(..) {
            self.send(slot, &message);
        }
        if is_installing {
            self.counts.installs += 1;
            self.counts.laggards += u64::from(self.machines[slot].state.index > 0);
            self.machines[slot].install(&self.oracle);
        }
        if let Some(change) = effects.role {
            self.on_role(slot, change);
        }
        if let Some((term, index)) = effects.committed {
            self.oracle.on_committed((term.0, index.0));
        }
        let from = self.machines[slot].state.index;
        for (number, index) in effects.reads.drain(..) {
            self.on_confirmed(slot, number, index.0);
        }
        let has_membership = effects.apply.iter().any(|entry| entry.kind == EntryKind::Membership);
        for entry in effects.apply.drain(..) {
            self.apply(slot, &entry);
        }
        if let Some((term, index)) = effects.committed {
            self.check_committed(slot, from, (term.0, index.0));
        }
        self.machines[slot].compact();
        if is_installing || has_membership {
            self.check_members(slot);
        }
        if is_installing && self.plant == Plant::InstallEarly {
            let upto = self.machines[slot].disk.appended();
            self.report(slot, upto);
        }
    }

    fn write(&mut self, slot: usize, write: &Write) {
        let machine = &mut self.machines[slot];
        let is_state = write.entries.is_empty() && write.install.is_none();
        if is_state && self.plant == Plant::StateDropped {
            let upto = machine.disk.appended();
            machine.writes.push_back((write.token, upto));
            return self.begin_write(slot, upto);
        }
        let hard_state = self.plant.recorded(write.hard_state);
        let (entries, install) = (write.entries.clone(), write.install.clone());
        let write = Write { token: write.token, hard_state, entries, install };
        let sequence = machine.write(&write, &mut self.oracle);
        if write.install.is_some() && self.plant == Plant::InstallEarly {
            machine.stalled_until = self.now + 20 * TICK;
        }
        self.begin_write(slot, sequence);
    }

    pub(super) fn begin_write(&mut self, slot: usize, upto: u64) {
        let machine = &self.machines[slot];
        let (life, is_stalled) = (machine.life, self.now < machine.stalled_until);
        let mut delay = 1 + self.rng.below(self.climate.write_max);
        delay *= if is_stalled { 20 } else { 1 };
        let delay = if self.plant == Plant::PersistedEarly { 0 } else { delay };
        self.after(delay, Event::Durable { slot, life, upto });
    }

    /// Finishing one write finishes those before it.
    fn on_durable(&mut self, slot: usize, life: u64, upto: u64) {
        let machine = &mut self.machines[slot];
        if machine.life != life || machine.replica.is_none() {
            return;
        }
        machine.disk.finish(upto.saturating_sub(self.plant.records_behind()), &mut self.oracle);
        if self.rng.chance(200) {
            machine.disk.recycle();
        }
        self.report(slot, upto);
    }

    fn report(&mut self, slot: usize, durable_upto: u64) {
        let machine = &mut self.machines[slot];
        let Some(replica) = &mut machine.replica else { return };
        while let Some((token, _)) = machine.writes.front().filter(|(_, upto)| *upto <= durable_upto) {
            replica.on_persisted(*token);
            machine.writes.pop_front();
        }
        self.advance_target(slot, durable_upto);
        self.act(slot, |_| {});
    }

    fn send(&mut self, slot: usize, message: &Message) {
        let plain = Plain::of(message).expect("a message for a peer");
        self.oracle.on_message(&plain);
        let machine = &mut self.machines[slot];
        let Some(replica) = &mut machine.replica else { return };
        let is_promise = plain.kind == Kind::AppendResponse && !plain.reject;
        if is_promise && plain.term == replica.term().0 && self.plant == Plant::Nothing {
            assert!(plain.index <= machine.disk.last(), "{} acknowledged before it is durable", plain.index);
        }
        if self.cut.contains(&(plain.from, plain.to)) && replica.is_leader() {
            replica.report_unreachable(plain.to);
        }
        self.post((plain.from, plain.to), Event::Deliver(Box::new(plain)));
    }

    /// Through the network, if it comes through.
    pub(super) fn post(&mut self, link: (u64, u64), event: Event) {
        if self.cut.contains(&link) || self.rng.chance(self.climate.dropped_per_thousand) {
            return;
        }
        if self.rng.chance(self.climate.doubled_per_thousand) {
            let delay = 1 + self.rng.below(2 * self.climate.delay_max);
            self.after(delay, event.clone());
        }
        let late = if self.rng.chance(self.climate.late_per_thousand) { 20 } else { 1 };
        let delay = 1 + self.rng.below(late * self.climate.delay_max);
        self.after(delay, event);
    }

    fn on_tick(&mut self, slot: usize) {
        self.after(TICK, Event::Tick(slot));
        self.act(slot, Replica::tick);
        self.tend_transfers(slot);
    }

    fn on_deliver(&mut self, plain: Plain) {
        self.note(plain.index ^ plain.term << 20 ^ plain.to << 40);
        let Some(slot) = self.slot(plain.to) else { return };
        let machine = &mut self.machines[slot];
        let Some(replica) = &mut machine.replica else { return };
        let message = plain.into_message().expect("what was sent can be said");
        let named = checkpoint_named(&message).map(|(transfer, index, term)| (transfer, index.0, term.0));
        // Nothing is continued from but what is durable here.
        if let Some(named) = named
            && !machine.target.as_ref().is_some_and(|target| target.is_named(named))
        {
            return;
        }
        match replica.on_message(message) {
            Ok(()) | Err(MessageError::Stranger { .. }) => {}
            Err(error) => panic!("an honest message was refused: {error}"),
        }
        if named.is_some() {
            self.drive(slot);
        } else {
            self.act(slot, |_| {});
        }
    }

    fn on_role(&mut self, slot: usize, change: RoleChange) {
        self.note(change.term.0 << 8 | change.role as u64);
        let Some(replica) = &self.machines[slot].replica else { return };
        assert_eq!(change.term, replica.term());
        if change.role == Role::Leader {
            self.oracle.on_leader(replica);
        }
    }

    /// A leader that had applied `from` calls this committed; now it has applied what it could of it.
    fn check_committed(&self, slot: usize, from: u64, place: (u64, u64)) {
        let machines = &self.machines;
        let disk = |id| machines.iter().find(|machine| machine.id == id).map(|machine| &machine.disk);
        self.oracle.is_by_majority((from, machines[slot].state.index), place, disk);
        let replicas = machines.iter().filter_map(|machine| machine.replica.as_ref());
        replicas.filter(|one| one.is_leader()).for_each(|one| self.oracle.leader_is_complete(one));
    }

    fn apply(&mut self, slot: usize, entry: &Entry) {
        let machine = &mut self.machines[slot];
        let place = machine.places.pop_front().map(|(index, _)| index);
        assert_eq!(place, Some(entry.index.0), "applied without a place in the log");
        assert_eq!(entry.index.0, machine.state.index + 1, "a gap in what replica {} applies", machine.id);
        let digest = self.oracle.on_apply(entry, machine.state.digest);
        let conf_state = Vec::new();
        machine.state = Image { index: entry.index.0, term: entry.term.0, digest, conf_state };
        self.note(entry.index.0 ^ entry.term.0 << 32);
    }

    fn check_members(&self, slot: usize) {
        let Some(replica) = &self.machines[slot].replica else { return };
        if self.plant != Plant::LearnerCounted {
            let mut members = replica.members();
            members.voters_outgoing.sort_unstable();
            members.learners.sort_unstable();
            let config = self.oracle.config(replica.applied().0.0);
            assert_eq!(members, config.members(), "of replica {}", replica.id());
        }
    }

    fn on_propose(&mut self) {
        if self.is_settling {
            return;
        }
        for slot in self.leaders() {
            for _ in 0..self.rng.below(3) {
                self.proposals += 1;
                let mut data = vec![0; self.climate.payload_bytes];
                data[..8].copy_from_slice(&self.proposals.to_le_bytes());
                let data = Bytes::from(data);
                let Some(replica) = &mut self.machines[slot].replica else { continue };
                if let Ok((Term(term), Index(index))) = replica.propose(data.clone()) {
                    self.oracle.on_proposed(self.machines[slot].id, (term, index), &data);
                    self.act(slot, |_| {});
                }
            }
        }
        let delay = 1 + self.rng.below(self.climate.propose_max);
        self.after(delay, Event::Propose);
    }

    fn on_read(&mut self) {
        for slot in self.leaders() {
            let machine = &mut self.machines[slot];
            if !machine.is_serving() {
                continue;
            }
            machine.reads_asked += 1;
            let number = machine.reads_asked;
            machine.reads.insert(number, self.oracle.committed());
            let replica = machine.replica.as_mut().expect("a leader that serves");
            if self.plant == Plant::ReadAtOnce {
                let index = replica.committed().0;
                self.on_confirmed(slot, number, index);
            } else {
                self.act(slot, |replica| replica.read_index(number));
            }
        }
        let delay = 1 + self.rng.below(6 * TICK);
        self.after(delay, Event::Read);
    }

    /// What was committed anywhere before it was asked is what it shows at least.
    fn on_confirmed(&mut self, slot: usize, number: u64, index: u64) {
        let least = self.machines[slot].reads.remove(&number).expect("a read that was asked");
        assert!(least <= index, "a read shows the past: {index}, committed was {least}");
        self.counts.reads += 1;
    }

    pub(super) fn restart(&mut self, slot: usize) {
        let (machine, seed) = (&mut self.machines[slot], self.rng.next());
        if machine.replica.is_some() {
            return;
        }
        let Recovered { mut restored, image, places } = machine.disk.recover();
        assert_eq!(image.digest, self.oracle.digest(image.index), "a state of another history");
        if self.plant == Plant::Nothing {
            self.oracle.on_restart(machine.id, restored.hard_state);
        }
        if self.plant == Plant::VoteForgotten {
            restored.hard_state.vote = 0;
        }
        if self.plant == Plant::LearnerCounted && !restored.conf_state.is_empty() {
            let mut state = membership::decode(&restored.conf_state).expect("what a replica said");
            let learners = std::mem::take(&mut state.learners);
            state.voters.extend(learners);
            restored.conf_state = membership::encode(&state);
        }
        let options = Options {
            group: GroupId(1),
            id: machine.id,
            voters: (1..=self.climate.founders).collect(),
            seed,
            // All but one share a place, so that votes are split.
            rank: usize::from(self.climate.preferred != Some(machine.id)),
            log_bytes_max: crate::LOG_BYTES_MAX,
        };
        self.counts.restarts += u64::from(image.index > 0);
        (machine.state, machine.places) = (image, places);
        machine.replica = Some(Replica::new(options, restored).expect("a replica from what it wrote"));
        self.check_members(slot);
        self.drive(slot);
    }

    pub(super) fn heal(&mut self) {
        self.is_healed = true;
        self.cut.clear();
        self.climate.clear_up();
        for slot in 0..self.machines.len() {
            let machine = &mut self.machines[slot];
            (machine.paused_until, machine.stalled_until) = (self.now, self.now);
            self.restart(slot);
        }
    }

    /// Everybody who belongs to the group has everything.
    pub(super) fn judge(&mut self) {
        let last = self.oracle.judge();
        let config = self.oracle.newest_config();
        for machine in self.machines.iter().filter(|machine| config.is_member(machine.id)) {
            let (id, applied) = (machine.id, machine.state.index);
            assert_eq!(applied, last, "replica {id} has not applied everything");
        }
        for machine in &self.machines {
            let Some(replica) = machine.replica.as_ref().filter(|replica| !replica.is_leader()) else {
                continue;
            };
            self.counts.compactions += u64::from(replica.base().0.0 > 0);
        }
    }
}
