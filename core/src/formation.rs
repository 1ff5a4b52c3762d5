//! How nodes become a cluster.

mod layout;

pub use layout::{ClusterLayout, Founder, GROUPS_MAX, State, node_of, replica_id};
