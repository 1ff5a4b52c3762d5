//! `cargo run -p ringmain-tests --bin soak -- --rounds N`: a node under load, killed N times.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ringmain_tests::process::Program;
use ringmain_tests::soak::{self, Options};

/// Set: this process is to be the node itself.
const AS_NODE: &str = "RINGMAIN_SOAK_NODE";

/// Kills a node under load, again and again, and holds it to its promises.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    producers: u32,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    consumers: u32,
    /// Where the node keeps its data; default: a temporary directory.
    #[arg(long)]
    data: Option<PathBuf>,
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
    let data = arguments.data.unwrap_or_else(|| directory.path().join("data"));
    let options = Options {
        seed: arguments.seed,
        rounds: arguments.rounds,
        shards: arguments.shards,
        producers: arguments.producers,
        consumers: arguments.consumers,
    };
    println!("{:?}", soak::run(&program, &data, options));
    ExitCode::SUCCESS
}
