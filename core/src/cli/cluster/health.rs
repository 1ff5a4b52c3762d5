//! What the words of all nodes come to: who leads each group, how far its members are, and what is wrong. Pure.

use ringmain_client::{ClusterStatus, GroupStatus, MemberState};
use serde::Serialize;

use crate::cli::output::{counted, grouped};

/// The cluster, as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    pub(super) cluster: String,
    /// Every group has a leader, and every voter is current.
    pub(super) healthy: bool,
    /// Where it is not so.
    pub(super) faults: Vec<String>,
    pub(super) nodes: Vec<Node>,
    /// In order of their numbers.
    pub(super) groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) node: u32,
    pub(super) address: String,
    pub(super) incarnation: Option<u32>,
    pub(super) reachable: bool,
    /// Groups that it leads, and groups that it is a member of.
    pub(super) leads: u32,
    pub(super) member_of: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub(super) group: u32,
    pub(super) shard: u32,
    /// None that answers.
    pub(super) leader: Option<u32>,
    pub(super) term: u64,
    pub(super) committed: u64,
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Serialize)]
pub(super) struct Member {
    pub(super) node: u32,
    pub(super) incarnation: u32,
    pub(super) is_voter: bool,
    pub(super) state: State,
    /// Entries of the leader's log that it is not known to have; `None` where no leader answers.
    pub(super) lacks: Option<u64>,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Current,
    Behind,
    ReceivesCheckpoint,
    Unreachable,
    /// No leader says.
    Unknown,
}

impl Health {
    pub(super) fn of(status: &ClusterStatus) -> Self {
        let said = status.nodes.iter().flat_map(|node| node.groups.iter().map(|group| (node.node, group)));
        let mut best: Vec<(u32, &GroupStatus)> = Vec::new();
        for (node, group) in said {
            // A leader knows most, and of several leaders the one of the highest term is it.
            let rank = |group: &GroupStatus| (group.is_leader, group.term);
            match best.iter_mut().find(|(_, known)| known.group == group.group) {
                Some(known) if rank(known.1) < rank(group) => *known = (node, group),
                Some(_) => {}
                None => best.push((node, group)),
            }
        }
        best.sort_by_key(|(_, group)| group.group);
        let groups: Vec<Group> = best.into_iter().map(|(node, group)| Group::new(node, group)).collect();
        let node = |node: &ringmain_client::NodeStatus| Node {
            node: node.node,
            address: node.address.clone(),
            incarnation: node.incarnation,
            reachable: node.reachable,
            leads: groups.iter().filter(|group| group.leader == Some(node.node)).count() as u32,
            member_of: groups.iter().filter(|group| group.member(node.node).is_some()).count() as u32,
        };
        let nodes: Vec<Node> = status.nodes.iter().map(node).collect();
        let faults = faults(&nodes, &groups);
        let cluster = format!("{:#018x}", status.cluster);
        Self { cluster, healthy: faults.is_empty(), faults, nodes, groups }
    }

    pub(super) fn group(&self, group: u32) -> Option<&Group> {
        self.groups.iter().find(|known| known.group == group)
    }

    /// How one node is in all groups together, in a few words; the worst counts.
    pub(super) fn state(&self, node: &Node) -> String {
        if !node.reachable {
            return "unreachable".to_owned();
        }
        if is_another(node, &self.groups) {
            return "another data directory".to_owned();
        }
        summary(&self.groups, node.node).unwrap_or_else(|| "no member".to_owned())
    }
}

impl Group {
    fn new(node: u32, status: &GroupStatus) -> Self {
        let leader = status.is_leader.then_some(node);
        let member = |member: &ringmain_client::MemberStatus| Member {
            node: member.node,
            incarnation: member.incarnation,
            is_voter: member.is_voter,
            state: if status.is_leader { member.state.into() } else { State::Unknown },
            lacks: status.is_leader.then(|| status.last.saturating_sub(member.matched)),
        };
        let mut members: Vec<Member> = status.members.iter().map(member).collect();
        members.sort_by_key(|member| member.node);
        let (term, committed) = (status.term, status.committed);
        Self { group: status.group, shard: status.shard, leader, term, committed, members }
    }

    pub(super) fn member(&self, node: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Whether somebody leads and every voter has everything.
    pub(super) fn is_healthy(&self) -> bool {
        self.leader.is_some()
            && self.members.iter().all(|member| !member.is_voter || member.state == State::Current)
    }
}

impl Member {
    /// `current`, `12 behind`, `learner, 12 behind`.
    pub(super) fn words(&self) -> String {
        let state = match (self.state, self.lacks) {
            (State::Current, _) => "current".to_owned(),
            (State::Behind, Some(lacks)) => format!("{} behind", grouped(lacks)),
            (State::Behind, None) => "behind".to_owned(),
            (State::ReceivesCheckpoint, _) => "gets a checkpoint".to_owned(),
            (State::Unreachable, _) => "unreachable".to_owned(),
            (State::Unknown, _) => "unknown".to_owned(),
        };
        if self.is_voter { state } else { format!("learner, {state}") }
    }
}

impl From<MemberState> for State {
    fn from(state: MemberState) -> Self {
        match state {
            MemberState::Current => Self::Current,
            MemberState::Behind => Self::Behind,
            MemberState::ReceivesCheckpoint => Self::ReceivesCheckpoint,
            MemberState::Unreachable => Self::Unreachable,
            MemberState::Unknown => Self::Unknown,
        }
    }
}

/// One sentence for each node that is not current everywhere, and one for the groups that nobody leads.
fn faults(nodes: &[Node], groups: &[Group]) -> Vec<String> {
    let mut faults = Vec::new();
    let leaderless: Vec<u32> =
        groups.iter().filter(|group| group.leader.is_none()).map(|group| group.group).collect();
    match leaderless[..] {
        [] => {}
        [group] => faults.push(format!("group {group} has no leader that answers")),
        _ => {
            faults.push(format!("{} have no leader that answers", counted(leaderless.len() as u64, "group")))
        }
    }
    let led = || groups.iter().filter(|group| group.leader.is_some());
    for node in nodes {
        let votes = led().filter(|group| group.member(node.node).is_some_and(|member| member.is_voter));
        let lagging =
            votes.filter(|group| group.member(node.node).is_some_and(|m| m.state != State::Current));
        let lagging = lagging.count() as u64;
        if !node.reachable && node.member_of > 0 {
            faults.push(format!("node {} is unreachable", node.node));
        } else if is_another(node, groups) {
            faults.push(format!(
                "node {0} has another data directory than the member of this number: `ringmain cluster remove {0}`, \
                 then add it",
                node.node
            ));
        } else if lagging > 0 {
            faults.push(format!("node {} is not current in {}", node.node, counted(lagging, "group")));
        }
    }
    if groups.is_empty() {
        faults.push("no node says anything of its groups".to_owned());
    }
    faults
}

/// Whether the node has another data directory than the member of its number.
fn is_another(node: &Node, groups: &[Group]) -> bool {
    let members = || groups.iter().filter_map(|group| group.member(node.node));
    let is_it = |incarnation: u32| members().any(|member| member.incarnation == incarnation);
    node.incarnation.is_some_and(|incarnation| members().next().is_some() && !is_it(incarnation))
}

/// How far a node is in all groups; none if it is in none of them.
fn summary(groups: &[Group], node: u32) -> Option<String> {
    let members = || groups.iter().filter_map(|group| group.member(node));
    let worst = members().map(|member| member.state).max()?;
    let there = members().filter(|member| member.state == worst).count();
    let learning = members().filter(|member| !member.is_voter).count() as u64;
    let lacks: u64 = members().filter(|member| member.state == worst).filter_map(|member| member.lacks).sum();
    let lacks = if worst == State::Behind { Some(lacks) } else { None };
    let first = members().next()?;
    let told = Member { state: worst, lacks, is_voter: true, ..*first }.words();
    let mut text = if worst == State::Current || there == groups.len() {
        told
    } else {
        format!("{told} in {}", counted(there as u64, "group"))
    };
    if learning > 0 {
        text.push_str(&format!(", no vote in {}", counted(learning, "group")));
    }
    Some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use ringmain_client::{MemberStatus, NodeStatus};

    use super::*;

    /// A cluster of these nodes, where each group is led by the node of its place, in term 2.
    pub(in super::super) fn cluster(nodes: u32, groups: u32) -> ClusterStatus {
        let member = |node| MemberStatus {
            node,
            incarnation: 1_000 + node,
            address: format!("h:741{node}"),
            is_voter: true,
            is_active: true,
            state: MemberState::Current,
            matched: 1_000,
        };
        let group = |node: u32, group: u32| GroupStatus {
            group,
            shard: group / nodes,
            leader: Some(group % nodes + 1),
            is_leader: group % nodes + 1 == node,
            term: 2,
            committed: 1_000,
            applied: 1_000,
            last: 1_000,
            members: (1..=nodes).map(member).collect(),
        };
        let node = |node: u32| NodeStatus {
            node,
            address: format!("h:741{node}"),
            incarnation: Some(1_000 + node),
            reachable: true,
            groups: (0..groups).map(|number| group(node, number)).collect(),
        };
        ClusterStatus { cluster: 7, nodes: (1..=nodes).map(node).collect() }
    }

    /// Node 3 does not answer, and the others have taken over what it led.
    pub(in super::super) fn without_third() -> ClusterStatus {
        let mut status = cluster(3, 3);
        for node in &mut status.nodes {
            for member in node.groups.iter_mut().flat_map(|group| &mut group.members) {
                if member.node == 3 {
                    (member.state, member.matched) = (MemberState::Unreachable, 900);
                }
            }
        }
        (status.nodes[0].groups[2].is_leader, status.nodes[0].groups[2].term) = (true, 3);
        let third = &mut status.nodes[2];
        (third.reachable, third.incarnation, third.groups) = (false, None, Vec::new());
        status
    }

    #[test]
    fn cluster_without_faults_is_healthy() {
        let health = Health::of(&cluster(3, 6));
        assert!(health.healthy, "{health:?}");
        let leads: Vec<(u32, u32)> = health.nodes.iter().map(|node| (node.leads, node.member_of)).collect();
        assert_eq!(leads, [(2, 6); 3]);
        assert!(health.nodes.iter().all(|node| health.state(node) == "current"));
    }

    #[test]
    fn node_that_is_away_is_a_fault() {
        let health = Health::of(&without_third());
        assert_eq!(health.faults, ["node 3 is unreachable"]);
        assert_eq!(health.group(2).unwrap().leader, Some(1));
        assert_eq!(health.state(&health.nodes[2]), "unreachable");
    }

    #[test]
    fn node_with_another_data_directory_is_told_apart() {
        let mut status = cluster(3, 3);
        status.nodes[2].incarnation = Some(5);
        let health = Health::of(&status);
        assert_eq!(health.state(&health.nodes[2]), "another data directory");
        assert!(health.faults[0].starts_with("node 3 has another data directory"), "{:?}", health.faults);
    }

    #[test]
    fn of_two_leaders_the_later_one_leads() {
        let mut status = cluster(3, 3);
        (status.nodes[1].groups[0].is_leader, status.nodes[1].groups[0].term) = (true, 3);
        assert_eq!(Health::of(&status).group(0).unwrap().leader, Some(2));
    }

    #[test]
    fn group_without_a_leader_is_a_fault() {
        let mut status = cluster(3, 3);
        status.nodes[1].groups[1].is_leader = false;
        let health = Health::of(&status);
        assert_eq!(health.faults, ["group 1 has no leader that answers"]);
        assert!(!health.group(1).unwrap().is_healthy());
        assert_eq!(health.state(&health.nodes[0]), "unknown in 1 group");
    }

    #[test]
    fn who_is_behind_is_told_with_what_it_lacks() {
        let mut status = cluster(3, 6);
        let third = &mut status.nodes[0].groups[0].members[2];
        (third.state, third.matched) = (MemberState::Behind, 880);
        let health = Health::of(&status);
        assert_eq!(health.faults, ["node 3 is not current in 1 group"]);
        assert_eq!(health.state(&health.nodes[2]), "120 behind in 1 group");
    }

    #[test]
    fn learner_that_is_behind_is_no_fault() {
        let mut status = cluster(3, 3);
        let third = &mut status.nodes[0].groups[0].members[2];
        (third.is_voter, third.state) = (false, MemberState::ReceivesCheckpoint);
        let health = Health::of(&status);
        assert!(health.healthy, "{health:?}");
        assert_eq!(health.state(&health.nodes[2]), "gets a checkpoint in 1 group, no vote in 1 group");
    }
}
