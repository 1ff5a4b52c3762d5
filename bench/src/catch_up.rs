//! How fast a follower that was away gets what it missed, beside what disk and network allow, and what publishers notice of
//! it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use ringmain_client::{ClusterStatus, MemberState, QueueSettings};

use crate::beside::{self, Load};
use crate::disk::{self, ScratchFile, Stream};
use crate::error::{Doing, Error, Result};
use crate::latencies::Latencies;
use crate::limit::{LATENCY_COLUMNS, SCRATCH_BYTES, latency_cells};
use crate::loopback;
use crate::machine::{Cores, on_core};
use crate::nodes::{NODES, Nodes, each_leads, groups, leader};
use crate::pacing::Schedule;
use crate::publisher::{Access, Publisher, Shape};
use crate::steady::{self, Steady, Watch};
use crate::table::{Cell, Table};

/// How a catch-up is measured.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Plan {
    /// What the follower misses.
    pub(crate) missed_bytes: u64,
    /// Published beside it.
    pub(crate) steady: Steady,
    /// So long the steady load is measured before.
    pub(crate) before: Duration,
}

pub(crate) struct CatchUp {
    missed_bytes: u64,
    timing: Timing,
    limits: Limits,
    before: Latencies,
    during: Latencies,
}

/// What this machine allows, in bytes a second.
#[derive(Copy, Clone, Debug)]
struct Limits {
    read: f64,
    write: f64,
    /// Leader and follower share a disk: what is read there is written there too.
    copy: Option<f64>,
    loopback: f64,
    /// How many times as long the slowest small durable writes of the leader's disk take beside a stream of as much of this as
    /// is wanted.
    slowdown: f64,
}

impl Limits {
    fn least(&self) -> f64 {
        self.copy.unwrap_or(self.read.min(self.write)).min(self.loopback)
    }
}

#[derive(Clone, Debug)]
struct Timing {
    /// Before the follower was killed.
    quiet: Range<Instant>,
    restarted_at: Instant,
    served_at: Instant,
    current_at: Instant,
    by_checkpoint: bool,
}

impl Timing {
    /// From the start of the process on: reading its own log is a part of it.
    fn catch_up(&self) -> Range<Instant> {
        self.restarted_at..self.current_at
    }
}

/// A queue's name decides where it lives: the first that the follower does not lead is used.
const STEADY_QUEUES: [&str; 6] = [
    "bench.steady-1",
    "bench.steady-2",
    "bench.steady-3",
    "bench.steady-4",
    "bench.steady-5",
    "bench.steady-6",
];
const QUEUES: [&str; 6] = [
    "bench.missed-1",
    "bench.missed-2",
    "bench.missed-3",
    "bench.missed-4",
    "bench.missed-5",
    "bench.missed-6",
];
/// Of the limit, a catch-up should reach.
pub(crate) const WANTED_SHARE: f64 = 0.6;
/// Who is killed and catches up.
const FOLLOWER: u32 = NODES as u32;
const MISSED: Shape = Shape { message_bytes: 4 << 10, batch: 64 };

pub(crate) fn measure(nodes: &mut Nodes, cores: Cores, plan: Plan) -> Result<CatchUp> {
    let access = nodes.access().clone();
    // Right after a start or a failover one node leads more than it should.
    nodes.wait_until(|status| each_leads(status).then_some(()))?;
    let status = nodes.wait_until_settled()?;
    let steady = Steady { queue: queue_led_elsewhere(&access, &status, &STEADY_QUEUES)?.name, ..plan.steady };
    let missed = queue_led_elsewhere(&access, &status, &QUEUES)?;
    let (timing, record) = steady::beside(&access, steady, |watch| act(nodes, watch, missed, plan))?;
    delete_queue(&access, missed.name)?;
    Ok(CatchUp {
        missed_bytes: plan.missed_bytes,
        limits: measure_limits(nodes, missed.leader, cores, plan)?,
        before: record.latencies(|each| timing.quiet.contains(&each.due_at)),
        during: record.latencies(|each| timing.catch_up().contains(&each.due_at)),
        timing,
    })
}

fn act(nodes: &mut Nodes, watch: &Watch, missed: QueueAt, plan: Plan) -> Result<Timing> {
    watch.wait("the first receipt", |record| record.group)?;
    nodes.wait_until_settled()?;
    let quiet_from = Instant::now();
    std::thread::sleep(plan.before);
    let quiet = quiet_from..Instant::now();
    nodes.kill(FOLLOWER);
    publish_missed(nodes.access(), missed.name, plan.missed_bytes)?;
    let goal = nodes.wait_until(|status| goal(status, FOLLOWER))?;
    let restarted_at = Instant::now();
    let served_at = restarted_at + nodes.restart(FOLLOWER)?;
    let mut by_checkpoint = false;
    nodes.wait_until(|status| {
        by_checkpoint |= gets_checkpoint(status, FOLLOWER, missed.group);
        has_reached(status, FOLLOWER, &goal).then_some(())
    })?;
    let current_at = Instant::now();
    nodes.wait_until_settled()?;
    Ok(Timing { quiet, restarted_at, served_at, current_at, by_checkpoint })
}

/// A queue, the group that it lives in, and who leads that.
#[derive(Copy, Clone, Debug)]
struct QueueAt {
    name: &'static str,
    group: u32,
    leader: u32,
}

/// Makes the first of these queues that lives in a group which the follower does not lead.
fn queue_led_elsewhere(access: &Access, status: &ClusterStatus, names: &[&'static str]) -> Result<QueueAt> {
    let client = access.connect()?;
    for &name in names {
        let doing = || format!("opening the queue {name}");
        client.create_queue(name, &QueueSettings::default()).doing(doing)?;
        let group = client.show_queue(name).doing(doing)?.group;
        match leader(status, group) {
            Some((node, _)) if node != FOLLOWER => return Ok(QueueAt { name, group, leader: node }),
            _ => delete_queue(access, name)?,
        }
    }
    Err(Error::new("choosing a queue", format!("node {FOLLOWER} leads them all")))
}

fn delete_queue(access: &Access, name: &str) -> Result<()> {
    access.connect()?.delete_queue(name).map(|_| ()).doing(|| format!("deleting the queue {name}"))
}

fn publish_missed(access: &Access, name: &str, bytes: u64) -> Result<()> {
    eprintln!("publishing {} MiB that a killed follower misses", bytes >> 20);
    on_core(access.core, || {
        let mut publisher = Publisher::connect(access, name, MISSED)?;
        publisher.fill(bytes / MISSED.message_bytes as u64)?;
        publisher.leave()
    })
}

/// What the leader's disk reads and the follower's writes, both at once where it is the same disk, in streams as long as the
/// catch-up: what a disk grants for a moment is no limit of one that lasts.
fn measure_limits(nodes: &Nodes, leader: u32, cores: Cores, plan: Plan) -> Result<Limits> {
    const LOOPBACK_LASTS: Duration = Duration::from_millis(600);
    let (source, target, bytes) = (nodes.disk(leader), nodes.disk(FOLLOWER), plan.missed_bytes);
    let (file, read, write, copy) = on_core(cores.server, || {
        let file = ScratchFile::create(source, SCRATCH_BYTES)?;
        let read = disk::sustained(&file, Stream::Read, bytes)?;
        if source == target {
            let write = disk::sustained(&file, Stream::WriteDurable, bytes)?;
            let copy = disk::copied(&file, bytes)?;
            return Ok((file, read, write, Some(copy)));
        }
        let other = ScratchFile::create(target, SCRATCH_BYTES)?;
        Ok((file, read, disk::sustained(&other, Stream::WriteDurable, bytes)?, None))
    })?;
    let loopback = loopback::bandwidth(cores, LOOPBACK_LASTS)?;
    let mut limits = Limits { read, write, copy, loopback, slowdown: 1.0 };
    let load = Load { bytes_per_second: WANTED_SHARE * limits.least(), is_copied: copy.is_some() };
    let schedule = Schedule::new(plan.steady.rate, plan.before.as_secs());
    limits.slowdown = beside::measure(&file, cores, schedule, load)?.slowdown();
    Ok(limits)
}

/// Where the log of each group ends, once each has a leader other than `follower`.
fn goal(status: &ClusterStatus, follower: u32) -> Option<BTreeMap<u32, u64>> {
    let end = |group| {
        let (node, seen) = leader(status, group)?;
        (node != follower).then_some((group, seen.last))
    };
    groups(status).map(end).collect()
}

/// Whether the leaders know that this node has all that it missed.
fn has_reached(status: &ClusterStatus, follower: u32, goal: &BTreeMap<u32, u64>) -> bool {
    goal.iter().all(|(group, last)| {
        leader(status, *group).is_some_and(|(_, seen)| {
            seen.members.iter().any(|member| member.node == follower && *last <= member.matched)
        })
    })
}

/// Whether this node is helped with a checkpoint, because the entries that it lacks are gone.
fn gets_checkpoint(status: &ClusterStatus, follower: u32, group: u32) -> bool {
    leader(status, group).is_some_and(|(_, seen)| {
        let is_so = MemberState::ReceivesCheckpoint;
        seen.members.iter().any(|member| member.node == follower && member.state == is_so)
    })
}

impl CatchUp {
    fn bytes_per_second(&self) -> f64 {
        let Range { start, end } = self.timing.catch_up();
        self.missed_bytes as f64 / (end - start).as_secs_f64()
    }

    /// Of what the disks and the network allow.
    pub(crate) fn share(&self) -> f64 {
        self.bytes_per_second() / self.limits.least()
    }

    /// What publishers notice: the p99 during the catch-up, of the one before.
    pub(crate) fn slowdown(&self) -> f64 {
        self.during.quantile(0.99) as f64 / self.before.quantile(0.99) as f64
    }
}

pub(crate) fn table(catch_up: &CatchUp) -> Table {
    let title =
        "catch-up: a follower is started that misses this much, until its leaders know that it has it";
    let columns = [
        ("MiB", "missed_mib"),
        ("by", "by"),
        ("served after s", "served_s"),
        ("current after s", "current_s"),
        ("MB/s", "bytes_per_second"),
        ("raw read MB/s", "read_bytes_per_second"),
        ("raw write MB/s", "write_bytes_per_second"),
        ("both at once", "copy_bytes_per_second"),
        ("loopback MB/s", "loopback_bytes_per_second"),
        ("of the limit", "share"),
        ("raw p99 beside 60 %", "raw_slowdown"),
    ];
    let mut table = Table::new("catch_up", title, &columns);
    let &Timing { restarted_at, served_at, current_at, by_checkpoint, .. } = &catch_up.timing;
    let Limits { read, write, copy, loopback, .. } = catch_up.limits;
    table.row(vec![
        Cell::Count(catch_up.missed_bytes >> 20),
        Cell::text(if by_checkpoint { "checkpoint" } else { "entries" }),
        Cell::Number((served_at - restarted_at).as_secs_f64()),
        Cell::Number((current_at - restarted_at).as_secs_f64()),
        Cell::BytesPerSecond(catch_up.bytes_per_second()),
        Cell::BytesPerSecond(read),
        Cell::BytesPerSecond(write),
        copy.map_or(Cell::Missing, Cell::BytesPerSecond),
        Cell::BytesPerSecond(loopback),
        Cell::Share(catch_up.share()),
        Cell::Times(catch_up.limits.slowdown),
    ]);
    table
}

pub(crate) fn publish_table(catch_up: &CatchUp) -> Table {
    let title = "publishes beside the catch-up: open loop, from when each was due until its receipt";
    let columns = [&[("", "what"), ("publishes", "publishes")][..], &LATENCY_COLUMNS].concat();
    let mut table = Table::new("catch_up_publish", title, &columns);
    for (what, latencies) in [("before", &catch_up.before), ("during", &catch_up.during)] {
        let mut row = vec![Cell::text(what), Cell::Count(latencies.count())];
        row.extend(latency_cells(latencies));
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::whole;

    #[test]
    fn goal_is_the_end_of_each_log_without_the_follower() {
        let mut status = whole();
        assert_eq!(goal(&status, 3), None);
        status.nodes[2].groups[2].is_leader = false;
        assert_eq!(goal(&status, 3), None);
        status.nodes[0].groups[2].is_leader = true;
        status.nodes[0].groups[2].last = 12;
        assert_eq!(goal(&status, 3), Some(BTreeMap::from([(0, 10), (1, 10), (2, 12)])));
    }

    #[test]
    fn current_is_who_has_every_log_in_the_eyes_of_its_leader() {
        let mut status = whole();
        assert!(has_reached(&status, 2, &BTreeMap::from([(0, 10), (1, 10), (2, 9)])));
        assert!(!has_reached(&status, 2, &BTreeMap::from([(0, 11)])));
        status.nodes[0].groups[0].members[1].state = MemberState::ReceivesCheckpoint;
        assert!(gets_checkpoint(&status, 2, 0));
        assert!(!gets_checkpoint(&status, 2, 1));
        assert!(!gets_checkpoint(&status, 3, 0));
    }
}
