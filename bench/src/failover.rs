//! How long a publisher waits when the leader of its group dies: kill -9 of one node after the other, each time that the
//! cluster is whole again, under a steady load.

use std::ops::Range;
use std::time::{Duration, Instant};

use ringmain_client::ClusterStatus;

use crate::error::{Error, Result};
use crate::latencies::Latencies;
use crate::limit::{LATENCY_COLUMNS, latency_cells};
use crate::nodes::{Nodes, SETTLED_AFTER, leader};
use crate::steady::{self, Acknowledged, Record, Steady, Watch};
use crate::table::{Cell, Table};

pub(crate) struct Failovers {
    each: Vec<Failover>,
    rate: u64,
    record: Record,
}

/// What one kill led to.
#[derive(Clone, Debug)]
struct Failover {
    /// From the kill until the first receipt from another leader.
    pause: Range<Instant>,
    /// By how much the term rose: one for each election that was tried.
    terms: u64,
    /// From the start of the killed node until it served.
    start: Duration,
    /// From then on until all its groups had what they missed, and leaders stayed.
    settle: Duration,
}

const QUEUE: &str = "bench.failover";

/// A pause longer than this is one to be explained.
const SHOWN_FROM: Duration = Duration::from_millis(500);

pub(crate) fn measure(nodes: &mut Nodes, steady: Steady, count: u64) -> Result<Failovers> {
    assert!(count > 0);
    let access = nodes.access().clone();
    let steady = Steady { queue: QUEUE, ..steady };
    let (each, record) = steady::beside(&access, steady, |watch| {
        let group = watch.wait("the first receipt", |record| record.group)?;
        let mut status = nodes.wait_until_settled()?;
        let mut each = Vec::new();
        for number in 1..=count {
            let failover = fail_over(nodes, &mut status, watch, group)?;
            let (pause, terms) = (failover.pause().as_millis(), failover.terms);
            eprintln!("[{number}/{count}] another leader after {pause} ms and {terms} terms");
            each.push(failover);
        }
        Ok(each)
    })?;
    Ok(Failovers { each, rate: steady.rate, record })
}

/// From one settled status of the cluster to the next.
fn fail_over(nodes: &mut Nodes, status: &mut ClusterStatus, watch: &Watch, group: u32) -> Result<Failover> {
    let no_leader = || Error::new("failing over", format!("group {group} has no leader"));
    let (id, term) = leader(status, group).map(|(id, group)| (id, group.term)).ok_or_else(no_leader)?;
    let killed_at = Instant::now();
    nodes.kill(id);
    let first = watch.wait("another leader", |record| record.first_of_later_term(term))?;
    if first.at < killed_at {
        return Err(Error::new("failing over", "another leader had taken over before the kill"));
    }
    let pause = killed_at..first.at;
    if SHOWN_FROM < pause.end - pause.start {
        watch.look(|record| show_events(record, &pause));
    }
    let start = nodes.restart(id)?;
    let served_at = Instant::now();
    *status = nodes.wait_until_settled()?;
    let settle = served_at.elapsed().saturating_sub(SETTLED_AFTER);
    Ok(Failover { pause, terms: first.term - term, start, settle })
}

/// What the client said of a pause that was too long.
fn show_events(record: &Record, pause: &Range<Instant>) {
    for (at, event) in record.events.iter().filter(|(at, _)| pause.contains(at)) {
        eprintln!("  {} ms: {event}", (*at - pause.start).as_millis());
    }
}

impl Failover {
    fn pause(&self) -> Duration {
        self.pause.end - self.pause.start
    }

    fn holds_up(&self, publish: &Acknowledged) -> bool {
        publish.due_at < self.pause.end && self.pause.start <= publish.at
    }
}

impl Failovers {
    /// In milliseconds: at most this long took the given share of them.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.quantile(share, Failover::pause).as_secs_f64() * 1e3
    }

    fn quantile(&self, share: f64, of: impl Fn(&Failover) -> Duration) -> Duration {
        quantile(&self.each.iter().map(of).collect::<Vec<_>>(), share)
    }

    /// Of the publishes that no pause has held up.
    fn latencies_between(&self) -> Latencies {
        self.record.latencies(|one| !self.each.iter().any(|failover| failover.holds_up(one)))
    }
}

/// The smallest of them that is at least as large as this share of them.
fn quantile(times: &[Duration], share: f64) -> Duration {
    assert!(!times.is_empty());
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub(crate) fn table(failovers: &Failovers) -> Table {
    let Failovers { each, rate, record } = failovers;
    let title = format!(
        "failover: kill -9 of the leader at {rate} publishes/s, until the first receipt from another; milliseconds"
    );
    let columns = [
        ("kills", "kills"),
        ("min", "min_ms"),
        ("median", "median_ms"),
        ("p99", "p99_ms"),
        ("max", "max_ms"),
        ("terms max", "terms_max"),
        ("restart median", "restart_median_ms"),
        ("settled median", "settled_median_ms"),
        ("settled max", "settled_max_ms"),
        ("acknowledged", "acknowledged"),
        ("stored", "stored"),
        ("errors", "errors"),
    ];
    let mut table = Table::new("failover", title, &columns);
    let milliseconds = |share, of: fn(&Failover) -> Duration| {
        Cell::Number(failovers.quantile(share, of).as_secs_f64() * 1e3)
    };
    table.row(vec![
        Cell::Count(each.len() as u64),
        milliseconds(0.0, Failover::pause),
        milliseconds(0.5, Failover::pause),
        milliseconds(0.99, Failover::pause),
        milliseconds(1.0, Failover::pause),
        each.iter().map(|failover| failover.terms).max().map_or(Cell::Missing, Cell::Count),
        milliseconds(0.5, |failover| failover.start),
        milliseconds(0.5, |failover| failover.settle),
        milliseconds(1.0, |failover| failover.settle),
        Cell::Count(record.acknowledged.len() as u64),
        Cell::Count(record.stored),
        Cell::Count(record.errors.values().sum()),
    ]);
    table
}

pub(crate) fn publish_table(failovers: &Failovers) -> Table {
    let title = "publishes of that load that no failover held up, while killed nodes came back";
    let columns = [&[("publishes", "publishes")][..], &LATENCY_COLUMNS].concat();
    let mut table = Table::new("failover_publish", title, &columns);
    let latencies = failovers.latencies_between();
    let mut row = vec![Cell::Count(latencies.count())];
    row.extend(latency_cells(&latencies));
    table.row(row);
    table
}

/// What publishers were told instead of a receipt, if anything.
pub(crate) fn errors_table(failovers: &Failovers) -> Option<Table> {
    let errors = &failovers.record.errors;
    let columns = [("error", "error"), ("publishes", "publishes")];
    let mut table =
        Table::new("failover_errors", "publishes without a receipt during the failovers", &columns);
    errors.iter().for_each(|(error, count)| table.row(vec![Cell::text(error), Cell::Count(*count)]));
    (!errors.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_holds_up_what_was_in_flight_or_due_in_it() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let failover =
            Failover { pause: at(10)..at(20), terms: 1, start: Duration::ZERO, settle: Duration::ZERO };
        let check = |due, answered, expected| {
            let publish = Acknowledged { due_at: at(due), at: at(answered), term: 1 };
            assert_eq!(failover.holds_up(&publish), expected, "{due}..{answered}");
        };
        check(8, 9, false);
        check(9, 20, true);
        check(15, 21, true);
        check(20, 22, false);
    }

    #[test]
    fn high_quantile_of_few_is_the_largest() {
        let times: Vec<_> = [30, 10, 20, 40].map(Duration::from_millis).to_vec();
        let check = |share, expected| assert_eq!(quantile(&times, share), Duration::from_millis(expected));
        check(0.0, 10);
        check(0.5, 20);
        check(0.51, 30);
        check(0.99, 40);
        check(1.0, 40);
    }
}
