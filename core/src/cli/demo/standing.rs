//! Who leads which of the demo's queues and how far each node is, as the nodes themselves say.

use std::thread;
use std::time::Duration;

use ringmain_client::blocking::Client;
use ringmain_client::{ClusterStatus, GroupStatus, MemberState};
use ringmain_core::config::Address;

use super::stage::{Happening, Stage};
use super::telemetry::Topic;
use crate::cli::link;

const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// One moment of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// When the nodes were asked.
    pub(super) asked: u64,
    /// In order of their ids.
    pub(super) nodes: Vec<NodeStanding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeStanding {
    pub(super) node: u32,
    /// The queues that it leads, and the term of each one's group.
    pub(super) leads: Vec<(Topic, u64)>,
    pub(super) reach: Reach,
}

/// How far a node is behind those that lead; the worst of its groups counts.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Current,
    /// It lacks so many entries, of all groups together.
    Behind(u64),
    /// It lacks more than the leader's log still has.
    ReceivesCheckpoint,
    /// No leader says how far it is, or none reaches it.
    Unknown,
}

impl Standing {
    /// Before anybody was asked.
    pub(super) fn unknown(nodes: u32) -> Self {
        let unknown = |node| NodeStanding { node, leads: Vec::new(), reach: Reach::Unknown };
        Self { asked: 0, nodes: (1..=nodes).map(unknown).collect() }
    }

    /// `groups` are those of `Topic::ALL`.
    pub(super) fn of(status: &ClusterStatus, groups: &[u32], asked: u64) -> Self {
        let leaders = leaders(status);
        let standing = |node: u32, is_reachable: bool| {
            let leads = Topic::ALL.into_iter().zip(groups).filter_map(|(topic, group)| {
                let (_, led) = leaders.iter().find(|(leader, led)| *leader == node && led.group == *group)?;
                Some((topic, led.term))
            });
            let reach = if is_reachable { reach(&leaders, node) } else { Reach::Unknown };
            NodeStanding { node, leads: leads.collect(), reach }
        };
        Self { asked, nodes: status.nodes.iter().map(|node| standing(node.node, node.reachable)).collect() }
    }

    pub(super) fn node(&self, node: u32) -> Option<&NodeStanding> {
        self.nodes.iter().find(|standing| standing.node == node)
    }

    /// Who leads this queue, in which term.
    pub(super) fn leader(&self, topic: Topic) -> Option<(u32, u64)> {
        let led = |standing: &NodeStanding| {
            let (_, term) = standing.leads.iter().find(|(led, _)| *led == topic)?;
            Some((standing.node, *term))
        };
        self.nodes.iter().find_map(led)
    }

    /// The node whose loss is felt most: it leads most of the queues, or as many as another and the busiest one. None while
    /// a queue has no leader.
    pub(super) fn chief(&self) -> Option<&NodeStanding> {
        if Topic::ALL.iter().any(|topic| self.leader(*topic).is_none()) {
            return None;
        }
        let busiest = self.leader(Topic::Processes).map(|(node, _)| node);
        self.nodes.iter().max_by_key(|node| (node.leads.len(), busiest == Some(node.node)))
    }
}

/// The leader of each group with its own words about it. Of several that say they lead, the one of the highest term does.
fn leaders(status: &ClusterStatus) -> Vec<(u32, &GroupStatus)> {
    let mut leaders: Vec<(u32, &GroupStatus)> = Vec::new();
    for (node, group) in
        status.nodes.iter().flat_map(|node| node.groups.iter().map(|group| (node.node, group)))
    {
        if !group.is_leader {
            continue;
        }
        match leaders.iter_mut().find(|(_, known)| known.group == group.group) {
            Some(known) if known.1.term < group.term => *known = (node, group),
            Some(_) => {}
            None => leaders.push((node, group)),
        }
    }
    leaders
}

fn reach(leaders: &[(u32, &GroupStatus)], node: u32) -> Reach {
    let mut worst = if leaders.is_empty() { Reach::Unknown } else { Reach::Current };
    let mut lacking = 0;
    for (_, group) in leaders {
        let Some(member) = group.members.iter().find(|member| member.node == node) else {
            return Reach::Unknown;
        };
        let reach = match member.state {
            MemberState::Current => Reach::Current,
            MemberState::Behind => {
                lacking += group.last.saturating_sub(member.matched);
                Reach::Behind(lacking)
            }
            MemberState::ReceivesCheckpoint => Reach::ReceivesCheckpoint,
            MemberState::Unreachable | MemberState::Unknown => Reach::Unknown,
        };
        worst = worst.max(reach);
    }
    worst
}

/// Asks the nodes how they are while there is something to see.
pub(super) fn watch(stage: &Stage, addresses: &[Address], groups: &[u32]) {
    // Without a client there is nothing to see, and whoever else cannot dial says why.
    let Ok(client) = link::dial_often(addresses) else { return };
    while !stage.consumers_stopped() {
        if let Some(standing) = ask(&client, stage, groups) {
            stage.tell(Happening::Standing(standing));
        }
        thread::sleep(WATCH_PERIOD);
    }
}

/// How the cluster stands now; none if nobody answers.
pub(super) fn ask(client: &Client, stage: &Stage, groups: &[u32]) -> Option<Standing> {
    let asked = stage.now();
    let status = client.cluster_status().ok()?;
    Some(Standing::of(&status, groups, asked))
}

#[cfg(test)]
mod tests {
    use ringmain_client::{MemberStatus, NodeStatus};

    use super::*;

    const GROUPS: [u32; 4] = [0, 1, 2, 2];

    fn member(node: u32, state: MemberState, matched: u64) -> MemberStatus {
        let address = format!("h:{node}");
        MemberStatus { node, incarnation: 1, address, is_voter: true, is_active: true, state, matched }
    }

    /// Node `leader` leads `group` of three nodes in this term; node 3 is in this state.
    fn led(group: u32, term: u64, third: MemberState, matched: u64) -> GroupStatus {
        let current = |node| member(node, MemberState::Current, 100);
        let members = vec![current(1), current(2), member(3, third, matched)];
        GroupStatus {
            group,
            shard: 0,
            leader: None,
            is_leader: true,
            term,
            committed: 100,
            applied: 100,
            last: 100,
            members,
        }
    }

    fn cluster(nodes: Vec<Vec<GroupStatus>>) -> Standing {
        let node = |(node, groups): (u32, Vec<GroupStatus>)| NodeStatus {
            node,
            address: format!("h:{node}"),
            incarnation: Some(1),
            reachable: true,
            groups,
        };
        let status = ClusterStatus { cluster: 1, nodes: (1..).zip(nodes).map(node).collect() };
        Standing::of(&status, &GROUPS, 5)
    }

    #[test]
    fn who_leads_most_queues_is_the_chief() {
        let group = |group| led(group, 2, MemberState::Current, 100);
        let standing = cluster(vec![vec![group(0)], vec![group(1)], vec![group(2)]]);
        assert_eq!(standing.chief().unwrap().node, 3);
        assert_eq!(standing.leader(Topic::Counters), Some((3, 2)));
        assert_eq!(cluster(vec![vec![group(0)], vec![group(1)], vec![]]).chief(), None);
    }

    #[test]
    fn a_leader_of_an_earlier_term_is_none() {
        let earlier = led(0, 2, MemberState::Current, 100);
        let later = led(0, 3, MemberState::Current, 100);
        let standing = cluster(vec![vec![earlier], vec![later], vec![]]);
        assert_eq!(standing.leader(Topic::Cores), Some((2, 3)));
    }

    #[test]
    fn what_a_node_lacks_is_summed_and_the_worst_counts() {
        let behind = |group, matched| led(group, 2, MemberState::Behind, matched);
        let reach = |groups| cluster(vec![groups, vec![], vec![]]).node(3).unwrap().reach;
        assert_eq!(reach(vec![behind(0, 90), behind(1, 70)]), Reach::Behind(40));
        assert_eq!(reach(vec![behind(0, 90), led(1, 2, MemberState::Current, 100)]), Reach::Behind(10));
        let unreachable = led(1, 2, MemberState::Unreachable, 9);
        assert_eq!(reach(vec![unreachable, behind(0, 90)]), Reach::Unknown);
    }
}
