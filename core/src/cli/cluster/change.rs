//! `ringmain cluster add` and `remove`: group by group, then until it is so everywhere, and certain: the leaders answer when no
//! single failure undoes it. Both may be interrupted and given again: what is done already is not done twice.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use ringmain_client::{Change, Error};
use ringmain_core::config::{NODES_MAX, Peer};
use serde::Serialize;

use super::health::{Group, Health, State};
use super::{LOOK_PERIOD, no_such_node};
use crate::cli::Failure;
use crate::cli::args::Format;
use crate::cli::link;
use crate::cli::output::{counted, grouped, print_json, print_text};

/// A change that is not further after so long is given up waiting for; the nodes go on with it.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Lines of progress where they cannot be drawn over each other.
const SAY_PERIOD: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Changed {
    node: u32,
    done: &'static str,
    groups: u64,
}

/// Makes the node that runs at this address a member of every group; returns once it has a vote in each.
pub(super) fn add(client: &Client, output: Format, wanted: &Peer) -> Result<(), Failure> {
    let health = Health::of(&client.cluster_status()?);
    let node = wanted.node;
    let incarnation = incarnation_at(client, &health, wanted)?;
    let member = |group: &Group| group.member(node).map(|member| (member.incarnation, member.is_voter));
    if let Some((other, _)) = health.groups.iter().filter_map(member).find(|(other, _)| *other != incarnation)
    {
        return Err(Failure::told(format!(
            "node {node} is a member with another data directory (incarnation {other}), whose votes this one does not \
             have: `ringmain cluster remove {node}` first"
        )));
    }
    if health.groups.iter().all(|group| member(group) == Some((incarnation, true))) {
        return Err(Failure::told(format!("node {node} is a member already")));
    }
    let members = health.nodes.iter().filter(|known| known.member_of > 0 && known.node != node).count();
    if members >= NODES_MAX {
        return Err(Failure::told(format!("the cluster has {members} nodes, and {NODES_MAX} is the most")));
    }
    let address = &wanted.address;
    let change = Change::Add { node, incarnation, host: address.host.clone(), port: address.port };
    change_all(client, &health, |_| Some(change.clone()))?;
    wait(client, |health| joined(health, node))?;
    // It has its votes since the answer: asked for what is so, the leaders answer when no failure undoes it.
    change_all(client, &health, |_| Some(change.clone()))?;
    finish(output, &Changed { node, done: "added", groups: health.groups.len() as u64 })
}

/// Takes the node out of every group; returns once it is in none.
pub(super) fn remove(client: &Client, output: Format, node: u32) -> Result<(), Failure> {
    let health = Health::of(&client.cluster_status()?);
    let groups = health.groups.iter().filter(|group| group.member(node).is_some()).count() as u64;
    if groups == 0 {
        return Err(no_such_node(node, &health));
    }
    if health.groups.iter().any(|group| group.members.iter().all(|member| member.node == node)) {
        return Err(Failure::told(format!(
            "node {node} is the last one of the cluster, which would be gone"
        )));
    }
    // Each group's own member: the groups take a newcomer in the place of another one after the other.
    change_all(client, &health, |group| {
        let member = group.member(node)?;
        Some(Change::Remove { node, incarnation: member.incarnation })
    })?;
    wait(client, |health| left(health, node))?;
    finish(output, &Changed { node, done: "removed", groups })
}

/// The incarnation of the node at this address, which must be the one that is meant.
fn incarnation_at(client: &Client, health: &Health, wanted: &Peer) -> Result<u32, Failure> {
    let (node, address) = (wanted.node, &wanted.address);
    let found = client.identify(&address.to_string()).map_err(|error| match error {
        Error::Lost { reason, .. } => {
            Failure::told(format!("nobody answers at {address} ({reason}): node {node} must be running"))
        }
        error => Failure::told(format!("node {node} at {address}: {}", link::reason(error))),
    })?;
    let cluster = format!("{:#018x}", found.cluster);
    if cluster != health.cluster {
        return Err(Failure::told(format!(
            "node {} at {address} belongs to cluster {cluster}, and this is cluster {}: start it with an empty data \
             directory and a list of nodes of this cluster",
            found.node, health.cluster
        )));
    }
    if found.node != node {
        return Err(Failure::told(format!("at {address} is node {}, not node {node}", found.node)));
    }
    Ok(found.incarnation)
}

/// Asks the leader of each group in turn. One that is busy, changing already or handing over is asked again by the client.
fn change_all(
    client: &Client,
    health: &Health,
    change: impl Fn(&Group) -> Option<Change>,
) -> Result<(), Failure> {
    for group in &health.groups {
        let Some(change) = change(group) else { continue };
        let told = |error| Failure::told(format!("group {}: {}", group.group, link::reason(error)));
        client.change_members(group.group, change).map_err(told)?;
    }
    Ok(())
}

/// How far a change is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// In words; as long as they change, it is getting on.
    Underway(String),
}

/// A vote in every group.
fn joined(health: &Health, node: u32) -> Progress {
    let members = || health.groups.iter().filter_map(|group| group.member(node));
    let (all, votes) = (health.groups.len(), members().filter(|member| member.is_voter).count());
    if votes == all && all > 0 {
        return Progress::Done;
    }
    let mut text = format!("node {node} has a vote in {votes} of {}", counted(all as u64, "group"));
    let lacks: u64 = members().filter(|member| !member.is_voter).filter_map(|member| member.lacks).sum();
    let checkpoints = members().filter(|member| member.state == State::ReceivesCheckpoint).count();
    if checkpoints > 0 {
        text.push_str(&format!(", gets {}", counted(checkpoints as u64, "checkpoint")));
    } else if lacks > 0 {
        text.push_str(&format!(", lacks {} entries", grouped(lacks)));
    }
    Progress::Underway(text)
}

/// In no group any more, as their leaders say.
fn left(health: &Health, node: u32) -> Progress {
    let (led, others): (Vec<&Group>, Vec<&Group>) =
        health.groups.iter().partition(|group| group.leader.is_some());
    let left = led.iter().filter(|group| group.member(node).is_some()).count() + others.len();
    if left == 0 && !led.is_empty() {
        return Progress::Done;
    }
    Progress::Underway(format!("node {node} leaves {}", counted(left as u64, "group")))
}

/// Looks until it is done, and says how far it is.
fn wait(client: &Client, look: impl Fn(&Health) -> Progress) -> Result<(), Failure> {
    let mut teller = Teller::new();
    let mut last = (String::new(), Instant::now());
    loop {
        let text = match look(&Health::of(&client.cluster_status()?)) {
            Progress::Done => return Ok(()),
            Progress::Underway(text) => text,
        };
        if text != last.0 {
            last = (text, Instant::now());
        }
        if last.1.elapsed() > STALL_MAX {
            let seconds = STALL_MAX.as_secs();
            return Err(Failure::told(format!("{}, and no more for {seconds} s; the nodes go on", last.0)));
        }
        teller.say(&last.0);
        thread::sleep(LOOK_PERIOD);
    }
}

fn finish(output: Format, changed: &Changed) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(changed),
        Format::Text => {
            let Changed { node, done, groups } = changed;
            let preposition = if *done == "added" { "to" } else { "from" };
            print_text(&format!("{done} node {node} {preposition} {}\n", counted(*groups, "group")))
        }
    }
}

/// Progress on stderr: one line that changes on a terminal, a line now and then elsewhere.
struct Teller {
    terminal: bool,
    said: String,
    next: Instant,
}

impl Teller {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), said: String::new(), next: Instant::now() + SAY_PERIOD }
    }

    fn say(&mut self, text: &str) {
        if text == self.said || (!self.terminal && Instant::now() < self.next) {
            return;
        }
        let line = if self.terminal { format!("\r{text}\x1b[K") } else { format!("{text}\n") };
        self.write(&line);
        text.clone_into(&mut self.said);
        self.next = Instant::now() + SAY_PERIOD;
    }

    /// Progress is a courtesy: a closed stderr does not end the command.
    fn write(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.terminal && !self.said.is_empty() {
            self.write("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmain_client::MemberState;

    use super::super::health::tests::cluster;
    use super::*;

    #[test]
    fn node_has_joined_once_it_votes_everywhere() {
        let mut status = cluster(3, 3);
        assert_eq!(joined(&Health::of(&status), 3), Progress::Done);
        let third = &mut status.nodes[1].groups[1].members[2];
        (third.is_voter, third.matched, third.state) = (false, 400, MemberState::Behind);
        let expected = "node 3 has a vote in 2 of 3 groups, lacks 600 entries";
        assert_eq!(joined(&Health::of(&status), 3), Progress::Underway(expected.to_owned()));
        assert!(matches!(joined(&Health::of(&status), 4), Progress::Underway(_)));
    }

    #[test]
    fn node_has_left_once_every_leader_says_so() {
        let mut status = cluster(3, 3);
        let leaves = |groups: &str| Progress::Underway(format!("node 3 leaves {groups}"));
        assert_eq!(left(&Health::of(&status), 3), leaves("3 groups"));
        for group in status.nodes.iter_mut().flat_map(|node| &mut node.groups) {
            group.members.pop();
        }
        assert_eq!(left(&Health::of(&status), 3), Progress::Done);
        status.nodes[0].groups[0].is_leader = false;
        assert_eq!(left(&Health::of(&status), 3), leaves("1 group"));
    }
}
