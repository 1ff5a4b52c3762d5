//! The nodes of a cluster as processes: each on a port of its own, killed, stopped and started by its number.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringmain_client::blocking::Client;

use crate::process::{Node, Program, Setup, free_ports, wait_for};
use crate::rng::Rng;

pub struct Fleet {
    program: Program,
    data: PathBuf,
    ports: Vec<(u32, u16)>,

    running: BTreeMap<u32, Node>,
}

/// A client that knows all nodes, and waits for a leader as long as a machine may be busy.
pub(super) fn client(connect: &str) -> Client {
    let builder = Client::builder().call_timeout(Duration::from_secs(30));
    wait_for("a node answers", || builder.clone().connect(connect).ok())
}

impl Fleet {
    /// Returns once all nodes have formed their cluster and serve.
    pub fn start(program: &Program, data: &Path, count: u32, rng: &mut Rng) -> Self {
        let base = free_ports(count as u16, rng);
        let ports = (1..=count).map(|node| (node, base + node as u16 - 1)).collect();
        let (program, data) = (program.clone(), data.to_owned());
        let mut fleet = Self { program, data, ports, running: BTreeMap::new() };
        let starting: Vec<_> = (1..=count).map(|node| (node, fleet.setup(node).begin())).collect();
        for (node, starting) in starting {
            let served = starting.serving().unwrap_or_else(|ended| panic!("node {node}: {}", ended.stderr));
            fleet.running.insert(node, served);
        }
        fleet
    }

    fn setup(&self, node: u32) -> Setup {
        let data = self.data.join(format!("node-{node}"));
        let port = self.port(node);
        Setup { node, port, nodes: self.ports.clone(), ..Setup::new(&self.program, &data) }
    }

    pub fn port(&self, node: u32) -> u16 {
        self.ports[node as usize - 1].1
    }

    pub fn count(&self) -> u32 {
        self.ports.len() as u32
    }

    /// `HOST:PORT` of every node.
    pub fn connect(&self) -> String {
        let addresses: Vec<String> = self.ports.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    pub fn client(&self) -> Client {
        client(&self.connect())
    }

    /// The node that leads the group of this queue, as far as it can be seen now.
    pub fn leader_of(&self, admin: &Client, queue: &str) -> Option<u32> {
        let group = admin.show_queue(queue).ok()?.group;
        let status = admin.cluster_status().ok()?;
        let leads = |node: &&ringmain_client::NodeStatus| {
            node.groups.iter().any(|one| one.group == group && one.is_leader)
        };
        status.nodes.iter().find(leads).map(|node| node.node)
    }

    pub fn kill(&mut self, node: u32) {
        if let Some(running) = self.running.remove(&node) {
            running.kill();
        }
    }

    /// As an init system stops it.
    pub fn stop(&mut self, node: u32) {
        if let Some(running) = self.running.remove(&node) {
            let ended = running.stop();
            assert_eq!(ended.code, Some(0), "node {node}: {}", ended.stderr);
        }
    }

    pub fn restart(&mut self, node: u32) {
        let served = self.setup(node).start().unwrap_or_else(|ended| panic!("node {node}: {}", ended.stderr));
        let before = self.running.insert(node, served);
        assert!(before.is_none());
    }

    pub fn signal(&self, node: u32, name: &str) {
        if let Some(running) = self.running.get(&node) {
            running.signal(name);
        }
    }

    /// Every node runs.
    pub fn heal(&mut self) {
        for node in 1..=self.count() {
            if self.running.contains_key(&node) {
                self.signal(node, "CONT");
            } else {
                self.restart(node);
            }
        }
    }

    pub fn running_mut(&mut self, node: u32) -> Option<&mut Node> {
        self.running.get_mut(&node)
    }

    pub fn take(&mut self, node: u32) -> Option<Node> {
        self.running.remove(&node)
    }

    /// No node has ended by itself.
    pub fn check_alive(&mut self) {
        for (number, node) in &mut self.running {
            assert!(node.is_running(), "honest: node {number} has ended: {}", node.stderr());
        }
    }
}
