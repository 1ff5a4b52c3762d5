//! How long a publisher waits when the leader of its group dies: kill -9 of one node after the other, each time that the
//! cluster is whole again, under a steady load.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::nodes::{Nodes, leader};
use crate::steady::{self, Record, Steady, Watch};
use crate::table::{Cell, Table};

pub(crate) struct Failovers {
    /// Of each: from the kill until the first receipt from another leader.
    times: Vec<Duration>,
    /// Of each: from the start of the killed node until it served.
    starts: Vec<Duration>,
    rate: u64,
    record: Record,
}

const QUEUE: &str = "bench.failover";

pub(crate) fn measure(nodes: &mut Nodes, steady: Steady, count: u64) -> Result<Failovers> {
    assert!(count > 0);
    let access = nodes.access().clone();
    let steady = Steady { queue: QUEUE, ..steady };
    let (measured, record) = steady::beside(&access, steady, |watch| {
        let group = watch.wait("the first receipt", |record| record.group)?;
        let mut measured = Vec::new();
        for number in 1..=count {
            let (time, start) = fail_over(nodes, watch, group)?;
            eprintln!("[{number}/{count}] failover after {} ms", time.as_millis());
            measured.push((time, start));
        }
        nodes.wait_until_settled()?;
        Ok(measured)
    })?;
    let (times, starts) = measured.into_iter().unzip();
    Ok(Failovers { times, starts, rate: steady.rate, record })
}

fn fail_over(nodes: &mut Nodes, watch: &Watch, group: u32) -> Result<(Duration, Duration)> {
    let status = nodes.wait_until_settled()?;
    let no_leader = || Error::new("failing over", format!("group {group} has no leader"));
    let (id, term) = leader(&status, group).map(|(id, group)| (id, group.term)).ok_or_else(no_leader)?;
    let killed_at = Instant::now();
    nodes.kill(id);
    let resumed_at = watch.wait("another leader", |record| record.first_of_later_term(term))?;
    let start = nodes.restart(id)?;
    let time = resumed_at.checked_duration_since(killed_at);
    let too_early = || Error::new("failing over", "another leader had taken over before the kill");
    Ok((time.ok_or_else(too_early)?, start))
}

impl Failovers {
    /// In milliseconds: at most this long took the given share of them.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        quantile(&self.times, share).as_secs_f64() * 1e3
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
    let Failovers { times, starts, rate, record } = failovers;
    let title = format!(
        "failover: kill -9 of the leader at {rate} publishes/s, until the first receipt from another; milliseconds"
    );
    let columns = [
        ("kills", "kills"),
        ("min", "min_ms"),
        ("median", "median_ms"),
        ("p99", "p99_ms"),
        ("max", "max_ms"),
        ("start median", "start_median_ms"),
        ("acknowledged", "acknowledged"),
        ("stored", "stored"),
        ("errors", "errors"),
    ];
    let mut table = Table::new("failover", title, &columns);
    let milliseconds = |times: &[Duration], share| Cell::Number(quantile(times, share).as_secs_f64() * 1e3);
    table.row(vec![
        Cell::Count(times.len() as u64),
        milliseconds(times, 0.0),
        milliseconds(times, 0.5),
        milliseconds(times, 0.99),
        milliseconds(times, 1.0),
        milliseconds(starts, 0.5),
        Cell::Count(record.acknowledged.len() as u64),
        Cell::Count(record.stored),
        Cell::Count(record.errors.values().sum()),
    ]);
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
