//! What can befall a cluster, dealt like cards: each kind comes once before any comes again.

use std::time::Duration;

use super::fleet::Fleet;
use super::links::{CLIENT, Pair, Rule};
use crate::rng::Rng;

/// One fault, which lasts until the fleet is healed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(u32),
    /// In good order, as an init system does it.
    Stop(u32),
    /// `SIGSTOP` and `SIGCONT`.
    Pause(u32),
    /// Other rules for some links.
    Links(Vec<(Pair, Rule)>),
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The leader of the queue.
    KillLeader,
    KillAny,
    Stop,
    Pause,
    /// The leader reaches no node and no node it, and clients still reach it.
    IsolateLeader,
    /// Nobody reaches a node, and it reaches nobody.
    Vanish,
    /// A node hears no other.
    Deafen,
    /// No node hears this one.
    Mute,
    /// Two nodes do not reach each other, and all others reach both: a bridge.
    Divide,
    /// One node does not reach another, which reaches it.
    OneWay,
    /// Clients do not reach a node; the nodes do.
    Shun,
    /// All connections of a node are reset, and so are new ones.
    Reset,
    /// What a node says and hears comes late.
    Slow,
    /// A cut link, and a process killed or paused meanwhile.
    Both,
}

pub const KINDS: [Kind; 14] = [
    Kind::KillLeader,
    Kind::KillAny,
    Kind::Stop,
    Kind::Pause,
    Kind::IsolateLeader,
    Kind::Vanish,
    Kind::Deafen,
    Kind::Mute,
    Kind::Divide,
    Kind::OneWay,
    Kind::Shun,
    Kind::Reset,
    Kind::Slow,
    Kind::Both,
];

/// The kinds that there are, and those that are still to come.
pub(super) struct Deck<'a> {
    kinds: &'a [Kind],

    left: Vec<Kind>,
}

/// Whom a fault can be about.
#[derive(Copy, Clone, Debug)]
pub(super) struct Targets {
    pub(super) count: u32,
    /// Of the queue, as far as it is known.
    pub(super) leader: Option<u32>,
}

impl<'a> Deck<'a> {
    pub(super) fn of(kinds: &'a [Kind]) -> Self {
        assert!(!kinds.is_empty());
        Self { kinds, left: Vec::new() }
    }

    pub(super) fn draw(&mut self, rng: &mut Rng) -> Kind {
        if self.left.is_empty() {
            self.left = self.kinds.to_vec();
        }
        let at = rng.below(self.left.len() as u64) as usize;
        self.left.swap_remove(at)
    }
}

impl Kind {
    /// While it lasts, a majority of nodes is up, and they and the clients reach each other.
    pub(super) fn leaves_majority(self) -> bool {
        match self {
            Self::KillLeader
            | Self::KillAny
            | Self::Stop
            | Self::Pause
            | Self::IsolateLeader
            | Self::Vanish
            | Self::Deafen
            | Self::Mute
            | Self::Divide
            | Self::OneWay
            | Self::Reset => true,
            // Clients cannot reach the leader, or nothing is promised to come in time.
            Self::Shun | Self::Slow | Self::Both => false,
        }
    }

    /// The faults of this kind.
    pub(super) fn aim(self, targets: Targets, rng: &mut Rng) -> Vec<Fault> {
        let any = rng.between(1, u64::from(targets.count)) as u32;
        let leader = targets.leader.unwrap_or(any);
        // The leader is half of what matters.
        let node = if rng.one_in(2) { leader } else { any };
        let other = targets.other_than(node, rng);
        match self {
            Self::KillLeader => vec![Fault::Kill(leader)],
            Self::KillAny => vec![Fault::Kill(any)],
            Self::Stop => vec![Fault::Stop(node)],
            Self::Pause => vec![Fault::Pause(node)],
            Self::IsolateLeader => vec![targets.around(leader, Rule::Hold)],
            Self::Vanish => vec![targets.around(node, Rule::Hold), both_ways(CLIENT, node, Rule::Hold)],
            Self::Deafen => {
                vec![Fault::Links(targets.others(node).map(|one| ((one, node), Rule::Hold)).collect())]
            }
            Self::Mute => {
                vec![Fault::Links(targets.others(node).map(|one| ((node, one), Rule::Hold)).collect())]
            }
            Self::Divide => vec![both_ways(node, other, if rng.one_in(3) { Rule::Cut } else { Rule::Hold })],
            Self::OneWay => vec![Fault::Links(vec![((node, other), Rule::Hold)])],
            Self::Shun => vec![both_ways(CLIENT, node, if rng.one_in(2) { Rule::Cut } else { Rule::Hold })],
            Self::Reset => vec![targets.around(node, Rule::Cut)],
            Self::Slow => {
                let by = Rule::Delay(Duration::from_millis(rng.between(5, 60)));
                vec![targets.around(node, by), both_ways(CLIENT, node, by)]
            }
            Self::Both => {
                let cut = both_ways(node, other, Rule::Hold);
                let about = if rng.one_in(2) { other } else { any };
                vec![cut, if rng.one_in(2) { Fault::Kill(about) } else { Fault::Pause(about) }]
            }
        }
    }
}

impl Targets {
    fn others(self, node: u32) -> impl Iterator<Item = u32> {
        (1..=self.count).filter(move |other| *other != node)
    }

    fn other_than(self, node: u32, rng: &mut Rng) -> u32 {
        let others: Vec<u32> = self.others(node).collect();
        *rng.pick(&others)
    }

    /// Between this node and all others, both ways.
    fn around(self, node: u32, rule: Rule) -> Fault {
        let links = self.others(node).flat_map(|other| [((node, other), rule), ((other, node), rule)]);
        Fault::Links(links.collect())
    }
}

fn both_ways(one: u32, other: u32, rule: Rule) -> Fault {
    Fault::Links(vec![((one, other), rule), ((other, one), rule)])
}

impl Fault {
    pub(super) fn begin(&self, fleet: &mut Fleet) {
        match self {
            Self::Kill(node) => fleet.kill(*node),
            Self::Stop(node) => fleet.stop(*node),
            Self::Pause(node) => fleet.signal(*node, "STOP"),
            Self::Links(rules) => rules.iter().for_each(|(pair, rule)| fleet.links().set(*pair, *rule)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_once_before_any_comes_again() {
        let (mut deck, mut rng) = (Deck::of(&KINDS), Rng::new(1));
        for _ in 0..3 {
            let mut dealt: Vec<Kind> = (0..KINDS.len()).map(|_| deck.draw(&mut rng)).collect();
            dealt.sort_unstable();
            assert_eq!(dealt, KINDS);
        }
    }

    #[test]
    fn a_node_that_hears_nobody_is_still_heard() {
        let targets = Targets { count: 3, leader: Some(2) };
        let mut rng = Rng::new(2);
        for _ in 0..20 {
            let [Fault::Links(deaf)] = &Kind::Deafen.aim(targets, &mut rng)[..] else { panic!("one fault") };
            let [Fault::Links(mute)] = &Kind::Mute.aim(targets, &mut rng)[..] else { panic!("one fault") };
            assert!(deaf.len() == 2 && deaf[0].0.1 == deaf[1].0.1 && deaf[0].0.0 != deaf[1].0.0);
            assert!(mute.len() == 2 && mute[0].0.0 == mute[1].0.0 && mute[0].0.1 != mute[1].0.1);
        }
    }

    #[test]
    fn a_leader_that_is_isolated_is_reached_by_clients() {
        let targets = Targets { count: 3, leader: Some(2) };
        let faults = Kind::IsolateLeader.aim(targets, &mut Rng::new(3));
        let [Fault::Links(links)] = &faults[..] else { panic!("one fault") };
        let mut pairs: Vec<Pair> = links.iter().map(|(pair, _)| *pair).collect();
        pairs.sort_unstable();
        assert_eq!(pairs, [(1, 2), (2, 1), (2, 3), (3, 2)]);
    }
}
