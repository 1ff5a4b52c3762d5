//! Whole clusters in a virtual world: real shards, one for each node, on virtual disks, joined and asked over virtual
//! connections.
//!
//! ```text
//! machine  a node: carries its shard's outputs to the disk and the network and the inputs back; boots, crashes, is wiped
//! network  bytes between any two: in order for each connection, late, cut off, corrupted, repeated
//! forming  a node that is part of no cluster yet: asks, answers, decides
//! founding how nodes with empty directories come to be one cluster, and what must be true of it
//! chaos    what nobody asked for, and what of it may happen at a time without more being lost than a minority
//! client   producers, consumers, administrators, whoever changes the members, and a stranger
//! oracle   reads along where shards speak and where clients do: what was promised, and whether it was kept
//! ```
//!
//! At the end everything heals: then every group has its members and a leader, everything is consumed, and all members
//! have the same state.

#![allow(clippy::too_many_lines, reason = "one match over everything that can happen")]

mod chaos;
mod client;
mod forming;
mod founding;
mod lies;
mod machine;
mod network;
mod oracle;

use std::collections::BTreeMap;

use clap::ValueEnum;
use ringmain_core::member::Member;
use ringmain_core::shard::Address;
use ringmain_net::peer::Lane;
use ringmain_wal::{Position, PrepareSegment, WriteId};

use crate::disk::Flight;
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND, SECOND, Trace, World};
use chaos::{Fault, Weather};
use client::Client;
use founding::Founding;
use lies::Lies;
use machine::{Machine, State};
use network::{Overheard, Pipe};
use oracle::Oracle;

const CLUSTER: u64 = 0x51D0_0000_0000_0011;
const PORT: u16 = 7411;
/// The wall's time when a run begins.
const BEGIN: u64 = 1_700_000_000 * SECOND;
/// Purges want room for what they keep, so a segment cannot be smaller.
const SEGMENT_BYTES: u64 = 2 << 20;
/// All machines there are; a cluster has three or five of them.
const MACHINES: usize = 5;
/// A healed cluster has this long to finish everything.
const CALM_NS: u64 = 60 * SECOND;

/// What the surroundings of the shards do wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Plant {
    Nothing,
    /// What a node promised in an election is forgotten when it restarts.
    VoteForgotten,
    /// A record that holds nothing but a term and a vote is lost when the node restarts.
    PromiseDropped,
    /// How far the log was committed is forgotten when the node restarts: all that its records say of it, alone or beside
    /// something else.
    CommitForgotten,
    /// A write of a node that leads nothing is reported as durable when it is submitted.
    FollowerEarly,
    /// A write is reported as durable when it is submitted.
    DurableEarly,
    /// A producer that finds another leader begins a session of its own with what was not answered.
    SessionForgotten,
    /// Whoever was told a count once is told the same ever after by the same node.
    CountStale,
    /// What was settled is delivered once more.
    SettledAgain,
    /// What a consumer should get is settled on its way.
    MessageLost,
    /// What is read of a log lies a page further on.
    ReadElsewhere,
    /// Whoever is asked while no cluster is formed seems to know what the asker knows.
    AgreementForged,
    /// Which one it is, a node that waits for its cluster forgets when it restarts.
    IncarnationForgotten,
}

impl Plant {
    /// It shows when two stand for the same term, and seldom otherwise.
    fn is_of_elections(self) -> bool {
        matches!(self, Self::VoteForgotten | Self::PromiseDropped)
    }

    /// It takes several faults, one after the other, before it can show.
    fn needs_haste(self) -> bool {
        self.is_of_elections() || self == Self::CommitForgotten
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub trace: u64,
    pub steps: u64,
    /// How often a shard looked at all of its invariants.
    pub checks: u64,
    pub virtual_ms: u64,
    pub acknowledged: u64,
    pub duplicates: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub settled: u64,
    pub stale: u64,
    pub shown: u64,
    pub purged: u64,
    pub deleted: u64,
    pub full: u64,
    pub redirected: u64,
    pub ended: u64,
    pub in_memory: u64,
    pub perhaps_lost: u64,
    /// Of those, never delivered.
    pub lost: u64,
    pub leaders: u64,
    pub moves: u64,
    pub changes: u64,
    pub installed: u64,
    /// Entries that were read from a log for a follower.
    pub read_back: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub pauses: u64,
    pub resets: u64,
    pub corrupted: u64,
    pub replayed: u64,
    pub jumps: u64,
    pub stuck: u64,
    pub wiped: u64,
    pub rotten: u64,
    /// Lost what nothing on the disk says was there.
    pub unprovable: u64,
    pub lies: u64,
    /// Two disks lost at once.
    pub pairs: u64,
    pub stops: u64,
    /// Stops before which others took over.
    pub handed: u64,
    pub removed: u64,
    pub digests: u64,
    /// Nodes that found all founders, heard of it late, and were none of them.
    pub formed: u64,
    pub adopted: u64,
    pub joined: u64,
    /// Nodes that found that others do not fit.
    pub misfits: u64,
    /// Crashes and lost disks of nodes that waited for a cluster.
    pub early_crashes: u64,
    pub lost_early: u64,
}

impl Report {
    /// Each of which should happen now and then; losses that nothing proves are too rare.
    pub fn counts(&self) -> [(&'static str, u64); 41] {
        [
            ("acknowledged", self.acknowledged),
            ("duplicates", self.duplicates),
            ("delivered", self.delivered),
            ("redelivered", self.redelivered),
            ("settled", self.settled),
            ("stale", self.stale),
            ("shown", self.shown),
            ("purged", self.purged),
            ("deleted", self.deleted),
            ("full", self.full),
            ("redirected", self.redirected),
            ("ended", self.ended),
            ("in memory", self.in_memory),
            ("perhaps lost", self.perhaps_lost),
            ("leaders", self.leaders),
            ("moves", self.moves),
            ("changes", self.changes),
            ("installed", self.installed),
            ("read_back", self.read_back),
            ("crashes", self.crashes),
            ("cuts", self.cuts),
            ("pauses", self.pauses),
            ("resets", self.resets),
            ("corrupted", self.corrupted),
            ("replayed", self.replayed),
            ("jumps", self.jumps),
            ("stuck", self.stuck),
            ("wiped", self.wiped),
            ("rotten", self.rotten),
            ("lies", self.lies),
            ("pairs", self.pairs),
            ("stops", self.stops),
            ("handed", self.handed),
            ("removed", self.removed),
            ("digests", self.digests),
            ("formed", self.formed),
            ("adopted", self.adopted),
            ("joined", self.joined),
            ("misfits", self.misfits),
            ("early_crashes", self.early_crashes),
            ("lost_early", self.lost_early),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Act(usize),
    Chaos,
    Heal,
    /// Of one life of a machine.
    Machine(usize, u64, Deed),
    Boot(usize, u64),
    /// The process ends in this life of a machine, and is back after so long.
    Vanish {
        node: usize,
        life: u64,
        down: u64,
    },
    /// The disk of a machine is lost before there is a cluster.
    LoseEarly(usize),
    /// Bytes reach this side of a connection.
    Arrive(u64, usize),
    /// The kernel has taken bytes from this side.
    Sent(u64, usize, usize),
    /// This side learns that the connection is over.
    Over(u64, usize),
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Turn,
    Deadline,
    Written(Flight, WriteId),
    SlotWritten(Flight),
    Prepared(PrepareSegment),
    Retry,
    Read(Position, usize),
    /// Somebody connected.
    Accept(u64),
    /// The dial of a peer has come to its end.
    Dialled(usize, Lane),
    /// Nobody knows this peer's host.
    Unknown(u32, Lane),
    /// What the node is has become durable.
    Settled,
    /// A peer is asked whether there is a cluster.
    Ask(u32),
    /// The question of this number finds the peer, or nobody.
    Reached(u32, u64),
    /// It is too late for its answer.
    Overdue(u32, u64),
    /// Something may follow from what was heard.
    Decide,
}

struct Run {
    world: World<Event>,
    plant: Plant,
    weather: Weather,
    groups: usize,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    oracle: Oracle,
    lies: Lies,
    /// None: all nodes were members from the beginning.
    founding: Option<Founding>,
    report: Report,

    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    /// Until when nothing passes from one machine to another.
    cuts: [[u64; MACHINES]; MACHINES],
    /// Between peers, some time ago.
    overheard: Vec<Overheard>,
    next_message: u64,
    /// Who is to be a member of every group, and what the administrators work towards.
    goal: Vec<Member>,
    /// Each shard checks itself after so many steps of its own: in some runs after every one.
    check_every: u64,
    /// Something durable was lost, or the members are changing: nothing else may be lost now.
    is_fragile: bool,
    /// Harm that waits until it may be done.
    wanted: Option<Fault>,
    is_calm: bool,
}

/// Some thousand steps of one seed, beside those until there is a cluster, and a peaceful end, or the first thing that went wrong.
pub fn run(seed: u64, steps: u64, plant: Plant, trace: Trace) -> Result<Report, String> {
    let mut run = Run::new(seed, plant, trace);
    let mut scheme = Rng::new(!seed);
    run.founding = Founding::draw(plant, run.groups, &mut scheme);
    match run.founding.take() {
        Some(founding) => run.found(founding, &mut scheme),
        None => (0..MACHINES).try_for_each(|node| run.boot(node))?,
    }
    for client in 0..run.clients.len() {
        run.world.after((1 + client as u64) * MICROSECOND, Event::Act(client));
    }
    run.world.after(MILLISECOND, Event::Chaos);
    // Until there is a cluster little can go wrong in a step.
    while run.is_founding() {
        run.step()?;
    }
    for _ in 0..steps {
        run.step()?;
    }
    run.calm()?;
    run.report.trace = run.world.trace.hash();
    run.report.virtual_ms = run.world.now() / MILLISECOND;
    run.oracle.fill(&mut run.report);
    Ok(run.report)
}

impl Run {
    fn new(seed: u64, plant: Plant, trace: Trace) -> Self {
        let mut world = World::new(seed, trace);
        let rng = &mut world.rng;
        let founders_count = if rng.one_in(3) { 5 } else { 3 };
        let founders: Vec<Member> = (0..founders_count).map(|at| member(at, 1)).collect();
        let machines = (0..MACHINES).map(|at| Machine::new(at, &founders, plant, rng)).collect();
        let weather = Weather::draw(plant, rng);
        let check_every = if rng.one_in(4) { 1 } else { 16 };
        let (clients, queues) = client::all(founders_count, rng);
        Self {
            world,
            plant,
            weather,
            groups: founders_count,
            machines,
            clients,
            oracle: Oracle::new(queues),
            lies: Lies::default(),
            founding: None,
            report: Report::default(),
            pipes: BTreeMap::new(),
            next_pipe: 1,
            cuts: [[0; MACHINES]; MACHINES],
            overheard: Vec::new(),
            next_message: 0,
            goal: founders,
            check_every,
            is_fragile: false,
            wanted: None,
            is_calm: false,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.report.steps += 1;
        let event = self.world.advance().expect("chaos is always planned");
        if let Some(until) = self.paused_until(&event) {
            // It waits in order with everything else that does.
            self.world.after(until - self.world.now(), event);
            return Ok(());
        }
        match event {
            Event::Act(client) => self.act(client),
            Event::Chaos => self.chaos(),
            Event::Heal => {
                self.replan_all();
                Ok(())
            }
            Event::Machine(node, life, deed) if self.is_up(node, life) => self.deed(node, deed),
            // Of an earlier life.
            Event::Machine(..) => Ok(()),
            Event::Boot(node, life) => {
                if self.machines[node].life == life && self.machines[node].state == State::Down {
                    self.boot(node)?;
                }
                Ok(())
            }
            Event::Vanish { node, life, down } => self.vanish(node, life, down),
            Event::LoseEarly(node) => self.lose_early(node),
            Event::Arrive(pipe, side) => self.arrive(pipe, side),
            Event::Sent(pipe, side, bytes) => self.sent(pipe, side, bytes),
            Event::Over(pipe, side) => self.over(pipe, side),
        }
    }

    /// A machine whose process is stopped sees nothing until it goes on.
    fn paused_until(&self, event: &Event) -> Option<u64> {
        let node = match *event {
            Event::Machine(node, ..) => node,
            Event::Arrive(pipe, side) | Event::Sent(pipe, side, _) | Event::Over(pipe, side) => {
                self.pipes.get(&pipe)?.ends[side].node()?
            }
            Event::Act(_)
            | Event::Chaos
            | Event::Heal
            | Event::Boot(..)
            | Event::Vanish { .. }
            | Event::LoseEarly(_) => return None,
        };
        let until = self.machines[node].paused_until;
        (until > self.world.now()).then_some(until)
    }

    fn is_up(&self, node: usize, life: u64) -> bool {
        self.machines[node].life == life && self.machines[node].is_running()
    }

    /// The world is kind again: everything comes to its end.
    fn calm(&mut self) -> Result<(), String> {
        self.world.note("calm", &[]);
        self.is_calm = true;
        self.heal()?;
        self.run_dry()?;
        // Once more from what is on the disks, and it works as before.
        for node in 0..MACHINES {
            if self.machines[node].state == State::Up {
                self.crash(node, false)?;
                self.boot(node)?;
            }
        }
        for client in &mut self.clients {
            client.encore();
        }
        self.run_dry()
    }

    fn run_dry(&mut self) -> Result<(), String> {
        let begun = self.world.now();
        let mut goal = self.oracle.shown();
        let mut ticks = 0_u64;
        loop {
            self.step()?;
            ticks += 1;
            if !ticks.is_multiple_of(64) {
                continue;
            }
            let is_formed = self.machines.iter().all(|machine| machine.forming.is_none());
            let is_done = is_formed && self.clients.iter().all(Client::is_done) && self.is_goal_reached();
            if !is_done {
                goal = self.oracle.shown();
            }
            if is_done && self.oracle.all_empty_since(goal) && self.is_level() {
                break;
            }
            if self.world.now() - begun > CALM_NS {
                return Err(format!("alive: nothing is wrong any more, and {}", self.describe()));
            }
        }
        self.oracle.drained()?;
        self.check_equal()
    }

    /// Every member has applied everything that any of them has.
    fn is_level(&self) -> bool {
        (0..self.groups).all(|group| {
            let mut applied =
                self.members().map(|node| self.state(node, group).map(|state| (state.applied, state.last)));
            let first = applied.next().flatten();
            first.is_some_and(|(applied, last)| applied == last) && applied.all(|other| other == first)
        })
    }

    fn check_equal(&self) -> Result<(), String> {
        for group in 0..self.groups {
            let digests: Vec<_> = self
                .members()
                .map(|node| self.machines[node].shard.as_ref().and_then(|shard| shard.group_digest(group)))
                .collect();
            if digests.iter().any(|digest| *digest != digests[0]) {
                return Err(format!("durable: members of group {group} have different states: {digests:?}"));
            }
        }
        Ok(())
    }

    /// The machines of the members that there are to be.
    fn members(&self) -> impl Iterator<Item = usize> + '_ {
        self.goal.iter().map(|member| member.node as usize - 1)
    }

    fn state(&self, node: usize, group: usize) -> Option<ringmain_core::shard::GroupState> {
        self.machines[node].shard.as_ref()?.group_state(group)
    }

    /// Every group has the members it is to have, all of them know it, and one of them leads.
    fn is_goal_reached(&self) -> bool {
        let mut wanted: Vec<u64> = self.goal.iter().map(Member::replica).collect();
        wanted.sort_unstable();
        (0..self.groups).all(|group| {
            let leads = |node| self.state(node, group).is_some_and(|state| state.is_serving);
            let is_right = |node: usize| {
                let shard = self.machines[node].shard.as_ref();
                let Some(members) = shard.and_then(|shard| shard.group_members(group)) else { return false };
                let mut voters = members.voters;
                voters.sort_unstable();
                voters == wanted && members.voters_outgoing.is_empty() && members.learners.is_empty()
            };
            self.members().all(is_right) && self.members().any(leads)
        })
    }

    fn describe(&self) -> String {
        let waiting: Vec<String> =
            self.clients.iter().filter(|one| !one.is_done()).map(Client::describe).collect();
        let nodes: Vec<String> = (0..MACHINES)
            .map(|node| {
                let machine = &self.machines[node];
                let groups: Vec<_> = (0..self.groups)
                    .filter_map(|group| {
                        let members = machine.shard.as_ref()?.group_members(group)?;
                        Some(format!("{:?} of {members:?}", self.state(node, group)?))
                    })
                    .collect();
                let known = machine.directory.as_ref().map(|one| (&one.identity, one.misfit));
                let (incarnation, state) = (machine.incarnation, machine.state);
                format!("{}.{incarnation} {state:?} {known:?}: {groups:?}", node + 1)
            })
            .collect();
        let goal: Vec<_> = self.goal.iter().map(|member| (member.node, member.incarnation)).collect();
        format!("{waiting:#?} are not done; goal {goal:?}; {nodes:#?}; {}", self.oracle.describe())
    }

    fn act(&mut self, number: usize) -> Result<(), String> {
        let pause = self.clients[number].pause(&mut self.world.rng, self.is_calm);
        self.world.after(pause, Event::Act(number));
        if self.clients[number].pipe.is_none() {
            return self.connect(number);
        }
        self.converse(number, Client::act)
    }
}

fn member(at: usize, incarnation: u32) -> Member {
    let address = Address { host: host(at), port: PORT };
    Member { node: at as u32 + 1, incarnation, address }
}

fn host(at: usize) -> String {
    format!("n{}", at + 1)
}

/// Which machine listens there.
fn machine_at(host: &str) -> Option<usize> {
    let number: usize = host.strip_prefix('n')?.parse().ok()?;
    (1..=MACHINES).contains(&number).then(|| number - 1)
}

#[cfg(test)]
mod tests;
