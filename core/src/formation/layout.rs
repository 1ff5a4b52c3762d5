//! What a cluster is made of, as every data directory of it knows.

use crate::config::{Address, NODES_MAX, SHARDS_MAX, host_is_plain};
use crate::member::replica_id;

/// Groups of one shard: one for each founder.
pub const GROUPS_MAX: u32 = 16;

/// How far a data directory has come.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for the other founders; there is no cluster yet, and no log.
    Forming,
    /// It is a member's.
    Formed,
    /// It knows the cluster, which does not know it: it has no vote and serves nothing until it is added.
    Joining,
}

/// A node that the cluster was formed from. The incarnation is that of its data directory at the time: the same node with
/// another directory is another replica, which has none of the votes and none of the messages of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    pub node: u32,
    pub incarnation: u32,
    /// Of its first shard. A node that formed a cluster alone may not know its host, or its port.
    pub address: Address,
}

/// The cluster as one node's data directory knows it: what the node's shards are made from, and what it tells a node that
/// asks whether there is a cluster yet.
///
/// Invariant: while forming, `cluster` and `groups` are 0 and `founders` is empty; afterwards none of them is, and none
/// of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterLayout {
    pub cluster: u64,
    pub node: u32,
    pub incarnation: u32,
    pub shards: u32,
    /// Groups of one shard.
    pub groups: u32,
    pub segment_bytes: u64,
    pub state: State,
    /// By node.
    pub founders: Vec<Founder>,
    /// The incarnation that this node had before its log was found rotten; 0: none. The members replace it by this one.
    pub replaces: u32,
}

impl Founder {
    pub fn replica(&self) -> u64 {
        replica_id(self.node, self.incarnation)
    }
}

impl ClusterLayout {
    pub fn replica(&self) -> u64 {
        replica_id(self.node, self.incarnation)
    }

    /// The replicas that every group of the cluster began with.
    pub fn founding_replicas(&self) -> Vec<u64> {
        self.founders.iter().map(Founder::replica).collect()
    }

    /// The groups of one shard: the founder at place `i` of the list is the first choice for the leader of the `i`th.
    pub fn groups_of(&self, shard: u32) -> std::ops::Range<u32> {
        assert!(shard < self.shards);
        shard * self.groups..(shard + 1) * self.groups
    }

    /// What this node was when the cluster was formed, if it is one of the founders; perhaps with another incarnation.
    pub fn founder(&self, node: u32) -> Option<&Founder> {
        self.founders.iter().find(|founder| founder.node == node)
    }

    /// Why this cannot be a layout, in a few words.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        if self.node == 0 || self.shards == 0 || self.segment_bytes == 0 {
            return Some("node, shards and segment_bytes must be at least 1");
        }
        if self.shards > SHARDS_MAX {
            return Some("there are too many shards");
        }
        if self.state == State::Forming {
            let is_blank = self.cluster == 0 && self.groups == 0 && self.founders.is_empty();
            return (!is_blank).then_some("a node that is forming has no cluster yet");
        }
        if self.cluster == 0 {
            return Some("the cluster id is 0");
        }
        if self.groups == 0 || self.groups > GROUPS_MAX {
            return Some("groups must be between 1 and 16");
        }
        if self.founders.is_empty() || self.founders.len() > NODES_MAX {
            return Some("there must be 1 to 7 founders");
        }
        if self.founders.iter().any(|founder| founder.node == 0 || founder.incarnation == 0) {
            return Some("node and incarnation of a founder must be at least 1");
        }
        if !self.founders.iter().all(|founder| host_is_plain(&founder.address.host)) {
            return Some("the host of a founder is none");
        }
        if !self.founders.is_sorted_by(|earlier, later| earlier.node < later.node) {
            return Some("founders must be in the order of their ids, each once");
        }
        None
    }
}
