//! `ringmain cluster status`: a line for each node, and for the groups as many as there is something to say.

use ringmain_client::blocking::Client;

use super::health::{Group, Health, State};
use crate::cli::Failure;
use crate::cli::args::Format;
use crate::cli::output::{Column, Table, counted, grouped, print_json, print_text};

/// More groups than these have a line each only where they are asked for, or ill.
const GROUPS_SHOWN_MAX: usize = 12;

pub(super) fn run(client: &Client, output: Format, all_groups: bool) -> Result<(), Failure> {
    let health = Health::of(&client.cluster_status()?);
    match output {
        Format::Json => print_json(&health)?,
        Format::Text => print_text(&page(&health, all_groups))?,
    }
    if health.healthy { Ok(()) } else { Err(Failure::told(health.faults.join("; "))) }
}

fn page(health: &Health, all_groups: bool) -> String {
    let (nodes, groups) = (health.nodes.len() as u64, health.groups.len() as u64);
    let title =
        format!("cluster {}: {}, {}", health.cluster, counted(nodes, "node"), counted(groups, "group"));
    let shown: Vec<&Group> = if all_groups || health.groups.len() <= GROUPS_SHOWN_MAX {
        health.groups.iter().collect()
    } else {
        health.groups.iter().filter(|group| !group.is_healthy()).collect()
    };
    let mut text = format!("{title}\n\n{}", node_table(health));
    if !shown.is_empty() {
        text.push_str(&format!("\n{}", group_table(&shown)));
    }
    let folded = groups - shown.len() as u64;
    if folded > 0 {
        let which = if shown.is_empty() { "all" } else { "the other" };
        text.push_str(&format!("\n  {which} {folded} groups are led and current; --groups shows each\n"));
    }
    text
}

fn node_table(health: &Health) -> String {
    let mut table = Table::new(&[
        Column::Right("NODE"),
        Column::Left("ADDRESS"),
        Column::Left("INCARNATION"),
        Column::Left("LEADS"),
        Column::Left("STATE"),
    ]);
    for node in &health.nodes {
        table.row(vec![
            node.node.to_string(),
            node.address.clone(),
            node.incarnation.map_or_else(|| "-".to_owned(), |incarnation| incarnation.to_string()),
            format!("{} of {}", node.leads, health.groups.len()),
            health.state(node),
        ]);
    }
    table.render("  ")
}

fn group_table(groups: &[&Group]) -> String {
    let mut table = Table::new(&[
        Column::Right("GROUP"),
        Column::Right("SHARD"),
        Column::Right("LEADER"),
        Column::Right("TERM"),
        Column::Right("COMMITTED"),
        Column::Left("MEMBERS"),
    ]);
    for group in groups {
        table.row(vec![
            group.group.to_string(),
            group.shard.to_string(),
            group.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            group.term.to_string(),
            grouped(group.committed),
            members(group),
        ]);
    }
    table.render("  ")
}

/// `1, 2, 3 (120 behind)`: whoever is current needs no word.
fn members(group: &Group) -> String {
    let members = group.members.iter().map(|member| {
        if member.is_voter && member.state == State::Current {
            member.node.to_string()
        } else {
            format!("{} ({})", member.node, member.words())
        }
    });
    members.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::{cluster, without_third};
    use super::*;

    #[test]
    fn each_node_and_group_has_a_line() {
        let expected = "\
cluster 0x0000000000000007: 3 nodes, 3 groups

  NODE  ADDRESS  INCARNATION  LEADS   STATE
     1  h:7411   1001         2 of 3  current
     2  h:7412   1002         1 of 3  current
     3  h:7413   -            0 of 3  unreachable

  GROUP  SHARD  LEADER  TERM  COMMITTED  MEMBERS
      0      0       1     2      1,000  1, 2, 3 (unreachable)
      1      0       2     2      1,000  1, 2, 3 (unreachable)
      2      0       1     3      1,000  1, 2, 3 (unreachable)
";
        assert_eq!(page(&Health::of(&without_third()), false), expected);
    }

    #[test]
    fn many_groups_are_folded_unless_they_are_ill() {
        let mut status = cluster(3, 48);
        let folded = page(&Health::of(&status), false);
        assert!(
            folded.ends_with("\n\n  all 48 groups are led and current; --groups shows each\n"),
            "{folded}"
        );
        assert_eq!(page(&Health::of(&status), true).lines().count(), 3 + 3 + 2 + 48);
        status.nodes[1].groups[1].is_leader = false;
        let ill = page(&Health::of(&status), false);
        assert!(ill.contains("\n      1      0    none     2      1,000  1 (unknown), "), "{ill}");
        assert!(
            ill.ends_with("\n\n  the other 47 groups are led and current; --groups shows each\n"),
            "{ill}"
        );
    }

    #[test]
    fn json_has_everything() {
        let json = serde_json::to_value(Health::of(&without_third())).unwrap();
        assert_eq!((&json["healthy"], &json["faults"][0]), (&false.into(), &"node 3 is unreachable".into()));
        assert_eq!(json["groups"][0]["members"][2]["state"], "unreachable");
        assert_eq!(json["groups"][0]["members"][2]["lacks"], 100);
        assert_eq!(json["nodes"][0]["incarnation"], 1_001);
    }
}
