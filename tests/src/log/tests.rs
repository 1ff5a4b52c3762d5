use super::*;

const STEPS: u64 = 2_000;

fn outcome(seed: u64, plant: Plant) -> Result<Report, String> {
    let run = std::panic::catch_unwind(|| run(seed, STEPS, plant, Trace::silent()));
    run.unwrap_or_else(|panic| Err(panic.downcast_ref::<String>().cloned().unwrap_or_default()))
}

/// The first seed that finds it, and what it says.
#[track_caller]
fn expect_found(plant: Plant, said: &[&str]) {
    let found = (0..500).find_map(|seed| outcome(seed, plant).err());
    let found = found.expect("a planted bug is found");
    assert!(said.iter().any(|said| found.contains(said)), "{found}");
}

#[test]
fn log_keeps_its_promises() {
    let mut sum = Report::default();
    for seed in 0..150 {
        let report = run(seed, STEPS, Plant::Nothing, Trace::silent())
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        sum.durable += report.durable;
        sum.crashes += report.crashes;
        sum.cut += report.cut;
        sum.rot += report.rot;
        sum.recycled += report.recycled;
        sum.refused += report.refused;
        sum.relocated += report.relocated;
        sum.checkpoints += report.checkpoints;
    }
    // A run that never meets a fault proves nothing.
    for (what, count) in [
        ("durable", sum.durable),
        ("crashes", sum.crashes),
        ("cut", sum.cut),
        ("rot", sum.rot),
        ("recycled", sum.recycled),
        ("refused", sum.refused),
        ("relocated", sum.relocated),
        ("checkpoints", sum.checkpoints),
    ] {
        assert!(count > 50, "{what}: {count}");
    }
}

#[test]
fn same_seed_same_trace() {
    for seed in 0..10 {
        let [first, second] = [(); 2].map(|()| outcome(seed, Plant::Nothing).unwrap());
        assert_eq!(first, second);
        assert_ne!(first.trace, outcome(seed + 1, Plant::Nothing).unwrap().trace);
    }
}

#[test]
fn durable_too_early_is_found() {
    expect_found(Plant::DurableEarly, &["was durable, and the log ends at", "are not there any more"]);
}

#[test]
fn accepted_torn_record_is_found() {
    expect_found(Plant::TornAccepted, &["was never written so"]);
}

#[test]
fn accepted_leftovers_are_found() {
    expect_found(Plant::LeftoversAccepted, &["was never written so"]);
}

#[test]
fn rot_that_is_cut_is_found() {
    expect_found(Plant::RotCut, &["is rotten, which can be seen"]);
}

#[test]
fn floor_before_its_superblock_is_found() {
    expect_found(Plant::FloorEarly, &["a sound log is refused"]);
}

#[test]
fn release_before_its_record_is_found() {
    expect_found(Plant::ReleasedEarly, &["are not there any more", "something in it is live"]);
}
