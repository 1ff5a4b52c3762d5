//! Whole groups in one thread: seeded messages, disks, crashes and changes of membership around real replicas.
//!
//! Checked at every step: one leader per term, one entry per index, no gap in what is applied; at the end: whatever
//! was acknowledged is applied by every member. A planted lie of the disk or of the driver must be found.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    Effects, Entry, EntryKind, GroupId, HardState, Index, Message, Options, Replica, Restored, Role, Term,
};

/// What the surroundings of a replica do wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plant {
    Nothing,
    /// A write is reported as durable when it is handed over.
    PersistedEarly,
    /// Records do not say whom this replica voted for.
    VoteForgotten,
    /// Writes are reported as durable before those in front of them are.
    PersistedOutOfOrder,
}

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.below(1000) < per_thousand
    }
}

#[derive(Debug)]
enum Event {
    Tick(usize),
    Deliver(Box<Message>),
    Persisted { node: usize, life: u64, token: u64 },
    Propose,
    Fault,
    Restart(usize),
}

type Record = (HardState, Option<Entry>);

struct Node {
    replica: Option<Replica>,
    life: u64,
    durable: Vec<Record>,
    pending: Vec<(u64, Vec<Record>)>,
    checkpoint: (Index, Term),
    conf_state: Vec<u8>,
    applied: u64,
}

struct World {
    plant: Plant,
    rng: Rng,
    now: u64,
    number: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    effects: Effects,
    cut: BTreeSet<(usize, usize)>,
    dropped_per_thousand: u64,
    delay_max: u64,
    write_max: u64,
    /// Between two faults, and until a crashed replica is back: from storms to long peace.
    fault_max: u64,
    outage_max: u64,
    membership_changes: bool,
    healed: bool,
    /// Nothing is proposed any more.
    settling: bool,

    /// Index → the one entry that anybody may apply there.
    truth: BTreeMap<u64, (u64, Bytes)>,
    leaders: BTreeMap<u64, usize>,
    proposed: BTreeMap<(u64, u64), Bytes>,
    acknowledged: BTreeMap<u64, Bytes>,
    proposals: u64,
    changes: u64,
    trace: u64,
}

const TICK: u64 = 100;

impl World {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = Rng(seed);
        let membership_changes = rng.chance(400);
        let (dropped_per_thousand, delay_max, write_max) =
            (rng.below(60), 5 + rng.below(400), 5 + rng.below(900));
        let (fault_max, outage_max) = (1_000 << rng.below(5), 200 << rng.below(8));
        let nodes = if membership_changes { 5 } else { 3 };
        let mut world = Self {
            plant,
            rng,
            now: 0,
            number: 0,
            events: BTreeMap::new(),
            nodes: Vec::new(),
            effects: Effects::default(),
            cut: BTreeSet::new(),
            dropped_per_thousand,
            delay_max,
            write_max,
            fault_max,
            outage_max,
            membership_changes,
            healed: false,
            settling: false,
            truth: BTreeMap::new(),
            leaders: BTreeMap::new(),
            proposed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            proposals: 0,
            changes: 0,
            trace: 0xCBF2_9CE4_8422_2325,
        };
        for node in 0..nodes {
            world.nodes.push(Node {
                replica: None,
                life: 0,
                durable: Vec::new(),
                pending: Vec::new(),
                checkpoint: Default::default(),
                conf_state: Vec::new(),
                applied: 0,
            });
            world.restart(node);
            let delay = world.rng.below(TICK);
            world.after(delay, Event::Tick(node));
        }
        world.after(500, Event::Propose);
        world.after(5_000, Event::Fault);
        world
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.number += 1;
        self.events.insert((self.now + delay, self.number), event);
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01B3);
    }

    fn step(&mut self) {
        // Ticks come again and again: there is always an event.
        let ((now, _), event) = self.events.pop_first().expect("a tick is always due");
        self.now = now;
        match event {
            Event::Tick(node) => {
                self.with(node, Replica::tick);
                self.after(TICK, Event::Tick(node));
            }
            Event::Deliver(message) => {
                self.note(message.index ^ message.term << 20);
                let node = message.to as usize - 1;
                self.with(node, |replica| match replica.on_message(*message) {
                    Ok(()) | Err(crate::MessageError::Stranger { .. }) => {}
                    Err(error) => panic!("an honest message was refused: {error}"),
                });
            }
            Event::Persisted { node, life, token } => self.on_persisted(node, life, token),
            Event::Propose => self.on_propose(),
            Event::Fault => self.on_fault(),
            Event::Restart(node) => self.restart(node),
        }
    }

    fn with(&mut self, node: usize, input: impl FnOnce(&mut Replica)) {
        let Some(mut replica) = self.nodes[node].replica.take() else { return };
        input(&mut replica);
        let mut effects = std::mem::take(&mut self.effects);
        replica.drive(&mut effects);
        replica.check();
        self.nodes[node].replica = Some(replica);
        self.carry_out(node, &mut effects);
        effects.clear();
        self.effects = effects;
    }

    fn carry_out(&mut self, node: usize, effects: &mut Effects) {
        for write in effects.writes.drain(..) {
            let count = write.entries.len();
            let mut records: Vec<Record> =
                (0..count).map(|at| (write.hard_state_at(at), Some(write.entries[at].clone()))).collect();
            if records.is_empty() {
                records.push((write.hard_state, None));
            }
            self.nodes[node].pending.push((write.token, records));
            let delay =
                if self.plant == Plant::PersistedEarly { 0 } else { 1 + self.rng.below(self.write_max) };
            let life = self.nodes[node].life;
            self.after(delay, Event::Persisted { node, life, token: write.token });
        }
        if let Some(change) = effects.role {
            self.note(change.term.0 << 8 | change.role as u64);
            if change.role == Role::Leader {
                let first = *self.leaders.entry(change.term.0).or_insert(node);
                assert_eq!(first, node, "two leaders in term {}", change.term.0);
            }
        }
        if let Some((term, index)) = effects.committed {
            let acknowledged: Vec<_> =
                self.proposed.range((term.0, 0)..=(term.0, index.0)).map(|(key, _)| *key).collect();
            for key in acknowledged {
                let data = self.proposed.remove(&key).unwrap();
                self.acknowledged.insert(key.1, data);
            }
        }
        for entry in effects.apply.drain(..) {
            self.on_apply(node, &entry);
        }
        for message in effects.messages.drain(..) {
            self.on_message(message);
        }
    }

    fn on_apply(&mut self, node: usize, entry: &Entry) {
        assert_eq!(entry.index.0, self.nodes[node].applied + 1, "a gap in what replica {} applies", node + 1);
        self.nodes[node].applied = entry.index.0;
        let mine = (entry.term.0, entry.data.clone());
        let first = self.truth.entry(entry.index.0).or_insert_with(|| mine.clone());
        assert_eq!(*first, mine, "two entries {}", entry.index.0);
        self.changes += u64::from(entry.kind == EntryKind::Membership);
        self.note(entry.index.0 ^ entry.term.0 << 32);
    }

    fn on_message(&mut self, message: Message) {
        let link = (message.from as usize - 1, message.to as usize - 1);
        if self.cut.contains(&link) || self.rng.chance(self.dropped_per_thousand) {
            return;
        }
        let copies = if self.rng.chance(20) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = 1 + self.rng.below(self.delay_max);
            self.after(delay, Event::Deliver(Box::new(message.clone())));
        }
    }

    /// Finishing one write finishes those before it.
    fn on_persisted(&mut self, node: usize, life: u64, token: u64) {
        let disk = &mut self.nodes[node];
        if disk.life != life || disk.replica.is_none() || !disk.pending.iter().any(|write| write.0 == token) {
            return;
        }
        match self.plant {
            Plant::Nothing | Plant::VoteForgotten => {
                let after =
                    disk.pending.iter().position(|write| write.0 > token).unwrap_or(disk.pending.len());
                for (_, records) in disk.pending.drain(..after) {
                    disk.durable.extend(records);
                }
            }
            // It stays where a crash can lose it, and gets to the disk some writes later.
            Plant::PersistedEarly | Plant::PersistedOutOfOrder => {
                let keep = if self.plant == Plant::PersistedEarly { 2 } else { 1 };
                while disk.pending.len() > keep && disk.pending[0].0 < token {
                    disk.durable.extend(disk.pending.remove(0).1);
                }
            }
        }
        self.with(node, |replica| replica.on_persisted(token));
    }

    fn on_propose(&mut self) {
        if self.settling {
            return;
        }
        for node in 0..self.nodes.len() {
            for _ in 0..self.rng.below(3) {
                self.proposals += 1;
                let data = Bytes::from(self.proposals.to_le_bytes().to_vec());
                let mut place = None;
                self.with(node, |replica| place = replica.propose(data.clone()).ok());
                if let Some((term, index)) = place {
                    // A lone voter may have committed already; nobody else can.
                    self.proposed.insert((term.0, index.0), data);
                }
            }
        }
        let delay = 10 + self.rng.below(300);
        self.after(delay, Event::Propose);
    }

    fn on_fault(&mut self) {
        if self.healed {
            return;
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(if self.membership_changes { 9 } else { 6 }) {
            0 | 1 => self.crash(node),
            2 => {
                for other in (0..self.nodes.len()).filter(|&other| other != node) {
                    self.cut.insert((node, other));
                    if self.rng.chance(700) {
                        self.cut.insert((other, node));
                    }
                }
            }
            3 => self.cut.clear(),
            4 | 5 => self.take_checkpoint(node),
            _ => {
                // Never one alone: it forgets what it has applied, and a newcomer would need a checkpoint.
                let first = 1 + self.rng.below(5);
                let mut voters = vec![first, 1 + first % 5, 1 + self.rng.below(5)];
                voters.sort_unstable();
                voters.dedup();
                for leader in 0..self.nodes.len() {
                    self.with(leader, |replica| _ = replica.propose_membership(&voters, &[], Bytes::new()));
                }
            }
        }
        let delay = 500 + self.rng.below(self.fault_max);
        self.after(delay, Event::Fault);
    }

    fn crash(&mut self, node: usize) {
        let disk = &mut self.nodes[node];
        if disk.replica.take().is_none() {
            return;
        }
        disk.life += 1;
        let pending: Vec<Record> = disk.pending.drain(..).flat_map(|(_, records)| records).collect();
        let kept = self.rng.below(pending.len() as u64 + 1) as usize;
        self.nodes[node].durable.extend(pending.into_iter().take(kept));
        let delay = 1 + self.rng.below(self.outage_max);
        self.after(delay, Event::Restart(node));
    }

    /// As far as every replica has applied: checkpoints are not carried to peers yet.
    fn take_checkpoint(&mut self, node: usize) {
        let everywhere = self.nodes.iter().map(|node| node.applied).min().unwrap_or(0);
        let disk = &mut self.nodes[node];
        let Some(replica) = disk.replica.as_mut() else { return };
        let (index, term) = replica.applied();
        replica.compact(Index(everywhere.min(index.0)));
        // On the disk the whole log stays; only what the state machine starts from moves, and only as far as the
        // log in memory may begin after a restart.
        if index.0 == everywhere {
            disk.checkpoint = (index, term);
            disk.conf_state = replica.conf_state();
        }
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].replica.is_some() {
            return;
        }
        let (disk, seed) = (&mut self.nodes[node], self.rng.next());
        let (base, conf_state) = (disk.checkpoint, disk.conf_state.clone());
        let mut restored = Restored { base, conf_state, applied: base.0, ..Restored::empty() };
        for (hard_state, entry) in &disk.durable {
            match entry {
                Some(entry) => restored.append(entry.clone(), *hard_state).expect("the log that was written"),
                None => restored.note(*hard_state),
            }
        }
        if self.plant == Plant::VoteForgotten {
            restored.hard_state.vote = 0;
        }
        disk.applied = base.0.0;
        let options = Options {
            group: GroupId(1),
            id: node as u64 + 1,
            voters: vec![1, 2, 3],
            seed,
            is_preferred: false,
        };
        disk.replica = Some(Replica::new(options, restored).expect("a replica from what it wrote"));
        self.with(node, |_| {});
    }

    fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
        self.dropped_per_thousand = 0;
        for node in 0..self.nodes.len() {
            self.restart(node);
        }
    }

    fn judge(&self) {
        for (index, data) in &self.acknowledged {
            let applied = self.truth.get(index).map(|(_, data)| data);
            assert_eq!(applied, Some(data), "acknowledged entry {index} was lost");
        }
        let last = self.acknowledged.keys().last().copied().unwrap_or(0);
        let leader =
            self.nodes.iter().filter_map(|node| node.replica.as_ref()).find(|replica| replica.is_serving());
        let leader = leader.expect("a leader once everything works again");
        for &voter in leader.voters() {
            let applied = self.nodes[voter as usize - 1].applied;
            assert!(applied >= last, "replica {voter} applied {applied}, acknowledged were {last}");
        }
    }
}

struct Outcome {
    trace: u64,
    acknowledged: usize,
    terms: usize,
    changes: u64,
}

fn run(seed: u64, plant: Plant) -> Outcome {
    let mut world = World::new(seed, plant);
    for _ in 0..12_000 {
        world.step();
    }
    world.heal();
    let (until, acknowledged) = (world.now + 400 * TICK, world.acknowledged.len());
    while world.now < until {
        world.step();
    }
    assert!(world.acknowledged.len() > acknowledged, "no progress once everything works again");
    world.settling = true;
    while world.now < until + 100 * TICK {
        world.step();
    }
    world.judge();
    Outcome {
        trace: world.trace,
        acknowledged: world.acknowledged.len(),
        terms: world.leaders.len(),
        changes: world.changes,
    }
}

/// The first seed that finds it.
fn find(plant: Plant, seeds: std::ops::Range<u64>) -> Option<u64> {
    seeds.into_iter().find(|&seed| std::panic::catch_unwind(|| run(seed, plant)).is_err())
}

#[test]
fn groups_keep_their_promises() {
    let (mut acknowledged, mut terms, mut changes) = (0, 0, 0);
    for seed in 0..60 {
        let outcome = run(seed, Plant::Nothing);
        acknowledged += outcome.acknowledged;
        terms += outcome.terms;
        changes += outcome.changes;
    }
    assert!(acknowledged > 10_000, "{acknowledged} acknowledged");
    assert!(terms > 200, "{terms} terms with a leader");
    assert!(changes > 100, "{changes} changes of membership");
}

#[test]
fn same_seed_same_trace() {
    let traces: Vec<u64> = (0..5).map(|seed| run(seed, Plant::Nothing).trace).collect();
    assert_eq!((0..5).map(|seed| run(seed, Plant::Nothing).trace).collect::<Vec<u64>>(), traces);
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn acknowledgement_before_the_disk_is_found() {
    assert!(find(Plant::PersistedEarly, 0..40).is_some());
}

#[test]
fn completions_out_of_order_are_found() {
    assert!(find(Plant::PersistedOutOfOrder, 0..40).is_some());
}

#[test]
fn forgotten_vote_is_found() {
    assert!(find(Plant::VoteForgotten, 0..400).is_some());
}
