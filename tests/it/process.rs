//! A real node under load, killed with SIGKILL at random moments.

use ringmain_tests::process::Program;
use ringmain_tests::soak::{self, Options};

/// The `ringmain` program.
pub(crate) fn program() -> Program {
    Program { path: env!("CARGO_BIN_EXE_node").into(), environment: None }
}

#[test]
fn nothing_acknowledged_is_lost_by_twenty_kills() {
    let directory = tempfile::tempdir().unwrap();
    let report = soak::run(&program(), &directory.path().join("data"), Options::new(1, 20));
    // The run was what it is meant to be.
    assert_eq!(report.restarts, 20);
    assert!(report.stored > 2_000, "{report:?}");
    assert!(report.duplicates > 0, "{report:?}");
    assert!(report.redelivered > 0, "{report:?}");
    assert!(report.takeovers > 0, "{report:?}");
}
