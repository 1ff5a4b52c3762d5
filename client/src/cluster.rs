//! Whom the client talks to.

use ringmain_net::protocol;

/// A node of a cluster and where its shards listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's number.
    pub cluster: u64,
    /// The node that answered.
    pub node: u32,
    /// `HOST:PORT` by shard number; without a host where that is the one that was dialled.
    pub shards: Vec<String>,
}

impl From<protocol::Cluster> for Cluster {
    fn from(cluster: protocol::Cluster) -> Self {
        let shards = cluster.shards.iter().map(|shard| format!("{}:{}", shard.host, shard.port)).collect();
        Self { cluster: cluster.cluster, node: cluster.node, shards }
    }
}
