//! `ringmain-bench cluster`: three nodes on this machine, beside one node and the raw loop, taking turns in one run, and
//! beside their targets; and what happens when one of them dies and comes back.
//!
//! Three nodes here share cores and a disk that they would have for themselves elsewhere, so a ratio to one node says more
//! than a figure. Each ratio is taken within a round, and the median of the rounds counts.

use std::path::PathBuf;
use std::time::Duration;

use crate::catch_up::{self, CatchUp};
use crate::disk::ScratchFile;
use crate::error::{Error, Result};
use crate::failover::{self, Failovers};
use crate::latencies::Latencies;
use crate::limit::{LATENCY_COLUMNS, SCRATCH_BYTES, latency_cells};
use crate::machine::{allowed_cores, on_core};
use crate::nodes::{NODES, Nodes, Spread};
use crate::pacing::Schedule;
use crate::publisher::Shape;
use crate::replicated::{self, Replicated};
use crate::site::{self, Site};
use crate::steady::Steady;
use crate::table::{Cell, Output, Report, Table};
use crate::target::{self, Bound, Target, median};
use crate::throughput::{self, Throughput};
use crate::{latency, raw_loop};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rounds in which the raw loop, one node and three nodes take turns; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    rounds: u64,

    /// Length of each measurement of a round, and of the steady load before a catch-up
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Publishes a second for the latencies, and beside failovers and catch-up
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,

    /// Seconds for which the nodes are left alone to measure what they take then; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    idle_seconds: u64,

    /// How often the leader is killed; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    failovers: u64,

    /// MiB of messages of 4 KiB that a killed follower misses; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=65_536))]
    catch_up_mib: u64,

    /// A disk for each node, one after the other, where they have more than the one of --data; the follower that catches up is
    /// the last node
    #[arg(long, value_name = "DIR,...", value_delimiter = ',')]
    disks: Vec<PathBuf>,

    /// Where the three nodes run
    #[arg(long, value_enum, default_value_t = Spread::Server)]
    spread: Spread,

    #[command(flatten)]
    site: site::Options,

    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

const SMALL_BYTES: usize = 256;
const SINGLE: Shape = Shape { message_bytes: SMALL_BYTES, batch: 1 };
const BATCH_OF_64: Shape = Shape { message_bytes: SMALL_BYTES, batch: 64 };
const BATCH_OF_1000: Shape = Shape { message_bytes: SMALL_BYTES, batch: 1_000 };
const SHAPES: [Shape; 3] = [SINGLE, BATCH_OF_64, BATCH_OF_1000];

/// What one round measured.
struct Round {
    raw: Latencies,
    single: Latencies,
    three: Latencies,
    /// Both in the order of `SHAPES`.
    single_flows: Vec<Throughput>,
    three_flows: Vec<Replicated>,
}

/// What is measured apart from the rounds, as far as it was asked for.
#[derive(Default)]
struct Once {
    idle_share: Option<f64>,
    failovers: Option<Failovers>,
    catch_up: Option<CatchUp>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut site = Site::open(&options.site)?;
    let Some(directory) = site.directory() else {
        return Err(Error::new("measuring a cluster", "it is started here: leave out --connect"));
    };
    let scratch = directory.parent().unwrap_or(directory).to_owned();
    let file = on_core(site.cores().server, || ScratchFile::create(&scratch, SCRATCH_BYTES))?;
    let mut nodes = Nodes::open(&options.site, &options.disks, options.spread, site.cores())?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        eprintln!("[{number}/{}] raw loop, one node, three nodes", options.rounds);
        rounds.push(measure_round(options, &site, &nodes, &file)?);
    }
    // From here on it would only take room.
    site.close()?;
    let once = measure_once(options, &site, &mut nodes)?;
    // How nodes end changes no figure: what was measured is told first.
    let closed = nodes.close();
    report(options, &site, &rounds, &once).print(options.output)?;
    closed
}

fn measure_round(options: &Options, site: &Site, nodes: &Nodes, file: &ScratchFile) -> Result<Round> {
    let schedule = Schedule::new(options.rate, options.seconds);
    let duration = Duration::from_secs(options.seconds);
    let raw = raw_loop::run(site.cores(), file, SMALL_BYTES, schedule)?;
    let single = latency::measure(&site.access(), SINGLE, schedule)?;
    let three = latency::measure(nodes.access(), SINGLE, schedule)?;
    let (mut single_flows, mut three_flows) = (Vec::new(), Vec::new());
    for shape in SHAPES {
        single_flows.push(throughput::measure(site, shape, duration)?);
        three_flows.push(replicated::measure(nodes, shape, duration)?);
    }
    Ok(Round {
        raw: raw.latencies,
        single: single.latencies,
        three: three.latencies,
        single_flows,
        three_flows,
    })
}

fn measure_once(options: &Options, site: &Site, nodes: &mut Nodes) -> Result<Once> {
    let mut once = Once::default();
    let steady = Steady { queue: "bench.steady", rate: options.rate, message_bytes: SMALL_BYTES };
    if options.idle_seconds > 0 {
        eprintln!("leaving the nodes alone for {} s", options.idle_seconds);
        nodes.wait_until_settled()?;
        once.idle_share = Some(nodes.cpu_share(Duration::from_secs(options.idle_seconds))?);
    }
    if options.failovers > 0 {
        once.failovers = Some(failover::measure(nodes, steady, options.failovers)?);
    }
    if options.catch_up_mib > 0 {
        let before = Duration::from_secs(options.seconds);
        let plan = catch_up::Plan { missed_bytes: options.catch_up_mib << 20, steady, before };
        once.catch_up = Some(catch_up::measure(nodes, site.cores(), plan)?);
    }
    Ok(once)
}

fn report(options: &Options, site: &Site, rounds: &[Round], once: &Once) -> Report {
    let mut facts = site.facts();
    facts.push(("nodes", describe_nodes(options)));
    let mut report = Report::new(facts);
    report.table(target::table(&targets(rounds, once)));
    if !rounds.is_empty() {
        report.table(latency_table(rounds, options.rate));
        report.table(ratio_table(rounds));
        report.table(replicated::table(&medians(rounds)));
    }
    if let Some(failovers) = &once.failovers {
        report.table(failover::table(failovers));
        report.table(failover::publish_table(failovers));
        failover::errors_table(failovers).into_iter().for_each(|table| report.table(table));
    }
    if let Some(catch_up) = &once.catch_up {
        report.table(catch_up::table(catch_up));
        report.table(catch_up::publish_table(catch_up));
    }
    report
}

fn describe_nodes(options: &Options) -> String {
    let cores = allowed_cores().map_or(0, |cores| cores.len());
    let disks = if options.disks.is_empty() {
        "its disk".to_owned()
    } else {
        let disks: Vec<_> = options.disks.iter().map(|disk| disk.display().to_string()).collect();
        format!("have their data, one after the other, in {}", disks.join(", "))
    };
    let spread = options.spread.describe();
    format!("{NODES} processes of one shard, {spread}: they share this machine's {cores} cores and {disks}")
}

fn median_of(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Option<f64> {
    median(rounds.iter().map(figure).collect())
}

type Pick = fn(&Round) -> &Latencies;

/// The median of the rounds.
fn ratio(rounds: &[Round], of: Pick, to: Pick, share: f64) -> Option<f64> {
    median_of(rounds, |round| of(round).quantile(share) as f64 / to(round).quantile(share) as f64)
}

fn at(shape: Shape) -> usize {
    SHAPES.iter().position(|each| *each == shape).expect("it is one of them")
}

/// The round of each shape that is in the middle by what went through three nodes.
fn medians(rounds: &[Round]) -> Vec<(Throughput, Replicated)> {
    let middle = |at: usize| {
        let mut of_shape: Vec<_> =
            rounds.iter().map(|round| (round.single_flows[at], round.three_flows[at])).collect();
        of_shape.sort_by(|(_, a), (_, b)| a.flow.per_second().total_cmp(&b.flow.per_second()));
        of_shape[of_shape.len() / 2]
    };
    (0..SHAPES.len()).map(middle).collect()
}

fn targets(rounds: &[Round], once: &Once) -> Vec<Target> {
    let rate = |shape| median_of(rounds, |round| round.three_flows[at(shape)].flow.per_second());
    let failovers = once.failovers.as_ref();
    let catch_up = once.catch_up.as_ref();
    let p50 = ratio(rounds, |round| &round.three, |round| &round.single, 0.5);
    let times: fn(f64) -> Cell = Cell::Times;
    let per_second: fn(f64) -> Cell = Cell::PerSecond;
    let target = |what, bound, unit, reached| Target { what, bound, unit, reached };
    let at_failover = |share| failovers.map(|failovers| failovers.quantile_ms(share));
    vec![
        target("publish p50, of one node's", Bound::AtMost(2.2), times, p50),
        target("messages/s, batches of 64", Bound::AtLeast(100_000.0), per_second, rate(BATCH_OF_64)),
        target("messages/s, batches of 1,000", Bound::AtLeast(100_000.0), per_second, rate(BATCH_OF_1000)),
        target("failover ms, median", Bound::AtMost(500.0), Cell::Number, at_failover(0.5)),
        target("failover ms, p99", Bound::AtMost(1_000.0), Cell::Number, at_failover(0.99)),
        target(
            "catch-up, of disk and loopback",
            Bound::AtLeast(catch_up::WANTED_SHARE),
            Cell::Share,
            catch_up.map(CatchUp::share),
        ),
        target(
            "publish p99 beside a catch-up, of before",
            Bound::AtMost(2.0),
            times,
            catch_up.map(CatchUp::slowdown),
        ),
        target("idle CPU of all nodes, % of a core", Bound::AtMost(3.0), Cell::Number, {
            once.idle_share.map(|share| share * 100.0)
        }),
    ]
}

fn latency_table(rounds: &[Round], rate: u64) -> Table {
    let title = format!(
        "durable publish of {SMALL_BYTES} B at {rate}/s, all rounds: open loop, from when it was due until its receipt"
    );
    let columns = [&[("", "what"), ("publishes", "publishes")][..], &LATENCY_COLUMNS].concat();
    let mut table = Table::new("publish", title, &columns);
    let all: [(&str, Pick); 3] = [
        ("raw loop", |round| &round.raw),
        ("one node", |round| &round.single),
        ("three nodes", |round| &round.three),
    ];
    for (name, pick) in all {
        let latencies = Latencies::sum(rounds.iter().map(pick));
        let mut row = vec![Cell::text(name), Cell::Count(latencies.count())];
        row.extend(latency_cells(&latencies));
        table.row(row);
    }
    table
}

fn ratio_table(rounds: &[Round]) -> Table {
    let title = "ratios of these latencies: each within a round, the median of the rounds";
    let columns = [("", "what"), ("p50", "p50"), ("p99", "p99")];
    let mut table = Table::new("publish_ratios", title, &columns);
    let all: [(&str, Pick, Pick); 3] = [
        ("one node, of the raw loop", |round| &round.single, |round| &round.raw),
        ("three nodes, of the raw loop", |round| &round.three, |round| &round.raw),
        ("three nodes, of one node", |round| &round.three, |round| &round.single),
    ];
    for (name, of, to) in all {
        let at = |share| ratio(rounds, of, to, share).map_or(Cell::Missing, Cell::Times);
        table.row(vec![Cell::text(name), at(0.5), at(0.99)]);
    }
    table
}
