//! How a cluster comes to be where all nodes begin with empty directories, and what must be true of it.
//!
//! Until every listed node knows its cluster there are faults as at any other time, and no more than a minority of the
//! listed nodes loses its disk. Some are told the wrong things at first, and nodes that nobody lists come when they like.
//! After a while, if need be, everything is kind until there is a cluster.
//!
//! ```text
//! agreed   nobody forms a cluster before each founder has told that it knows the same incarnations of all
//! fitting  nobody is in a cluster whose list, shards or segments are not what it was told
//! one      all members are of one cluster, and agree who founded it; once a majority of the founders is in it, there is no
//!          other one ever after
//! once     nobody is in two clusters
//! kept     whoever is counted on as a founder is still who it was, unless its disk was lost
//! alive    nodes that are up, fit and hear each other are in a cluster in time
//! ```

use std::collections::{BTreeMap, BTreeSet};

use ringmain_core::config::{Address, Bytes as Size, Config, Peer};
use ringmain_core::formation::{ClusterLayout, Decision, Founder, State as LayoutState};
use ringmain_core::member::{Member, replica_id};
use ringmain_net::peer;

use super::forming::Directory;
use super::machine::{Machine, State};
use super::{Event, MACHINES, PORT, Plant, Run, SEGMENT_BYTES, host, member};
use crate::rng::Rng;
use crate::world::{MILLISECOND, SECOND};

/// Undisturbed nodes have this long to form a cluster.
const PATIENCE_NS: u64 = 10 * SECOND;

/// What a node is told otherwise than the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misfit {
    /// Some nodes are missing.
    Shorter,
    /// Another one is there as well.
    Longer,
    Shards,
    Segments,
}

pub(super) struct Founding {
    /// The nodes of the cluster to be.
    list: Vec<Peer>,
    peace_at: u64,
    peace_since: Option<u64>,
    /// Disks that may be lost before there is a cluster.
    losses_left: usize,
    /// Every listed node has been in a cluster, or waited to be added.
    is_over: bool,

    /// By replica: each list of all replicas that it has told it knows.
    told: BTreeMap<u64, BTreeSet<Vec<u64>>>,
    clusters: BTreeMap<u64, Known>,
    /// Which cluster each replica is in.
    homes: BTreeMap<u64, u64>,
    /// A majority of its founders was in it.
    established: Option<u64>,
    /// Replicas whose disks are gone.
    lost: BTreeSet<u64>,
}

/// A cluster that was formed.
struct Known {
    founders: Vec<Founder>,
    /// Of the founders, those that have been in it.
    came: BTreeSet<u64>,
}

impl Founding {
    /// Whether this run begins so is the seed's alone, so that it changes nothing in those that do not.
    pub(super) fn draw(plant: Plant, founders_count: usize, scheme: &mut Rng) -> Option<Self> {
        let is_forming = match plant {
            Plant::Nothing => scheme.one_in(4),
            Plant::AgreementForged | Plant::IncarnationForgotten => true,
            _ => false,
        };
        let listed = |at| Peer { node: at as u32 + 1, address: Address { host: host(at), port: PORT } };
        is_forming.then(|| Self {
            list: (0..founders_count).map(listed).collect(),
            peace_at: scheme.between(300, 2_500) * MILLISECOND,
            peace_since: None,
            losses_left: (founders_count - 1) / 2,
            is_over: false,
            told: BTreeMap::new(),
            clusters: BTreeMap::new(),
            homes: BTreeMap::new(),
            established: None,
            lost: BTreeSet::new(),
        })
    }
    /// A founder that has never told that it knows all the others as this layout names them.
    fn unasked<'a>(&self, layout: &'a ClusterLayout) -> Option<&'a Founder> {
        let view: Vec<u64> = layout.founders.iter().map(Founder::replica).collect();
        let has_told = |replica: u64| self.told.get(&replica).is_some_and(|views| views.contains(&view));
        let mut others = layout.founders.iter().filter(|one| one.replica() != layout.replica());
        others.find(|one| !has_told(one.replica()))
    }
}

/// What is told to the node of this machine.
fn config(at: usize, mut list: Vec<Peer>, misfit: Option<Misfit>) -> Config {
    let node = at as u32 + 1;
    match misfit {
        // A list must have somebody else.
        Some(Misfit::Shorter) => {
            let other = list.iter().find(|peer| peer.node != node).cloned();
            list.retain(|peer| Some(peer.node) == other.as_ref().map(|other| other.node));
        }
        Some(Misfit::Longer) => {
            let address = Address { host: "elsewhere".to_owned(), port: PORT };
            list.push(Peer { node: MACHINES as u32 + 1, address });
        }
        Some(Misfit::Shards | Misfit::Segments) | None => {}
    }
    let listen = Address { host: "0.0.0.0".to_owned(), port: PORT };
    let mut config = Config::new(node, "data".into(), listen);
    config.list_nodes(list).expect("each stands there once");
    config.advertise.host = host(at);
    config.shards = Some(if misfit == Some(Misfit::Shards) { 2 } else { 1 });
    let factor = if misfit == Some(Misfit::Segments) { 2 } else { 1 };
    config.limits.segment_bytes = Size(factor * SEGMENT_BYTES);
    config
}

impl Run {
    /// All directories are empty; each node is told what it is to be, and starts in its time.
    pub(super) fn found(&mut self, founding: Founding, scheme: &mut Rng) {
        let list = &founding.list;
        let odd = if scheme.one_in(2) { Some(scheme.below(list.len() as u64) as usize) } else { None };
        for (at, machine) in self.machines.iter_mut().enumerate() {
            let is_listed = at < list.len();
            let arrives = scheme.skewed(if is_listed { 400 } else { 4_000 }) * MILLISECOND;
            let is_odd = if is_listed { odd == Some(at) } else { scheme.one_in(2) };
            let misfit = *scheme.pick(&[Misfit::Shorter, Misfit::Longer, Misfit::Shards, Misfit::Segments]);
            let misfit = is_odd.then_some(misfit);
            let directory = Directory {
                config: config(at, list.clone(), misfit),
                misfit,
                mends_at: arrives + scheme.between(100, 1_500) * MILLISECOND,
                identity: None,
                writing: None,
            };
            (machine.directory, machine.incarnation) = (Some(directory), 0);
            machine.options.identity.cluster = 0;
            self.world.after(arrives, Event::Boot(at, machine.life));
        }
        self.goal.clear();
        // Nothing may be lost beside what is lost before all know their cluster.
        self.is_fragile = true;
        self.founding = Some(founding);
    }

    /// Not every listed node knows a cluster yet.
    pub(super) fn is_founding(&self) -> bool {
        self.founding.as_ref().is_some_and(|founding| !founding.is_over)
    }

    /// The nodes of the cluster to be are kept from forming it.
    pub(super) fn is_disturbed(&self) -> bool {
        let is_peaceful = self.founding.as_ref().is_none_or(|founding| founding.peace_since.is_some());
        self.is_founding() && !is_peaceful && !self.is_calm
    }

    /// A node has told which incarnations it knows.
    pub(super) fn told(&mut self, card: &peer::Formation) {
        let Some(founding) = &mut self.founding else { return };
        let view = card.founders.iter().map(|one| replica_id(one.node, one.incarnation)).collect();
        founding.told.entry(replica_id(card.node, card.incarnation)).or_default().insert(view);
    }

    pub(super) fn check_decision(&mut self, node: usize, decision: &Decision) -> Result<(), String> {
        let Some(founding) = &self.founding else { return Ok(()) };
        let misfit = |node: usize| self.machines[node].directory.as_ref().and_then(|one| one.misfit);
        let own = misfit(node);
        let (layout, is_fitting) = match decision {
            Decision::Wait { .. } | Decision::Refuse { .. } => return Ok(()),
            Decision::Form(layout) => {
                if let Some(Founder { node: other, incarnation, .. }) = founding.unasked(layout) {
                    return Err(format!(
                        "formed: node {} has formed {:#x}, to which {other}.{incarnation} has not agreed",
                        node + 1,
                        layout.cluster
                    ));
                }
                let mut all = layout.founders.iter().map(|founder| misfit(founder.node as usize - 1));
                self.report.formed += 1;
                (layout, all.all(|misfit| misfit.is_none()))
            }
            Decision::Adopt(layout) => {
                self.report.adopted += 1;
                (layout, own.is_none())
            }
            // Somebody who is none of the founders needs no list but to find them.
            Decision::Join(layout) => {
                self.report.joined += 1;
                (layout, own.is_none_or(|own| matches!(own, Misfit::Shorter | Misfit::Longer)))
            }
        };
        if !is_fitting {
            return Err(format!("formed: node {} is told {own:?}, and is in {layout:?}", node + 1));
        }
        let is_known = founding.clusters.contains_key(&layout.cluster);
        if !is_known && !matches!(decision, Decision::Form(_)) {
            return Err(format!(
                "formed: no disk holds {:#x}, and node {} hears of it",
                layout.cluster,
                node + 1
            ));
        }
        Ok(())
    }

    /// What the directories say has changed.
    pub(super) fn check_directories(&mut self) -> Result<(), String> {
        let Some(founding) = &mut self.founding else { return Ok(()) };
        let identity = |machine: &Machine| machine.directory.as_ref().and_then(|one| one.identity.clone());
        let identities: Vec<Option<ClusterLayout>> = self.machines.iter().map(identity).collect();
        let settled = identities.iter().flatten().filter(|one| one.state != LayoutState::Forming);
        let (mut member_of, mut is_there) = (None, false);
        for layout in settled {
            let ClusterLayout { cluster, node, .. } = *layout;
            let home = *founding.homes.entry(layout.replica()).or_insert(cluster);
            let is_formed = layout.state == LayoutState::Formed;
            // What has not been added yet may wait for a cluster that is gone.
            let only = if is_formed { *member_of.get_or_insert(cluster) } else { cluster };
            let only = founding.established.filter(|_| is_formed).unwrap_or(only);
            is_there |= is_formed;
            if home != cluster || only != cluster {
                return Err(format!(
                    "formed: {cluster:#x} of node {node} is not the only one: {identities:?}"
                ));
            }
            let founders = layout.founders.clone();
            let known = founding.clusters.entry(cluster).or_insert(Known { founders, came: BTreeSet::new() });
            if known.founders != layout.founders {
                return Err(format!("formed: nodes have other founders of {cluster:#x}: {identities:?}"));
            }
            if is_formed && known.founders.iter().any(|founder| founder.replica() == layout.replica()) {
                known.came.insert(layout.replica());
            }
            if known.founders.len() < 2 * known.came.len() {
                founding.established = Some(cluster);
            }
            let is_kept = |founder: &&Founder| {
                let now = &identities[founder.node as usize - 1];
                let is_it = now.as_ref().is_some_and(|now| now.replica() == founder.replica());
                is_it || founding.lost.contains(&founder.replica())
            };
            if let Some(founder) = known.founders.iter().find(|founder| !is_kept(founder)) {
                let Founder { node: other, incarnation, .. } = founder;
                return Err(format!(
                    "formed: {other}.{incarnation} is forgotten, and node {node} counts on it"
                ));
            }
        }
        if self.goal.is_empty() && is_there {
            let incarnation = |at: usize| identities[at].as_ref().map_or(0, |one| one.incarnation);
            self.goal = (0..founding.list.len()).map(|at| member(at, incarnation(at))).collect();
        }
        Ok(())
    }

    /// Whoever runs the nodes looks at what they say. True: nothing is to disturb them.
    pub(super) fn tend_founding(&mut self) -> Result<bool, String> {
        let now = self.world.now();
        if self.founding.is_none() {
            return Ok(false);
        }
        for node in 0..MACHINES {
            let directory = self.machines[node].directory.as_ref();
            if directory.is_some_and(|one| one.misfit.is_some() && (one.mends_at <= now || self.is_calm)) {
                self.mend(node)?;
            }
        }
        self.wipe_forlorn()?;
        let Some(founding) = self.founding.as_mut().filter(|founding| !founding.is_over) else {
            return Ok(false);
        };
        let directories = self.machines.iter().map(|machine| machine.directory.as_ref());
        if directories.take(founding.list.len()).flatten().all(Directory::is_settled) {
            founding.is_over = true;
            self.world.note("founded", &[]);
            return Ok(false);
        }
        if now < founding.peace_at && !self.is_calm {
            return Ok(false);
        }
        let since = *founding.peace_since.get_or_insert(now);
        if since == now {
            self.world.note("peace", &[]);
            self.make_peace()?;
        } else if since + PATIENCE_NS < now {
            return Err(format!("alive: no cluster is formed, and {}", self.describe()));
        }
        Ok(true)
    }

    fn make_peace(&mut self) -> Result<(), String> {
        let now = self.world.now();
        self.cuts = [[now; MACHINES]; MACHINES];
        for node in 0..self.founding.as_ref().map_or(0, |founding| founding.list.len()) {
            self.machines[node].paused_until = 0;
            self.mend(node)?;
            if self.machines[node].state == State::Down {
                self.boot(node)?;
            }
        }
        self.replan_all();
        Ok(())
    }

    /// The node is told what the others are, and started again with that.
    fn mend(&mut self, node: usize) -> Result<(), String> {
        let Some(founding) = &self.founding else { return Ok(()) };
        let machine = &mut self.machines[node];
        let (Some(directory), life) = (&mut machine.directory, machine.life) else { return Ok(()) };
        if directory.misfit.take().is_none() {
            return Ok(());
        }
        directory.config = config(node, founding.list.clone(), None);
        self.world.note("mended", &[node as u64]);
        if self.machines[node].forming.is_some() { self.vanish(node, life, MILLISECOND) } else { Ok(()) }
    }

    /// A node waits for a cluster of which every member has lost its disk: it waits for ever, and says so.
    fn wipe_forlorn(&mut self) -> Result<(), String> {
        let directories = || self.machines.iter().filter_map(|machine| machine.directory.as_ref());
        let identities = directories().flat_map(|one| [&one.identity, &one.writing]).flatten();
        let formed = identities.filter(|one| one.state == LayoutState::Formed);
        let alive: BTreeSet<u64> = formed.map(|one| one.cluster).collect();
        let is_forlorn = |node: &usize| {
            let is_wanted = self.goal.iter().any(|member| member.node as usize == node + 1);
            let directory = self.machines[*node].directory.as_ref();
            let identity = directory.and_then(|one| one.identity.as_ref());
            let is_vain =
                |one: &ClusterLayout| one.state == LayoutState::Joining && !alive.contains(&one.cluster);
            (self.is_founding() || !is_wanted) && identity.is_some_and(is_vain)
        };
        match (0..MACHINES).find(is_forlorn) {
            Some(node) => self.replace(node),
            None => Ok(()),
        }
    }

    /// The disk of a node is lost before all know their cluster.
    pub(super) fn lose_early(&mut self, node: usize) -> Result<(), String> {
        if !self.is_founding() {
            return Ok(());
        }
        let Some(founding) = &mut self.founding else { return Ok(()) };
        if node >= founding.list.len() || founding.losses_left == 0 || self.machines[node].incarnation == 0 {
            return Ok(());
        }
        founding.losses_left -= 1;
        self.report.lost_early += 1;
        self.replace(node)
    }

    /// The machine has another disk, or a log that begins anew; its node is told who the others are by now.
    pub(super) fn lose_directory(&mut self, node: usize, left: Option<ClusterLayout>) {
        let list = self.list_for(node);
        let Some(founding) = &mut self.founding else { return };
        let machine = &mut self.machines[node];
        founding.lost.insert(machine.replica());
        let Some(directory) = &mut machine.directory else { return };
        (directory.identity, directory.writing) = (left, None);
        if founding.is_over {
            (directory.misfit, directory.config) = (None, config(node, list, None));
        }
    }

    /// The members as a node is told them that comes to a cluster. One that answers is enough, as long as it stays one.
    fn list_for(&mut self, node: usize) -> Vec<Peer> {
        let known = |one: &Member| {
            let address = Address { host: one.address.host.clone(), port: one.address.port };
            Peer { node: one.node, address }
        };
        let all: Vec<Peer> = self.goal.iter().map(known).collect();
        let is_member = all.iter().any(|peer| peer.node as usize == node + 1);
        let answers = |peer: &&Peer| {
            let other = peer.node as usize - 1;
            other != node && self.machines[other].state == State::Up
        };
        let answering: Vec<Peer> = all.iter().filter(answers).cloned().collect();
        if self.founding.is_some() && is_member && !answering.is_empty() && self.world.rng.one_in(2) {
            return vec![self.world.rng.pick(&answering).clone()];
        }
        all
    }

    /// Nothing passes between this node and all others for a while.
    pub(super) fn isolate(&mut self, node: usize, lasts: u64) {
        let until = self.world.now() + lasts;
        for peer in 0..MACHINES {
            (self.cuts[node][peer], self.cuts[peer][node]) = (until, until);
        }
        self.report.cuts += 1;
        self.world.note("isolated", &[node as u64, lasts]);
        self.world.after(lasts, Event::Heal);
    }
}
