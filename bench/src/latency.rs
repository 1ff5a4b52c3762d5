//! `ringmain-bench latency`: how long a durable publish takes at a given rate.

use std::path::PathBuf;

use crate::drive::{Run, drive};
use crate::error::Result;
use crate::limit::{LATENCY_COLUMNS, latency_cells};
use crate::machine::on_core;
use crate::pacing::Schedule;
use crate::publisher::{Access, Publisher, Shape};
use crate::site::{self, Site};
use crate::table::{Cell, Output, Report, Table};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Publishes a second
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,

    /// Length of the run
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Size of a message
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    bytes: u32,

    /// Messages in each publish
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    batch: u32,

    /// Write the latencies to DIR/publish.hgrm
    #[arg(long, value_name = "DIR")]
    hgrm: Option<PathBuf>,

    #[command(flatten)]
    site: site::Options,

    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Publishes in flight beyond which the driver waits: what is late then is still counted from when it was due.
const IN_FLIGHT_MAX: u64 = 4_000;

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut site = Site::open(&options.site)?;
    let shape = Shape { message_bytes: options.bytes as usize, batch: options.batch as usize };
    eprintln!("publishing {} a second for {} s", options.rate, options.seconds);
    let run = measure(&site.access(), shape, Schedule::new(options.rate, options.seconds))?;
    if let Some(directory) = &options.hgrm {
        run.latencies.write_hgrm(directory, "publish")?;
    }
    let mut report = Report::new(site.facts());
    report.table(table(&run, options.rate, shape));
    site.close()?;
    report.print(options.output)
}

/// Publishes to a queue of its own, which it leaves no trace of.
pub(crate) fn measure(access: &Access, shape: Shape, schedule: Schedule) -> Result<Run> {
    on_core(access.core, || {
        let mut publisher = Publisher::connect(access, "bench.latency", shape)?;
        let run = drive(&mut publisher, schedule, IN_FLIGHT_MAX)?;
        publisher.finish()?;
        Ok(run)
    })
}

fn table(run: &Run, rate: u64, shape: Shape) -> Table {
    let Shape { message_bytes, batch } = shape;
    let title = format!(
        "durable publish of {batch} × {message_bytes} B: open loop, from when it was due until its receipt"
    );
    let columns = [
        &[("rate/s", "rate"), ("publishes", "publishes")][..],
        &LATENCY_COLUMNS,
        &[("sent late p99 µs", "sent_late_p99_us")],
    ];
    let mut table = Table::new("publish", title, &columns.concat());
    let mut row = vec![Cell::Count(rate), Cell::Count(run.latencies.count())];
    row.extend(latency_cells(&run.latencies));
    row.push(Cell::Nanoseconds(run.lateness.quantile(0.99)));
    table.row(row);
    table
}
