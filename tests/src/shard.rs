//! One node in a virtual world: a real shard, booted by the real recovery from a virtual disk and driven as the runtime
//! drives it, with producers, consumers, an administrator and strangers at the other end of virtual connections.
//!
//! ```text
//! node      carries the shard's outputs to the disk and its inputs back; boots it, crashes it
//! network   connections that cut bytes anywhere, take their time, and end
//! tap       reads along at the shard's edge and feeds the checker
//! workload  what clients say
//! ```
//!
//! After every step the shard checks itself. At the end everything heals: then all is consumed, nothing is left, and the
//! node still works.

#![allow(clippy::too_many_lines, reason = "one match over everything that can happen")]

mod network;
mod node;
mod tap;
mod workload;

use std::collections::{BTreeMap, VecDeque};

use ringmain_core::config::{Bytes, Limits};
use ringmain_core::member::Member;
use ringmain_core::shard::{Address, Output, Shard, ShardOptions};
use ringmain_core::time::Time;
use ringmain_wal::{GroupId, Identity, LogOptions, Position, PrepareSegment, WriteId};

use crate::disk::{Disk, Faults, Flight};
use crate::world::{MICROSECOND, MILLISECOND, SECOND, Trace, World};
use network::Link;
use tap::Tap;
use workload::Client;

const IDENTITY: Identity = Identity { cluster: 0x51D0_0000_0000_0007, node: 1, shard: 0, incarnation: 5 };
/// The wall's time when a run begins.
const BEGIN: u64 = 1_700_000_000 * SECOND;
/// Purges want room for what they keep, so a segment cannot be smaller.
const SEGMENT_BYTES: u64 = 2 << 20;
/// Steps within which a healed node must have delivered everything.
const CALM_STEPS: u64 = 60_000;

/// What the surroundings of the shard do wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    Nothing,
    /// A write is reported as durable when it is submitted.
    DurableEarly,
    /// A consumer that returns messages is told that they are back; the shard never hears of it.
    NackSwallowed,
    /// Recovery's end is not taken for the end: one more record is accepted, torn or not.
    TornAccepted,
    /// After a restart, publishes that are sent again are stored in a session of their own.
    SessionForgotten,
    /// What one consumer gets, another one of the same queue gets too.
    LeasedTwice,
    /// The superblock is reported as durable when it is submitted.
    FloorEarly,
    /// A wrong count is shown.
    CountFalsified,
}

/// What happened in a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub trace: u64,
    pub steps: u64,
    pub acknowledged: u64,
    pub duplicates: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub settled: u64,
    pub stale: u64,
    pub shown: u64,
    pub shown_exactly: u64,
    pub purged: u64,
    pub deleted: u64,
    pub full: u64,
    pub busy: u64,
    pub disk_full: u64,
    pub fenced: u64,
    pub crashes: u64,
    pub stops: u64,
    pub rot_at_boot: u64,
    pub rot_read: u64,
    pub rot_unprovable: u64,
    pub created: u64,
    pub recycled: u64,
    pub refused: u64,
    pub relocated: u64,
    pub checkpoints: u64,
    pub reads: u64,
    pub paused: u64,
    pub choked: u64,
    pub dropped: u64,
}

impl Report {
    /// Each of which should happen now and then; rot that nothing proves is too rare.
    pub fn counts(&self) -> [(&'static str, u64); 27] {
        [
            ("acknowledged", self.acknowledged),
            ("duplicates", self.duplicates),
            ("delivered", self.delivered),
            ("redelivered", self.redelivered),
            ("settled", self.settled),
            ("stale", self.stale),
            ("shown", self.shown),
            ("shown exactly", self.shown_exactly),
            ("purged", self.purged),
            ("deleted", self.deleted),
            ("full", self.full),
            ("busy", self.busy),
            ("disk full", self.disk_full),
            ("fenced", self.fenced),
            ("crashes", self.crashes),
            ("stops", self.stops),
            ("rot at boot", self.rot_at_boot),
            ("rot read", self.rot_read),
            ("created", self.created),
            ("recycled", self.recycled),
            ("refused", self.refused),
            ("relocated", self.relocated),
            ("checkpoints", self.checkpoints),
            ("reads", self.reads),
            ("paused", self.paused),
            ("choked", self.choked),
            ("dropped", self.dropped),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Act(usize),
    Arrive(u64),
    Deliver(u64),
    Sent { connection: u64, bytes: usize },
    Gone(u64),
    Turn { life: u64 },
    Deadline { life: u64 },
    Written { life: u64, flight: Flight, write: WriteId },
    SlotWritten { life: u64, flight: Flight },
    Prepared { life: u64, prepare: PrepareSegment },
    Retry { life: u64 },
    Read { life: u64, position: Position, bytes: usize },
    Chaos,
}

struct Run {
    world: World<Event>,
    plant: Plant,
    options: ShardOptions,
    disk: Disk,
    shard: Shard,
    output: Output,
    tap: Tap,
    clients: Vec<Client>,
    report: Report,

    life: u64,
    /// The wall's clock against the world's; it may jump while the node is down.
    clock: u64,
    turn_planned: bool,
    deadline_planned: Option<u64>,
    is_stopping: bool,
    preparing: Option<PrepareSegment>,
    segments: VecDeque<PrepareSegment>,
    /// There was no space, and nobody has retried since.
    is_refused: bool,
    links: BTreeMap<u64, Link>,
    next_connection: u64,
    next_message: u64,
    /// What the turn under way leaves for prompt connections.
    flushed: Vec<(u64, Vec<u8>)>,
    /// Of the plant that stores twice.
    ghost: Option<u64>,
    ghost_session: Option<(u64, u64)>,

    crash_one_in: u64,
    rots: bool,
    is_calm: bool,
}

/// Some thousand steps of one seed and a peaceful end, or the first thing that went wrong.
pub fn run(seed: u64, steps: u64, plant: Plant, trace: Trace) -> Result<Report, String> {
    let mut run = Run::new(seed, plant, trace);
    run.plan_turn();
    for client in 0..run.clients.len() {
        run.world.after(client as u64 * MICROSECOND, Event::Act(client));
    }
    run.world.after(MILLISECOND, Event::Chaos);
    for _ in 0..steps {
        run.step()?;
    }
    run.calm()?;
    run.report.trace = run.world.trace.hash();
    run.tap.fill(&mut run.report);
    Ok(run.report)
}

impl Run {
    fn new(seed: u64, plant: Plant, trace: Trace) -> Self {
        let mut world = World::new(seed, trace);
        let rng = &mut world.rng;
        let address = Address { host: "node".to_owned(), port: 7411 };
        let options = ShardOptions {
            identity: IDENTITY,
            log: LogOptions {
                segment_bytes: SEGMENT_BYTES,
                write_bytes_max: 4096 << rng.between(2, 6),
                writes_in_flight_max: rng.between(1, 4) as u32,
                overlap_bytes_min: if rng.one_in(2) { 0 } else { 16 << 10 },
                segments_ready: rng.between(1, 2) as u32,
                cache_bytes_max: 1 << rng.between(14, 21),
                ..LogOptions::new(IDENTITY)
            },
            limits: Limits {
                message_bytes_max: Bytes(160 << 10),
                // The stranger must find no room, the others must.
                connections_max: if rng.one_in(4) { 11 } else { 64 },
                messages_max: if rng.one_in(3) { rng.between(40, 400) } else { 100_000 },
                checkpoint_bytes: Bytes(256 << rng.between(9, 12)),
                ..Limits::default()
            },
            groups: vec![GroupId(0)],
            addresses: vec![address.clone()],
            founders: vec![Member { node: IDENTITY.node, incarnation: IDENTITY.incarnation, address }],
            layout: None,
            seed: rng.draw(),
        };
        let mut disk = Disk::new(IDENTITY, SEGMENT_BYTES);
        let rots = rng.one_in(4);
        disk.faults = Faults::of_a_sound_disk(rng);
        if rots && rng.one_in(2) {
            disk.faults = Faults::of_a_rotten_disk(rng);
        }
        disk.segments_max = if rng.one_in(2) { usize::MAX } else { rng.between(2, 6) as usize };
        let crash_one_in = 6 << rng.below(6);
        let clients = workload::clients(rng);
        let shard = node::boot(&disk, &options, Plant::Nothing).expect("an empty disk boots").shard;
        Self {
            world,
            plant,
            tap: Tap::new(),
            clients,
            options,
            disk,
            shard,
            output: Output::default(),
            report: Report::default(),
            life: 0,
            clock: BEGIN,
            turn_planned: false,
            deadline_planned: None,
            is_stopping: false,
            preparing: None,
            segments: VecDeque::new(),
            is_refused: false,
            links: BTreeMap::new(),
            next_connection: 1,
            next_message: 1,
            flushed: Vec::new(),
            ghost: None,
            ghost_session: None,
            crash_one_in,
            rots,
            is_calm: false,
        }
    }

    fn now(&self) -> Time {
        Time(self.clock + self.world.now())
    }

    fn step(&mut self) -> Result<(), String> {
        self.report.steps += 1;
        let event = self.world.advance().expect("chaos is always planned");
        let is_current = |life: u64| life == self.life;
        match event {
            Event::Act(client) => self.act(client),
            Event::Arrive(connection) => self.arrive(connection),
            Event::Deliver(connection) => self.deliver(connection),
            Event::Sent { connection, bytes } => self.sent(connection, bytes),
            Event::Gone(connection) => self.gone(connection),
            Event::Turn { life } if is_current(life) => self.turn(),
            Event::Deadline { life } if is_current(life) => {
                self.deadline_planned = None;
                self.plan_turn();
                Ok(())
            }
            Event::Written { life, flight, write } if is_current(life) => self.written(flight, write),
            Event::SlotWritten { life, flight } if is_current(life) => self.slot_written(flight),
            Event::Prepared { life, prepare } if is_current(life) => self.prepared(prepare),
            Event::Retry { life } if is_current(life) => self.retry(),
            Event::Read { life, position, bytes } if is_current(life) => self.read(position, bytes),
            Event::Chaos => self.chaos(),
            // Of an earlier life of the node.
            Event::Turn { .. }
            | Event::Deadline { .. }
            | Event::Written { .. }
            | Event::SlotWritten { .. }
            | Event::Prepared { .. }
            | Event::Retry { .. }
            | Event::Read { .. } => Ok(()),
        }
    }

    /// What nobody asked for.
    fn chaos(&mut self) -> Result<(), String> {
        let pause = self.world.rng.between(100, 1_500) * MICROSECOND;
        self.world.after(pause, Event::Chaos);
        if self.is_calm {
            return Ok(());
        }
        let rng = &mut self.world.rng;
        if rng.one_in(self.crash_one_in) {
            self.crash()?;
            // Once more at once, in the midst of the first writes.
            while self.world.rng.one_in(4) {
                self.turn()?;
                for _ in 0..self.world.rng.below(20) {
                    self.step()?;
                }
                self.crash()?;
            }
            return Ok(());
        }
        match rng.below(60) {
            0..=2 if !self.links.is_empty() => {
                let nth = rng.below(self.links.len() as u64) as usize;
                let connection = self.links.keys().nth(nth).copied().expect("there are that many");
                self.report.dropped += 1;
                self.gone(connection)?;
            }
            3..=6 if self.rots => {
                if let Some((place, offset)) = self.disk.rot(rng) {
                    self.world.note("rot", &[place.number(), offset as u64]);
                }
            }
            7 if !self.is_stopping && rng.one_in(2) => {
                self.is_stopping = true;
                self.world.note("stop", &[]);
                self.input(ringmain_core::shard::Input::Stop)?;
            }
            8..=9 => self.disk.segments_max = rng.between(2, 6) as usize,
            10 => self.disk.segments_max = usize::MAX,
            _ => {}
        }
        Ok(())
    }

    /// The world is kind again: everything comes to its end.
    fn calm(&mut self) -> Result<(), String> {
        self.world.note("calm", &[]);
        self.disk.faults = Faults::none();
        self.disk.segments_max = usize::MAX;
        self.disk.heal();
        self.crash()?;
        self.is_calm = true;
        self.rots = false;
        self.run_dry()?;
        // Once more from what is on the disk, and it works as before.
        self.crash()?;
        for client in &mut self.clients {
            client.encore();
        }
        self.run_dry()
    }

    fn run_dry(&mut self) -> Result<(), String> {
        let begun = self.report.steps;
        let mut goal = self.tap.shown();
        while !self.tap.all_shown_empty_since(goal) {
            self.step()?;
            if !self.clients.iter().all(Client::is_done) {
                goal = self.tap.shown();
            }
            if self.report.steps - begun > CALM_STEPS {
                let waiting: Vec<String> =
                    self.clients.iter().filter(|one| !one.is_done()).map(Client::describe).collect();
                return Err(format!(
                    "alive: nothing is wrong any more, and {waiting:?} are not done; {}",
                    self.tap.describe()
                ));
            }
        }
        self.tap.checker.drained()
    }

    fn act(&mut self, number: usize) -> Result<(), String> {
        let pause = self.clients[number].pause(&mut self.world.rng, self.is_calm);
        self.world.after(pause, Event::Act(number));
        if self.clients[number].connection.is_none() {
            let is_hostile = self.clients[number].is_hostile();
            if !(self.is_calm && is_hostile) {
                self.connect(number)?;
            }
        }
        self.converse(number, Client::act)
    }
}

#[cfg(test)]
mod tests;
