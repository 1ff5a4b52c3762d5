//! A node and its disk: what the runtime does in the product, with virtual devices.

mod recovery;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use ringmain_core::config::{self, Bytes as Size, Limits};
use ringmain_core::connection::ConnectionId;
use ringmain_core::failure::Failure;
use ringmain_core::formation::{ClusterLayout, Founder, State as LayoutState};
use ringmain_core::member::{Member, replica_id};
use ringmain_core::shard::{Input, Output, Shard, ShardOptions};
use ringmain_core::time::Time;
use ringmain_wal::{GroupId, Identity, LogOptions, PAGE_BYTES, Position, PrepareSegment, WriteId};

use super::forming::{Directory, Forming};
use super::network::End;
use super::{BEGIN, CLUSTER, Deed, Event, PORT, Plant, Run, SEGMENT_BYTES, member};
use crate::disk::{Disk, Faults, Place};
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND, SECOND};

const PAGE: usize = PAGE_BYTES as usize;
/// How long what is reported too early is not on the disk.
const CACHED_NS: u64 = 200 * MILLISECOND;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Up,
    /// Its process waits for a cluster.
    Forming,
    /// It comes back by itself.
    Down,
    /// Its disk is rotten, and it says so: it stays down until it is wiped.
    Rotten,
    /// It was told that it is no member any more.
    Removed,
}

pub(super) struct Machine {
    pub(super) incarnation: u32,
    pub(super) options: ShardOptions,
    pub(super) disk: Disk,
    pub(super) state: State,
    pub(super) life: u64,
    pub(super) shard: Option<Shard>,
    /// None: the node was a member from the beginning, and nothing undoes that.
    pub(super) directory: Option<Directory>,
    /// Invariant: there is no shard beside it.
    pub(super) forming: Option<Forming>,
    pub(super) paused_until: u64,
    /// The wall's clock against the world's; it never goes back in one life.
    pub(super) clock: u64,
    /// Its disk may have lost what it said was there. Until it has been looked at and found sound, or was replaced, nothing
    /// else may be lost.
    pub(super) is_suspect: bool,
    pub(super) is_stopping: bool,
    /// It led something when it was asked to stop.
    pub(super) led_at_stop: bool,

    output: Output,
    steps: u64,
    turn_planned: bool,
    deadline_planned: Option<u64>,
    preparing: Option<PrepareSegment>,
    segments: VecDeque<PrepareSegment>,
    /// Writes that were reported as durable before they were.
    told: BTreeSet<WriteId>,
    /// When the last of them is on the disk.
    cached_until: u64,
    /// Of the groups, at the last write.
    terms: Vec<u64>,
    /// There was no space, and nobody has retried since.
    is_refused: bool,
    /// By group: what it had applied and where it stood when last looked at.
    seen: Vec<(u64, u64)>,
    /// The same of entries that it read back for others.
    read_back: Vec<u64>,
}

impl Machine {
    pub(super) fn new(at: usize, founders: &[Member], plant: Plant, rng: &mut Rng) -> Self {
        let identity = identity(CLUSTER, at, 1);
        let options = ShardOptions {
            identity,
            log: LogOptions {
                segment_bytes: SEGMENT_BYTES,
                write_bytes_max: 4096 << rng.between(2, 6),
                writes_in_flight_max: rng.between(1, 4) as u32,
                overlap_bytes_min: if rng.one_in(2) { 0 } else { 16 << 10 },
                segments_ready: rng.between(1, 2) as u32,
                cache_bytes_max: 1 << rng.between(14, 21),
                ..LogOptions::new(identity)
            },
            limits: Limits {
                message_bytes_max: Size(160 << 10),
                connections_max: 64,
                messages_max: 100_000,
                checkpoint_bytes: Size(match plant {
                    // A checkpoint knows what the members are.
                    Plant::CommitForgotten => 64 << 20,
                    _ => 32 << rng.between(10, 14),
                }),
                // Little of what a follower lacks is in memory, and sometimes not all of it in what is remembered.
                entries_bytes_max: Size(1 << rng.between(9, 22)),
                entries_remembered_max: 1 << rng.between(3, 12),
                ..Limits::default()
            },
            groups: (0..founders.len() as u32).map(GroupId).collect(),
            addresses: vec![member(at, 1).address],
            founders: founders.to_vec(),
            layout: None,
            seed: rng.draw(),
        };
        let mut disk = Disk::new(identity, SEGMENT_BYTES);
        disk.faults = usual_faults(plant, rng);
        Self {
            incarnation: 1,
            options,
            disk,
            state: State::Down,
            life: 0,
            shard: None,
            directory: None,
            forming: None,
            paused_until: 0,
            clock: BEGIN,
            is_suspect: false,
            is_stopping: false,
            led_at_stop: false,
            output: Output::default(),
            steps: 0,
            turn_planned: false,
            deadline_planned: None,
            preparing: None,
            segments: VecDeque::new(),
            told: BTreeSet::new(),
            cached_until: 0,
            terms: Vec::new(),
            is_refused: false,
            seen: vec![(0, 0); founders.len()],
            read_back: vec![0; founders.len()],
        }
    }

    pub(super) fn replica(&self) -> u64 {
        replica_id(self.options.identity.node, self.incarnation)
    }
}

pub(super) fn usual_faults(plant: Plant, rng: &mut Rng) -> Faults {
    if plant == Plant::DurableEarly {
        return Faults { slow: 500_000, ..Faults::none() };
    }
    Faults { slow: if rng.one_in(2) { 0 } else { rng.skewed(20_000) }, ..Faults::none() }
}

fn identity(cluster: u64, at: usize, incarnation: u32) -> Identity {
    Identity { cluster, node: at as u32 + 1, shard: 0, incarnation }
}

/// What a node says of itself whose log was rotten, and which begins anew.
fn layout(at: usize, machine: &Machine) -> ClusterLayout {
    let founder = |member: &Member| Founder {
        node: member.node,
        incarnation: member.incarnation,
        address: config::Address { host: member.address.host.clone(), port: PORT },
    };
    ClusterLayout {
        cluster: machine.options.identity.cluster,
        node: at as u32 + 1,
        incarnation: machine.incarnation + 1,
        shards: 1,
        groups: machine.options.groups.len() as u32,
        segment_bytes: SEGMENT_BYTES,
        state: LayoutState::Joining,
        founders: machine.options.founders.iter().map(founder).collect(),
        replaces: machine.incarnation,
    }
}

fn place(position: Position) -> (u64, usize) {
    (position.segment(SEGMENT_BYTES), position.offset(SEGMENT_BYTES) as usize)
}

impl Run {
    pub(super) fn now(&self, node: usize) -> Time {
        Time(self.machines[node].clock + self.world.now())
    }

    pub(super) fn plan(&mut self, node: usize, delay: u64, deed: Deed) {
        self.world.after(delay, Event::Machine(node, self.machines[node].life, deed));
    }

    pub(super) fn deed(&mut self, node: usize, deed: Deed) -> Result<(), String> {
        match deed {
            Deed::Turn => self.turn(node),
            Deed::Deadline => {
                self.machines[node].deadline_planned = None;
                self.plan_turn(node);
                Ok(())
            }
            Deed::Written(flight, write) => {
                self.machines[node].disk.finish(flight, &mut self.world.rng);
                if self.machines[node].told.remove(&write) {
                    return Ok(());
                }
                self.input(node, Input::Written { id: write }).map(|_| ())
            }
            Deed::SlotWritten(flight) => {
                self.machines[node].disk.finish(flight, &mut self.world.rng);
                self.input(node, Input::SuperblockWritten).map(|_| ())
            }
            Deed::Prepared(prepare) => self.prepared(node, prepare),
            Deed::Retry => {
                self.machines[node].is_refused = false;
                self.input(node, Input::RetrySegments)?;
                self.prepare_next(node);
                Ok(())
            }
            Deed::Read(position, bytes) => self.read(node, position, bytes),
            Deed::Accept(pipe) => self.accept(node, pipe),
            Deed::Dialled(to, lane) => self.dialled(node, to, lane),
            Deed::Unknown(peer, lane) => {
                self.input(node, Input::Dialled { node: peer, lane, connection: None }).map(|_| ())
            }
            Deed::Settled => self.settled(node),
            Deed::Decide => self.decide(node),
            Deed::Ask(peer) => {
                self.ask(node, peer);
                Ok(())
            }
            Deed::Reached(peer, number) => {
                self.reached(node, peer, number);
                Ok(())
            }
            Deed::Overdue(peer, number) => {
                self.overdue(node, peer, number);
                Ok(())
            }
        }
    }

    /// One step of the shard, and what came of it. A turn follows, as in the product.
    pub(super) fn input(&mut self, node: usize, input: Input<'_>) -> Result<(usize, bool), String> {
        let is_turn = matches!(input, Input::Turn);
        if !is_turn {
            self.plan_turn(node);
        }
        let now = self.now(node);
        let machine = &mut self.machines[node];
        let Some(shard) = machine.shard.as_mut() else { return Ok((0, false)) };
        let mut output = std::mem::take(&mut machine.output);
        shard.step(now, input, &mut output);
        machine.steps += 1;
        if machine.steps.is_multiple_of(self.check_every) {
            shard.check();
            self.report.checks += 1;
        }
        let received = (output.consumed, output.is_paused);
        self.observe(node)?;
        let carried = self.carry(node, &mut output);
        output.clear();
        self.machines[node].output = output;
        carried.map(|()| received)
    }

    /// Who leads, and what is applied.
    fn observe(&mut self, node: usize) -> Result<(), String> {
        let machine = &mut self.machines[node];
        let Some(shard) = machine.shard.as_ref() else { return Ok(()) };
        for group in 0..self.groups {
            let state = shard.group_state(group).expect("every group is on every shard");
            let (term, applied) = (state.term.0, state.applied.0);
            if state.is_leader {
                self.oracle.leads((group, term), (node, machine.life))?;
                self.oracle.committed(group, (term, state.is_serving), state.committed.0);
            }
            let read_back = std::mem::replace(&mut machine.read_back[group], state.entries_read_back);
            self.report.read_back += state.entries_read_back - read_back;
            let seen = &mut machine.seen[group];
            if seen.0 != applied {
                let is_looked_at = applied.is_multiple_of(4) || self.is_calm;
                if is_looked_at {
                    let digest = shard.group_digest(group).expect("every group is on every shard");
                    self.oracle.applied((group, applied), digest, node)?;
                }
            }
            if *seen != (applied, term) {
                *seen = (applied, term);
                self.world.note("state", &[node as u64, group as u64, term, applied]);
            }
        }
        Ok(())
    }

    pub(super) fn plan_turn(&mut self, node: usize) {
        if !self.machines[node].turn_planned {
            self.machines[node].turn_planned = true;
            let delay = self.world.rng.skewed(4) * MICROSECOND;
            self.plan(node, delay, Deed::Turn);
        }
    }

    fn turn(&mut self, node: usize) -> Result<(), String> {
        let life = self.machines[node].life;
        self.machines[node].turn_planned = false;
        self.input(node, Input::Turn)?;
        if !self.is_up(node, life) {
            return Ok(());
        }
        self.submit_writes(node)?;
        let now = self.now(node).0;
        let machine = &mut self.machines[node];
        let next = machine.shard.as_ref().and_then(Shard::next_deadline).map(|deadline| deadline.0);
        if let Some(next) = next
            && machine.deadline_planned.is_none_or(|planned| next < planned || planned <= now)
        {
            machine.deadline_planned = Some(next);
            self.plan(node, next.saturating_sub(now).max(MICROSECOND), Deed::Deadline);
        }
        Ok(())
    }

    fn carry(&mut self, node: usize, output: &mut Output) -> Result<(), String> {
        if let Some(failure) = output.failure.take() {
            return self.fail(node, &failure);
        }
        if output.has_joined {
            self.joined(node);
        }
        for connection in output.resumes.drain(..) {
            self.resume(node, connection.0);
        }
        for window in output.reads.drain(..) {
            let delay = self.world.rng.skewed(400) * MICROSECOND;
            self.plan(node, delay, Deed::Read(window.position, window.bytes));
        }
        self.machines[node].segments.extend(output.segments.drain(..));
        self.prepare_next(node);
        if let Some(superblock) = output.superblock.take() {
            let mut page = vec![0; PAGE];
            superblock.encode(&mut page);
            let slot = Place::Slot(superblock.slot());
            let (flight, delay) = self.machines[node].disk.submit(slot, 0, page, &mut self.world.rng);
            if let Some(delay) = delay {
                let delay = self.in_order(node, delay, false);
                self.plan(node, delay, Deed::SlotWritten(flight));
            }
        }
        let dials: Vec<_> = output.dials.drain(..).collect();
        dials.into_iter().for_each(|dial| self.dial(node, &dial));
        let sends: Vec<ConnectionId> = output.sends.drain(..).collect();
        self.take_all(node, &sends)?;
        let closes: Vec<_> = output.closes.drain(..).collect();
        closes.into_iter().for_each(|connection| self.close(connection.0, End::is_machine(node)));
        let cuts: Vec<_> = output.cuts.drain(..).collect();
        cuts.into_iter().for_each(|connection| self.close(connection.0, End::is_machine(node)));
        if output.is_unfinished {
            self.plan_turn(node);
        }
        if output.is_stopped { self.stopped(node) } else { Ok(()) }
    }

    fn submit_writes(&mut self, node: usize) -> Result<(), String> {
        loop {
            let machine = &mut self.machines[node];
            let Some(shard) = machine.shard.as_mut() else { return Ok(()) };
            let Some(bytes) = shard.next_write_bytes() else { return Ok(()) };
            let mut page = vec![0xEE; bytes];
            let at = shard.poll_write(&mut page).expect("there is a write of that many bytes");
            assert_eq!(at.bytes, bytes);
            let checksum = u64::from(crc32c::crc32c(&page));
            self.world.note("write", &[node as u64, at.segment, at.offset, checksum]);
            let segment = Place::Segment(at.segment);
            let (flight, delay) = machine.disk.submit(segment, at.offset, page, &mut self.world.rng);
            let is_early = match self.plant {
                Plant::DurableEarly => true,
                // What it promised in elections is kept: only what it acknowledged is not.
                Plant::FollowerEarly => !self.leads_any(node) && !self.has_new_terms(node),
                _ => false,
            };
            match delay.map(|delay| self.in_order(node, delay, is_early)) {
                Some(delay) => self.plan(node, delay, Deed::Written(flight, at.id)),
                None => self.report.stuck += 1,
            }
            if is_early {
                self.machines[node].told.insert(at.id);
                self.input(node, Input::Written { id: at.id })?;
            }
        }
    }

    /// Since the last write, it has heard of another term in some group.
    fn has_new_terms(&mut self, node: usize) -> bool {
        let terms: Vec<u64> =
            (0..self.groups).filter_map(|group| self.state(node, group)).map(|state| state.term.0).collect();
        let is_new = terms != self.machines[node].terms;
        self.machines[node].terms = terms;
        is_new
    }

    /// Only ever planted: what is reported too early lies in a cache for long, and what is written later lies behind it,
    /// so that a crash takes all of it and nothing on the disk says so.
    fn in_order(&mut self, node: usize, delay: u64, is_early: bool) -> u64 {
        if self.plant != Plant::FollowerEarly {
            return delay;
        }
        let now = self.world.now();
        let machine = &mut self.machines[node];
        if is_early {
            machine.cached_until = now + CACHED_NS;
        }
        delay.max(machine.cached_until.saturating_sub(now))
    }

    /// Segments are made one at a time.
    fn prepare_next(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.preparing.is_some() || machine.is_refused {
            return;
        }
        let Some(prepare) = machine.segments.pop_front() else { return };
        machine.preparing = Some(prepare);
        let delay = self.world.rng.between(50, 3_000) * MICROSECOND;
        self.plan(node, delay, Deed::Prepared(prepare));
    }

    fn prepared(&mut self, node: usize, prepare: PrepareSegment) -> Result<(), String> {
        let machine = &mut self.machines[node];
        machine.preparing = None;
        let number = prepare.number();
        if !machine.disk.has_space(prepare) {
            machine.is_refused = true;
            self.plan(node, SECOND / 8, Deed::Retry);
            return self.input(node, Input::SegmentRefused { number }).map(|_| ());
        }
        machine.disk.prepare(prepare);
        self.input(node, Input::SegmentReady { number })?;
        self.prepare_next(node);
        Ok(())
    }

    fn read(&mut self, node: usize, position: Position, bytes: usize) -> Result<(), String> {
        let (segment, mut offset) = place(position);
        if self.plant == Plant::ReadElsewhere {
            offset += PAGE;
        }
        let disk = &self.machines[node].disk;
        let mut found = disk.read(Place::Segment(segment), offset..offset + bytes).to_vec();
        // The file went on to be another segment while the read was under way: whoever wanted it is gone as well.
        found.resize(bytes, 0xAA);
        self.input(node, Input::Read { position, bytes: Bytes::from(found) }).map(|_| ())
    }

    /// The process would end now. That must be for a reason.
    fn fail(&mut self, node: usize, failure: &Failure) -> Result<(), String> {
        match failure {
            Failure::Rot { segment, offset, bytes } => {
                let range = *offset as usize..*offset as usize + *bytes as usize;
                if !self.machines[node].disk.is_harmed_in(Place::Segment(*segment), range) {
                    return Err(format!("honest: sound bytes are called rotten: {failure}"));
                }
                self.crash(node, false)?;
                self.machines[node].state = State::Rotten;
                self.report.rotten += 1;
            }
            Failure::LostEntries { .. } if self.machines[node].is_suspect => {
                self.crash(node, false)?;
                self.machines[node].state = State::Rotten;
                self.report.rotten += 1;
            }
            Failure::Removed { .. } => {
                let replica = self.machines[node].replica();
                if self.goal.iter().any(|member| member.replica() == replica) {
                    return Err(format!("honest: node {} is a member, and is told: {failure}", node + 1));
                }
                self.crash(node, false)?;
                self.machines[node].state = State::Removed;
                self.report.removed += 1;
            }
            _ => return Err(format!("honest: node {} gives up: {failure}", node + 1)),
        }
        self.world.note("gone", &[node as u64]);
        Ok(())
    }

    /// The process is no more; what of its machine's connections others learn at once, and what later, is drawn.
    pub(super) fn crash(&mut self, node: usize, is_silent: bool) -> Result<(), String> {
        self.world.note("crash", &[node as u64]);
        self.oracle.crashed();
        let rng = &mut self.world.rng;
        let machine = &mut self.machines[node];
        if self.plant == Plant::FollowerEarly {
            machine.is_suspect |= !machine.told.is_empty();
            machine.disk.lose_writes();
        }
        machine.disk.crash(rng);
        if let Some(prepare) = machine.preparing.take() {
            match rng.below(3) {
                0 if machine.disk.has_space(prepare) => machine.disk.prepare(prepare),
                1 => machine.disk.prepare_interrupted(prepare),
                _ => {}
            }
        }
        machine.life += 1;
        (machine.shard, machine.output, machine.state) = (None, Output::default(), State::Down);
        self.report.early_crashes += u64::from(machine.forming.take().is_some());
        if let Some(directory) = &mut machine.directory {
            directory.crash(rng);
        }
        (machine.turn_planned, machine.deadline_planned, machine.is_refused) = (false, None, false);
        (machine.paused_until, machine.is_stopping) = (0, false);
        machine.segments.clear();
        machine.told.clear();
        machine.seen.fill((0, 0));
        machine.read_back.fill(0);
        if rng.one_in(4) {
            // The clock of a machine that was down may stand anywhere.
            machine.clock = machine.clock - 300 * MILLISECOND + rng.below(SECOND);
        }
        self.report.crashes += 1;
        self.drop_pipes(node, is_silent);
        self.check_directories()
    }

    /// From what the disk holds; if that is harmed, the node must say so, unless it does not matter.
    pub(super) fn boot(&mut self, node: usize) -> Result<(), String> {
        assert!(!self.machines[node].is_running());
        if self.machines[node].directory.as_ref().is_some_and(|directory| !directory.is_settled()) {
            self.open(node);
            return Ok(());
        }
        self.machines[node].take_layout();
        let Some(booted) = self.recover(node)? else {
            self.machines[node].state = State::Rotten;
            self.report.rotten += 1;
            self.world.note("rotten", &[node as u64]);
            return Ok(());
        };
        let machine = &mut self.machines[node];
        let Faults { slow, stuck, .. } = machine.disk.faults;
        (machine.disk.faults, machine.is_suspect) = (Faults { slow, stuck, ..Faults::none() }, false);
        self.report.installed += booted.installed;
        self.world.note("booted", &[node as u64, booted.last.0]);
        let (segment, offset) =
            booted.end.map_or((0, 0), |end| place(Position(end.0.next_multiple_of(PAGE_BYTES))));
        machine.disk.settle(segment, offset as u64);
        booted.shard.check();
        (machine.shard, machine.state) = (Some(booted.shard), State::Up);
        self.plan_turn(node);
        Ok(())
    }

    /// A new disk: the machine comes back as somebody else.
    pub(super) fn wipe(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].is_running() {
            self.crash(node, false)?;
        }
        let machine = &self.machines[node];
        // The node notices that its log is rotten, sets it aside, and asks to be taken for another one.
        let left = (machine.state == State::Rotten).then(|| layout(node, machine));
        self.lose_directory(node, left.clone());
        let rng = &mut self.world.rng;
        let machine = &mut self.machines[node];
        machine.options.layout = left;
        machine.incarnation += 1;
        let identity = identity(machine.options.identity.cluster, node, machine.incarnation);
        machine.options.identity = identity;
        machine.options.log = LogOptions { identity, ..machine.options.log.clone() };
        machine.options.seed = rng.draw();
        machine.disk = Disk::new(identity, SEGMENT_BYTES);
        machine.is_suspect = false;
        machine.disk.faults = if self.is_calm { Faults::none() } else { usual_faults(self.plant, rng) };
        machine.state = State::Down;
        self.report.wiped += 1;
        self.world.note("wiped", &[node as u64, u64::from(machine.incarnation)]);
        self.boot(node)
    }

    /// A write of it is on its way, and may never end.
    pub(super) fn has_writes(&self, node: usize) -> bool {
        self.machines[node].disk.writes_in_flight() > 0
    }
}
