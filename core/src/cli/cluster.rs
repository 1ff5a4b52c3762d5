//! `ringmain cluster …`: who leads what, and changing that, and who belongs.

mod change;
mod health;
mod status;

use std::thread;
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use serde::Serialize;

use super::Failure;
use super::args::{Cluster, ClusterAction, Connect, Format};
use super::link;
use super::output::{print_json, print_text};
use health::Health;

/// Between two looks at how far something is.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// A new leader is elected within this time, or not at all.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);
/// A handover that has not happened after so long is asked for again: the nodes may have given it up.
const TRANSFER_AGAIN_AFTER: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Transferred {
    group: u32,
    leader: u32,
    term: u64,
}

pub(super) fn run(cluster: Cluster) -> Result<(), Failure> {
    let Connect { connect, output } = cluster.connect;
    let client = link::dial(&connect)?;
    match cluster.action {
        ClusterAction::Status { groups } => status::run(&client, output, groups),
        ClusterAction::Transfer { group, node } => transfer(&client, output, group, node),
        ClusterAction::Add { node } => change::add(&client, output, &node),
        ClusterAction::Remove { node } => change::remove(&client, output, node),
    }
}

/// Returns once the node leads the group, by its own words.
fn transfer(client: &Client, output: Format, group: u32, node: u32) -> Result<(), Failure> {
    let status = client.cluster_status()?;
    let health = Health::of(&status);
    let known = health.group(group).ok_or_else(|| no_such_group(group, &health))?;
    if !status.nodes.iter().any(|known| known.node == node) {
        return Err(no_such_node(node, &health));
    }
    if !known.members.iter().any(|member| member.node == node && member.is_voter) {
        return Err(Failure::told(format!("node {node} has no vote in group {group}")));
    }
    let deadline = Instant::now() + TRANSFER_WITHIN;
    while Instant::now() < deadline {
        client.move_leader(group, node)?;
        let again = Instant::now() + TRANSFER_AGAIN_AFTER;
        while Instant::now() < again {
            let status = client.cluster_status()?;
            let led = Health::of(&status).group(group).and_then(|known| Some((known.leader?, known.term)));
            if let Some((leader, term)) = led.filter(|(leader, _)| *leader == node) {
                return match output {
                    Format::Json => print_json(&Transferred { group, leader, term }),
                    Format::Text => {
                        print_text(&format!("node {leader} leads group {group} in term {term}\n"))
                    }
                };
            }
            thread::sleep(LOOK_PERIOD);
        }
    }
    Err(Failure::told(format!(
        "node {node} does not lead group {group} after {} s: is it current? `ringmain cluster status` says",
        TRANSFER_WITHIN.as_secs()
    )))
}

fn no_such_group(group: u32, health: &Health) -> Failure {
    let last = health.groups.last().map_or(0, |last| last.group);
    Failure::told(format!("there is no group {group}: they are numbered from 0 to {last}"))
}

fn no_such_node(node: u32, health: &Health) -> Failure {
    let nodes: Vec<String> = health.nodes.iter().map(|known| known.node.to_string()).collect();
    Failure::told(format!("node {node} is no node of this cluster, which has {}", nodes.join(", ")))
}
