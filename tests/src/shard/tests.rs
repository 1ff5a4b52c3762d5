use super::*;

const STEPS: u64 = 3_500;

fn outcome(seed: u64, steps: u64, plant: Plant) -> Result<Report, String> {
    let run = std::panic::catch_unwind(|| run(seed, steps, plant, Trace::silent()));
    run.unwrap_or_else(|panic| Err(panic.downcast_ref::<String>().cloned().unwrap_or_default()))
}

/// Seeds that found something, each in code as it was then.
#[test]
fn found_seeds_stay_found() {
    for (seed, steps) in [
        (1, 2_000),    // a window read back reached behind the end of the log, and stayed
        (15, 2_000),   // a replayed purge let go of what nobody held
        (1229, 3_000), // recovery took a checkpoint older than the one it was to begin with
        (1394, 3_000), // the same, after a stop
        (266, 2_500),  // counts were told before the last acknowledged publish was applied
        (1173, 3_000), // the same
    ] {
        run(seed, steps, Plant::Nothing, Trace::silent()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

/// The first seed that finds it, and what it says.
#[track_caller]
fn expect_found(plant: Plant, said: &[&str]) {
    // A segment must be used again before the second one matters.
    let steps = if plant == Plant::FloorEarly { 4 * STEPS } else { STEPS };
    let found = (0..400).find_map(|seed| outcome(seed, steps, plant).err().map(|found| (seed, found)));
    let (seed, found) = found.expect("a planted bug is found");
    assert!(said.iter().any(|said| found.contains(said)), "seed {seed}: {found}");
}

#[test]
fn shard_keeps_its_promises() {
    let sum = std::sync::Mutex::new(BTreeMap::<&str, u64>::new());
    let run_some = |from: u64| {
        for seed in (from..110).step_by(2) {
            let report = run(seed, STEPS, Plant::Nothing, Trace::silent())
                .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            let mut sum = sum.lock().unwrap();
            report.counts().into_iter().for_each(|(what, count)| *sum.entry(what).or_default() += count);
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|from| _ = scope.spawn(move || run_some(from))));
    // A run that never meets a fault proves nothing.
    let sum = sum.into_inner().unwrap();
    let rare: Vec<_> = sum.iter().filter(|(_, count)| **count < 3).collect();
    assert!(rare.is_empty(), "{rare:?} of {sum:?}");
}

#[test]
fn same_seed_same_trace() {
    for seed in 0..5 {
        let [first, second] = [(); 2].map(|()| outcome(seed, STEPS, Plant::Nothing).unwrap());
        assert_eq!(first, second);
        assert_ne!(first.trace, outcome(seed + 1, STEPS, Plant::Nothing).unwrap().trace);
    }
}

#[test]
fn durable_too_early_is_found() {
    expect_found(Plant::DurableEarly, &["durable:", "once:", "exact:", "honest:"]);
}

#[test]
fn nack_that_is_not_counted_is_found() {
    expect_found(Plant::NackSwallowed, &["exact:", "ordered:", "priority:"]);
}

#[test]
fn accepted_torn_record_is_found() {
    let said = ["durable:", "honest:", "once:", "exact:", "does not lie behind"];
    expect_found(Plant::TornAccepted, &said);
}

#[test]
fn forgotten_session_is_found() {
    expect_found(Plant::SessionForgotten, &["once:", "exact:", "bounded:"]);
}

#[test]
fn message_leased_twice_is_found() {
    expect_found(Plant::LeasedTwice, &["leased:"]);
}

#[test]
fn floor_before_its_superblock_is_found() {
    expect_found(Plant::FloorEarly, &["durable: a sound log is refused"]);
}

#[test]
fn falsified_count_is_found() {
    expect_found(Plant::CountFalsified, &["exact:"]);
}
