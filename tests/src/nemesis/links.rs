//! The links between the processes, as far as a test can have its hands on them: whoever dials a node dials a port of this
//! process, which carries the bytes on to the node.
//!
//! ```text
//!   node 1 ──dials──► port of node 2 here ──► node 2        bytes of (1, 2) follow the rule of (1, 2),
//!          ◄─────────                     ◄──               those that come back the rule of (2, 1)
//! ```
//!
//! The first frame of a connection says who dialled. Two threads carry each connection, one for each direction, and hold
//! one buffer each: what they do not take waits in the kernel, and in the end with whoever sends it.
//!
//! What is held is neither delivered nor lost, and neither is the end of a connection: the other side hears nothing at all,
//! as from a network that drops every packet, and all of it, late, once the rule is another one.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmain_net::frame::{self, HELLO_BYTES_MAX};
use ringmain_net::peer::PeerFrame;

/// Whoever dials and is no node: all clients together.
pub const CLIENT: u32 = 0;

/// Connections at a time; beyond them they are hung up on.
const WIRES_MAX: usize = 512;
const BUFFER_BYTES: usize = 64 << 10;
/// Kept of each direction, from the beginning of the newest connection.
const RECORD_BYTES_MAX: usize = 256 << 10;

/// From whom, to whom.
pub type Pair = (u32, u32);

/// What happens to the bytes of a pair.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Pass,
    /// Each piece that is read comes so much later.
    Delay(Duration),
    Hold,
    /// Connections between the two end, and new ones do at once.
    Cut,
}

/// Where a node is dialled, and where it listens.
#[derive(Copy, Clone, Debug)]
pub struct Place {
    pub node: u32,
    pub dialled: u16,
    pub listens: u16,
}

/// Ends with all that it carries when it is dropped.
pub struct Links {
    shared: Arc<Shared>,
    /// Those who accept, and where they are woken.
    doors: Vec<(SocketAddr, JoinHandle<()>)>,
}

struct Shared {
    state: Mutex<State>,
    /// A rule is another one, or all is over.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_over: bool,
    /// A pair without a rule passes.
    rules: BTreeMap<Pair, Rule>,
    /// Where those who dial a node come out, if it is not there.
    detours: BTreeMap<u32, u16>,
    wires: BTreeMap<u64, Wire>,
    wire_next: u64,
    /// None: nothing is recorded.
    records: Option<BTreeMap<Pair, Vec<u8>>>,
}

/// One connection, as far as it is known.
struct Wire {
    /// Who dialled whom; a client, until he has said otherwise.
    between: Pair,
    ends: Vec<TcpStream>,
    /// Threads that carry it.
    carriers: u32,
}

/// One direction of a wire.
struct Flow {
    pair: Pair,
    source: TcpStream,
    sink: TcpStream,
}

impl Links {
    pub fn new(places: &[Place]) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let open = |place: &Place| {
            let door = TcpListener::bind((Ipv4Addr::LOCALHOST, place.dialled)).expect("the port is free");
            let address = door.local_addr().expect("it is bound");
            let (shared, place) = (shared.clone(), *place);
            (address, thread::spawn(move || shared.accept(&door, place)))
        };
        let doors = places.iter().map(open).collect();
        Self { shared, doors }
    }

    pub fn set(&self, pair: Pair, rule: Rule) {
        let mut state = self.shared.state();
        state.rules.insert(pair, rule);
        if rule == Rule::Cut {
            let is_between = |wire: &&Wire| wire.between == pair || wire.between == (pair.1, pair.0);
            state.wires.values().filter(is_between).for_each(Wire::end);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Everything passes, and what was held comes now. Those who dial a node reach it.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.detours.clear();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Whoever dials this node from now on reaches another port than the node's, as with a wrong entry in a name service.
    pub fn mislead(&self, node: u32, port: u16) {
        self.shared.state().detours.insert(node, port);
    }

    /// Keeps what is said from now on over new connections.
    pub fn record(&self) {
        self.shared.state().records.get_or_insert_default();
    }

    /// The beginning of what was said from one to the other over their newest connection.
    pub fn recorded(&self, pair: Pair) -> Vec<u8> {
        let state = self.shared.state();
        state.records.as_ref().and_then(|records| records.get(&pair)).cloned().unwrap_or_default()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_over = true;
        state.wires.values().for_each(Wire::end);
        drop(state);
        self.shared.changed.notify_all();
        for (address, door) in self.doors.drain(..) {
            // Whoever waits for a connection sees by this one that all is over.
            drop(TcpStream::connect(address));
            // A panic there was shown already.
            let _ = door.join();
        }
    }
}

impl Wire {
    fn end(&self) {
        for end in &self.ends {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn accept(self: Arc<Self>, door: &TcpListener, place: Place) {
        loop {
            let Ok((dialler, _)) = door.accept() else { continue };
            if self.state().is_over {
                return;
            }
            if let Some(wire) = self.enter((CLIENT, place.node), &dialler) {
                let shared = self.clone();
                thread::spawn(move || {
                    shared.carry(wire, dialler, place);
                    shared.leave(wire);
                });
            }
        }
    }

    fn enter(&self, between: Pair, dialler: &TcpStream) -> Option<u64> {
        let ends = vec![dialler.try_clone().ok()?];
        let mut state = self.state();
        if state.is_over || state.wires.len() == WIRES_MAX {
            return None;
        }
        state.wire_next += 1;
        let wire = state.wire_next;
        state.wires.insert(wire, Wire { between, ends, carriers: 1 });
        Some(wire)
    }

    fn leave(&self, wire: u64) {
        let mut state = self.state();
        let Some(found) = state.wires.get_mut(&wire) else { return };
        found.carriers -= 1;
        if found.carriers == 0 {
            state.wires.remove(&wire);
        }
    }

    /// Finds out who dialled, dials on, and carries both directions to their ends.
    fn carry(self: &Arc<Self>, wire: u64, mut dialler: TcpStream, place: Place) {
        let mut first = Vec::new();
        let Some(from) = introduce(&mut dialler, &mut first) else { return };
        let pair = (from, place.node);
        if let Some(wire) = self.state().wires.get_mut(&wire) {
            wire.between = pair;
        }
        if !self.pass(pair) {
            return;
        }
        let port = self.state().detours.get(&place.node).copied().unwrap_or(place.listens);
        let Ok(acceptor) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
        let Some((there, back)) = self.join(wire, &dialler, &acceptor) else { return };
        let shared = self.clone();
        thread::spawn(move || {
            shared.flow(back, Vec::new());
            shared.leave(wire);
        });
        self.flow(there, first);
    }

    /// The wire has two ends now: what goes there, and what comes back.
    fn join(&self, wire: u64, dialler: &TcpStream, acceptor: &TcpStream) -> Option<(Flow, Flow)> {
        for end in [dialler, acceptor] {
            end.set_nodelay(true).ok()?;
        }
        let flow = |pair: Pair, source: &TcpStream, sink: &TcpStream| {
            Some(Flow { pair, source: source.try_clone().ok()?, sink: sink.try_clone().ok()? })
        };
        let mut state = self.state();
        let is_over = state.is_over;
        let found = state.wires.get_mut(&wire)?;
        found.ends.push(acceptor.try_clone().ok()?);
        let between = found.between;
        let there = flow(between, dialler, acceptor)?;
        let back = flow((between.1, between.0), acceptor, dialler)?;
        if let Some(records) = &mut state.records {
            records.insert(between, Vec::new());
            records.insert((between.1, between.0), Vec::new());
        }
        if is_over {
            return None;
        }
        let found = state.wires.get_mut(&wire)?;
        found.carriers += 1;
        Some((there, back))
    }

    fn flow(&self, mut flow: Flow, first: Vec<u8>) {
        let mut bytes = first;
        let mut buffer = vec![0; BUFFER_BYTES];
        while self.pass(flow.pair) {
            self.note(flow.pair, &bytes);
            if flow.sink.write_all(&bytes).is_err() {
                break;
            }
            bytes.clear();
            match flow.source.read(&mut buffer) {
                Ok(0) => {
                    if self.pass(flow.pair) && flow.sink.shutdown(Shutdown::Write).is_ok() {
                        return;
                    }
                    break;
                }
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // That it is over is news as well, and goes to each side by the rule of its direction.
        self.pass(flow.pair);
        let _ = flow.sink.shutdown(Shutdown::Both);
        self.pass((flow.pair.1, flow.pair.0));
        let _ = flow.source.shutdown(Shutdown::Both);
    }

    /// Waits as long as the pair is held. False: nothing passes any more.
    fn pass(&self, pair: Pair) -> bool {
        let mut state = self.state();
        let mut due = None;
        loop {
            if state.is_over {
                return false;
            }
            match state.rules.get(&pair).copied().unwrap_or(Rule::Pass) {
                Rule::Pass => return true,
                Rule::Cut => return false,
                Rule::Hold => state = self.changed.wait(state).unwrap(),
                Rule::Delay(by) => {
                    let due = *due.get_or_insert_with(|| Instant::now() + by);
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    state = self.changed.wait_timeout(state, left).unwrap().0;
                }
            }
        }
    }

    fn note(&self, pair: Pair, bytes: &[u8]) {
        let mut state = self.state();
        if let Some(record) = state.records.as_mut().and_then(|records| records.get_mut(&pair)) {
            let room = RECORD_BYTES_MAX - record.len();
            record.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

/// Reads up to the end of the first frame, or of what can be none, and says who speaks. None: nothing came.
fn introduce(dialler: &mut TcpStream, first: &mut Vec<u8>) -> Option<u32> {
    let mut part = [0; HELLO_BYTES_MAX as usize];
    loop {
        match frame::split(first, HELLO_BYTES_MAX) {
            Ok(Some(frame)) => return Some(speaker(&frame)),
            Err(_) => return Some(CLIENT),
            Ok(None) => {}
        }
        match dialler.read(&mut part) {
            Ok(0) if first.is_empty() => return None,
            Ok(0) => return Some(CLIENT),
            Ok(length) => first.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn speaker(frame: &frame::Frame<'_>) -> u32 {
    match PeerFrame::decode(frame) {
        Ok(PeerFrame::PeerHello(hello)) => hello.node,
        Ok(PeerFrame::FormHello(card)) => card.node,
        _ => CLIENT,
    }
}

#[cfg(test)]
mod tests;
