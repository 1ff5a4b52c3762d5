//! How many durable messages a second go through three nodes, and what each costs the leader and the followers.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::nodes::{Nodes, at, leader};
use crate::publisher::{Flow, Shape};
use crate::table::{Cell, Table};
use crate::throughput::{self, Throughput, Watched};

#[derive(Copy, Clone, Debug)]
pub(crate) struct Replicated {
    pub(crate) shape: Shape,
    pub(crate) flow: Flow,
    /// Of the shard thread.
    cost: Cost,
}

/// CPU time that the shard threads took.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Cost {
    leader: Duration,
    /// The mean of them.
    follower: Duration,
}

impl Cost {
    /// From the time of each node.
    fn new(cpus: &[Duration], leader: usize) -> Self {
        assert!(leader < cpus.len());
        assert!(cpus.len() > 1);
        let sum: Duration = cpus.iter().sum();
        Self { leader: cpus[leader], follower: (sum - cpus[leader]) / (cpus.len() as u32 - 1) }
    }
}

pub(crate) fn measure(nodes: &Nodes, shape: Shape, duration: Duration) -> Result<Replicated> {
    let watched = throughput::watch(nodes.access(), shape, duration, || nodes.shard_cpus())?;
    let Watched { flow, group, before, after } = watched;
    let status = nodes.status()?;
    let led = group.and_then(|group| leader(&status, group));
    let (id, _) = led.ok_or_else(|| Error::new("looking for a leader", "the queue's group has none"))?;
    let cpus: Vec<_> =
        after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before)).collect();
    Ok(Replicated { shape, flow, cost: Cost::new(&cpus, at(id)) })
}

pub(crate) fn table(measured: &[(Throughput, Replicated)]) -> Table {
    let title =
        "durable messages through one session, the median round of three nodes; CPU is of shard threads";
    let columns = [
        ("batch", "batch"),
        ("bytes", "bytes"),
        ("one node/s", "single_messages_per_second"),
        ("three nodes/s", "messages_per_second"),
        ("of one node", "share"),
        ("MB/s", "bytes_per_second"),
        ("one node CPU µs", "single_cpu_us"),
        ("leader CPU µs", "leader_cpu_us"),
        ("follower CPU µs", "follower_cpu_us"),
        ("leader, of a core", "leader_share"),
    ];
    let mut table = Table::new("throughput", title, &columns);
    for (single, three) in measured {
        let Replicated { shape, flow, cost } = three;
        let per_message = |cpu: Duration| Cell::Nanoseconds(cpu.as_nanos() as u64 / flow.messages.max(1));
        table.row(vec![
            Cell::Count(shape.batch as u64),
            Cell::Count(shape.message_bytes as u64),
            Cell::PerSecond(single.flow.per_second()),
            Cell::PerSecond(flow.per_second()),
            Cell::Share(flow.per_second() / single.flow.per_second()),
            Cell::BytesPerSecond(flow.per_second() * shape.message_bytes as f64),
            single.cpu_ns_per_message().map_or(Cell::Missing, |ns| Cell::Nanoseconds(ns as u64)),
            per_message(cost.leader),
            per_message(cost.follower),
            Cell::Share(cost.leader.as_secs_f64() / flow.elapsed.as_secs_f64()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_cost_their_mean() {
        let cpus = [20, 90, 30].map(Duration::from_millis);
        let expected = Cost { leader: Duration::from_millis(90), follower: Duration::from_millis(25) };
        assert_eq!(Cost::new(&cpus, 1), expected);
    }
}
