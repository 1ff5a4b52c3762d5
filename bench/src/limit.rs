//! `ringmain-bench limit`: what this machine can do at most, without a broker.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::{self, Bandwidth, DurableWrites, ScratchFile, Stream};
use crate::drive::Run;
use crate::error::Result;
use crate::latencies::Latencies;
use crate::loopback::{self, RoundTrips};
use crate::machine::{Machine, Placement, on_core};
use crate::pacing::Schedule;
use crate::raw_loop;
use crate::table::{Cell, Output, Report, Table};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directory on the disk to be measured
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data: PathBuf,

    /// Length of each measurement
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Messages a second through the raw loop
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,

    /// Size of a message
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    bytes: u32,

    /// Write the raw loop's latencies to DIR/raw-loop.hgrm
    #[arg(long, value_name = "DIR")]
    hgrm: Option<PathBuf>,

    #[command(flatten)]
    placement: Placement,

    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) const SCRATCH_BYTES: u64 = 1 << 30;
const DURABLE_SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

pub(crate) fn run(options: &Options) -> Result<()> {
    let machine = Machine::prepare(&options.placement, &options.data)?;
    let (cores, each) = (machine.cores, Duration::from_secs(options.seconds));
    let message_bytes = options.bytes as usize;

    eprintln!("[1/5] preparing a file of 1 GiB");
    let file = on_core(cores.server, || ScratchFile::create(&options.data, SCRATCH_BYTES))?;
    eprintln!("[2/5] durable writes");
    let writes = on_core(cores.server, || disk::durable_writes(&file, &DURABLE_SIZES, each))?;
    eprintln!("[3/5] bandwidth");
    let bandwidths = on_core(cores.server, || disk::bandwidths(&file, &Stream::ALL, each / 10))?;
    eprintln!("[4/5] loopback");
    let round_trips = loopback::round_trips(cores, message_bytes, each)?;
    eprintln!("[5/5] the raw loop");
    let schedule = Schedule::new(options.rate, options.seconds);
    let raw = raw_loop::run(cores, &file, message_bytes, schedule)?;
    if let Some(directory) = &options.hgrm {
        raw.latencies.write_hgrm(directory, "raw-loop")?;
    }

    let mut report = Report::new(machine.facts());
    report.table(writes_table(&writes));
    report.table(bandwidth_table(&bandwidths));
    report.table(loopback_table(&round_trips, message_bytes));
    report.table(raw_loop_table(&raw, options.rate, message_bytes));
    report.print(options.output)
}

/// The usual columns of latencies, after others of the table.
pub(crate) const LATENCY_COLUMNS: [(&str, &str); 4] =
    [("p50 µs", "p50_us"), ("p99 µs", "p99_us"), ("p99.9 µs", "p999_us"), ("max µs", "max_us")];

pub(crate) fn latency_cells(latencies: &Latencies) -> [Cell; 4] {
    if latencies.count() == 0 {
        return [Cell::Missing, Cell::Missing, Cell::Missing, Cell::Missing];
    }
    let at = |share| Cell::Nanoseconds(latencies.quantile(share));
    [at(0.5), at(0.99), at(0.999), Cell::Nanoseconds(latencies.max())]
}

fn writes_table(writes: &[DurableWrites]) -> Table {
    let title =
        "durable writes: one at a time, O_DIRECT and RWF_DSYNC through io_uring, over a file written before";
    let rates = [("writes/s", "writes_per_second"), ("MB/s", "bytes_per_second")];
    let mut table =
        Table::new("durable_writes", title, &[&[("size", "size")][..], &LATENCY_COLUMNS, &rates].concat());
    for write in writes {
        let per_second = write.latencies.count() as f64 / write.elapsed.as_secs_f64();
        let mut row = vec![Cell::text(size(write.write_bytes))];
        row.extend(latency_cells(&write.latencies));
        row.push(Cell::PerSecond(per_second));
        row.push(Cell::BytesPerSecond(per_second * write.write_bytes as f64));
        table.row(row);
    }
    table
}

fn bandwidth_table(bandwidths: &[Bandwidth]) -> Table {
    let title = "sequential direct I/O: each block size with its best queue depth; 100 % is the best of all";
    let columns = [
        ("stream", "stream"),
        ("block", "block"),
        ("depth", "depth"),
        ("MB/s", "bytes_per_second"),
        ("of best", "share"),
    ];
    let mut table = Table::new("bandwidth", title, &columns);
    for stream in Stream::ALL {
        let Some(best) = disk::best(bandwidths, stream) else { continue };
        for block_bytes in disk::BLOCKS_BYTES {
            let of_size: Vec<Bandwidth> =
                bandwidths.iter().filter(|each| each.block_bytes == block_bytes).copied().collect();
            let Some(bandwidth) = disk::best(&of_size, stream) else { continue };
            table.row(vec![
                Cell::text(stream.name()),
                Cell::text(size(bandwidth.block_bytes)),
                Cell::Count(bandwidth.depth.into()),
                Cell::BytesPerSecond(bandwidth.bytes_per_second),
                Cell::Share(bandwidth.bytes_per_second / best.bytes_per_second),
            ]);
        }
    }
    table
}

fn loopback_table(round_trips: &RoundTrips, message_bytes: usize) -> Table {
    let title =
        format!("round trip of {message_bytes} B over loopback, between the server's and the client's core");
    let mut table =
        Table::new("loopback", title, &[&[("waiting", "waiting")][..], &LATENCY_COLUMNS].concat());
    for (name, latencies) in [("parked", &round_trips.parked), ("polled", &round_trips.polled)] {
        let mut row = vec![Cell::text(name)];
        row.extend(latency_cells(latencies));
        table.row(row);
    }
    table
}

fn raw_loop_table(raw: &Run, rate: u64, message_bytes: usize) -> Table {
    let title = format!(
        "the raw loop: {message_bytes} B received, written durably, answered; open loop, from when it was due"
    );
    let columns = [
        &[("rate/s", "rate"), ("messages", "messages")][..],
        &LATENCY_COLUMNS,
        &[("sent late p99 µs", "sent_late_p99_us")],
    ];
    let mut table = Table::new("raw_loop", title, &columns.concat());
    let mut row = vec![Cell::Count(rate), Cell::Count(raw.latencies.count())];
    row.extend(latency_cells(&raw.latencies));
    row.push(Cell::Nanoseconds(raw.lateness.quantile(0.99)));
    table.row(row);
    table
}

/// `4 KiB`, `1 MiB`, `300 B`.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}
