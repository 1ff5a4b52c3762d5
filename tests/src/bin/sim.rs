//! `cargo sim SEED`: one run of the simulator, or many, each from one number.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use ringmain_tests::world::Trace;
use ringmain_tests::{log, shard};

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
    #[arg(long, default_value_t = 2_000)]
    steps: u64,
    /// A log without a broker around it.
    #[arg(long)]
    log: bool,
    /// Tell every event on stderr.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let trace = if arguments.trace { Trace::spoken() } else { Trace::silent() };
        let run = AssertUnwindSafe(|| match arguments.log {
            true => log::run(seed, arguments.steps, log::Plant::Nothing, trace).map(|one| format!("{one:?}")),
            false => {
                shard::run(seed, arguments.steps, shard::Plant::Nothing, trace).map(|one| format!("{one:?}"))
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
        println!(
            "{failed} of {} seeds failed: cargo sim SEED --steps {} --trace",
            arguments.seeds, arguments.steps
        );
        return ExitCode::FAILURE;
    }
    println!("{} seeds, all well", arguments.seeds);
    ExitCode::SUCCESS
}
