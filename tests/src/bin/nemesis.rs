//! `cargo run --release -p ringmain-tests --bin nemesis -- --seconds N`: a cluster under load whose nodes are killed,
//! stopped and paused at random, and whose links are cut.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ringmain_tests::nemesis::{self, KINDS, Kind, Options};
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
    /// Nothing else befalls it; default: everything does
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
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
        kinds: if arguments.only.is_empty() { KINDS.to_vec() } else { arguments.only },
    };
    let report = nemesis::run(&program, directory.path(), &options);
    println!(
        "{} stored, {} delivered, {} of them again",
        report.stored, report.delivered, report.redelivered
    );
    println!("{} counts told, {} drained in order", report.shown, report.drained);
    let faults: Vec<String> = report.faults.iter().map(|(kind, times)| format!("{kind:?} {times}")).collect();
    println!("{}", faults.join(", "));
    told("failovers", report.failovers);
    told("isolations of the leader", report.isolations);
    told("recoveries", report.recoveries);
    if let Some((longest, started, kind)) = report.recovery_longest {
        println!("the longest recovery: {longest:?} from {kind:?}, of that {started:?} until all nodes ran");
    }
    told("questions who leads", report.lookups);
    ExitCode::SUCCESS
}

/// How long it took, each time.
fn told(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at =
        |share: usize| times.get(times.len() * share / 100).or(times.last()).copied().unwrap_or_default();
    println!("{} {what}: median {:?}, p99 {:?}, longest {:?}", times.len(), at(50), at(99), at(100));
}
