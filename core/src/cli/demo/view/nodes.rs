//! The part of the dashboard that shows the nodes: who leads which queue, in which term, and who has how much.

use std::fmt::Write as _;

use super::super::standing::{NodeStanding, Reach};
use super::super::telemetry::Topic;
use super::super::verdict::Outage;
use super::{Paint, Picture, SECOND};
use crate::cli::output::grouped;

/// Room for all queues at one node, with terms of two digits.
const LEADS_CELLS: usize = 56;

/// A line for each node, under a heading; nothing where one node is alone.
pub(super) fn nodes(picture: &Picture<'_>, paint: Paint) -> String {
    let nodes = &picture.standing.nodes;
    if nodes.len() < 2 {
        return String::new();
    }
    let heading = format!("  {:<6}{:<LEADS_CELLS$}{}", "node", "leads, in which term", "log");
    let mut text = format!("{}\n", paint.dim(&heading));
    for standing in nodes {
        let outage = picture.ledger.outage().filter(|outage| outage.node == standing.node);
        let away = outage.filter(|outage| outage.restarted.is_none());
        // The last that was heard of a node that is killed is not true any more.
        let leads = if away.is_some() { "-".to_owned() } else { leads(standing) };
        let log = match (away, outage) {
            (Some(outage), _) => paint.red(&format!("killed {}", since(outage.killed, picture.now))),
            (None, Some(Outage { current: None, restarted: Some(restarted), .. })) => {
                catching_up(standing, since(restarted, picture.now), paint)
            }
            (None, _) => reach(standing.reach, paint),
        };
        writeln!(text, "  {:<6}{leads:<LEADS_CELLS$}{log}", standing.node)
            .expect("a String takes everything");
    }
    text.push('\n');
    text
}

fn leads(standing: &NodeStanding) -> String {
    if standing.leads.is_empty() {
        return "-".to_owned();
    }
    let leads = standing.leads.iter().map(|(topic, term)| format!("{} ({term})", short(*topic)));
    leads.collect::<Vec<_>>().join(", ")
}

/// `cores` of `host.cores`.
fn short(topic: Topic) -> &'static str {
    topic.queue().trim_start_matches("host.")
}

fn since(from: u64, now: u64) -> String {
    format!("{:.1} s", now.saturating_sub(from) as f64 / SECOND as f64)
}

fn catching_up(standing: &NodeStanding, since: String, paint: Paint) -> String {
    match standing.reach {
        Reach::Unknown | Reach::Current => paint.with("33", &format!("starts {since}")),
        reached @ (Reach::Behind(_) | Reach::ReceivesCheckpoint) => reach(reached, paint),
    }
}

fn reach(reach: Reach, paint: Paint) -> String {
    match reach {
        Reach::Current => paint.green("current"),
        Reach::Behind(entries) => paint.with("33", &format!("{} behind", grouped(entries))),
        Reach::ReceivesCheckpoint => paint.with("33", "gets checkpoint"),
        Reach::Unknown => paint.dim("-"),
    }
}
