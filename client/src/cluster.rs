//! Whom the client talks to, and how they are.

use std::collections::BTreeMap;
use std::time::Duration;

use ringmain_net::protocol::{self, ChangeMembers, GroupInfo, GroupsShown, MemberInfo, MemberState};

use crate::options::Address;

/// How long one node may take to say how it is.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A cluster as one node describes it, and where that node's shards listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's number.
    pub cluster: u64,
    /// The node that answered.
    pub node: u32,
    /// Which life of that node: it rises when a node is set up anew, with an empty disk.
    pub incarnation: u32,
    /// `HOST:PORT` by shard number; without a host where that is the one that was dialled.
    pub shards: Vec<String>,
    /// Groups of each shard. Shard `s` has the groups from `s * groups` on.
    pub groups: u32,
    /// All nodes of the cluster: number, and `HOST:PORT` of the first shard, without a host where that is the one that
    /// was dialled.
    pub nodes: Vec<(u32, String)>,
}

/// How all nodes of a cluster are, each in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The cluster's number.
    pub cluster: u64,
    /// In order of their numbers.
    pub nodes: Vec<NodeStatus>,
}

/// How one node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    pub node: u32,
    /// `HOST:PORT` of its first shard.
    pub address: String,
    /// Which life of that node; `None`: it did not answer.
    pub incarnation: Option<u32>,
    /// Whether each of its shards answered in time.
    pub reachable: bool,
    /// The groups of the shards that answered, in order of their numbers.
    pub groups: Vec<GroupStatus>,
}

/// How one group is at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group's number in the cluster.
    pub group: u32,
    /// The shard that hosts it.
    pub shard: u32,
    /// The node that leads, as far as this one knows.
    pub leader: Option<u32>,
    /// Whether this node leads. Of several that say so, the one with the highest term does.
    pub is_leader: bool,
    pub term: u64,
    /// The last entry that is known to be on a majority, the last one carried out, and the last one in the log; all
    /// of them at this node.
    pub committed: u64,
    pub applied: u64,
    pub last: u64,
    pub members: Vec<MemberStatus>,
}

/// A member of a group. Activity, state and progress are known to the leader only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    pub node: u32,
    pub incarnation: u32,
    /// `HOST:PORT` of its first shard.
    pub address: String,
    /// Whether its vote counts; it does once it has caught up.
    pub is_voter: bool,
    /// Whether the leader heard it lately.
    pub is_active: bool,
    pub state: MemberState,
    /// The last entry that it is known to have.
    pub matched: u64,
}

/// A change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This node joins: it gets the group's entries, then a vote. `host` and `port` are where its first shard listens.
    Add { node: u32, incarnation: u32, host: String, port: u16 },
    /// This node leaves, if it is still the one of this incarnation: another one that has taken its place stays.
    Remove { node: u32, incarnation: u32 },
}

impl From<protocol::Cluster> for Cluster {
    fn from(cluster: protocol::Cluster) -> Self {
        let shards = cluster.shards.iter().map(|shard| format!("{}:{}", shard.host, shard.port)).collect();
        let nodes = cluster.nodes.iter().map(|node| (node.node, format!("{}:{}", node.host, node.port)));
        Self {
            cluster: cluster.cluster,
            node: cluster.node,
            incarnation: cluster.incarnation,
            shards,
            groups: cluster.groups,
            nodes: nodes.collect(),
        }
    }
}

impl Change {
    pub(crate) fn words(&self, group: u32) -> ChangeMembers<'_> {
        let nothing = ChangeMembers {
            group,
            add_node: 0,
            add_incarnation: 0,
            host: "",
            port: 0,
            remove_node: 0,
            remove_incarnation: 0,
        };
        match self {
            Self::Add { node, incarnation, host, port } => {
                ChangeMembers { add_node: *node, add_incarnation: *incarnation, host, port: *port, ..nothing }
            }
            Self::Remove { node, incarnation } => {
                ChangeMembers { remove_node: *node, remove_incarnation: *incarnation, ..nothing }
            }
        }
    }
}

/// The questions behind a [`ClusterStatus`]: each shard of each node is asked.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub(crate) cluster: u64,
    pub(crate) shards: u32,
    pub(crate) nodes: Vec<(u32, Address)>,
}

impl Survey {
    /// Node and shard of each question.
    pub(crate) fn questions(&self) -> Vec<(u32, u32)> {
        let of_node = |(node, _): &(u32, Address)| (0..self.shards).map(|shard| (*node, shard)).collect();
        self.nodes.iter().flat_map(|node| -> Vec<_> { of_node(node) }).collect()
    }

    /// From the answers that came.
    pub(crate) fn finish(self, answers: Vec<GroupsShown>) -> ClusterStatus {
        let mut shown: BTreeMap<u32, Vec<GroupsShown>> = BTreeMap::new();
        for answer in answers {
            shown.entry(answer.node).or_default().push(answer);
        }
        let status = |(node, address): &(u32, Address)| {
            let shown = shown.remove(node).unwrap_or_default();
            let groups = shown.iter().flat_map(|shard| {
                shard.groups.iter().map(|group| GroupStatus::new(shard.shard, group, &address.host))
            });
            let mut groups: Vec<_> = groups.collect();
            groups.sort_by_key(|group| group.group);
            NodeStatus {
                node: *node,
                address: address.to_string(),
                incarnation: shown.first().map(|shard| shard.incarnation),
                reachable: shown.len() as u32 == self.shards,
                groups,
            }
        };
        let mut nodes: Vec<_> = self.nodes.iter().map(status).collect();
        nodes.sort_by_key(|node| node.node);
        ClusterStatus { cluster: self.cluster, nodes }
    }
}

impl GroupStatus {
    fn new(shard: u32, group: &GroupInfo, host: &str) -> Self {
        Self {
            group: group.group,
            shard,
            leader: Some(group.leader).filter(|leader| *leader != 0),
            is_leader: group.is_leader,
            term: group.term,
            committed: group.committed,
            applied: group.applied,
            last: group.last,
            members: group.members.iter().map(|member| MemberStatus::new(member, host)).collect(),
        }
    }
}

impl MemberStatus {
    /// `host` is the one that was dialled.
    fn new(member: &MemberInfo, host: &str) -> Self {
        let host = if member.host.is_empty() { host } else { &member.host };
        Self {
            node: member.node,
            incarnation: member.incarnation,
            address: Address { host: host.to_owned(), port: member.port }.to_string(),
            is_voter: member.is_voter,
            is_active: member.is_active,
            state: member.state(),
            matched: member.matched,
        }
    }
}
