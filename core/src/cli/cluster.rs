//! `ringmain cluster …`: today a cluster is one node.

use serde::Serialize;

use super::Failure;
use super::args::{Cluster, ClusterAction, Connect, Format};
use super::link;
use super::output::{Column, Table, print_json, print_text};

#[derive(Serialize)]
struct Status {
    cluster: String,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    node: u32,
    shards: Vec<String>,
}

pub(super) fn run(cluster: Cluster) -> Result<(), Failure> {
    let Connect { connect, output } = cluster.connect;
    match cluster.action {
        ClusterAction::Status => {
            let ringmain_client::Cluster { cluster, node, shards, .. } = link::dial(&connect)?.cluster()?;
            let nodes = vec![Node { node, shards }];
            show(output, &Status { cluster: format!("{cluster:#018x}"), nodes })
        }
        ClusterAction::Transfer { .. } => Err(needs_cluster("leadership cannot be handed over")),
        ClusterAction::Add { .. } => Err(needs_cluster("a node cannot be added")),
        ClusterAction::Remove { .. } => Err(needs_cluster("a node cannot be removed")),
    }
}

fn needs_cluster(what: &str) -> Failure {
    Failure::told(format!("{what}: this needs a cluster, and for now a node serves alone"))
}

fn show(output: Format, status: &Status) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(status),
        Format::Text => print_text(&page(status)),
    }
}

fn page(status: &Status) -> String {
    let mut table = Table::new(&[Column::Right("NODE"), Column::Right("SHARD"), Column::Left("ADDRESS")]);
    for node in &status.nodes {
        for (shard, address) in node.shards.iter().enumerate() {
            table.row(vec![node.node.to_string(), shard.to_string(), address.clone()]);
        }
    }
    format!("cluster {}\n\n{}", status.cluster, table.render("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_line() {
        let node = Node { node: 1, shards: vec!["h:7411".to_owned(), "h:7412".to_owned()] };
        let status = Status { cluster: "0x1".to_owned(), nodes: vec![node] };
        let expected =
            "cluster 0x1\n\n  NODE  SHARD  ADDRESS\n     1      0  h:7411\n     1      1  h:7412\n";
        assert_eq!(page(&status), expected);
    }
}
