//! The sending side: an image of the state, and a walk over its messages.

use super::{PARTS_IN_FLIGHT_MAX, PAYLOADS_BYTES_MAX, PAYLOADS_IN_FLIGHT_MAX, SILENCE_MAX_NS, UNSENT_MAX};
use crate::checkpoint::{Checkpoint, PART_BYTES_MAX, Walk};
use crate::command::StoredMessage;
use crate::connection::ConnectionId;
use crate::dispatch::rot;
use crate::failure::Failure;
use crate::group::Turn;
use crate::peers::Peers;
use crate::readback::{ReadWindow, Readback, Reader};
use crate::time::Time;
use ringmain_net::frame;
use ringmain_net::peer::{
    PeerCode, TransferAborted, TransferAck, TransferBegin, TransferPart, TransferPayloads,
};
use ringmain_replication::Offer;
use ringmain_wal::{GroupId, Index, Term};

/// Between whom, and which transfer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) cluster: u64,
    pub(crate) group: GroupId,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) transfer: u64,
}

pub(crate) struct Source {
    route: Route,
    index: Index,
    term: Term,
    conf_state: Vec<u8>,
    /// What goes into `Begin`: who votes, and where they are.
    membership: Vec<u8>,

    stage: Stage,
    image: Checkpoint,
    walk: Walk,
    parts: Sent,
    payloads: Sent,
    /// Messages collected for the next frame.
    collected: Vec<u8>,
    collected_count: u32,
    is_reading: bool,
    /// Over which it has begun.
    bulk: Option<ConnectionId>,
    /// When the target last gave a sign.
    heard: Time,
}

#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Begin,
    Parts,
    Payloads,
    /// Everything was sent; the target is to say that it is durable.
    Sent,
    /// It is the engine's turn.
    Offered,
}

/// Frames of one kind. Invariant: acknowledged ≤ sent.
#[derive(Copy, Clone, Default, Debug)]
struct Sent {
    sent: u32,
    acknowledged: u32,
}

impl Sent {
    fn in_flight(self) -> u32 {
        self.sent - self.acknowledged
    }

    fn acknowledge(&mut self, to: u32) {
        self.acknowledged = self.acknowledged.max(to.min(self.sent));
    }
}

/// What a source works with, beside its turn.
pub(crate) struct Supply<'a> {
    pub(crate) readback: &'a mut Readback,
    /// Who waits for what is read.
    pub(crate) reader: Reader,
}

impl Source {
    /// `membership` is what the state's checkpoint says of the members, `conf_state` the engine's part of it.
    pub(crate) fn new(
        route: Route,
        image: Checkpoint,
        (conf_state, membership): (Vec<u8>, Vec<u8>),
        now: Time,
    ) -> Self {
        Self {
            route,
            index: image.index(),
            term: image.term(),
            conf_state,
            membership,
            stage: Stage::Begin,
            walk: image.walk(),
            image,
            parts: Sent::default(),
            payloads: Sent::default(),
            collected: Vec::new(),
            collected_count: 0,
            is_reading: false,
            bulk: None,
            heard: now,
        }
    }

    pub(crate) fn to(&self) -> u64 {
        self.route.to
    }

    pub(crate) fn transfer(&self) -> u64 {
        self.route.transfer
    }

    pub(crate) fn index(&self) -> Index {
        self.index
    }

    /// The log must keep what the image names.
    pub(crate) fn needs_log(&self) -> bool {
        self.stage < Stage::Sent
    }

    pub(crate) fn is_overdue(&self, now: Time) -> bool {
        self.heard.after_ns(SILENCE_MAX_NS) <= now
    }

    /// What was sent went over a connection that is no more.
    pub(crate) fn is_cut_off(&self, peers: &Peers) -> bool {
        let Some(bulk) = self.bulk.filter(|_| self.stage < Stage::Offered) else { return false };
        peers.bulk_to(self.route.to).is_none_or(|up| up.connection != bulk)
    }

    pub(crate) fn on_ack(&mut self, ack: &TransferAck, now: Time) {
        self.parts.acknowledge(ack.to_part);
        self.payloads.acknowledge(ack.to_payload);
        self.heard = now;
    }

    /// Everything is durable at the target: what the engine may offer it now.
    pub(crate) fn on_staged(&mut self, now: Time) -> Offer {
        self.stage = Stage::Offered;
        self.heard = now;
        let conf_state = self.conf_state.clone();
        Offer { transfer: self.route.transfer, index: self.index, term: self.term, conf_state }
    }

    pub(crate) fn on_read(&mut self) {
        self.is_reading = false;
    }

    /// Tells the target that nothing will come of it, behind what it was told before.
    pub(crate) fn abort(&self, turn: &mut Turn<'_>, detail: &str) {
        let Some(up) = turn.peers.bulk_to(self.route.to) else { return };
        let Route { cluster, group, from, to, transfer } = self.route;
        let code = PeerCode::Busy as u16;
        let words = TransferAborted { cluster, group: group.0, from, to, transfer, code, detail };
        turn.outbox.send_peer(up.connection, false, |out| _ = frame::encode(out, 0, &words, &[]));
    }

    /// Sends what may be sent now; answers a read to issue.
    pub(crate) fn advance(
        &mut self,
        turn: &mut Turn<'_>,
        supply: &mut Supply<'_>,
    ) -> Result<Option<ReadWindow>, Failure> {
        let Some(up) = turn.peers.bulk_to(self.route.to) else { return Ok(None) };
        if self.is_cut_off(turn.peers) {
            return Ok(None);
        }
        loop {
            let unsent = turn.outbox.connection(up.connection).map_or(0, |connection| connection.unsent());
            if UNSENT_MAX <= unsent {
                return Ok(None);
            }
            match self.stage {
                Stage::Begin => self.send_begin(turn, up.connection),
                Stage::Parts if self.parts.in_flight() < PARTS_IN_FLIGHT_MAX => {
                    self.send_part(turn, up.connection);
                }
                Stage::Payloads if self.payloads.in_flight() < PAYLOADS_IN_FLIGHT_MAX && !self.is_reading => {
                    if let Some(read) = self.collect(turn, supply)? {
                        return Ok(Some(read));
                    }
                    if self.is_reading {
                        return Ok(None);
                    }
                    self.send_payloads(turn, up.connection);
                }
                Stage::Parts | Stage::Payloads | Stage::Sent | Stage::Offered => return Ok(None),
            }
        }
    }

    fn send_begin(&mut self, turn: &mut Turn<'_>, to: ConnectionId) {
        let Route { cluster, group, from, to: replica, transfer } = self.route;
        let (index, term) = (self.index.0, self.term.0);
        let begin =
            TransferBegin { cluster, group: group.0, from, to: replica, transfer, index, term, parts: 0 };
        let membership = &self.membership;
        turn.outbox.send_peer(to, false, |out| _ = frame::encode(out, 0, &begin, &[membership]));
        (self.stage, self.bulk) = (Stage::Parts, Some(to));
    }

    fn send_part(&mut self, turn: &mut Turn<'_>, to: ConnectionId) {
        let Route { cluster, group, from, to: replica, transfer } = self.route;
        let mut bytes = Vec::with_capacity(PART_BYTES_MAX);
        let is_last = self.image.encode_some(&mut bytes, PART_BYTES_MAX);
        let number = self.parts.sent;
        let part = TransferPart { cluster, group: group.0, from, to: replica, transfer, number, is_last };
        turn.outbox.send_peer(to, false, |out| _ = frame::encode(out, 0, &part, &[&bytes]));
        self.parts.sent += 1;
        if is_last {
            self.stage = Stage::Payloads;
        }
    }

    /// Collects messages for a frame until it is full or there are no more, or one of them must be read from disk: then
    /// `is_reading`, and the read to issue unless another reader has asked for the same.
    fn collect(
        &mut self,
        turn: &mut Turn<'_>,
        supply: &mut Supply<'_>,
    ) -> Result<Option<ReadWindow>, Failure> {
        while let Some((queue, position, bytes)) = self.walk.peek() {
            let is_full = PAYLOADS_BYTES_MAX < self.collected.len() + bytes as usize;
            if is_full && self.collected_count > 0 {
                return Ok(None);
            }
            let Some(stored) = turn.log.read(position, bytes as usize) else {
                self.is_reading = true;
                let end = turn.log.durable_end();
                return Ok(supply.readback.request(supply.reader, (position, bytes), end));
            };
            if StoredMessage::parse(stored, queue).is_err() {
                return Err(rot(position, bytes, turn.log));
            }
            self.collected.extend_from_slice(stored);
            self.collected_count += 1;
            self.walk.advance();
        }
        Ok(None)
    }

    fn send_payloads(&mut self, turn: &mut Turn<'_>, to: ConnectionId) {
        let Route { cluster, group, from, to: replica, transfer } = self.route;
        let is_last = self.walk.peek().is_none();
        let (number, messages) = (self.payloads.sent, self.collected_count);
        let payloads = TransferPayloads {
            cluster,
            group: group.0,
            from,
            to: replica,
            transfer,
            number,
            messages,
            is_last,
        };
        let collected = &self.collected;
        turn.outbox.send_peer(to, false, |out| _ = frame::encode(out, 0, &payloads, &[collected]));
        self.collected.clear();
        self.collected_count = 0;
        self.payloads.sent += 1;
        if is_last {
            self.stage = Stage::Sent;
        }
    }
}
