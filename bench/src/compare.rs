//! `ringmain-bench compare`: a node beside the limits of the machine, taking turns in one run, and beside its targets.
//!
//! Machines are noisy, virtual ones most of all, and what disturbs one measurement disturbs its neighbour in time. So
//! the raw loop and the node alternate, each ratio is taken within a round, and the median of the rounds counts.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::{self, ScratchFile, Stream};
use crate::drive::Run;
use crate::error::{Error, Result};
use crate::latencies::Latencies;
use crate::limit::{LATENCY_COLUMNS, SCRATCH_BYTES, latency_cells};
use crate::machine::on_core;
use crate::pacing::Schedule;
use crate::publisher::Shape;
use crate::site::{self, Site};
use crate::stock::{self, Queued, Restart};
use crate::table::{Cell, Output, Report, Table};
use crate::target::{self, Bound, Target, median};
use crate::throughput::{self, Throughput};
use crate::{latency, raw_loop};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rounds in which the raw loop and the node take turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,

    /// Length of each measurement of a round
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Publishes a second for the latencies
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,

    /// Millions of messages that are queued to measure their memory; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(0..=12))]
    queued_millions: u64,

    /// GiB of log that a node is restarted on after a crash; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_024))]
    restart_gib: u64,

    /// Size of the messages in that log
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(256..=1_048_576))]
    restart_bytes: u32,

    /// Write the latencies of all rounds to DIR/raw-loop.hgrm and DIR/publish.hgrm
    #[arg(long, value_name = "DIR")]
    hgrm: Option<PathBuf>,

    #[command(flatten)]
    site: site::Options,

    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

const SMALL_BYTES: usize = 256;
const SINGLE: Shape = Shape { message_bytes: SMALL_BYTES, batch: 1 };
const BATCH_OF_64: Shape = Shape { message_bytes: SMALL_BYTES, batch: 64 };
const BATCH_OF_1000: Shape = Shape { message_bytes: SMALL_BYTES, batch: 1_000 };
const LARGE: Shape = Shape { message_bytes: 16 << 10, batch: 1 };

/// One block size and depth of the raw bandwidth is measured for so long in each round.
const BANDWIDTH_EACH: Duration = Duration::from_millis(60);

/// What one round measured.
struct Round {
    raw: Latencies,
    node: Latencies,
    /// In the order of `SHAPES`.
    throughputs: [Throughput; SHAPES.len()],
    write_bytes_per_second: f64,
    durable_bytes_per_second: f64,
}

const SHAPES: [Shape; 4] = [SINGLE, BATCH_OF_64, BATCH_OF_1000, LARGE];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut site = Site::open(&options.site)?;
    let Some(directory) = site.directory() else {
        return Err(Error::new(
            "comparing",
            "a running node says nothing about the disk here: leave out --connect",
        ));
    };
    let scratch = directory.parent().unwrap_or(directory).to_owned();
    let file = on_core(site.cores().server, || ScratchFile::create(&scratch, SCRATCH_BYTES))?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        eprintln!("[{number}/{}] raw loop, node, throughput, bandwidth", options.rounds);
        rounds.push(measure_round(options, &site, &file)?);
    }
    drop(file);
    let queued = match options.queued_millions {
        0 => None,
        millions => Some(stock::queue(&mut site, millions * 1_000_000)?),
    };
    let restart = match options.restart_gib {
        0 => None,
        gib => Some(stock::restart(&mut site, gib << 30, options.restart_bytes as usize)?),
    };
    if let Some(directory) = &options.hgrm {
        let all = |pick: fn(&Round) -> &Latencies| Latencies::sum(rounds.iter().map(pick));
        all(|round| &round.raw).write_hgrm(directory, "raw-loop")?;
        all(|round| &round.node).write_hgrm(directory, "publish")?;
    }
    let mut report = Report::new(site.facts());
    report.table(target::table(&targets(&rounds, queued, restart)));
    report.table(latency_table(&rounds, options.rate));
    report.table(throughput::table(&medians(&rounds)));
    report.table(bandwidth_table(&rounds));
    if queued.is_some() || restart.is_some() {
        report.table(stock::table(queued, restart));
    }
    site.close()?;
    report.print(options.output)
}

fn measure_round(options: &Options, site: &Site, file: &ScratchFile) -> Result<Round> {
    let schedule = Schedule::new(options.rate, options.seconds);
    let raw: Run = raw_loop::run(site.cores(), file, SMALL_BYTES, schedule)?;
    let node = latency::measure(&site.access(), SINGLE, schedule)?;
    let mut throughputs = Vec::new();
    for shape in SHAPES {
        throughputs.push(throughput::measure(site, shape, Duration::from_secs(options.seconds))?);
    }
    let streams = [Stream::Write, Stream::WriteDurable];
    let bandwidths = on_core(site.cores().server, || disk::bandwidths(file, &streams, BANDWIDTH_EACH))?;
    let best = |stream| disk::best(&bandwidths, stream).map_or(0.0, |best| best.bytes_per_second);
    Ok(Round {
        raw: raw.latencies,
        node: node.latencies,
        throughputs: throughputs.try_into().expect("one was measured for each shape"),
        write_bytes_per_second: best(Stream::Write),
        durable_bytes_per_second: best(Stream::WriteDurable),
    })
}

fn median_of(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Option<f64> {
    median(rounds.iter().map(figure).collect())
}

/// The round of each shape that is in the middle by what went through.
fn medians(rounds: &[Round]) -> Vec<Throughput> {
    let middle = |at: usize| {
        let mut of_shape: Vec<Throughput> = rounds.iter().map(|round| round.throughputs[at]).collect();
        of_shape.sort_by(|a, b| a.flow.per_second().total_cmp(&b.flow.per_second()));
        of_shape[of_shape.len() / 2]
    };
    (0..SHAPES.len()).map(middle).collect()
}

fn targets(rounds: &[Round], queued: Option<Queued>, restart: Option<Restart>) -> Vec<Target> {
    let ratio = |share: f64| {
        move |round: &Round| round.node.quantile(share) as f64 / round.raw.quantile(share) as f64
    };
    let at = |shape: Shape| SHAPES.iter().position(|each| *each == shape).expect("it is one of them");
    let rate = |shape: Shape| median_of(rounds, |round| round.throughputs[at(shape)].flow.per_second());
    let bandwidth =
        |round: &Round| round.throughputs[at(LARGE)].bytes_per_second() / round.write_bytes_per_second;
    let cpu = |round: &Round| round.throughputs[at(BATCH_OF_64)].cpu_ns_per_message().unwrap_or(f64::NAN);
    let times: fn(f64) -> Cell = Cell::Times;
    let per_second: fn(f64) -> Cell = Cell::PerSecond;
    let nanoseconds: fn(f64) -> Cell = |ns| Cell::Nanoseconds(ns as u64);
    let target = |what, bound, unit, reached| Target { what, bound, unit, reached };
    vec![
        target("publish p50, of the raw loop's", Bound::AtMost(1.15), times, median_of(rounds, ratio(0.5))),
        target("publish p99, of the raw loop's", Bound::AtMost(1.5), times, median_of(rounds, ratio(0.99))),
        target("messages/s, one by one", Bound::AtLeast(300_000.0), per_second, rate(SINGLE)),
        target("messages/s, batches of 1,000", Bound::AtLeast(1_200_000.0), per_second, rate(BATCH_OF_1000)),
        target(
            "16 KiB messages, of the bandwidth",
            Bound::AtLeast(0.7),
            Cell::Share,
            median_of(rounds, bandwidth),
        ),
        target(
            "shard CPU µs a message, batches of 64",
            Bound::AtMost(1_000.0),
            nanoseconds,
            median_of(rounds, cpu),
        ),
        target(
            "bytes of memory a queued message",
            Bound::AtMost(64.0),
            Cell::Number,
            queued.map(|queued| queued.bytes_per_message()),
        ),
        target(
            "seconds to restart on 10 GiB of log",
            Bound::AtMost(3.0),
            Cell::Number,
            restart.map(|restart| restart.seconds_for(10 << 30)),
        ),
    ]
}

fn latency_table(rounds: &[Round], rate: u64) -> Table {
    let title = format!(
        "durable publish of {SMALL_BYTES} B at {rate}/s, all rounds: open loop, from when it was due until its receipt"
    );
    let columns = [&[("", "what"), ("publishes", "publishes")][..], &LATENCY_COLUMNS].concat();
    let mut table = Table::new("publish", title, &columns);
    let both = [
        ("raw loop", Latencies::sum(rounds.iter().map(|round| &round.raw))),
        ("node", Latencies::sum(rounds.iter().map(|round| &round.node))),
    ];
    for (name, latencies) in both {
        let mut row = vec![Cell::text(name), Cell::Count(latencies.count())];
        row.extend(latency_cells(&latencies));
        table.row(row);
    }
    table
}

fn bandwidth_table(rounds: &[Round]) -> Table {
    let title = "sequential direct writes, best block size and depth; median of the rounds";
    let mut table = Table::new("bandwidth", title, &[("stream", "stream"), ("MB/s", "bytes_per_second")]);
    let rate =
        |figure: fn(&Round) -> f64| median_of(rounds, figure).map_or(Cell::Missing, Cell::BytesPerSecond);
    table.row(vec![Cell::text(Stream::Write.name()), rate(|round| round.write_bytes_per_second)]);
    table.row(vec![Cell::text(Stream::WriteDurable.name()), rate(|round| round.durable_bytes_per_second)]);
    table
}
