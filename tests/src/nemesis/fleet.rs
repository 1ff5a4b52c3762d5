//! The nodes of a cluster as processes: each on a port of its own, killed, stopped and started by its number, and reached by
//! everybody through links that can be cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringmain_client::blocking::Client;

use super::links::{Links, Place};
use crate::process::{Node, Program, Setup, free_ports, wait_for};
use crate::rng::Rng;

pub struct Fleet {
    program: Program,
    data: PathBuf,
    /// By node, from 1.
    places: Vec<Place>,
    /// Of the `[limits]` section of each node, as TOML.
    limits: Vec<(&'static str, &'static str)>,

    links: Links,
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
        Self::start_with(program, data, count, rng, &[])
    }

    /// The same with other limits than the usual ones.
    pub fn start_with(
        program: &Program,
        data: &Path,
        count: u32,
        rng: &mut Rng,
        limits: &[(&'static str, &'static str)],
    ) -> Self {
        let base = free_ports(2 * count as u16, rng);
        let place = |node: u32| {
            let listens = base + node as u16 - 1;
            Place { node, dialled: listens + count as u16, listens }
        };
        let places: Vec<Place> = (1..=count).map(place).collect();
        let links = Links::new(&places);
        let (program, data, limits) = (program.clone(), data.to_owned(), limits.to_vec());
        let mut fleet = Self { program, data, places, limits, links, running: BTreeMap::new() };
        let starting: Vec<_> = (1..=count).map(|node| (node, fleet.setup(node).begin())).collect();
        for (node, starting) in starting {
            let served = starting.serving().unwrap_or_else(|ended| panic!("node {node}: {}", ended.stderr));
            fleet.running.insert(node, served);
        }
        fleet
    }

    fn setup(&self, node: u32) -> Setup {
        let Place { dialled, listens, .. } = self.places[node as usize - 1];
        let nodes = self.places.iter().map(|place| (place.node, place.dialled)).collect();
        let setup = Setup::new(&self.program, &self.data(node));
        let setup = Setup { node, port: listens, reached: Some(dialled), nodes, ..setup };
        self.limits.iter().fold(setup, |setup, (name, value)| setup.limit(name, value))
    }

    pub fn data(&self, node: u32) -> PathBuf {
        self.data.join(format!("node-{node}"))
    }

    /// On which the node itself listens.
    pub fn port(&self, node: u32) -> u16 {
        self.places[node as usize - 1].listens
    }

    pub fn count(&self) -> u32 {
        self.places.len() as u32
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    /// `HOST:PORT` of every node.
    pub fn connect(&self) -> String {
        let addresses: Vec<String> = (1..=self.count()).map(|node| self.address(node)).collect();
        addresses.join(",")
    }

    /// Where the node is dialled.
    pub fn address(&self, node: u32) -> String {
        format!("127.0.0.1:{}", self.places[node as usize - 1].dialled)
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

    /// Every node runs and reaches every other one.
    pub fn heal(&mut self) {
        self.links.heal();
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

    /// Every node ends in good order, and what it leaves is sound.
    pub fn stop_all(&mut self) {
        for node in 1..=self.count() {
            self.stop(node);
            let verified = self.program.verify(&self.data(node));
            assert_eq!(verified.code, Some(0), "node {node}: {} {}", verified.stdout, verified.stderr);
        }
    }

    /// No node has ended by itself.
    pub fn check_alive(&mut self) {
        for (number, node) in &mut self.running {
            assert!(node.is_running(), "honest: node {number} has ended: {}", node.stderr());
        }
    }
}
