//! The rules as scenarios, and as a random walk through questions, late answers, crashes and wipes.

use super::State::{Formed, Forming, Joining};
use super::*;

/// One node of a world without threads and sockets.
struct Node {
    config: Config,
    /// What is durable. A wipe draws another incarnation.
    layout: ClusterLayout,
    /// Lost in a crash; none when the node is part of a cluster, or down.
    formation: Option<Formation>,
    is_up: bool,
}

struct World {
    nodes: BTreeMap<u32, Node>,
    /// An answer on its way, by asker and asked: at most one.
    answers: BTreeMap<(u32, u32), peer::Formation>,
    incarnation_next: u32,
    /// Every cluster that anybody ever was a member of.
    clusters: BTreeMap<u64, Vec<Founder>>,
}

fn config(node: u32, count: u32) -> Config {
    let mut config =
        Config::new(node, "d".into(), Address { host: "0.0.0.0".to_owned(), port: 7400 + node as u16 });
    let peer = |node: u32| Peer { node, address: Address { host: "h".to_owned(), port: 7400 + node as u16 } };
    config.list_nodes((1..=count).map(peer).collect()).unwrap();
    config.checked().unwrap()
}

fn fresh(config: &Config, incarnation: u32) -> ClusterLayout {
    ClusterLayout {
        cluster: 0,
        node: config.node,
        incarnation,
        shards: 2,
        groups: 0,
        segment_bytes: 1 << 24,
        state: Forming,
        founders: Vec::new(),
        replaces: 0,
    }
}

impl World {
    fn of(count: u32) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            answers: BTreeMap::new(),
            incarnation_next: 1,
            clusters: BTreeMap::new(),
        };
        for node in 1..=count {
            world.add(config(node, count));
        }
        world
    }

    fn add(&mut self, config: Config) {
        let layout = fresh(&config, self.incarnation_next);
        self.incarnation_next += 1;
        let node = config.node;
        self.nodes.insert(node, Node { config, layout, formation: None, is_up: false });
        self.start(node);
    }

    fn start(&mut self, node: u32) {
        let node = self.nodes.get_mut(&node).unwrap();
        node.is_up = true;
        if node.layout.state == Forming {
            node.formation = Some(Formation::new(&node.config, node.layout.clone()));
        }
    }

    fn crash(&mut self, node: u32) {
        // What the process had sent may still arrive; what it had asked for does not.
        self.answers.retain(|(asker, _), _| *asker != node);
        let node = self.nodes.get_mut(&node).unwrap();
        (node.is_up, node.formation) = (false, None);
    }

    fn wipe(&mut self, node: u32) {
        self.crash(node);
        let config = self.nodes[&node].config.clone();
        self.add(config);
    }

    /// Asks, if no answer is due and both are there to ask and be asked.
    fn ask(&mut self, asker: u32, asked: u32) {
        if self.answers.contains_key(&(asker, asked)) || self.nodes[&asker].formation.is_none() {
            return;
        }
        let node = &self.nodes[&asked];
        if !node.is_up {
            self.formation(asker).on_silence(asked);
            return;
        }
        let answer = match &node.formation {
            Some(formation) => formation.card(),
            None => form_reply(&node.layout, "h", 1).0,
        };
        self.answers.insert((asker, asked), answer);
    }

    fn answer(&mut self, asker: u32, asked: u32) {
        if let Some(answer) = self.answers.remove(&(asker, asked)) {
            self.formation(asker).on_reply(asked, answer);
        }
    }

    fn hear(&mut self, asker: u32, asked: u32) {
        self.ask(asker, asked);
        self.answer(asker, asked);
    }

    fn formation(&mut self, node: u32) -> &mut Formation {
        self.nodes.get_mut(&node).unwrap().formation.as_mut().unwrap()
    }

    fn decision(&self, node: u32) -> Decision {
        self.nodes[&node].formation.as_ref().unwrap().decide()
    }

    /// Does what has been decided, and makes it durable.
    fn settle(&mut self, node: u32) {
        let node = self.nodes.get_mut(&node).unwrap();
        let Some(formation) = &node.formation else {
            return;
        };
        if let Decision::Form(layout) | Decision::Adopt(layout) | Decision::Join(layout) = formation.decide()
        {
            assert_eq!(layout.refusal(), None);
            assert_eq!(layout.replica(), node.layout.replica());
            node.layout = layout;
            node.formation = None;
            let number = node.config.node;
            self.answers.retain(|(asker, _), _| *asker != number);
            let layout = self.nodes[&number].layout.clone();
            if layout.state == Formed {
                let known = self.clusters.entry(layout.cluster).or_insert_with(|| layout.founders.clone());
                assert_eq!(*known, layout.founders);
            }
        }
    }

    /// Everybody asks everybody, hears them, and acts on it.
    fn round(&mut self) {
        let nodes: Vec<u32> = self.nodes.keys().copied().collect();
        let pairs =
            |asker: u32| nodes.iter().filter(move |asked| **asked != asker).map(move |asked| (asker, *asked));
        for (asker, asked) in nodes.iter().flat_map(|asker| pairs(*asker)) {
            if self.lists(asker, asked) {
                self.ask(asker, asked);
            }
        }
        for (asker, asked) in nodes.iter().flat_map(|asker| pairs(*asker)) {
            self.answer(asker, asked);
        }
        for node in nodes {
            self.settle(node);
        }
    }

    fn lists(&self, asker: u32, asked: u32) -> bool {
        self.nodes[&asker].config.peers.iter().any(|peer| peer.node == asked)
    }

    fn expect(&self, states: &[State]) {
        let found: Vec<State> = self.nodes.values().map(|node| node.layout.state).collect();
        assert_eq!(found, states);
    }

    /// Members whose directories still exist are all of one cluster.
    fn check(&self) {
        let members = self.nodes.values().filter(|node| node.layout.state == Formed);
        let mut clusters: Vec<u64> = members.map(|node| node.layout.cluster).collect();
        clusters.dedup();
        assert!(clusters.len() <= 1, "members of several clusters: {clusters:x?}");
    }
}

#[test]
fn three_nodes_form_one_cluster() {
    let mut world = World::of(3);
    // In the first round each hears of the others, in the second that all have.
    world.round();
    world.expect(&[Forming; 3]);
    world.round();
    world.expect(&[Formed; 3]);
    world.check();
    let layout = &world.nodes[&2].layout;
    assert_eq!((layout.groups, layout.founders.len()), (3, 3));
    assert_eq!(layout.groups_of(1), 3..6);
}

#[test]
fn nobody_forms_without_all() {
    let mut world = World::of(3);
    world.crash(3);
    world.round();
    world.round();
    assert_eq!(world.decision(1), Decision::Wait { missing: vec![3] });
    assert_eq!(world.decision(2), Decision::Wait { missing: vec![3] });
    world.start(3);
    world.round();
    world.round();
    world.round();
    world.expect(&[Formed; 3]);
}

#[test]
fn forming_survives_crashes() {
    let mut world = World::of(3);
    let incarnations = |world: &World| world.nodes.values().map(|n| n.layout.incarnation).collect::<Vec<_>>();
    let before = incarnations(&world);
    world.round();
    world.crash(1);
    world.crash(2);
    world.start(1);
    world.start(2);
    for _ in 0..3 {
        world.round();
    }
    world.expect(&[Formed; 3]);
    assert_eq!(incarnations(&world), before);
}

#[test]
fn node_wiped_before_forming_is_a_founder() {
    let mut world = World::of(3);
    world.round();
    world.wipe(2);
    for _ in 0..3 {
        world.round();
    }
    world.expect(&[Formed; 3]);
    assert_eq!(world.nodes[&1].layout.founder(2).map(|founder| founder.incarnation), Some(4));
}

#[test]
fn node_wiped_after_forming_is_joining() {
    let mut world = World::of(3);
    for _ in 0..3 {
        world.round();
    }
    world.wipe(2);
    world.round();
    world.expect(&[Formed, Joining, Formed]);
    let layout = &world.nodes[&2].layout;
    assert_eq!(layout.cluster, world.nodes[&1].layout.cluster);
    let advice = joining_advice(layout, &"mq2:7411".parse().unwrap()).unwrap();
    assert_eq!(
        advice,
        "node 2 of this cluster was made with another data directory (incarnation 2); this one is new: \
         `ringmain cluster remove 2`, then `ringmain cluster add 2=mq2:7411`"
    );
    assert_eq!(joining_advice(&world.nodes[&1].layout, &"mq1:7411".parse().unwrap()), None);
}

#[test]
fn founder_that_comes_late_adopts() {
    let mut world = World::of(3);
    world.round();
    world.hear(1, 2);
    world.hear(1, 3);
    world.settle(1);
    world.expect(&[Formed, Forming, Forming]);
    // Node 3 knows nothing any more, and hears it from node 1.
    world.crash(3);
    world.start(3);
    world.hear(3, 2);
    world.hear(3, 1);
    assert!(matches!(world.decision(3), Decision::Adopt(_)));
    world.settle(3);
    // Node 1 is gone, and node 3 knows all that node 2 has to hear.
    world.crash(1);
    world.round();
    world.expect(&[Formed; 3]);
    world.check();
}

#[test]
fn only_founder_that_formed_is_wiped() {
    let mut world = World::of(3);
    world.round();
    world.hear(1, 2);
    world.hear(1, 3);
    world.settle(1);
    world.expect(&[Formed, Forming, Forming]);
    let first = world.nodes[&1].layout.cluster;
    world.wipe(1);
    for _ in 0..3 {
        world.round();
    }
    world.expect(&[Formed; 3]);
    world.check();
    assert_ne!(world.nodes[&1].layout.cluster, first);
}

#[test]
fn stale_word_of_a_peer_forms_nothing() {
    let mut world = World::of(3);
    world.round();
    // Node 3 has heard that node 2 is forming, and is cut off from it while 1 and 2 form and store messages.
    world.hear(1, 2);
    world.hear(1, 3);
    world.settle(1);
    world.hear(2, 1);
    world.settle(2);
    world.expect(&[Formed, Formed, Forming]);
    world.wipe(1);
    world.hear(1, 3);
    world.hear(3, 1);
    world.hear(1, 3);
    world.hear(3, 1);
    assert_eq!(world.decision(3), Decision::Wait { missing: vec![] });
    // The cut heals.
    world.round();
    world.expect(&[Joining, Formed, Formed]);
    world.check();
}

#[test]
fn node_that_no_founder_lists_is_joining() {
    let mut world = World::of(3);
    for _ in 0..3 {
        world.round();
    }
    world.add(config(4, 4));
    assert_eq!(world.decision(4), Decision::Wait { missing: vec![1, 2, 3] });
    world.round();
    world.expect(&[Formed, Formed, Formed, Joining]);
    let advice = joining_advice(&world.nodes[&4].layout, &"mq4:7411".parse().unwrap()).unwrap();
    assert!(advice.ends_with(" yet: `ringmain cluster add 4=mq4:7411`"), "{advice}");
}

#[test]
fn a_node_alone_may_be_joined() {
    let mut world = World::of(2);
    let alone = Founder { node: 1, incarnation: 1, address: Address { host: String::new(), port: 0 } };
    let layout = &mut world.nodes.get_mut(&1).unwrap().layout;
    *layout = ClusterLayout { cluster: 9, groups: 1, state: Formed, founders: vec![alone], ..layout.clone() };
    world.crash(1);
    world.start(1);
    world.round();
    world.expect(&[Formed, Joining]);
}

/// What node 1 of three says when node 2 is changed by `change`.
fn refused(change: impl Fn(&mut Node), expected: &str) {
    let mut world = World::of(3);
    change(world.nodes.get_mut(&2).unwrap());
    world.crash(2);
    world.start(2);
    world.round();
    world.round();
    match world.decision(1) {
        Decision::Refuse { why } => assert!(why.contains(expected), "{expected}: {why}"),
        other => panic!("{expected}: {other:?}"),
    }
    world.expect(&[Forming, Forming, Forming]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    refused(
        |node| node.config = config(2, 4),
        "node 2 lists the nodes 1=h:7401,2=h:7402,3=h:7403,4=h:7404, and this one 1=h:7401,2=h:7402,3=h:7403:",
    );
    refused(|node| node.layout.shards = 3, "node 2 has 3 shards and this one 2");
    refused(
        |node| node.layout.segment_bytes = 1 << 25,
        "node 2 has segments of 32 MiB and this one of 16 MiB",
    );
}

#[test]
fn what_has_been_mended_is_accepted() {
    let mut world = World::of(3);
    world.nodes.get_mut(&2).unwrap().layout.shards = 3;
    world.crash(2);
    world.start(2);
    world.round();
    world.round();
    assert!(matches!(world.decision(1), Decision::Refuse { .. }));
    world.wipe(2);
    for _ in 0..3 {
        world.round();
    }
    world.expect(&[Formed; 3]);
}

#[test]
fn two_clusters_are_not_chosen_between() {
    let mut world = World::of(3);
    for (node, cluster) in [(1, 7), (2, 8)] {
        let founder =
            |node: u32| Founder { node, incarnation: 1, address: Address { host: "h".to_owned(), port: 1 } };
        let layout = &mut world.nodes.get_mut(&node).unwrap().layout;
        let founders = (1..=3).map(founder).collect();
        *layout = ClusterLayout { cluster, groups: 3, state: Formed, founders, ..layout.clone() };
        world.crash(node);
        world.start(node);
    }
    world.hear(3, 1);
    // One cluster is known, and the other peer may be of another: it is asked first.
    assert_eq!(world.decision(3), Decision::Wait { missing: vec![2] });
    world.hear(3, 2);
    let Decision::Refuse { why } = world.decision(3) else {
        panic!("two clusters are refused");
    };
    assert!(why.contains("node 1 is in cluster 0x0000000000000007 and node 2 in cluster 0x0000000000000008"));
    // The wrong one is taken away.
    world.crash(2);
    world.hear(3, 2);
    assert!(matches!(world.decision(3), Decision::Join(_)));
}

#[test]
fn a_cluster_decides_the_shards_unless_they_are_given() {
    let mut world = World::of(3);
    for _ in 0..3 {
        world.round();
    }
    world.wipe(2);
    let node = world.nodes.get_mut(&2).unwrap();
    node.layout.shards = 5;
    node.config.shards = Some(5);
    world.crash(2);
    world.start(2);
    world.round();
    assert!(matches!(world.decision(2), Decision::Refuse { .. }));
    world.nodes.get_mut(&2).unwrap().config.shards = None;
    world.crash(2);
    world.start(2);
    world.round();
    world.expect(&[Formed, Joining, Formed]);
    assert_eq!(world.nodes[&2].layout.shards, 2);
}

#[test]
fn joining_node_founds_nothing() {
    let mut world = World::of(3);
    let founder = Founder { node: 9, incarnation: 1, address: Address { host: "h".to_owned(), port: 1 } };
    let layout = &mut world.nodes.get_mut(&2).unwrap().layout;
    *layout =
        ClusterLayout { cluster: 9, groups: 1, state: Joining, founders: vec![founder], ..layout.clone() };
    world.crash(2);
    world.start(2);
    world.round();
    let Decision::Refuse { why } = world.decision(1) else {
        panic!("node 2 is of a cluster already");
    };
    assert!(why.contains("node 2 waits to be added to cluster 0x0000000000000009"), "{why}");
}

#[test]
fn another_node_at_an_address_is_noticed() {
    let mut world = World::of(3);
    let card = world.nodes[&3].formation.as_ref().unwrap().card();
    world.formation(1).on_reply(2, card.clone());
    assert_eq!(world.decision(1), Decision::Refuse { why: "at the address of node 2 is node 3".to_owned() });
    world.formation(1).on_reply(2, peer::Formation { node: 2, protocol: 9, ..card });
    let Decision::Refuse { why } = world.decision(1) else {
        panic!("protocol 9 is not spoken");
    };
    assert!(why.contains("node 2: it speaks protocol 9"), "{why}");
}

/// A small generator with the seed as its state: the walk of a seed is always the same.
struct Walk(u64);

impl Walk {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % bound
    }
}

/// Returns how many clusters anybody was ever a member of.
fn walk(seed: u64) -> usize {
    let mut walk = Walk(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let count = 2 + walk.below(4);
    let mut world = World::of(count);
    let wipes_max = walk.below(5);
    let mut wipes = 0;
    for _ in 0..60 * count {
        let (a, b) = (1 + walk.below(count), 1 + walk.below(count));
        match walk.below(16) {
            0..6 if a != b => world.ask(a, b),
            6..12 if a != b => world.answer(a, b),
            12..14 => world.settle(a),
            14 => {
                world.crash(a);
                if walk.below(2) == 0 {
                    world.start(a);
                }
            }
            15 if wipes < wipes_max => {
                wipes += 1;
                world.wipe(a);
            }
            _ if !world.nodes[&a].is_up => world.start(a),
            _ => {}
        }
        world.check();
    }
    // Everybody is there in the end: nobody waits any longer.
    for node in 1..=count {
        world.crash(node);
        world.start(node);
    }
    for _ in 0..4 {
        world.round();
        world.check();
    }
    let is_any = |state| world.nodes.values().any(|node| node.layout.state == state);
    // Or for ever, for a cluster whose members are all wiped, and of which a joining node has heard.
    assert!(!is_any(Forming) || (is_any(Joining) && !is_any(Formed)), "seed {seed}");
    world.clusters.len()
}

#[test]
fn members_are_of_one_cluster_whatever_happens() {
    let mut several = 0;
    for seed in 1..=4_000 {
        several += u32::from(walk(seed) > 1);
    }
    assert!(several > 0, "the walks must come across clusters that were wiped before anybody else knew");
}
