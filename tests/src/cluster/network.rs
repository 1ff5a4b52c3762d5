//! Connections between any two: bytes come in order or not at all, late, and cut anywhere.
//!
//! Between peers a direction can be cut for a while: then nothing passes, not even the news that the other end is gone.

use ringmain_core::connection::ConnectionId;
use ringmain_core::outgoing::Outgoing;
use ringmain_core::peers::Dial;
use ringmain_core::shard::{GroupState, Input, Shard};
use ringmain_net::frame::{self, FRAME_BYTES_MAX};
use ringmain_net::peer::Lane;
use ringmain_net::protocol::Reply;

use super::client::{Client, Context};
use super::machine::State;
use super::oracle::{Speaker, Standing};
use super::{Deed, Event, Run, machine_at};
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND};

/// What the kernel of a sender keeps, and what was overheard, at most.
const KERNEL_BYTES_MAX: usize = 256 << 10;
const OVERHEARD_MAX: usize = 64;
const CONNECT_WITHIN: u64 = 500 * MILLISECOND;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Machine { node: usize, life: u64 },
    Client(usize),
}

impl End {
    pub(super) fn node(self) -> Option<usize> {
        match self {
            Self::Machine { node, .. } => Some(node),
            Self::Client(_) => None,
        }
    }

    pub(super) fn is_machine(node: usize) -> impl Fn(Self) -> bool {
        move |end| end.node() == Some(node)
    }
}

/// What is on its way to one side.
#[derive(Default, Debug)]
pub(super) struct Flow {
    wire: Vec<u8>,
    /// Arrived and not consumed.
    received: Vec<u8>,
    /// The sender says no more.
    is_finished: bool,
    is_planned: bool,
    is_paused: bool,
    /// The kernel at the other side has not taken what that side last gave it.
    is_busy: bool,
}

#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) ends: [End; 2],
    /// The side knows of the connection.
    is_open: [bool; 2],
    /// The side knows that it is over, or is no more.
    is_over: [bool; 2],
    flows: [Flow; 2],
    /// Both ends are peers.
    is_peers: bool,
    lane: Lane,
}

/// Whole frames that a machine said to another one.
#[derive(Clone, Debug)]
pub(super) struct Overheard {
    from: usize,
    to: usize,
    lane: Lane,
    bytes: Vec<u8>,
}

impl Run {
    pub(super) fn pipe(&mut self, ends: [End; 2], lane: Lane) -> u64 {
        let number = self.next_pipe;
        self.next_pipe += 1;
        let is_peers = ends.iter().all(|end| end.node().is_some());
        let flows = [Flow::default(), Flow::default()];
        let is_open = [true, false];
        self.pipes.insert(number, Pipe { ends, is_open, is_over: [false; 2], flows, is_peers, lane });
        number
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.world.now() < self.cuts[from][to]
    }

    /// Bytes towards this side do not pass at the moment.
    fn is_blocked(&self, pipe: &Pipe, side: usize) -> bool {
        match (pipe.ends[1 - side].node(), pipe.ends[side].node()) {
            (Some(from), Some(to)) => self.is_cut(from, to),
            _ => false,
        }
    }

    pub(super) fn dial(&mut self, node: usize, dial: &Dial) {
        let Some(to) = machine_at(&dial.address.host) else {
            return self.plan(node, MILLISECOND, Deed::Unknown(dial.node, dial.lane));
        };
        assert_eq!(dial.node as usize, to + 1);
        let is_cut = self.is_cut(node, to) || self.is_cut(to, node);
        let delay = if is_cut { CONNECT_WITHIN } else { self.world.rng.skewed(400) * MICROSECOND };
        self.plan(node, delay, Deed::Dialled(to, dial.lane));
    }

    /// The kernel of the one that is dialled answers, even if its process is stopped.
    pub(super) fn dialled(&mut self, node: usize, to: usize, lane: Lane) -> Result<(), String> {
        let is_cut = self.is_cut(node, to) || self.is_cut(to, node);
        let peer = to as u32 + 1;
        if is_cut || !self.machines[to].listens() {
            return self.input(node, Input::Dialled { node: peer, lane, connection: None }).map(|_| ());
        }
        let end = |run: &Self, node: usize| End::Machine { node, life: run.machines[node].life };
        let pipe = self.pipe([end(self, node), end(self, to)], lane);
        self.world.note("dialled", &[node as u64, to as u64, pipe, lane as u64]);
        let delay = self.world.rng.skewed(50) * MICROSECOND;
        self.plan(to, delay, Deed::Accept(pipe));
        let connection = Some(ConnectionId(pipe));
        self.input(node, Input::Dialled { node: peer, lane, connection }).map(|_| ())
    }

    pub(super) fn accept(&mut self, node: usize, pipe: u64) -> Result<(), String> {
        let Some(known) = self.pipes.get_mut(&pipe) else { return Ok(()) };
        if known.is_over[1] {
            return Ok(());
        }
        known.is_open[1] = true;
        self.input(node, Input::Opened { connection: ConnectionId(pipe) })?;
        self.plan_arrival(pipe, 1);
        Ok(())
    }

    pub(super) fn connect(&mut self, client: usize) -> Result<(), String> {
        let now = self.world.now();
        let Some(node) = self.clients[client].next_machine(now, &mut self.world.rng) else { return Ok(()) };
        if self.machines[node].state != State::Up {
            self.clients[client].failed(now);
            return Ok(());
        }
        let life = self.machines[node].life;
        let pipe = self.pipe([End::Client(client), End::Machine { node, life }], Lane::Messages);
        self.world.note("connect", &[client as u64, node as u64, pipe]);
        self.clients[client].pipe = Some(pipe);
        self.plan(node, self.machines[node].paused_until.saturating_sub(now), Deed::Accept(pipe));
        self.converse(client, Client::connected)
    }

    /// Lets a client speak.
    pub(super) fn converse(
        &mut self,
        number: usize,
        speak: impl FnOnce(&mut Client, &mut Context<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(pipe) = self.clients[number].pipe else { return Ok(()) };
        let mut out = Vec::new();
        let mut context = Context {
            now: self.world.now(),
            rng: &mut self.world.rng,
            out: &mut out,
            next_message: &mut self.next_message,
            oracle: &mut self.oracle,
            goal: &self.goal,
            report: &mut self.report,
            pipe,
            plant: self.plant,
            is_calm: self.is_calm,
            hangs_up: false,
        };
        speak(&mut self.clients[number], &mut context)?;
        let hangs_up = context.hangs_up;
        self.send(pipe, 0, &out);
        if hangs_up {
            self.clients[number].lost(self.world.now());
            self.oracle.hung_up(pipe);
            self.finish(pipe, 0);
        }
        Ok(())
    }

    /// This side says something.
    pub(super) fn send(&mut self, pipe: u64, side: usize, bytes: &[u8]) {
        let Some(known) = self.pipes.get_mut(&pipe) else { return };
        if bytes.is_empty() || known.is_over[1 - side] {
            return;
        }
        known.flows[1 - side].wire.extend_from_slice(bytes);
        self.plan_arrival(pipe, 1 - side);
    }

    /// This side is done: the other one hears what was said, and then that.
    pub(super) fn finish(&mut self, pipe: u64, side: usize) {
        let Some(known) = self.pipes.get_mut(&pipe) else { return };
        known.is_over[side] = true;
        known.flows[1 - side].is_finished = true;
        known.flows[side] = Flow::default();
        if known.is_over == [true; 2] {
            self.pipes.remove(&pipe);
        } else {
            self.plan_arrival(pipe, 1 - side);
        }
    }

    fn plan_arrival(&mut self, pipe: u64, side: usize) {
        let Some(known) = self.pipes.get(&pipe) else { return };
        let flow = &known.flows[side];
        let has_more = !flow.wire.is_empty() || flow.is_finished;
        if flow.is_planned || !has_more || !known.is_open[side] || self.is_blocked(known, side) {
            return;
        }
        let delay = self.world.rng.skewed(if known.is_peers { self.weather.latency_us } else { 300 });
        self.world.after(delay * MICROSECOND, Event::Arrive(pipe, side));
        if let Some(known) = self.pipes.get_mut(&pipe) {
            known.flows[side].is_planned = true;
        }
    }

    /// Something may pass again.
    pub(super) fn replan_all(&mut self) {
        let all: Vec<u64> = self.pipes.keys().copied().collect();
        for pipe in all {
            (0..2).for_each(|side| self.plan_arrival(pipe, side));
        }
    }

    pub(super) fn arrive(&mut self, pipe: u64, side: usize) -> Result<(), String> {
        let Some(known) = self.pipes.get_mut(&pipe) else { return Ok(()) };
        known.flows[side].is_planned = false;
        if known.is_over[side] {
            return Ok(());
        }
        let known = &self.pipes[&pipe];
        if !self.is_blocked(known, side) {
            let rng = &mut self.world.rng;
            let flow = &mut self.pipes.get_mut(&pipe).expect("it was just there").flows[side];
            let bytes = part(rng, flow.wire.len());
            flow.received.extend(flow.wire.drain(..bytes));
        }
        self.offer(pipe, side)?;
        let Some(known) = self.pipes.get(&pipe) else { return Ok(()) };
        let flow = &known.flows[side];
        if flow.is_finished && flow.wire.is_empty() && !self.is_blocked(known, side) {
            return self.over(pipe, side);
        }
        self.plan_arrival(pipe, side);
        Ok(())
    }

    fn offer(&mut self, pipe: u64, side: usize) -> Result<(), String> {
        let known = self.pipes.get_mut(&pipe).expect("bytes come by a connection");
        let flow = &mut known.flows[side];
        if flow.received.is_empty() || flow.is_paused {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut flow.received);
        match known.ends[side] {
            End::Client(client) => {
                let taken = self.heard(client, pipe, &bytes)?;
                bytes.drain(..taken);
                if let Some(known) = self.pipes.get_mut(&pipe) {
                    known.flows[side].received = bytes;
                }
            }
            End::Machine { node, life } => {
                if !self.is_up(node, life) {
                    return Ok(());
                }
                if self.machines[node].forming.is_some() {
                    let kept = self.heard_early(node, pipe, side, bytes);
                    if let Some(known) = self.pipes.get_mut(&pipe) {
                        known.flows[side].received = kept;
                    }
                    return Ok(());
                }
                if self.intercepted(node, pipe, &mut bytes)? && bytes.is_empty() {
                    return Ok(());
                }
                let id = ConnectionId(pipe);
                let (consumed, is_paused) =
                    self.input(node, Input::Received { connection: id, bytes: &bytes })?;
                if let Some(known) = self.pipes.get_mut(&pipe) {
                    bytes.drain(..consumed.min(bytes.len()));
                    known.flows[side].received = bytes;
                    known.flows[side].is_paused = is_paused;
                }
            }
        }
        Ok(())
    }

    fn heard(&mut self, client: usize, pipe: u64, bytes: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        while let Ok(Some(frame)) = frame::split(&bytes[at..], FRAME_BYTES_MAX) {
            at += frame.bytes;
            if self.clients[client].pipe != Some(pipe) {
                continue;
            }
            let reply = Reply::decode(&frame);
            if self.clients[client].is_stranger() {
                continue;
            }
            let reply = reply.map_err(|why| format!("honest: no client can read {why}"))?;
            self.converse(client, |client, context| client.heard(frame.request, &reply, context))?;
        }
        Ok(at)
    }

    pub(super) fn resume(&mut self, node: usize, pipe: u64) {
        let Some(known) = self.pipes.get_mut(&pipe) else { return };
        let Some(side) = known.ends.iter().position(|end| end.node() == Some(node)) else { return };
        let flow = &mut known.flows[side];
        flow.is_paused = false;
        if !flow.is_planned {
            flow.is_planned = true;
            self.world.after(MICROSECOND, Event::Arrive(pipe, side));
        }
    }

    /// The shard has something for these connections.
    pub(super) fn take_all(&mut self, node: usize, connections: &[ConnectionId]) -> Result<(), String> {
        let mut spoken = Vec::new();
        for id in connections {
            let pipe = id.0;
            let Some(known) = self.pipes.get_mut(&pipe) else { continue };
            let Some(side) = known.ends.iter().position(|end| end.node() == Some(node)) else { continue };
            let is_peers = known.is_peers;
            if known.is_over[side] || (is_peers && known.flows[1 - side].is_busy) {
                continue;
            }
            let client = match known.ends[1 - side] {
                End::Client(client) => Some(client),
                End::Machine { .. } => None,
            };
            known.flows[1 - side].is_busy = true;
            let mut outgoing = Outgoing::default();
            let shard = self.machines[node].shard.as_mut();
            shard.into_iter().for_each(|shard: &mut Shard| shard.take_outgoing(*id, &mut outgoing));
            let bytes = outgoing.pieces().collect::<Vec<_>>().concat();
            if bytes.is_empty() {
                self.pipes.get_mut(&pipe).expect("it was just there").flows[1 - side].is_busy = false;
                continue;
            }
            let delay = self.world.rng.between(1, 40) * MICROSECOND;
            self.world.after(delay, Event::Sent(pipe, side, bytes.len()));
            match client {
                Some(client) if !self.clients[client].is_stranger() => spoken.push((pipe, side, bytes)),
                Some(_) => self.send(pipe, side, &bytes),
                None => {
                    self.overhear(pipe, side, &bytes);
                    self.send(pipe, side, &bytes);
                }
            }
        }
        let standing = |state: GroupState| Standing {
            term: state.term.0,
            is_serving: state.is_serving,
            applied: state.applied.0,
        };
        let terms: Vec<Standing> =
            (0..self.groups).filter_map(|group| self.state(node, group)).map(standing).collect();
        let speaker = Speaker { now: self.now(node).0, terms: &terms };
        if !terms.is_empty() {
            self.lie(node, &mut spoken);
            self.oracle.spoken(&speaker, &spoken)?;
        }
        for (pipe, side, bytes) in spoken {
            self.world.note("answer", &[pipe, u64::from(crc32c::crc32c(&bytes))]);
            self.send(pipe, side, &bytes);
        }
        Ok(())
    }

    fn overhear(&mut self, pipe: u64, side: usize, bytes: &[u8]) {
        if self.weather.replays && self.world.rng.one_in(8) {
            let Pipe { ends, lane, .. } = self.pipes[&pipe];
            let (Some(from), Some(to)) = (ends[side].node(), ends[1 - side].node()) else { return };
            let at = self.world.rng.below(OVERHEARD_MAX as u64) as usize;
            let overheard = Overheard { from, to, lane, bytes: bytes.to_vec() };
            if self.overheard.len() < OVERHEARD_MAX {
                self.overheard.push(overheard);
            } else {
                self.overheard[at] = overheard;
            }
        }
    }

    pub(super) fn sent(&mut self, pipe: u64, side: usize, bytes: usize) -> Result<(), String> {
        let Some(known) = self.pipes.get_mut(&pipe) else { return Ok(()) };
        let flow = &mut known.flows[1 - side];
        if KERNEL_BYTES_MAX < flow.wire.len() {
            self.world.after(MILLISECOND, Event::Sent(pipe, side, bytes));
            return Ok(());
        }
        flow.is_busy = false;
        let End::Machine { node, life } = known.ends[side] else { return Ok(()) };
        if known.is_over[side] || !self.is_up(node, life) {
            return Ok(());
        }
        let connection = ConnectionId(pipe);
        self.input(node, Input::Sent { connection, bytes })?;
        self.take_all(node, &[connection])
    }

    /// A shard wants a connection to end once everything that it said is with the kernel.
    pub(super) fn close(&mut self, pipe: u64, is_mine: impl Fn(End) -> bool) {
        let Some(known) = self.pipes.get(&pipe) else { return };
        let Some(side) = known.ends.iter().position(|end| is_mine(*end)) else { return };
        let delay = self.world.rng.skewed(2_000) * MICROSECOND;
        self.world.after(delay, Event::Over(pipe, side));
    }

    /// This side is told that the connection is over, and the other one will be.
    pub(super) fn over(&mut self, pipe: u64, side: usize) -> Result<(), String> {
        let Some(known) = self.pipes.get(&pipe) else { return Ok(()) };
        if known.is_over[side] {
            return Ok(());
        }
        let end = known.ends[side];
        let is_open = known.is_open[side];
        self.world.note("over", &[pipe, side as u64]);
        self.finish(pipe, side);
        match end {
            End::Client(client) => {
                if self.clients[client].pipe == Some(pipe) {
                    self.clients[client].lost(self.world.now());
                }
                self.oracle.hung_up(pipe);
            }
            End::Machine { node, life } if self.is_up(node, life) && is_open => {
                self.oracle.hung_up(pipe);
                self.answered(node, pipe, None);
                self.input(node, Input::Closed { connection: ConnectionId(pipe) })?;
            }
            End::Machine { .. } => {}
        }
        Ok(())
    }

    /// Nothing more is said at this end of all of these.
    pub(super) fn hang_up(&mut self, node: usize) {
        let side = |known: &Pipe| known.ends.iter().position(|end| end.node() == Some(node));
        let mine: Vec<(u64, usize)> =
            self.pipes.iter().filter_map(|(pipe, known)| Some((*pipe, side(known)?))).collect();
        mine.into_iter().for_each(|(pipe, side)| self.finish(pipe, side));
    }

    /// The process at this end of all of these is no more. If it went silently, the others have to find out.
    pub(super) fn drop_pipes(&mut self, node: usize, is_silent: bool) {
        let mine: Vec<(u64, usize)> = self
            .pipes
            .iter()
            .filter_map(|(pipe, known)| {
                let side = known.ends.iter().position(|end| end.node() == Some(node))?;
                Some((*pipe, side))
            })
            .collect();
        for (pipe, side) in mine {
            self.oracle.hung_up(pipe);
            let loses = self.world.rng.one_in(2);
            let Some(known) = self.pipes.get_mut(&pipe) else { continue };
            if loses {
                let wire = &mut known.flows[1 - side].wire;
                wire.truncate(wire.len() / 2);
            }
            if is_silent && known.is_peers {
                known.is_over[side] = true;
                if known.is_over == [true; 2] {
                    self.pipes.remove(&pipe);
                }
            } else {
                self.finish(pipe, side);
            }
        }
    }

    /// A connection between two peers that are both there.
    pub(super) fn pick_peers(&mut self) -> Option<u64> {
        let between = |known: &Pipe| known.is_peers && known.is_over == [false; 2];
        let all: Vec<u64> =
            self.pipes.iter().filter(|(_, known)| between(known)).map(|(pipe, _)| *pipe).collect();
        if all.is_empty() { None } else { Some(*self.world.rng.pick(&all)) }
    }

    /// A bit of what is on its way is not what it was.
    pub(super) fn corrupt(&mut self, pipe: u64) -> bool {
        let rng = &mut self.world.rng;
        let Some(known) = self.pipes.get_mut(&pipe) else { return false };
        let Some(flow) = known.flows.iter_mut().find(|flow| !flow.wire.is_empty()) else { return false };
        let at = rng.below(flow.wire.len() as u64) as usize;
        flow.wire[at] ^= 1 << rng.below(8);
        true
    }

    /// What was said between two peers once is said again.
    pub(super) fn replay(&mut self, pipe: u64) -> bool {
        let Some(known) = self.pipes.get(&pipe) else { return false };
        let (Some(first), Some(second)) = (known.ends[0].node(), known.ends[1].node()) else { return false };
        let fits = |one: &&Overheard| (one.from, one.to, one.lane) == (first, second, known.lane);
        let Some(overheard) = self.overheard.iter().find(fits) else { return false };
        let bytes = overheard.bytes.clone();
        self.send(pipe, 0, &bytes);
        true
    }

    pub(super) fn reset(&mut self, pipe: u64) -> Result<(), String> {
        let Some(known) = self.pipes.get(&pipe) else { return Ok(()) };
        let now = self.world.now();
        for side in 0..2 {
            let node = known.ends[side].node().expect("a connection of peers");
            let delay = self.machines[node].paused_until.saturating_sub(now);
            self.world.after(delay, Event::Over(pipe, side));
        }
        Ok(())
    }
}

/// Often all of it, sometimes any part.
fn part(rng: &mut Rng, bytes: usize) -> usize {
    match rng.below(8) {
        0 if bytes > 1 => rng.skewed(bytes as u64) as usize,
        1 if bytes > 1 => rng.between(1, bytes as u64) as usize,
        _ => bytes,
    }
}
