//! `cargo run -p ringmain-tests --bin fuzz -- NAME`: one parser, or all of them, fed with bytes that are nearly right.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ringmain_tests::fuzz::allocation::Counting;
use ringmain_tests::fuzz::{CANARIES, Options, TARGETS, fuzz, target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Feeds a parser until it does what none may do, or all runs are over.
#[derive(Parser)]
#[command(name = "fuzz")]
struct Arguments {
    /// One of those that `--list` names; `all` for every one but the canaries.
    #[arg(default_value = "all")]
    name: String,
    #[arg(long)]
    list: bool,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first run; with `--runs 1` only that one.
    #[arg(long, default_value_t = 0)]
    first: u64,
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        TARGETS.iter().chain(&CANARIES).for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    }
    let options = Options {
        seed: arguments.seed,
        first: arguments.first,
        runs: arguments.runs,
        patience: Duration::from_secs(20),
    };
    let chosen = match (arguments.name.as_str(), target(&arguments.name)) {
        ("all", _) => TARGETS.iter().collect(),
        (_, Some(target)) => vec![target],
        (name, None) => {
            eprintln!("fuzz: there is no target {name}: see --list");
            return ExitCode::from(2);
        }
    };
    let mut outcome = ExitCode::SUCCESS;
    for target in chosen {
        match fuzz(target, options) {
            Ok(time) => println!("{}: {} runs in {time:.1?}, all well", target.name, options.runs),
            Err(finding) => {
                println!("{finding}");
                outcome = ExitCode::FAILURE;
            }
        }
    }
    outcome
}
