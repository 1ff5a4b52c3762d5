//! What leaves the shard for its clients, collected until the end of the turn.
//!
//! Lives inside the shard. Frames are written straight into each connection's outgoing bytes; the runtime
//! takes them once a turn, so the replies of one turn leave in one write per connection.

use crate::config::Limits;
use crate::connection::{Connection, ConnectionId, Connections, Stage};
use crate::outgoing::Outgoing;
use crate::queue::consumer::ConsumerId;
use crate::reply::Reason;
use bytes::Bytes;
use ringmain_net::frame;
use ringmain_net::peer::{PeerCode, PeerRefused};
use ringmain_net::protocol::{Closing, Code, ConsumerEnded, Words};
use ringmain_replication::HEARTBEAT_TICKS;

pub(crate) struct Outbox {
    pub(crate) connections: Connections,

    /// Connections with bytes to be taken, each once.
    pub(crate) dirty: Vec<ConnectionId>,
    /// Connections to be closed once their bytes are sent, each once.
    pub(crate) closing: Vec<ConnectionId>,
    /// Connections to be closed at once, each once.
    pub(crate) cut: Vec<ConnectionId>,
    /// Peers with words that may wait, each once, and how many ticks these have left.
    waiting: Vec<(ConnectionId, usize)>,
}

/// What may wait for company leaves alone after so many ticks: a node that leads sends heartbeats more often than that.
const WAIT_TICKS: usize = HEARTBEAT_TICKS + 1;

impl Outbox {
    pub(crate) fn new(limits: &Limits) -> Self {
        let connections = Connections::new(limits);
        Self { connections, dirty: Vec::new(), closing: Vec::new(), cut: Vec::new(), waiting: Vec::new() }
    }

    /// Appends one frame without a body; a connection that is gone gets nothing.
    pub(crate) fn send<W: Words>(&mut self, to: ConnectionId, request: u64, words: &W) {
        if let Some(out) = self.outgoing(to) {
            frame::encode(out, request, words, &[]);
        }
    }

    /// Where frames for this connection are appended; `None` if it is gone or going.
    pub(crate) fn outgoing(&mut self, to: ConnectionId) -> Option<&mut Vec<u8>> {
        let connection = self.connections.get_mut(to)?;
        if connection.is_ending() {
            return None;
        }
        mark(connection, &mut self.dirty, to);
        Some(connection.outgoing.written())
    }

    /// Appends one frame for a peer, before everything that has a payload.
    pub(crate) fn send_urgent<W: Words>(&mut self, to: ConnectionId, words: &W) {
        if let Some(connection) = self.peer(to) {
            frame::encode(connection.urgent().written(), 0, words, &[]);
        }
    }

    /// Appends one frame for a peer, written by `write`, to the lane it belongs to.
    pub(crate) fn send_peer(&mut self, to: ConnectionId, is_urgent: bool, write: impl FnOnce(&mut Outgoing)) {
        let Some(connection) = self.peer(to) else { return };
        if is_urgent {
            write(connection.urgent());
        } else {
            write(&mut connection.outgoing);
            connection.end_frame();
        }
    }

    /// Appends one frame for a peer, behind others; a large body is sent from where it lies.
    pub(crate) fn send_bulk<W: Words>(&mut self, to: ConnectionId, words: &W, body: Bytes) {
        self.send_peer(to, false, |out| out.append_frame(words, body));
    }

    /// Appends one frame for a peer that leaves with the next one, or some ticks later: what it says is worth no message, and no
    /// wake-up at the other end.
    pub(crate) fn send_along(&mut self, to: ConnectionId, write: impl FnOnce(&mut Outgoing)) {
        let connection = self.connections.get_mut(to);
        let Some(connection) = connection.filter(|connection| connection.stage == Stage::Peer) else {
            return;
        };
        write(connection.urgent());
        if !self.waiting.iter().any(|(waiting, _)| *waiting == to) {
            self.waiting.push((to, WAIT_TICKS));
        }
    }

    /// Time has passed for what waits.
    pub(crate) fn tick(&mut self) {
        let Self { connections, dirty, waiting, .. } = self;
        waiting.retain_mut(|(id, ticks)| {
            // Gone with something else.
            let Some(connection) = connections.get_mut(*id).filter(|connection| connection.has_outgoing())
            else {
                return false;
            };
            *ticks -= 1;
            if *ticks == 0 {
                mark(connection, dirty, *id);
            }
            *ticks != 0
        });
    }

    fn peer(&mut self, to: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(to).filter(|connection| connection.stage == Stage::Peer)?;
        mark(connection, &mut self.dirty, to);
        Some(connection)
    }

    /// Tells a peer why it is not talked to, and closes.
    pub(crate) fn refuse_peer(&mut self, id: ConnectionId, code: PeerCode, detail: &str) {
        let refused = PeerRefused { code: code as u16, detail };
        let is_peer = self.connections.get(id).is_some_and(|connection| connection.stage == Stage::Peer);
        if is_peer {
            self.send_urgent(id, &refused);
        } else {
            self.send(id, 0, &refused);
        }
        self.drop_connection(id);
    }

    /// Closes without a word: whoever is there will notice.
    pub(crate) fn drop_connection(&mut self, id: ConnectionId) {
        if self.connections.end(id) {
            self.closing.push(id);
        }
    }

    /// Gives whoever has just come a seat, if need be that of somebody else, who is told so if there is time.
    pub(crate) fn make_seat(&mut self) {
        while let Some(id) = self.connections.least_needed() {
            self.send(id, 0, &Closing { code: Code::TooMany as u16, detail: "others wait for this seat" });
            self.connections.cut(id);
            self.cut.push(id);
        }
    }

    /// These consumers have ended, and are told why.
    pub(crate) fn tell_ended(&mut self, ended: &[(ConnectionId, ConsumerId)], (code, detail): Reason) {
        for (connection, consumer) in ended {
            let words = ConsumerEnded { consumer: consumer.0, code: code as u16, detail };
            self.send(*connection, 0, &words);
        }
    }

    /// Says why and closes: nothing more is read from or sent to this connection.
    pub(crate) fn close(&mut self, id: ConnectionId, code: Code, detail: &str) {
        let is_peer = self.connections.get(id).is_some_and(|connection| connection.stage == Stage::Peer);
        if is_peer {
            let code = if code == Code::ShuttingDown { PeerCode::Busy } else { PeerCode::Malformed };
            self.refuse_peer(id, code, detail);
            return;
        }
        self.send(id, 0, &Closing { code: code as u16, detail });
        self.drop_connection(id);
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(id)
    }
}

/// Its bytes are to be taken at the end of this turn.
fn mark(connection: &mut Connection, dirty: &mut Vec<ConnectionId>, id: ConnectionId) {
    if !connection.dirty {
        connection.dirty = true;
        dirty.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    const PEER: ConnectionId = ConnectionId(1);

    fn outbox() -> Outbox {
        let mut outbox = Outbox::new(&Limits::default());
        outbox.connections.insert(PEER, Time(0));
        outbox.connections.greet_peer(PEER);
        outbox.send_along(PEER, |out| out.written().extend([7; 10]));
        outbox
    }

    fn take(outbox: &mut Outbox) -> usize {
        outbox.dirty.clear();
        let mut out = Outgoing::default();
        outbox.connections.get_mut(PEER).unwrap().take(&mut out);
        out.bytes()
    }

    #[test]
    fn what_may_wait_leaves_alone_in_the_end() {
        let mut outbox = outbox();
        (1..WAIT_TICKS).for_each(|_| outbox.tick());
        assert!(outbox.dirty.is_empty());
        outbox.tick();
        assert_eq!(outbox.dirty, [PEER]);
        assert_eq!(take(&mut outbox), 10);
        outbox.tick();
        assert!(outbox.dirty.is_empty());
    }

    #[test]
    fn what_may_wait_leaves_with_what_is_sent_next() {
        let mut outbox = outbox();
        let refused = PeerRefused { code: PeerCode::Busy as u16, detail: "" };
        outbox.send_urgent(PEER, &refused);
        assert_eq!(outbox.dirty, [PEER]);
        assert!(10 < take(&mut outbox));
        (0..WAIT_TICKS).for_each(|_| outbox.tick());
        assert!(outbox.dirty.is_empty());
    }

    #[test]
    fn what_waited_for_a_peer_that_is_gone_is_forgotten() {
        let mut outbox = outbox();
        outbox.connections.remove(PEER);
        outbox.tick();
        assert!(outbox.waiting.is_empty());
    }
}
