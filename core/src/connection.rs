//! The shard's side of its connections, to clients and to peers: what was said, what waits to be sent, and until when.
//!
//! Lives inside the shard, on its thread. No socket is named here: the runtime carries the bytes.
//! Invariant: outgoing + handed ≤ OUTGOING_BYTES_MAX + one frame, because a connection above the
//! limit is neither read from nor delivered to. A peer is always read from, or two of them could wait for each other;
//! what is kept for it is bounded by whoever sends.
//!
//! Every connection has a seat, and so does whoever comes: among too many, one goes whose end costs least. Clients are
//! counted when they say hello, so that a peer, which nobody can tell before it has spoken, gets as far as that.
//! Invariant: clients ≤ connections_max, peers ≤ PEERS_MAX and dials; so with more connections than seats some are neither.

use crate::config::{Limits, PEERS_MAX};
use crate::outgoing::Outgoing;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use crate::queue::consumer::ConnectionId;

/// Above this many unsent bytes a connection is not read from and gets no deliveries.
pub const OUTGOING_BYTES_MAX: usize = 1 << 20;
/// Of a peer's frames, handed to the kernel at once; a single larger frame goes whole.
const PEER_TAKE_BYTES: usize = 256 << 10;
/// Of what was taken from a peer's frames, so much is kept at least before what is behind it moves forward.
const TAKEN_BYTES_MIN: usize = 64 << 10;
/// Sessions of one connection: more producers than this share no connection.
const REFUSED_MAX: usize = 4096;

/// How far the handshake has come.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    AwaitingHello,
    Open,
    /// A node of the cluster: its first frame said so, or we dialled it.
    Peer,
    /// Told why and about to be closed; nothing more is read.
    Closing,
    /// Its seat is somebody else's: it ends at once, whatever it has not heard.
    Cut,
}

pub(crate) struct Connection {
    pub(crate) stage: Stage,
    /// Sessions of which a publish was refused because another node leads, and the sequence behind it: what follows
    /// without a gap must be refused too, or it would overtake.
    refused: BTreeMap<u64, u64>,
    /// Frames not yet taken by the runtime.
    pub(crate) outgoing: Outgoing,
    /// Of a peer: frames that go before those in `outgoing`.
    urgent: Outgoing,
    /// Of a peer: where frames end in what is written of `outgoing`, ascending, and how much of that was taken.
    ends: VecDeque<usize>,
    taken: usize,
    /// Bytes taken by the runtime and not yet reported as sent.
    pub(crate) handed: usize,
    /// Its next frame waits for room in the shard; the runtime offers the same bytes again on resume.
    pub(crate) paused: bool,
    /// Dispatching passes it over until its unsent bytes shrink.
    pub(crate) choked: bool,
    /// Listed among the connections whose bytes should leave at the end of this turn.
    pub(crate) dirty: bool,
    /// When the hello or the frame under way must be complete.
    deadline: Option<Time>,
}

impl Connection {
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.bytes() - self.taken + self.urgent.bytes() + self.handed
    }

    /// A publish of this session was refused because another node leads.
    pub(crate) fn note_refused(&mut self, session: u64, sequence: u64) {
        if self.refused.len() == REFUSED_MAX {
            self.refused.pop_first();
        }
        self.refused.insert(session, sequence + 1);
    }

    /// Whether this publish follows on one that was refused. One that does not begins the session's window anew.
    pub(crate) fn follows_refused(&mut self, session: u64, sequence: u64) -> bool {
        let follows = self.refused.get(&session).is_some_and(|next| *next == sequence);
        if !follows {
            self.refused.remove(&session);
        }
        follows
    }

    /// Where frames for a peer are appended that wait for none but their like.
    pub(crate) fn urgent(&mut self) -> &mut Outgoing {
        assert_eq!(self.stage, Stage::Peer);
        &mut self.urgent
    }

    /// A whole frame for a peer was appended to `outgoing`.
    pub(crate) fn end_frame(&mut self) {
        assert_eq!(self.stage, Stage::Peer);
        self.ends.push_back(self.outgoing.written_bytes());
    }

    /// There is something that the runtime has not taken.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.taken < self.outgoing.bytes() || !self.urgent.is_empty()
    }

    /// Moves what is to be sent next into `out`, which is empty: everything, or of a peer's frames only so many that
    /// what is urgent later does not wait behind them.
    pub(crate) fn take(&mut self, out: &mut Outgoing) {
        assert!(out.is_empty());
        self.dirty = false;
        let is_short = self.outgoing.bytes() - self.taken <= PEER_TAKE_BYTES;
        if self.ends.is_empty() || (is_short && self.taken == 0 && self.urgent.is_empty()) {
            assert!(self.urgent.is_empty() || self.outgoing.is_empty());
            if self.outgoing.is_empty() {
                std::mem::swap(&mut self.urgent, out);
            } else {
                std::mem::swap(&mut self.outgoing, out);
            }
            self.ends.clear();
            self.handed += out.bytes();
            return;
        }
        self.urgent.move_all(out);
        let urgent_bytes = out.bytes();
        while let Some(end) = self.ends.pop_front() {
            self.outgoing.move_between(self.taken, end, out);
            self.taken = end;
            if PEER_TAKE_BYTES <= out.bytes() - urgent_bytes {
                break;
            }
        }
        self.forget_taken();
        self.handed += out.bytes();
    }

    /// Gives back the room of what was taken, but not after each time: what is behind it has to move.
    fn forget_taken(&mut self) {
        let written = self.outgoing.written_bytes();
        if self.taken == written {
            assert!(self.ends.is_empty());
            self.outgoing.clear();
            self.taken = 0;
        } else if TAKEN_BYTES_MIN.max(written / 2) <= self.taken {
            self.outgoing.forget(self.taken);
            self.ends.iter_mut().for_each(|end| *end -= self.taken);
            self.taken = 0;
        }
    }

    /// Nothing more is said or heard.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Closing | Stage::Cut)
    }

    pub(crate) fn is_choked(&self) -> bool {
        self.is_choked_with(0)
    }

    /// Whether it would be, with so many more bytes.
    pub(crate) fn is_choked_with(&self, bytes: usize) -> bool {
        OUTGOING_BYTES_MAX <= self.unsent() + bytes
    }
}

/// All connections of one shard, and the deadlines of those that owe bytes.
pub(crate) struct Connections {
    /// From the connection to its whole hello.
    hello_ns: u64,
    /// From a frame's first byte to its last.
    frame_ns: u64,

    clients_max: usize,
    /// Of all stages but `Cut`.
    seats_max: usize,

    open: BTreeMap<ConnectionId, Connection>,
    deadlines: BTreeSet<(Time, ConnectionId)>,
    /// Those that await a hello, and those that are closing. Ids rise: the first has been here longest.
    strangers: BTreeSet<ConnectionId>,
    closing: BTreeSet<ConnectionId>,
    /// Of `open`, by stage. Invariant: clients ≤ clients_max.
    clients: usize,
    peers: usize,
}

impl Connections {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            hello_ns: limits.hello_timeout.0.as_nanos() as u64,
            frame_ns: limits.frame_timeout.0.as_nanos() as u64,
            clients_max: limits.connections_max as usize,
            seats_max: limits.seats_max() as usize,
            open: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            strangers: BTreeSet::new(),
            closing: BTreeSet::new(),
            clients: 0,
            peers: 0,
        }
    }

    pub(crate) fn insert(&mut self, id: ConnectionId, now: Time) {
        let deadline = now.after_ns(self.hello_ns);
        let previous = self.open.insert(
            id,
            Connection {
                stage: Stage::AwaitingHello,
                refused: BTreeMap::new(),
                outgoing: Outgoing::default(),
                urgent: Outgoing::default(),
                ends: VecDeque::new(),
                taken: 0,
                handed: 0,
                paused: false,
                choked: false,
                dirty: false,
                deadline: Some(deadline),
            },
        );
        assert!(previous.is_none(), "connection ids are never reused");
        self.deadlines.insert((deadline, id));
        self.enter(id, Stage::AwaitingHello);
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.open.remove(&id)?;
        self.leave(id, connection.stage);
        if let Some(deadline) = connection.deadline {
            let was_listed = self.deadlines.remove(&(deadline, id));
            assert!(was_listed);
        }
        Some(connection)
    }

    /// Its hello was good.
    pub(crate) fn greet(&mut self, id: ConnectionId) {
        assert!(self.has_room_for_client());
        self.disarm(id);
        if let Some(before) = self.move_to(id, Stage::Open) {
            assert_eq!(before, Stage::AwaitingHello);
        }
    }

    /// It is a peer's.
    pub(crate) fn greet_peer(&mut self, id: ConnectionId) {
        self.disarm(id);
        if let Some(before) = self.move_to(id, Stage::Peer) {
            assert_eq!(before, Stage::AwaitingHello);
        }
    }

    /// It is told nothing more. False: it is ending already.
    pub(crate) fn end(&mut self, id: ConnectionId) -> bool {
        self.disarm(id);
        let is_there = self.open.get(&id).is_some_and(|one| !one.is_ending());
        if is_there {
            self.move_to(id, Stage::Closing);
        }
        is_there
    }

    /// Of too many connections the one that is to go: one that is ending anyway, or the stranger who has been here longest.
    pub(crate) fn least_needed(&self) -> Option<ConnectionId> {
        let seated = self.strangers.len() + self.closing.len() + self.clients + self.peers;
        let ends_first = self.closing.first().or(self.strangers.first());
        ends_first.copied().filter(|_| self.seats_max < seated)
    }

    pub(crate) fn cut(&mut self, id: ConnectionId) {
        self.disarm(id);
        self.move_to(id, Stage::Cut);
    }

    pub(crate) fn has_room_for_client(&self) -> bool {
        self.clients < self.clients_max
    }

    /// Whoever calls in the name of more nodes than there can be takes nobody else's seat.
    pub(crate) fn has_room_for_peer(&self) -> bool {
        self.peers < PEERS_MAX as usize
    }

    /// Answers the stage before.
    fn move_to(&mut self, id: ConnectionId, stage: Stage) -> Option<Stage> {
        let connection = self.open.get_mut(&id)?;
        let before = std::mem::replace(&mut connection.stage, stage);
        self.leave(id, before);
        self.enter(id, stage);
        Some(before)
    }

    fn enter(&mut self, id: ConnectionId, stage: Stage) {
        let is_new = match stage {
            Stage::AwaitingHello => self.strangers.insert(id),
            Stage::Closing => self.closing.insert(id),
            Stage::Open => {
                self.clients += 1;
                true
            }
            Stage::Peer => {
                self.peers += 1;
                true
            }
            Stage::Cut => true,
        };
        assert!(is_new);
    }

    fn leave(&mut self, id: ConnectionId, stage: Stage) {
        let was_there = match stage {
            Stage::AwaitingHello => self.strangers.remove(&id),
            Stage::Closing => self.closing.remove(&id),
            Stage::Open => {
                self.clients -= 1;
                true
            }
            Stage::Peer => {
                self.peers -= 1;
                true
            }
            Stage::Cut => true,
        };
        assert!(was_there);
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.open.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.open.get_mut(&id)
    }

    /// The frame under way must be complete by the deadline; the first call of a frame counts.
    pub(crate) fn arm(&mut self, id: ConnectionId, now: Time) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        if connection.deadline.is_none() {
            let deadline = now.after_ns(self.frame_ns);
            connection.deadline = Some(deadline);
            self.deadlines.insert((deadline, id));
        }
    }

    /// Nothing is owed: every frame begun was finished.
    pub(crate) fn disarm(&mut self, id: ConnectionId) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        if let Some(deadline) = connection.deadline.take() {
            self.deadlines.remove(&(deadline, id));
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.open.keys().copied()
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// One connection whose deadline has passed, if any; it is no longer listed afterwards.
    pub(crate) fn pop_overdue(&mut self, now: Time) -> Option<ConnectionId> {
        let (deadline, id) = *self.deadlines.first()?;
        if now < deadline {
            return None;
        }
        self.disarm(id);
        Some(id)
    }

    pub(crate) fn check(&self) {
        let owing = self.open.values().filter(|connection| connection.deadline.is_some()).count();
        assert_eq!(owing, self.deadlines.len());
        let mut counts = [0; 4];
        for (id, connection) in &self.open {
            match connection.stage {
                Stage::AwaitingHello => {
                    assert!(connection.deadline.is_some());
                    assert!(self.strangers.contains(id));
                    counts[0] += 1;
                }
                Stage::Closing => {
                    assert!(self.closing.contains(id));
                    counts[1] += 1;
                }
                Stage::Open => counts[2] += 1,
                Stage::Peer => counts[3] += 1,
                Stage::Cut => assert!(connection.deadline.is_none()),
            }
        }
        assert_eq!(counts, [self.strangers.len(), self.closing.len(), self.clients, self.peers]);
        assert!(self.clients <= self.clients_max);
        assert!(self.least_needed().is_none());
    }
}

#[cfg(test)]
mod tests;
