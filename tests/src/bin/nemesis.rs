//! `cargo run --release -p ringmain-tests --bin nemesis -- --seconds N`: a cluster under load whose nodes are killed,
//! stopped and paused at random.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ringmain_tests::nemesis::{self, Options};
use ringmain_tests::process::Program;

/// Set: this process is to be a node itself.
const AS_NODE: &str = "RINGMAIN_NEMESIS_NODE";

/// Torments a cluster of real processes, and holds it to its promises.
#[derive(Parser)]
#[command(name = "nemesis")]
struct Arguments {
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=7))]
    nodes: u32,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    producers: u32,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    consumers: u32,
}

fn main() -> ExitCode {
    if env::var_os(AS_NODE).is_some() {
        return ringmain_core::cli::run();
    }
    let arguments = Arguments::parse();
    let program = Program {
        path: env::current_exe().expect("the system knows what it runs"),
        environment: Some((AS_NODE, "1")),
    };
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let options = Options {
        seed: arguments.seed,
        nodes: arguments.nodes,
        duration: Duration::from_secs(arguments.seconds),
        producers: arguments.producers,
        consumers: arguments.consumers,
    };
    let mut report = nemesis::run(&program, directory.path(), &options);
    report.failovers.sort_unstable();
    let at = |share: usize| {
        report
            .failovers
            .get((report.failovers.len() * share / 100).min(report.failovers.len().saturating_sub(1)))
    };
    let (median, p99) = (at(50).copied().unwrap_or_default(), at(99).copied().unwrap_or_default());
    println!(
        "{} stored, {} delivered, {} of them again",
        report.stored, report.delivered, report.redelivered
    );
    println!("{} kills, {} stops, {} pauses", report.kills, report.stops, report.pauses);
    println!("{} failovers: median {median:?}, p99 {p99:?}", report.failovers.len());
    ExitCode::SUCCESS
}
