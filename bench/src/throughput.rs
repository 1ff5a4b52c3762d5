//! `ringmain-bench throughput`: how many durable messages a second go through one session.

use std::time::Duration;

use crate::error::Result;
use crate::machine::on_core;
use crate::node::Node;
use crate::publisher::{Access, Flow, Publisher, Shape};
use crate::site::{self, Site};
use crate::table::{Cell, Output, Report, Table};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Length of each measurement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Size of a message
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    bytes: u32,

    /// Messages in each publish; several are measured one after the other
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,64,1000",
        value_parser = clap::value_parser!(u32).range(1..=16_000))]
    batch: Vec<u32>,

    #[command(flatten)]
    site: site::Options,

    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What went through, and what it cost the node's shard.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Throughput {
    pub(crate) shape: Shape,
    pub(crate) flow: Flow,
    /// `None`: the node is not a child of this process.
    pub(crate) shard_cpu: Option<Duration>,
}

impl Throughput {
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.flow.per_second() * self.shape.message_bytes as f64
    }

    pub(crate) fn cpu_ns_per_message(&self) -> Option<f64> {
        self.shard_cpu.map(|cpu| cpu.as_nanos() as f64 / self.flow.messages as f64)
    }
}

/// A run begins with a tenth of its length that is not counted.
const WARM_UP_SHARE: u32 = 10;

const QUEUE: &str = "bench.throughput";

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut site = Site::open(&options.site)?;
    let mut measured = Vec::new();
    for batch in &options.batch {
        let shape = Shape { message_bytes: options.bytes as usize, batch: *batch as usize };
        eprintln!("publishing {batch} × {} B for {} s", options.bytes, options.seconds);
        measured.push(measure(&site, shape, Duration::from_secs(options.seconds))?);
    }
    let mut report = Report::new(site.facts());
    report.table(table(&measured));
    site.close()?;
    report.print(options.output)
}

pub(crate) fn measure(site: &Site, shape: Shape, duration: Duration) -> Result<Throughput> {
    let cpu = || site.node().map(Node::shard_cpu).transpose();
    let watched = watch(&site.access(), shape, duration, cpu)?;
    let shard_cpu = watched.after.zip(watched.before).map(|(after, before)| after - before);
    Ok(Throughput { shape, flow: watched.flow, shard_cpu })
}

/// A flow, and what was seen right before and after it.
pub(crate) struct Watched<T> {
    pub(crate) flow: Flow,
    /// Where the queue lived.
    pub(crate) group: Option<u32>,
    pub(crate) before: T,
    pub(crate) after: T,
}

/// Publishes to a queue of its own, which it leaves no trace of.
pub(crate) fn watch<T: Send>(
    access: &Access,
    shape: Shape,
    duration: Duration,
    look: impl Fn() -> Result<T> + Send + Sync,
) -> Result<Watched<T>> {
    on_core(access.core, || {
        let mut publisher = Publisher::connect(access, QUEUE, shape)?;
        publisher.saturate(duration / WARM_UP_SHARE)?;
        let before = look()?;
        let flow = publisher.saturate(duration)?;
        let after = look()?;
        let group = publisher.group();
        publisher.finish()?;
        Ok(Watched { flow, group, before, after })
    })
}

pub(crate) fn table(measured: &[Throughput]) -> Table {
    let title = "durable messages through one session: as many in flight as its window holds";
    let columns = [
        ("batch", "batch"),
        ("bytes", "bytes"),
        ("messages/s", "messages_per_second"),
        ("MB/s", "bytes_per_second"),
        ("shard CPU µs", "shard_cpu_us"),
        ("of a core", "shard_share"),
    ];
    let mut table = Table::new("throughput", title, &columns);
    for each in measured {
        let share = |cpu: Duration| Cell::Share(cpu.as_secs_f64() / each.flow.elapsed.as_secs_f64());
        table.row(vec![
            Cell::Count(each.shape.batch as u64),
            Cell::Count(each.shape.message_bytes as u64),
            Cell::PerSecond(each.flow.per_second()),
            Cell::BytesPerSecond(each.bytes_per_second()),
            each.cpu_ns_per_message().map_or(Cell::Missing, |ns| Cell::Nanoseconds(ns as u64)),
            each.shard_cpu.map_or(Cell::Missing, share),
        ]);
    }
    table
}
