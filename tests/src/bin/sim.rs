//! `cargo sim SEED`: one run of the simulator, or many, each from one number.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use ringmain_tests::world::Trace;
use ringmain_tests::{cluster, log, shard};

/// Replays what happens to a seed.
#[derive(Parser)]
#[command(name = "cargo sim")]
struct Arguments {
    /// The first seed.
    seed: u64,
    /// How many seeds, from this one on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Steps of one run.
    #[arg(long)]
    steps: Option<u64>,
    /// A log without a broker around it.
    #[arg(long)]
    log: bool,
    /// Whole clusters.
    #[arg(long, conflicts_with = "log")]
    cluster: bool,
    /// Whole clusters with this bug in what surrounds them.
    #[arg(long, requires = "cluster", value_enum, default_value_t = cluster::Plant::Nothing)]
    plant: cluster::Plant,
    /// Tell every event on stderr.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let steps = arguments.steps.unwrap_or(if arguments.cluster { 20_000 } else { 2_000 });
    let mut failed = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let trace = if arguments.trace { Trace::spoken() } else { Trace::silent() };
        let run = AssertUnwindSafe(|| {
            if arguments.log {
                log::run(seed, steps, log::Plant::Nothing, trace).map(|one| format!("{one:?}"))
            } else if arguments.cluster {
                cluster::run(seed, steps, arguments.plant, trace).map(|one| format!("{one:?}"))
            } else {
                shard::run(seed, steps, shard::Plant::Nothing, trace).map(|one| format!("{one:?}"))
            }
        });
        // What a broken assumption has to say, the panic's own message has said already.
        match panic::catch_unwind(run).unwrap_or_else(|_| Err("an assertion failed".to_owned())) {
            Ok(report) if arguments.seeds == 1 => println!("seed {seed}: {report}"),
            Ok(_) => {}
            Err(why) => {
                failed += 1;
                println!("seed {seed}: {why}");
            }
        }
    }
    if failed > 0 {
        let of_what = if arguments.cluster { " --cluster" } else { "" };
        println!(
            "{failed} of {} seeds failed: cargo sim{of_what} SEED --steps {steps} --trace",
            arguments.seeds
        );
        return ExitCode::FAILURE;
    }
    println!("{} seeds, all well", arguments.seeds);
    ExitCode::SUCCESS
}
