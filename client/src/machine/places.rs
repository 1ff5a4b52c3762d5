//! Where the cluster is: its nodes, how queues spread over its shards and groups, and which connection leads where.
//!
//! Everything here is hearsay of the last shard that spoke. A wrong address costs a refused connection, a wrong
//! leader a redirect, and nothing else.

use std::collections::BTreeMap;

use ringmain_net::protocol::{Cluster, NodeAddress, ShardAddress, Welcome};
use ringmain_net::route;

use crate::options::Address;

/// A group of replicas: its shard, and its ordinal among the groups of that shard.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) shard: u32,
    pub(crate) ordinal: u32,
}

/// What a seat looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The leader of this queue's group.
    Queue(String),
    /// The leader of this group.
    Group(Group),
    /// This connection, and no other.
    Link(usize),
    /// Any shard of the cluster.
    Anywhere,
}

/// A goal in terms of the cluster.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Group(Group),
    Link(usize),
    Anywhere,
}

#[derive(Clone, Debug)]
struct Node {
    number: u32,
    /// Of its first shard.
    address: Address,
    /// Of all its shards, once it has said so itself. Until then they are counted from the first.
    shards: Vec<Address>,
}

/// What a shard said about its cluster.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Hearsay<'a> {
    pub(crate) cluster: u64,
    /// Who said it.
    pub(crate) node: u32,
    pub(crate) groups: u32,
    pub(crate) shards: &'a [ShardAddress],
    pub(crate) nodes: &'a [NodeAddress],
}

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Places {
    cluster: u64,
    /// Shards of each node; 0 before the first welcome.
    shards: u32,
    /// Groups of each shard.
    groups: u32,
    /// As the last shard that spoke named them. Bounded by what a frame can name.
    nodes: Vec<Node>,
    /// The connection that led when last heard of. It may be down, or on its way up.
    leaders: BTreeMap<Group, usize>,
}

impl<'a> From<&'a Welcome> for Hearsay<'a> {
    fn from(welcome: &'a Welcome) -> Self {
        let Welcome { cluster, node, groups, shards, nodes, .. } = welcome;
        Self { cluster: *cluster, node: *node, groups: *groups, shards, nodes }
    }
}

impl<'a> From<&'a Cluster> for Hearsay<'a> {
    fn from(said: &'a Cluster) -> Self {
        let Cluster { cluster, node, groups, shards, nodes, .. } = said;
        Self { cluster: *cluster, node: *node, groups: *groups, shards, nodes }
    }
}

impl Places {
    /// Whether no shard has spoken yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards == 0
    }

    pub(crate) fn cluster(&self) -> u64 {
        self.cluster
    }

    pub(crate) fn shards(&self) -> u32 {
        self.shards
    }

    pub(crate) fn groups(&self) -> u32 {
        self.groups
    }

    /// Each node and where its first shard listens.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = (u32, &Address)> {
        self.nodes.iter().map(|node| (node.number, &node.address))
    }

    /// Where this shard of that node listens. Nodes count from 0 in the order of [`Places::nodes`].
    pub(crate) fn address(&self, node: usize, shard: u32) -> Option<Address> {
        let node = self.nodes.get(node)?;
        if let Some(said) = node.shards.get(shard as usize) {
            return Some(said.clone());
        }
        let port = u16::try_from(u32::from(node.address.port) + shard).ok()?;
        Some(Address { host: node.address.host.clone(), port })
    }

    /// Whose address this is: the node's position, and the shard.
    pub(crate) fn locate(&self, address: &Address) -> Option<(usize, u32)> {
        let here = |node: &Node| match node.shards.iter().position(|shard| shard == address) {
            Some(shard) => Some(shard as u32),
            None if node.shards.is_empty() && node.address.host == address.host => {
                let shard = u32::from(address.port.checked_sub(node.address.port)?);
                (shard < self.shards).then_some(shard)
            }
            None => None,
        };
        self.nodes.iter().enumerate().find_map(|(position, node)| Some((position, here(node)?)))
    }

    /// The place of a node in the order of [`Places::nodes`].
    pub(crate) fn position(&self, number: u32) -> Option<usize> {
        self.nodes.iter().position(|node| node.number == number)
    }

    pub(crate) fn number(&self, node: usize) -> Option<u32> {
        self.nodes.get(node).map(|node| node.number)
    }

    /// Learns from a shard that was dialled at `host`.
    ///
    /// The newest list of nodes replaces the older one, so that nodes which left are forgotten. A shard that names
    /// nobody speaks for its own node only.
    pub(crate) fn learn(&mut self, said: Hearsay<'_>, host: &str) {
        let resolve = |named: &str, port: u16| Address {
            host: if named.is_empty() { host.to_owned() } else { named.to_owned() },
            port,
        };
        self.cluster = said.cluster;
        self.shards = said.shards.len() as u32;
        self.groups = said.groups.max(1);
        let older = std::mem::take(&mut self.nodes);
        let known = |number: u32| older.iter().find(|node| node.number == number);
        self.nodes = match said.nodes {
            [] => older.clone(),
            named => {
                let node = |named: &NodeAddress| {
                    let address = resolve(&named.host, named.port);
                    let same = known(named.node).filter(|older| older.address == address);
                    let shards = same.map_or_else(Vec::new, |older| older.shards.clone());
                    Node { number: named.node, address, shards }
                };
                named.iter().map(node).collect()
            }
        };
        let shards: Vec<Address> = said.shards.iter().map(|shard| resolve(&shard.host, shard.port)).collect();
        let Some(first) = shards.first().cloned() else { return };
        match self.nodes.iter_mut().find(|node| node.number == said.node) {
            Some(node) => node.shards = shards,
            None => self.nodes.push(Node { number: said.node, address: first, shards }),
        }
    }

    /// What the goal means here; `None` before the first welcome.
    pub(crate) fn resolve(&self, goal: &Goal) -> Option<Destination> {
        let destination = match goal {
            Goal::Link(link) => return Some(Destination::Link(*link)),
            _ if self.is_empty() => return None,
            Goal::Anywhere => Destination::Anywhere,
            Goal::Group(group) => Destination::Group(*group),
            Goal::Queue(name) => Destination::Group(Group {
                shard: route::shard_of(name, self.shards),
                ordinal: route::group_of(name, self.shards, self.groups),
            }),
        };
        Some(destination)
    }

    pub(crate) fn leader(&self, group: Group) -> Option<usize> {
        self.leaders.get(&group).copied()
    }

    /// Whether some group is led there, as far as was heard.
    pub(crate) fn is_leader(&self, link: usize) -> bool {
        self.leaders.values().any(|leader| *leader == link)
    }

    pub(crate) fn on_leader(&mut self, destination: Option<Destination>, link: usize) {
        if let Some(Destination::Group(group)) = destination {
            self.leaders.insert(group, link);
        }
    }

    /// This connection does not lead that group, whatever was heard.
    pub(crate) fn on_not_leader(&mut self, destination: Option<Destination>, link: usize) {
        if let Some(Destination::Group(group)) = destination
            && self.leader(group) == Some(link)
        {
            self.leaders.remove(&group);
        }
    }

    /// The connection is down: what it led is led by somebody else soon.
    pub(crate) fn on_lost(&mut self, link: usize) {
        self.leaders.retain(|_, leader| *leader != link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(ports: &[u16]) -> Vec<ShardAddress> {
        ports.iter().map(|port| ShardAddress { host: String::new(), port: *port }).collect()
    }

    fn node(node: u32, host: &str, port: u16) -> NodeAddress {
        NodeAddress { node, host: host.to_owned(), port }
    }

    fn shown(places: &Places, shard: u32) -> Vec<String> {
        (0..places.nodes().len())
            .filter_map(|node| places.address(node, shard))
            .map(|a| a.to_string())
            .collect()
    }

    fn said<'a>(number: u32, shards: &'a [ShardAddress], nodes: &'a [NodeAddress]) -> Hearsay<'a> {
        Hearsay { cluster: 1, node: number, groups: 4, shards, nodes }
    }

    #[test]
    fn shards_of_other_nodes_are_counted_from_their_first() {
        let mut places = Places::default();
        let nodes = [node(1, "", 7400), node(2, "b", 7500), node(3, "c", 65_535)];
        places.learn(said(1, &shards(&[7400, 9000]), &nodes), "a");
        assert_eq!(shown(&places, 0), ["a:7400", "b:7500", "c:65535"]);
        let address = |text: &str| Address::parse_list(text).unwrap().remove(0);
        assert_eq!(places.locate(&address("a:9000")), Some((0, 1)));
        assert_eq!(places.locate(&address("b:7501")), Some((1, 1)));
        assert_eq!(places.locate(&address("b:7502")), None);
        assert_eq!(shown(&places, 1), ["a:9000", "b:7501"], "there is no port behind the last");
    }

    #[test]
    fn the_newest_list_of_nodes_counts_unless_it_is_empty() {
        let mut places = Places::default();
        places.learn(said(1, &shards(&[7400]), &[node(1, "", 7400), node(2, "b", 7500)]), "a");
        places.learn(said(2, &shards(&[7500]), &[node(2, "", 7500), node(3, "c", 7600)]), "b");
        assert_eq!(shown(&places, 0), ["b:7500", "c:7600"]);
        places.learn(said(3, &shards(&[7601]), &[]), "d");
        assert_eq!(shown(&places, 0), ["b:7500", "d:7601"]);
        places.learn(said(9, &shards(&[1]), &[]), "e");
        assert_eq!(shown(&places, 0), ["b:7500", "d:7601", "e:1"]);
    }

    #[test]
    fn a_queue_is_resolved_once_somebody_has_spoken() {
        let mut places = Places::default();
        let goal = Goal::Queue("orders".to_owned());
        assert_eq!(places.resolve(&goal), None);
        places.learn(said(1, &shards(&[1, 2, 3]), &[]), "a");
        let shard = route::shard_of("orders", 3);
        let group = Group { shard, ordinal: route::group_of("orders", 3, 4) };
        assert_eq!(places.resolve(&goal), Some(Destination::Group(group)));
        places.on_leader(places.resolve(&goal), 7);
        places.on_not_leader(places.resolve(&goal), 8);
        assert_eq!(places.leader(group), Some(7));
        places.on_lost(7);
        assert_eq!(places.leader(group), None);
    }
}
