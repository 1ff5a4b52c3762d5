//! Every fuzz target for a moment. `cargo run -p ringmain-tests --bin fuzz` goes on for longer.

use std::time::Duration;

use ringmain_tests::fuzz::{CANARIES, Options, TARGETS, allocation, fuzz, target};

/// Enough that a mistake in a length or a count is met, and all targets together take seconds.
const RUNS: u64 = 2_000;

fn options(seed: u64) -> Options {
    Options { seed, first: 0, runs: RUNS, patience: Duration::from_secs(20) }
}

#[test]
fn fuzz_smoke_finds_nothing() {
    assert!(allocation::is_counting());
    for target in &TARGETS {
        if let Err(finding) = fuzz(target, options(1)) {
            panic!("{finding}");
        }
    }
}

#[test]
fn fuzz_finds_each_kind_of_mistake() {
    let expected = ["panics: ", "holds ", "takes longer than "];
    for (canary, expected) in CANARIES.iter().zip(expected) {
        let options = Options { patience: Duration::from_millis(300), ..options(2) };
        let finding = fuzz(canary, options).expect_err(canary.name);
        assert!(finding.what.starts_with(expected), "{finding}");
        // The run that it names is enough to see it again.
        let again = Options { first: finding.run, runs: 1, ..options };
        let again = fuzz(canary, again).expect_err(canary.name);
        assert_eq!((again.what, again.input), (finding.what, finding.input));
    }
}

#[test]
fn fuzz_targets_have_names_of_their_own() {
    for wanted in TARGETS.iter().chain(&CANARIES) {
        assert!(std::ptr::eq(target(wanted.name).expect("it is listed"), wanted));
    }
    assert!(target("nothing").is_none());
}
