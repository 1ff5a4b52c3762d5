//! Three nodes on this machine as one cluster: each a process of its own, killed and restarted one by one, watched from
//! outside and through the client.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringmain_client::{ClusterStatus, GroupStatus, MemberState, MemberStatus, NodeStatus};

use crate::error::{Doing, Error, Result};
use crate::machine::{Cores, allowed_cores};
use crate::node::{Node, Start, Starting};
use crate::publisher::Access;
use crate::site;

pub(crate) const NODES: usize = 3;

/// On which cores the nodes run.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spread {
    /// All of them on the server core
    Server,
    /// One after the other over the allowed cores, the server core first
    Cores,
    /// Wherever the kernel puts them
    Free,
}

/// How long a cluster may take to be whole again after a node has come back.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that has come back may take over what it should lead: that is awaited.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// Between two looks at the cluster while something is waited for.
const LOOK_EACH: Duration = Duration::from_millis(10);

pub(crate) struct Nodes {
    /// Of node 1, 2, 3; the data in them is deleted with this.
    starts: Vec<Start>,
    /// The disk of each.
    disks: Vec<PathBuf>,
    access: Access,

    /// `None`: killed.
    nodes: Vec<Option<Node>>,
}

impl Nodes {
    /// Starts three nodes, each with its data on the next of these disks, and waits until they are one cluster.
    pub(crate) fn open(
        options: &site::Options,
        disks: &[PathBuf],
        spread: Spread,
        cores: Cores,
    ) -> Result<Self> {
        let usual = [options.disk().to_owned()];
        let disks = if disks.is_empty() { &usual } else { disks };
        let disks: Vec<PathBuf> = disks.iter().cycle().take(NODES).cloned().collect();
        let (server, allowed) = (options.server()?, allowed_cores()?);
        let addresses = free_addresses()?;
        let peers = (1..).zip(&addresses).map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>();
        let start = |(at, listen): (usize, &String)| Start {
            server: server.clone(),
            data: data_on(&disks[at], at as u32 + 1),
            id: at as u32 + 1,
            listen: listen.clone(),
            peers: Some(peers.join(",")),
            cores: spread.cores(at, cores, &allowed),
            spin: options.spin,
        };
        let starts = addresses.iter().enumerate().map(start).collect();
        let access = options.access(addresses.join(","), cores);
        let mut nodes = Self { starts, disks, access, nodes: Vec::new() };
        let starting = nodes.starts.iter().map(Node::launch).collect::<Result<Vec<_>>>()?;
        nodes.nodes = Starting::wait(starting)?.into_iter().map(Some).collect();
        nodes.wait_until_settled()?;
        Ok(nodes)
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn disk(&self, id: u32) -> &Path {
        &self.disks[at(id)]
    }

    /// Those that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Ends a node as a crash would.
    pub(crate) fn kill(&mut self, id: u32) {
        assert!(self.nodes[at(id)].is_some());
        self.nodes[at(id)] = None;
    }

    /// Starts a killed node on its data; says how long it took until it served.
    pub(crate) fn restart(&mut self, id: u32) -> Result<Duration> {
        assert!(self.nodes[at(id)].is_none());
        let started = Instant::now();
        self.nodes[at(id)] = Some(Node::start(&self.starts[at(id)])?);
        Ok(started.elapsed())
    }

    pub(crate) fn status(&self) -> Result<ClusterStatus> {
        let doing = || "asking how the cluster is".to_owned();
        self.access.connect()?.cluster_status().doing(doing)
    }

    /// Waits until each group has a leader and all members up to date, and no leader changes any more.
    pub(crate) fn wait_until_settled(&mut self) -> Result<ClusterStatus> {
        let (mut leads, mut since) = (Vec::new(), Instant::now());
        let mut last = None;
        let settled = self.wait_until(|status| {
            let now = leads_of(status);
            last = Some(status.clone());
            if leads != now || !is_whole(status) {
                (leads, since) = (now, Instant::now());
            }
            (SETTLED_AFTER <= since.elapsed()).then(|| status.clone())
        });
        settled.map_err(|error| Error::new(error.to_string(), format!("the last that was seen: {last:#?}")))
    }

    /// Looks at the cluster again and again until `ready` answers.
    pub(crate) fn wait_until<T>(&mut self, mut ready: impl FnMut(&ClusterStatus) -> Option<T>) -> Result<T> {
        let client = self.access.connect()?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.nodes.iter_mut().flatten().try_for_each(Node::check_running)?;
            // Until a leader is there it is normal that nobody can say much.
            if let Some(answer) = client.cluster_status().ok().and_then(|status| ready(&status)) {
                return Ok(answer);
            }
            std::thread::sleep(LOOK_EACH);
        }
        Err(Error::new("waiting for the cluster", format!("it is not ready after {PATIENCE:?}")))
    }

    /// CPU time that all nodes together take of one core while this long passes.
    pub(crate) fn cpu_share(&self, lasting: Duration) -> Result<f64> {
        let cpu = || self.running().map(Node::cpu).sum::<Result<Duration>>();
        let (started, before) = (Instant::now(), cpu()?);
        std::thread::sleep(lasting);
        Ok((cpu()? - before).as_secs_f64() / started.elapsed().as_secs_f64())
    }

    /// CPU time of the shard thread of each node.
    pub(crate) fn shard_cpus(&self) -> Result<Vec<Duration>> {
        self.running().map(Node::shard_cpu).collect()
    }

    /// Ends all in good order.
    pub(crate) fn close(mut self) -> Result<()> {
        std::mem::take(&mut self.nodes).into_iter().flatten().try_for_each(Node::stop)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.nodes.clear();
        for start in &self.starts {
            // What cannot be deleted is still there for the user to see.
            let _ = std::fs::remove_dir_all(&start.data);
            let _ = std::fs::remove_file(start.log());
        }
    }
}

impl Spread {
    fn cores(self, at: usize, cores: Cores, allowed: &[usize]) -> Vec<usize> {
        match self {
            Self::Server => vec![cores.server],
            Self::Free => allowed.to_vec(),
            Self::Cores => {
                let first = allowed.iter().position(|core| *core == cores.server).unwrap_or(0);
                vec![allowed[(first + at) % allowed.len()]]
            }
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Server => "all on the server core",
            Self::Cores => "spread over the cores",
            Self::Free => "not bound to cores",
        }
    }
}

fn data_on(disk: &Path, id: u32) -> PathBuf {
    site::directory_on(disk, &format!("node-{id}"))
}

/// The place of a node among the three.
pub(crate) fn at(id: u32) -> usize {
    assert!(id > 0);
    id as usize - 1
}

/// Addresses that nobody listens at; all are taken before the first is given back, so that they differ.
fn free_addresses() -> Result<Vec<String>> {
    let doing = || "looking for free ports".to_owned();
    let listen = |_| TcpListener::bind("127.0.0.1:0").doing(doing);
    let listeners = (0..NODES).map(listen).collect::<Result<Vec<_>>>()?;
    let address = |listener: &TcpListener| Ok(listener.local_addr().doing(doing)?.to_string());
    listeners.iter().map(address).collect()
}

/// What the leader of a group says of it, and which node that is.
pub(crate) fn leader(status: &ClusterStatus, group: u32) -> Option<(u32, &GroupStatus)> {
    let groups = status.nodes.iter().flat_map(|node| node.groups.iter().map(move |each| (node.node, each)));
    groups.filter(|(_, each)| each.group == group && each.is_leader).max_by_key(|(_, each)| each.term)
}

/// The groups of the one shard.
pub(crate) fn groups(status: &ClusterStatus) -> std::ops::Range<u32> {
    0..status.nodes.iter().flat_map(|node| &node.groups).map(|group| group.group + 1).max().unwrap_or(0)
}

/// Whether every node leads a group.
pub(crate) fn each_leads(status: &ClusterStatus) -> bool {
    let leaders: BTreeSet<u32> =
        groups(status).filter_map(|group| leader(status, group)).map(|it| it.0).collect();
    leaders.len() == NODES
}

/// Leader and term of each group that has one.
fn leads_of(status: &ClusterStatus) -> Vec<Option<(u32, u64)>> {
    let lead = |group| leader(status, group).map(|(node, group)| (node, group.term));
    groups(status).map(lead).collect()
}

/// Whether each node serves, and each group has a leader that finds all its members up to date.
fn is_whole(status: &ClusterStatus) -> bool {
    let groups = groups(status);
    let is_there = |node: &NodeStatus| node.reachable && node.groups.len() == groups.len();
    let is_served = |group: u32| {
        leader(status, group).is_some_and(|(node, group)| {
            let is_current = |member: &MemberStatus| {
                member.node == node || (member.is_active && member.state == MemberState::Current)
            };
            group.members.len() == NODES && group.members.iter().all(is_current)
        })
    };
    let nodes = &status.nodes;
    nodes.len() == NODES && !groups.is_empty() && nodes.iter().all(is_there) && groups.clone().all(is_served)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Three nodes with three groups, of which each leads one in term 2, and all members up to date.
    pub(crate) fn whole() -> ClusterStatus {
        let member = |node| MemberStatus {
            node,
            incarnation: 1,
            address: String::new(),
            is_voter: true,
            is_active: true,
            state: MemberState::Current,
            matched: 10,
        };
        let group = |group: u32, is_leader| GroupStatus {
            group,
            shard: 0,
            leader: Some(group + 1),
            is_leader,
            term: 2,
            committed: 10,
            applied: 10,
            last: 10,
            members: (1..=3).map(member).collect(),
        };
        let node = |node| NodeStatus {
            node,
            address: String::new(),
            incarnation: Some(1),
            reachable: true,
            groups: (0..3).map(|number| group(number, number + 1 == node)).collect(),
        };
        ClusterStatus { cluster: 1, nodes: (1..=3).map(node).collect() }
    }

    #[test]
    fn cluster_is_whole_when_every_leader_finds_everybody_current() {
        assert!(is_whole(&whole()));
        let check = |spoil: fn(&mut ClusterStatus)| {
            let mut status = whole();
            spoil(&mut status);
            assert!(!is_whole(&status), "{status:?}");
        };
        check(|status| status.nodes[1].reachable = false);
        check(|status| drop(status.nodes.pop()));
        check(|status| drop(status.nodes[2].groups.pop()));
        check(|status| status.nodes[0].groups[0].is_leader = false);
        check(|status| status.nodes[0].groups[0].members[1].is_active = false);
        check(|status| status.nodes[0].groups[0].members[2].state = MemberState::Behind);
        check(|status| status.nodes.iter_mut().for_each(|node| node.groups.clear()));
    }

    #[test]
    fn newest_leader_counts() {
        let mut status = whole();
        assert!(each_leads(&status));
        status.nodes[2].groups[0].is_leader = true;
        status.nodes[2].groups[0].term = 3;
        assert_eq!(leader(&status, 0).map(|(node, group)| (node, group.term)), Some((3, 3)));
        assert_eq!(leads_of(&status), [Some((3, 3)), Some((2, 2)), Some((3, 2))]);
        assert!(!each_leads(&status));
    }

    #[test]
    fn nodes_are_spread_from_the_server_core_on() {
        let cores = Cores { server: 1, client: 0 };
        let check = |spread: Spread, expected: [&[usize]; NODES]| {
            let chosen: Vec<_> = (0..NODES).map(|at| spread.cores(at, cores, &[0, 1])).collect();
            assert_eq!(chosen, expected);
        };
        check(Spread::Server, [&[1], &[1], &[1]]);
        check(Spread::Cores, [&[1], &[0], &[1]]);
        check(Spread::Free, [&[0, 1], &[0, 1], &[0, 1]]);
    }

    #[test]
    fn free_addresses_differ() {
        let mut addresses = free_addresses().unwrap();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), NODES);
    }
}
