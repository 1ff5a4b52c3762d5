//! How nodes that start for the first time become one cluster, without any other service.
//!
//! Node view. It happens before there is a shard: [`form`] blocks the thread that starts the node, and asks and answers on
//! plain threads of its own. The rules are in [`Formation`], which is a function of what was heard.
//!
//! A fresh directory whose configuration lists no other node is a cluster of one at once. Any other fresh directory is
//! *forming*: it has an incarnation, durable before anybody hears of it, and no cluster. It asks each of its peers over and
//! over, one question at a time, and answers theirs. Each answer says how far the other is; while that is forming, it also
//! says which incarnation of each listed node it has heard last: its *view*.
//!
//! 1. If all listed nodes are forming, from the same list, with the same shards and segments, **and their views are this
//!    node's own**, they are the founders. The cluster's id is a hash of their ids and incarnations, so all compute the same.
//!    The identity is durable before this node answers "formed" to anybody.
//! 2. If a peer is formed, its founders decide. This incarnation among them: this node is one of them, and the word that
//!    they form has only come late. Otherwise it is *joining*: it knows the cluster, has no vote, and serves nothing until
//!    it is added. A peer that has not been asked yet is waited for first, so that two clusters are noticed.
//! 3. What does not fit together — two clusters, other shards, other segments, another list — is said and asked again:
//!    whoever runs the nodes may mend it.
//!
//! # Why at most one cluster lives
//!
//! A node answers for itself, and its answers are read in the order in which it was asked, one at a time. So whoever has
//! heard incarnation `b` of a node after `a` knows that `a` is gone for ever, and never hears it again: in any view,
//! restarts included, incarnations only go forward. Say that S and T are two sets of founders of one list, and both are
//! formed by somebody.
//!
//! - Every member of S once had the view S, every member of T the view T. A member of both had them one after the other, say
//!   S first: no incarnation goes back from S to T, and some node's goes forward.
//! - A member of T is not in S: having had the view T it never has the view S again, so it does not form S; and it can
//!   adopt S only from a member of it, whose own incarnation is gone by T, and which it had to hear before it heard the
//!   next. (From that member's own reply it would have adopted S then, and never have had the view T.)
//!
//! So when T is formed, all of S that has ever voted is wiped. What the views are for:
//!
//! 1. Nodes A, B and C are forming. C hears that B is, and is then cut off from B.
//! 2. A and B hear everybody, form, and store messages; with two of three they may.
//! 3. A is wiped. Its new incarnation asks C, and is forming as well.
//! 4. Were all-are-forming enough, C would take its old word of B and the new one of A, and form another cluster with it,
//!    while B alone has the messages. With views C needs to hear from B that B knows the new A, and B says that it is formed.
//!
//! # Crashes
//!
//! - Before its identity is durable a node has voted for nothing and is formed by nothing: it starts again with the same
//!   incarnation, in rule 1 or 2.
//! - After that, and before it has told anybody: the others still form the same set, or hear of it when it is back.
//! - A founder is wiped before the others have formed: they form with its new incarnation. After: the new one is joining.
//! - The only node that has formed loses nothing if it is wiped: the others were no members yet, so nothing was stored.
//! - All founders but one are wiped before they have heard that it formed: they are joining a cluster that has no majority and
//!   never had one. It is empty; wipe that one as well. Nothing else would be safe to do without being told.
//! - All members are wiped while a node is joining: it waits for a cluster that is gone, and nobody forms another with it. It
//!   says so; wipe it as well.
//! - A directory that is brought back from a copy is not safe, here or later: it is the past of a replica that has voted since.

mod exchange;
mod layout;
mod wire;

use std::collections::BTreeMap;

use ringmain_net::peer;

use crate::config::{Address, Bytes, Config, Peer};

pub use exchange::{StopFlag, form};
pub use layout::{ClusterLayout, Founder, GROUPS_MAX, State};
pub use wire::form_reply;

use wire::{Heard, Stage};

/// One node's way into a cluster. It starts anew with the process: only the incarnation is remembered.
#[derive(Debug)]
pub struct Formation {
    config: Config,
    /// Invariant: it is forming.
    own: ClusterLayout,
    /// All listed nodes, by id, this one included.
    nodes: Vec<Peer>,
    list_hash: u64,

    /// What each peer said last.
    peers: BTreeMap<u32, Word>,
}

/// The last that is known of a peer.
#[derive(Clone, Debug)]
enum Word {
    NotAsked,
    /// It could not be reached, or said nothing.
    Silent,
    /// It said what cannot be used, and why.
    Unusable(String),
    Heard(Heard),
}

/// What follows from all that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// These peers have to be heard first; if none is named, what all know has to go around once more.
    Wait { missing: Vec<u32> },
    /// It does not fit together, in words for whoever runs the nodes.
    Refuse { why: String },
    /// All founders are there.
    Form(ClusterLayout),
    /// The other founders have formed the cluster with this node.
    Adopt(ClusterLayout),
    /// There is a cluster, and this node is none of its founders.
    Join(ClusterLayout),
}

impl Formation {
    /// `own` is the directory's layout, which must be forming.
    pub fn new(config: &Config, own: ClusterLayout) -> Self {
        assert_eq!(own.state, State::Forming);
        assert_eq!(own.node, config.node);
        assert!(!config.peers.is_empty());
        let nodes = config.nodes();
        let list_hash = wire::list_hash(nodes.iter().map(|node| (node.node, &node.address)));
        let peers = config.peers.iter().map(|peer| (peer.node, Word::NotAsked)).collect();
        Self { config: config.clone(), own, nodes, list_hash, peers }
    }

    /// What this node says of itself, asked or asking.
    pub fn card(&self) -> peer::Formation {
        let own = self.config.own_address();
        let card = wire::card(&self.own, &own.host, own.port);
        peer::Formation {
            // As many as there will be.
            groups: self.nodes.len() as u32,
            list_hash: self.list_hash,
            founders: wire::founders(&self.view()),
            ..card
        }
    }

    /// The peer of this id has answered.
    pub fn on_reply(&mut self, node: u32, reply: peer::Formation) {
        let word = match wire::heard(reply) {
            Ok(heard) if heard.node == node => Word::Heard(heard),
            Ok(heard) => Word::Unusable(format!("at the address of node {node} is node {}", heard.node)),
            Err(why) => Word::Unusable(format!("node {node}: {why}")),
        };
        self.record(node, word);
    }

    /// The peer of this id was asked and has not answered.
    pub fn on_silence(&mut self, node: u32) {
        self.record(node, Word::Silent);
    }

    /// What follows from what was heard until now.
    pub fn decide(&self) -> Decision {
        let formed = self.heard().filter_map(|heard| match &heard.stage {
            Stage::Formed(cluster) => Some(cluster),
            Stage::Forming { .. } | Stage::Joining { .. } => None,
        });
        let formed: Vec<&ClusterLayout> = formed.collect();
        match formed.split_first() {
            Some((first, others)) => self.follow(first, others),
            None => self.found(),
        }
    }

    /// There is a cluster: is it one, and is this node in it?
    fn follow(&self, cluster: &ClusterLayout, others: &[&ClusterLayout]) -> Decision {
        let is_other = |other: &&&ClusterLayout| {
            (other.cluster, &other.founders) != (cluster.cluster, &cluster.founders)
        };
        if let Some(other) = others.iter().find(is_other) {
            let why = format!(
                "node {} is in cluster {:#018x} and node {} in cluster {:#018x}: one of them has a data directory \
                 of something else",
                cluster.node, cluster.cluster, other.node, other.cluster
            );
            return Decision::Refuse { why };
        }
        let missing = self.missing(|word| matches!(word, Word::NotAsked));
        if !missing.is_empty() {
            return Decision::Wait { missing };
        }
        let is_founder = cluster.founders.iter().any(|founder| founder.replica() == self.own.replica());
        // A node that was told no number of shards takes the cluster's: it has no log yet.
        let may_take_shards = !is_founder && self.config.shards.is_none();
        let refusal = self
            .segments_refusal(cluster.node, cluster.segment_bytes)
            .or_else(|| self.shards_refusal(cluster.node, cluster.shards).filter(|_| !may_take_shards))
            .or_else(|| self.config.port_refusal(cluster.shards));
        if let Some(why) = refusal {
            return Decision::Refuse { why };
        }
        let state = if is_founder { State::Formed } else { State::Joining };
        let (node, incarnation) = (self.own.node, self.own.incarnation);
        let layout = ClusterLayout { node, incarnation, state, ..cluster.clone() };
        if is_founder { Decision::Adopt(layout) } else { Decision::Join(layout) }
    }

    /// There is no cluster yet: may this node be the one that forms it?
    fn found(&self) -> Decision {
        if let Some(why) = self.peers.values().find_map(|word| self.founding_refusal(word)) {
            return Decision::Refuse { why };
        }
        let missing = self.missing(|word| !matches!(word, Word::Heard(_)));
        let view = self.view();
        let is_shared =
            |heard: &Heard| matches!(&heard.stage, Stage::Forming { view: theirs } if *theirs == view);
        if !missing.is_empty() || !self.heard().all(is_shared) {
            return Decision::Wait { missing };
        }
        assert!(view.iter().all(|founder| founder.incarnation != 0));
        Decision::Form(ClusterLayout {
            cluster: wire::cluster_id(&view),
            groups: view.len() as u32,
            state: State::Formed,
            founders: view,
            ..self.own.clone()
        })
    }

    /// Why this peer can be no founder beside this node.
    fn founding_refusal(&self, word: &Word) -> Option<String> {
        let heard = match word {
            Word::NotAsked | Word::Silent => return None,
            Word::Unusable(why) => return Some(why.clone()),
            Word::Heard(heard) => heard,
        };
        let node = heard.node;
        match &heard.stage {
            Stage::Forming { view } if heard.list_hash != self.list_hash => {
                let theirs = wire::list(view.iter().map(|founder| (founder.node, &founder.address)));
                let ours = wire::list(self.nodes.iter().map(|node| (node.node, &node.address)));
                Some(format!(
                    "node {node} lists the nodes {theirs}, and this one {ours}: they must be the same"
                ))
            }
            Stage::Joining { cluster } => Some(format!(
                "node {node} waits to be added to cluster {cluster:#018x}, and no node of that cluster answers; \
                 if it is gone, start node {node} with an empty directory"
            )),
            Stage::Forming { .. } => self
                .segments_refusal(node, heard.segment_bytes)
                .or_else(|| self.shards_refusal(node, heard.shards)),
            // Then there is a cluster, and no question of founding one.
            Stage::Formed(_) => None,
        }
    }

    fn shards_refusal(&self, node: u32, shards: u32) -> Option<String> {
        (shards != self.own.shards).then(|| {
            format!(
                "node {node} has {shards} shards and this one {}: all nodes need the same number, and --shards says which",
                self.own.shards
            )
        })
    }

    fn segments_refusal(&self, node: u32, segment_bytes: u64) -> Option<String> {
        (segment_bytes != self.own.segment_bytes).then(|| {
            format!(
                "node {node} has segments of {} and this one of {}: limits.segment_bytes must be the same on all nodes",
                Bytes(segment_bytes),
                Bytes(self.own.segment_bytes)
            )
        })
    }

    /// The listed nodes with the incarnation of each that was heard last, 0 for none.
    fn view(&self) -> Vec<Founder> {
        let incarnation = |node: u32| match self.peers.get(&node) {
            Some(Word::Heard(heard)) => heard.incarnation,
            Some(_) => 0,
            None => self.own.incarnation,
        };
        let founder = |Peer { node, address }: &Peer| Founder {
            node: *node,
            incarnation: incarnation(*node),
            address: address.clone(),
        };
        self.nodes.iter().map(founder).collect()
    }

    fn heard(&self) -> impl Iterator<Item = &Heard> {
        self.peers.values().filter_map(|word| if let Word::Heard(heard) = word { Some(heard) } else { None })
    }

    fn missing(&self, is_missing: impl Fn(&Word) -> bool) -> Vec<u32> {
        self.peers.iter().filter(|(_, word)| is_missing(word)).map(|(node, _)| *node).collect()
    }

    fn record(&mut self, node: u32, word: Word) {
        let known = self.peers.insert(node, word);
        assert!(known.is_some(), "only listed nodes are asked");
    }
}

/// What whoever runs the nodes has to do so that this one becomes a member, if it is none; `own` is where it is reached.
pub fn joining_advice(layout: &ClusterLayout, own: &Address) -> Option<String> {
    if layout.state != State::Joining {
        return None;
    }
    let node = layout.node;
    if layout.replaces != 0 {
        return Some(format!(
            "node {node} has no log any more (it was rotten, and is set aside): the other nodes make this one a member \
             in place of what it was, and send it everything"
        ));
    }
    let add = format!("`ringmain cluster add {node}={own}`");
    Some(match layout.founder(node) {
        Some(founder) => format!(
            "node {node} of this cluster was made with another data directory (incarnation {}); this one is new: \
             `ringmain cluster remove {node}`, then {add}",
            founder.incarnation
        ),
        None => format!("node {node} is not a member of cluster {:#018x} yet: {add}", layout.cluster),
    })
}

#[cfg(test)]
mod tests;
