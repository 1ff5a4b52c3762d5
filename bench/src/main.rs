//! `ringmain-bench`: what a Ringmain node or cluster reaches, beside what the machine allows.
//!
//! Figures of one machine mean little on another, and little on the same one an hour later. So the limits are measured
//! by the same program, and where a ratio is given both sides took turns in one run.

use clap::{Parser, Subcommand};

mod cluster;
mod compare;
mod latency;
mod limit;
mod throughput;

mod catch_up;
mod failover;
mod replicated;
mod steady;

mod node;
mod nodes;
mod publisher;
mod site;
mod stock;
mod target;

mod beside;
mod disk;
mod loopback;
mod raw_loop;

mod drive;
mod latencies;
mod pacing;
mod table;

mod error;
#[allow(unsafe_code, reason = "io_uring, ppoll and prctl have no safe interface; all of it is in this file")]
mod kernel;
mod machine;

/// Measures a Ringmain node and the machine it runs on.
#[derive(Parser)]
#[command(name = "ringmain-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the machine: durable writes, bandwidth, loopback, and the raw loop of a durable publish
    Limit(limit::Options),
    /// Measure how long a durable publish takes at a given rate
    Latency(latency::Options),
    /// Measure how many durable messages a second go through one session
    Throughput(throughput::Options),
    /// Measure a node beside the machine's limits and its targets, taking turns in one run
    Compare(compare::Options),
    /// Measure three nodes on this machine beside one node: publishes, failover, catch-up, and their targets
    Cluster(cluster::Options),
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Limit(options) => limit::run(options),
        Command::Latency(options) => latency::run(options),
        Command::Throughput(options) => throughput::run(options),
        Command::Compare(options) => compare::run(options),
        Command::Cluster(options) => cluster::run(options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmain-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
