//! Whole groups in one thread: seeded messages, disks, crashes, checkpoints on their way, handovers, reads and changes of
//! membership around real replicas.
//!
//! The driver does what the broker does, in its order: records in a log that a crash cuts, state transfers beside the
//! engine, reads that wait for their round. What must hold is held against every step:
//!
//! ```text
//! one leader per term · one vote per term and replica · one entry per term and index, with one before it
//! what is committed is on the disks of a majority of the members of that moment, and never taken off a disk
//! a leader has what was committed before it was elected · applied states are prefixes of one history
//! a read shows what was committed before it was asked · members are what the applied entries say
//! what a replica said of its term and vote, its disk knows when it comes back
//! ```
//!
//! At the end everything is healed: then the group goes on, leaves no change of membership in its midst, and
//! every member has everything. A planted lie of the disk or of the driver must be found.

mod chaos;
mod climate;
mod config;
mod disk;
mod machine;
mod oracle;
mod rng;
mod transfer;
mod world;

use crate::HardState;
use world::{Counts, TICK, World};

/// What the surroundings of a replica do wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plant {
    Nothing,
    /// A write is reported as durable when it is handed over.
    PersistedEarly,
    /// Writes are reported as durable before those in front of them are.
    PersistedOutOfOrder,
    /// Records do not say whom this replica voted for.
    VoteForgotten,
    /// A write that is nothing but a term and a vote never gets to the disk.
    StateDropped,
    /// No record says how far the log is committed.
    CommitForgotten,
    /// A checkpoint is reported as installed before the record that says so is durable.
    InstallEarly,
    /// A read is answered with what is committed here, without a round among the peers.
    ReadAtOnce,
    /// A checkpoint calls its learners voters.
    LearnerCounted,
}

impl Plant {
    /// What a record says.
    fn recorded(self, hard_state: HardState) -> HardState {
        let commit = if self == Self::CommitForgotten { 0 } else { hard_state.commit };
        HardState { commit, ..hard_state }
    }

    /// So many of the records that are reported as durable can be lost in a crash.
    fn records_behind(self) -> u64 {
        match self {
            Self::PersistedEarly => 2,
            Self::PersistedOutOfOrder => 1,
            Self::Nothing
            | Self::VoteForgotten
            | Self::StateDropped
            | Self::CommitForgotten
            | Self::InstallEarly
            | Self::ReadAtOnce
            | Self::LearnerCounted => 0,
        }
    }
}

fn run(seed: u64, plant: Plant) -> World {
    let mut world = World::new(seed, plant);
    for _ in 0..8_000 {
        world.step();
    }
    world.heal();
    let (until, acknowledged) = (world.now + 150 * TICK, world.oracle.acknowledged());
    while world.now < until {
        world.step();
    }
    assert!(world.oracle.acknowledged() > acknowledged, "no progress once everything works again");
    world.is_settling = true;
    while world.now < until + 100 * TICK {
        world.step();
    }
    world.judge();
    world
}

/// The first seed in which it shows in these words.
fn find(plant: Plant, seeds: std::ops::Range<u64>, words: &str) -> Option<u64> {
    seeds.into_iter().find(|&seed| {
        let Err(why) = std::panic::catch_unwind(|| _ = run(seed, plant)) else { return false };
        why.downcast_ref::<String>().is_some_and(|why| why.contains(words))
    })
}

#[test]
fn groups_keep_their_promises() {
    let (mut acknowledged, mut terms, mut changes, mut counts) = (0, 0, 0, Counts::default());
    for seed in 0..100 {
        let world = run(seed, Plant::Nothing);
        acknowledged += world.oracle.acknowledged();
        terms += world.oracle.terms();
        changes += world.oracle.changes();
        counts.add(&world.counts);
    }
    assert!(acknowledged > 20_000, "{acknowledged} acknowledged");
    assert!(terms > 500, "{terms} terms with a leader");
    assert!(changes > 250, "{changes} changes of membership");
    assert!(counts.handovers > 100, "{counts:?}");
    assert!(counts.reads > 5_000, "{counts:?}");
    assert!(counts.wipes > 50, "{counts:?}");
    assert!(counts.restarts > 1_000, "{counts:?}");
    assert!(counts.installs > 100, "{counts:?}");
    assert!(counts.laggards > 50, "{counts:?}");
    assert!(counts.transfers > counts.installs + 100, "{counts:?}");
    assert!(counts.compactions > 100, "{counts:?}");
}

#[test]
fn same_seed_same_trace() {
    let traces: Vec<u64> = (0..4).map(|seed| run(seed, Plant::Nothing).trace).collect();
    assert_eq!((0..4).map(|seed| run(seed, Plant::Nothing).trace).collect::<Vec<u64>>(), traces);
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn acknowledgement_before_the_disk_is_found() {
    assert!(find(Plant::PersistedEarly, 0..10, "is committed without a majority").is_some());
}

#[test]
fn completions_out_of_order_are_found() {
    assert!(find(Plant::PersistedOutOfOrder, 0..10, "is committed without a majority").is_some());
}

#[test]
fn forgotten_vote_is_found() {
    assert!(find(Plant::VoteForgotten, 0..100, "two votes of replica").is_some());
}

#[test]
fn dropped_term_is_found() {
    assert!(find(Plant::StateDropped, 0..20, "two votes of replica").is_some());
}

#[test]
fn forgotten_commit_is_found() {
    assert!(find(Plant::CommitForgotten, 0..100, "lacks committed entry").is_some());
}

#[test]
fn checkpoint_installed_before_the_disk_is_found() {
    assert!(find(Plant::InstallEarly, 0..40, "entries are lost").is_some());
}

#[test]
fn read_without_its_round_is_found() {
    assert!(find(Plant::ReadAtOnce, 0..100, "a read shows the past").is_some());
}

#[test]
fn learner_that_counts_is_found() {
    assert!(find(Plant::LearnerCounted, 0..100, "is committed without a majority").is_some());
}
