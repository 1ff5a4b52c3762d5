use std::ops::Range;
use std::sync::Mutex;

use super::*;

const STEPS: u64 = 20_000;

fn outcome(seed: u64, plant: Plant) -> Result<Report, String> {
    let run = std::panic::catch_unwind(|| run(seed, STEPS, plant, Trace::silent()));
    run.unwrap_or_else(|panic| Err(panic.downcast_ref::<String>().cloned().unwrap_or_default()))
}

/// The first seed that finds it, and what it says.
#[track_caller]
fn expect_found(plant: Plant, said: &[&str]) {
    let found = (0..200).find_map(|seed| outcome(seed, plant).err().map(|found| (seed, found)));
    let (seed, found) = found.expect("a planted bug is found");
    assert!(said.iter().any(|said| found.contains(said)), "seed {seed}: {found}");
}

#[test]
fn clusters_keep_their_promises() {
    let sum = Mutex::new(BTreeMap::<&str, u64>::new());
    let run_some = |seeds: Range<u64>| {
        for seed in seeds {
            let report = run(seed, STEPS, Plant::Nothing, Trace::silent());
            let report = report.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            let mut sum = sum.lock().unwrap();
            report.counts().into_iter().for_each(|(what, count)| *sum.entry(what).or_default() += count);
        }
    };
    std::thread::scope(|scope| {
        for seeds in [0..80, 1_000..1_080] {
            let run_some = &run_some;
            scope.spawn(move || run_some(seeds));
        }
    });
    // A run that never meets a fault proves nothing.
    let sum = sum.into_inner().unwrap();
    let rare: Vec<_> = sum.iter().filter(|(_, count)| **count == 0).collect();
    assert!(rare.is_empty(), "{rare:?} of {sum:?}");
}

#[test]
fn same_seed_same_trace() {
    for seed in 0..3 {
        let [first, second] = [(); 2].map(|()| outcome(seed, Plant::Nothing).unwrap());
        assert_eq!(first, second);
        assert_ne!(first.trace, outcome(seed + 1, Plant::Nothing).unwrap().trace);
    }
}

/// The only node that a new one is told of has come later itself, and has not been restarted since.
#[test]
fn cluster_is_found_by_who_has_joined_it() {
    let report = run(1_347, STEPS, Plant::Nothing, Trace::silent());
    report.unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn forgotten_vote_is_found() {
    expect_found(Plant::VoteForgotten, &["both lead"]);
}

#[test]
fn dropped_promise_is_found() {
    expect_found(Plant::PromiseDropped, &["both lead"]);
}

#[test]
fn forgotten_commit_is_found() {
    // Whoever is elected by the voters of the past may lack what the others have settled since.
    expect_found(Plant::CommitForgotten, &["both lead", "another state", "leased:"]);
}

#[test]
fn follower_that_acknowledges_too_early_is_found() {
    // A leader that is still there notices by itself; where it is gone as well, only a broken promise shows.
    expect_found(Plant::FollowerEarly, &["durable:", "exact:", "the leader counts on"]);
}

#[test]
fn durable_too_early_is_found() {
    expect_found(Plant::DurableEarly, &["durable:", "once:", "exact:", "honest:", "alive:"]);
}

#[test]
fn forgotten_session_is_found() {
    expect_found(Plant::SessionForgotten, &["once:", "exact:"]);
}

#[test]
fn stale_count_is_found() {
    expect_found(Plant::CountStale, &["exact:"]);
}

#[test]
fn settled_message_that_comes_again_is_found() {
    expect_found(Plant::SettledAgain, &["leased:"]);
}

#[test]
fn lost_message_is_found() {
    expect_found(Plant::MessageLost, &["durable:", "exact:", "priority:"]);
}

#[test]
fn log_that_is_read_elsewhere_is_found() {
    expect_found(Plant::ReadElsewhere, &["honest: sound bytes are called rotten"]);
}

#[test]
fn forged_agreement_is_found() {
    expect_found(Plant::AgreementForged, &["has not agreed"]);
}

#[test]
fn forgotten_incarnation_is_found() {
    expect_found(Plant::IncarnationForgotten, &["is forgotten"]);
}
