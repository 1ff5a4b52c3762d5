//! A node that is part of no cluster yet: what `formation::exchange` does with threads and sockets, on virtual connections.
//!
//! Each peer is asked one question at a time, on a connection of its own; whoever asks this node is answered until it has
//! decided. What it is then is durable before its shard begins: the file that says it takes the place of the one before it
//! at once or not at all, and a crash before that is known leaves either.

use std::collections::BTreeMap;

use ringmain_core::config::Config;
use ringmain_core::formation::{ClusterLayout, Decision, Formation, Founder, State as LayoutState};
use ringmain_core::member::Member;
use ringmain_core::shard::Address;
use ringmain_net::frame::{self, Frame, HELLO_BYTES_MAX};
use ringmain_net::peer::{self, FORM_BYTES_MAX, FormHello, FormReply, FormState, Lane, PeerFrame};
use ringmain_wal::{GroupId, Identity, LogOptions};

use super::founding::Misfit;
use super::machine::{Machine, State};
use super::network::End;
use super::{Deed, Event, Plant, Run, SEGMENT_BYTES, machine_at};
use crate::disk::Disk;
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND};

const ASK_EVERY: u64 = 100 * MILLISECOND;
/// For a connection, and then again for question and answer.
const ANSWER_WITHIN: u64 = 750 * MILLISECOND;
/// How soon it is seen that something follows from what was heard.
const LOOK_EVERY: u64 = 10 * MILLISECOND;

/// What a node was told at its start, and what its data directory says beside the log.
pub(super) struct Directory {
    pub(super) config: Config,
    /// What is wrong with that, until somebody mends it.
    pub(super) misfit: Option<Misfit>,
    pub(super) mends_at: u64,

    /// None: the directory is empty.
    pub(super) identity: Option<ClusterLayout>,
    /// On its way to the disk.
    pub(super) writing: Option<ClusterLayout>,
}

impl Directory {
    /// The node knows its cluster, and nothing can undo that.
    pub(super) fn is_settled(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.state != LayoutState::Forming)
    }

    /// The file had its new name, or had not.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        if let Some(written) = self.writing.take()
            && rng.one_in(2)
        {
            self.identity = Some(written);
        }
    }

    /// What the directory becomes when the node starts: what a log would fix may still change.
    fn opened(&self, incarnation_next: u32) -> ClusterLayout {
        let segment_bytes = self.config.limits.segment_bytes.0;
        let shards = self.config.shards;
        match self.identity.clone() {
            Some(known) => ClusterLayout { shards: shards.unwrap_or(known.shards), segment_bytes, ..known },
            None => ClusterLayout {
                cluster: 0,
                node: self.config.node,
                incarnation: incarnation_next,
                shards: shards.unwrap_or(1),
                groups: 0,
                segment_bytes,
                state: LayoutState::Forming,
                founders: Vec::new(),
                replaces: 0,
            },
        }
    }
}

/// The process of a node that waits for its cluster.
#[derive(Default)]
pub(super) struct Forming {
    /// None: what the node is goes to the disk, and nothing is heard or answered.
    formation: Option<Formation>,
    /// By node: the question that is not answered.
    asks: BTreeMap<u32, Ask>,
    asks_count: u64,
    is_deciding: bool,
    /// Only ever planted: what peers said that are forming.
    words: BTreeMap<u32, peer::Formation>,
}

struct Ask {
    number: u64,
    pipe: Option<u64>,
}

impl Machine {
    /// A process is there, with a shard or without one.
    pub(super) fn is_running(&self) -> bool {
        self.shard.is_some() || self.forming.is_some()
    }

    /// Whoever dials its port is heard.
    pub(super) fn listens(&self) -> bool {
        self.shard.is_some() || self.forming.as_ref().is_some_and(|forming| forming.formation.is_some())
    }

    /// The shard is made from what the directory says. There is no log yet if it says so for the first time.
    pub(super) fn take_layout(&mut self) {
        let Some(layout) = self.directory.as_ref().and_then(|directory| directory.identity.clone()) else {
            return;
        };
        let ClusterLayout { cluster, node, incarnation, .. } = layout;
        let identity = Identity { cluster, node, shard: 0, incarnation };
        if self.options.identity != identity {
            self.options.identity = identity;
            self.options.log = LogOptions { identity, ..self.options.log.clone() };
            let (faults, segments_max) = (self.disk.faults, self.disk.segments_max);
            self.disk = Disk::new(identity, SEGMENT_BYTES);
            (self.disk.faults, self.disk.segments_max) = (faults, segments_max);
        }
        let member = |founder: &Founder| Member {
            node: founder.node,
            incarnation: founder.incarnation,
            address: Address { host: founder.address.host.clone(), port: founder.address.port },
        };
        self.options.founders = layout.founders.iter().map(member).collect();
        self.options.groups = layout.groups_of(0).map(GroupId).collect();
        self.options.layout = Some(layout);
    }
}

impl Run {
    /// The process starts. Nobody hears of it before its incarnation is durable.
    pub(super) fn open(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        (machine.state, machine.forming) = (State::Forming, Some(Forming::default()));
        let directory = machine.directory.as_mut().expect("this run begins with empty directories");
        if self.plant == Plant::IncarnationForgotten {
            directory.identity = None;
        }
        machine.incarnation += u32::from(directory.identity.is_none());
        let layout = directory.opened(machine.incarnation);
        self.world.note("opened", &[node as u64, u64::from(layout.incarnation)]);
        self.settle(node, layout);
    }

    fn settle(&mut self, node: usize, layout: ClusterLayout) {
        let machine = &mut self.machines[node];
        let directory = machine.directory.as_mut().expect("it has something to keep");
        assert!(directory.writing.is_none());
        directory.writing = Some(layout);
        let slow = if self.world.rng.per_million(machine.disk.faults.slow) { 300 } else { 10 };
        let delay = self.world.rng.skewed(slow * MILLISECOND / MICROSECOND) * MICROSECOND;
        self.plan(node, delay, Deed::Settled);
    }

    /// Every group of the node has taken it in.
    pub(super) fn joined(&mut self, node: usize) {
        let Some(directory) = &self.machines[node].directory else { return };
        let Some(identity) = &directory.identity else { return };
        if identity.state == LayoutState::Joining && directory.writing.is_none() {
            let layout = ClusterLayout { state: LayoutState::Formed, replaces: 0, ..identity.clone() };
            self.settle(node, layout);
        }
    }

    /// What the node is can be undone by nothing any more.
    pub(super) fn settled(&mut self, node: usize) -> Result<(), String> {
        let machine = &mut self.machines[node];
        let directory = machine.directory.as_mut().expect("something of it was written");
        let layout = directory.writing.take().expect("a write ends once");
        directory.identity = Some(layout.clone());
        let said = [node as u64, u64::from(layout.incarnation), layout.cluster, layout.state as u64];
        self.world.note("settled", &said);
        self.check_directories()?;
        if self.machines[node].forming.is_none() {
            return Ok(());
        }
        if layout.state == LayoutState::Forming {
            self.begin_asking(node, layout);
            return Ok(());
        }
        self.machines[node].forming = None;
        self.boot(node)
    }

    fn begin_asking(&mut self, node: usize, layout: ClusterLayout) {
        // Whoever makes it a member can read now which one it is.
        for known in self.goal.iter_mut().filter(|known| known.node == layout.node) {
            known.incarnation = layout.incarnation;
        }
        let machine = &mut self.machines[node];
        let config = machine.directory.as_ref().expect("it was opened").config.clone();
        let forming = machine.forming.as_mut().expect("there is no shard yet");
        forming.formation = Some(Formation::new(&config, layout));
        for peer in config.peers {
            let delay = self.world.rng.skewed(2_000) * MICROSECOND;
            self.plan(node, delay, Deed::Ask(peer.node));
        }
    }

    fn formation(&mut self, node: usize) -> Option<&mut Formation> {
        self.machines[node].forming.as_mut()?.formation.as_mut()
    }

    fn waits_for(&self, node: usize, peer: u32, number: u64) -> bool {
        let ask = self.machines[node].forming.as_ref().and_then(|forming| forming.asks.get(&peer));
        ask.is_some_and(|ask| ask.number == number)
    }

    /// Where a peer is, as the node was told.
    fn place_of(&self, node: usize, peer: u32) -> Option<usize> {
        let directory = self.machines[node].directory.as_ref()?;
        machine_at(&directory.config.peers.iter().find(|known| known.node == peer)?.address.host)
    }

    pub(super) fn ask(&mut self, node: usize, peer: u32) {
        if self.formation(node).is_none() {
            return;
        }
        let to = self.place_of(node, peer);
        let is_cut = to.is_some_and(|to| self.is_cut(node, to) || self.is_cut(to, node));
        let forming = self.machines[node].forming.as_mut().expect("it was just there");
        forming.asks_count += 1;
        let number = forming.asks_count;
        assert!(forming.asks.insert(peer, Ask { number, pipe: None }).is_none(), "one question at a time");
        let delay = if is_cut { ANSWER_WITHIN } else { self.world.rng.skewed(400) * MICROSECOND };
        self.plan(node, delay, Deed::Reached(peer, number));
    }

    /// The peer's machine has taken the connection, or there is nobody.
    pub(super) fn reached(&mut self, node: usize, peer: u32, number: u64) {
        if !self.waits_for(node, peer, number) {
            return;
        }
        let to = self.place_of(node, peer);
        let hears = |to: &usize| !self.is_cut(node, *to) && !self.is_cut(*to, node);
        let Some(to) = to.filter(hears).filter(|to| self.machines[*to].listens()) else {
            return self.heard_of(node, peer, None);
        };
        let end = |run: &Self, node: usize| End::Machine { node, life: run.machines[node].life };
        let pipe = self.pipe([end(self, node), end(self, to)], Lane::Messages);
        let delay = self.world.rng.skewed(50) * MICROSECOND;
        self.plan(to, delay, Deed::Accept(pipe));
        self.plan(node, ANSWER_WITHIN, Deed::Overdue(peer, number));
        let forming = self.machines[node].forming.as_mut().expect("it asks");
        forming.asks.get_mut(&peer).expect("it waits").pipe = Some(pipe);
        let card = forming.formation.as_ref().expect("it has not decided").card();
        let mut question = Vec::new();
        frame::encode(&mut question, 1, &FormHello(peer::Formation { founders: Vec::new(), ..card }), &[]);
        self.send(pipe, 0, &question);
    }

    pub(super) fn overdue(&mut self, node: usize, peer: u32, number: u64) {
        if self.waits_for(node, peer, number) {
            self.heard_of(node, peer, None);
        }
    }

    /// Bytes came before there is a shard. Answers those that have to wait for more.
    pub(super) fn heard_early(&mut self, node: usize, pipe: u64, side: usize, bytes: Vec<u8>) -> Vec<u8> {
        let is_asker = side == 0;
        let found = frame::split(&bytes, if is_asker { FORM_BYTES_MAX } else { HELLO_BYTES_MAX });
        let said = match &found {
            Ok(None) => return bytes,
            Ok(Some(frame)) => PeerFrame::decode(frame).ok().map(|said| (frame, said)),
            Err(_) => None,
        };
        match said {
            Some((_, PeerFrame::FormReply(reply))) if is_asker => self.answered(node, pipe, Some(reply)),
            _ if is_asker => self.answered(node, pipe, None),
            Some((question, PeerFrame::FormHello(_))) => self.answer(node, pipe, question),
            _ => self.finish(pipe, side),
        }
        Vec::new()
    }

    fn answer(&mut self, node: usize, pipe: u64, question: &Frame<'_>) {
        let mut reply = Vec::new();
        if let Some(formation) = self.formation(node) {
            let card = formation.card();
            frame::encode(&mut reply, question.request, &FormReply(card.clone()), &[]);
            self.told(&card);
        }
        self.send(pipe, 1, &reply);
        self.finish(pipe, 1);
    }

    /// The connection over which a peer was asked has brought an answer, or is over.
    pub(super) fn answered(&mut self, node: usize, pipe: u64, reply: Option<peer::Formation>) {
        let Some(forming) = &self.machines[node].forming else { return };
        let asked = forming.asks.iter().find(|(_, ask)| ask.pipe == Some(pipe));
        if let Some((peer, _)) = asked {
            self.heard_of(node, *peer, reply);
        }
    }

    fn heard_of(&mut self, node: usize, peer: u32, reply: Option<peer::Formation>) {
        let Some(forming) = self.machines[node].forming.as_mut() else { return };
        let (Some(ask), Some(formation)) = (forming.asks.remove(&peer), forming.formation.as_mut()) else {
            return;
        };
        forming.words.remove(&peer);
        match reply {
            Some(reply) => {
                if reply.state == FormState::Forming {
                    forming.words.insert(peer, reply.clone());
                }
                formation.on_reply(peer, reply);
            }
            None => formation.on_silence(peer),
        }
        let is_deciding = std::mem::replace(&mut forming.is_deciding, true);
        if let Some(pipe) = ask.pipe {
            self.finish(pipe, 0);
        }
        self.plan(node, ASK_EVERY, Deed::Ask(peer));
        if !is_deciding {
            let delay = self.world.rng.below(LOOK_EVERY);
            self.plan(node, delay, Deed::Decide);
        }
    }

    pub(super) fn decide(&mut self, node: usize) -> Result<(), String> {
        let Some(forming) = self.machines[node].forming.as_mut() else { return Ok(()) };
        forming.is_deciding = false;
        let Some(formation) = &mut forming.formation else { return Ok(()) };
        if self.plant == Plant::AgreementForged {
            let founders = formation.card().founders;
            for (peer, word) in &forming.words {
                formation.on_reply(*peer, peer::Formation { founders: founders.clone(), ..word.clone() });
            }
        }
        let decision = formation.decide();
        self.check_decision(node, &decision)?;
        let layout = match decision {
            Decision::Wait { .. } => return Ok(()),
            Decision::Refuse { .. } => {
                self.report.misfits += 1;
                return Ok(());
            }
            Decision::Form(layout) | Decision::Adopt(layout) | Decision::Join(layout) => layout,
        };
        let forming = self.machines[node].forming.as_mut().expect("it was just there");
        // What it says of itself ends here, and with it everything that it was asked.
        forming.formation = None;
        forming.asks.clear();
        self.world.note("decided", &[node as u64, layout.cluster, layout.state as u64]);
        self.hang_up(node);
        self.settle(node, layout);
        self.disturb(node);
        Ok(())
    }

    /// The moments around a decision are short, and what happens in them matters.
    fn disturb(&mut self, node: usize) {
        if !self.is_disturbed() {
            return;
        }
        let life = self.machines[node].life;
        let delay = self.world.rng.skewed(20_000) * MICROSECOND;
        if self.world.rng.one_in(3) {
            let down = self.world.rng.skewed(400) * MILLISECOND;
            self.world.after(delay, Event::Vanish { node, life, down });
        }
        if self.world.rng.one_in(6) {
            let delay = self.world.rng.skewed(200) * MILLISECOND;
            self.world.after(delay, Event::LoseEarly(node));
        }
        if self.world.rng.one_in(3) {
            let lasts = self.world.rng.skewed(1_000) * MILLISECOND;
            self.isolate(node, lasts);
        }
    }
}
