//! The sending side: an image of the state, and a walk over its messages.

use super::{
    AHEAD_BYTES_MAX, FRAMES_PER_TURN, FRAMES_PER_TURN_BUSY, PARTS_IN_FLIGHT_MAX, PAYLOADS_BYTES_MAX,
    READS_AHEAD_MAX, SILENCE_MAX_NS, UNSENT_MAX,
};
use crate::checkpoint::{Checkpoint, PART_BYTES_MAX, Walk};
use crate::command::StoredMessage;
use crate::connection::ConnectionId;
use crate::dispatch::rot;
use crate::failure::Failure;
use crate::group::Turn;
use crate::pace::Help;
use crate::peers::Peers;
use crate::readback::{ReadWindow, Reader};
use crate::time::Time;
use bytes::Bytes;
use ringmain_net::peer::{
    PeerCode, TransferAborted, TransferAck, TransferBegin, TransferPart, TransferPayloads,
};
use ringmain_replication::Offer;
use ringmain_wal::{GroupId, Index, Log, Term};
use std::collections::VecDeque;

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
    payloads_sent: u32,
    /// Of the frames of messages that are not acknowledged, in their order, and their sum.
    in_flight: VecDeque<u64>,
    in_flight_bytes: u64,
    /// Messages collected for the next frame.
    collected: Vec<u8>,
    collected_count: u32,
    ahead: Ahead,
    /// Over which it has begun.
    bulk: Option<ConnectionId>,
    /// When the target last gave a sign.
    heard: Time,
}

/// What is read before it is needed.
struct Ahead {
    walk: Walk,
    /// Between the messages that were sent and this walk; below zero: it is behind them.
    bytes: i64,
    /// Reads that were asked for and are not back.
    reads: u32,
}

/// Of the log's memory, so much is read ahead at most: what is needed next must not be pushed out by what comes after it.
const AHEAD_SHARE: u64 = 16;

fn is_missing(walk: &mut Walk, log: &Log) -> bool {
    walk.peek().is_some_and(|(_, position, bytes)| log.read(position, bytes as usize).is_none())
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
    /// Who waits for what is read.
    pub(crate) reader: Reader,
    pub(crate) help: Help,
    /// Reads to issue.
    pub(crate) reads: &'a mut Vec<ReadWindow>,
    /// Somebody waits for an answer that the shard works on.
    pub(crate) is_busy: bool,
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
            ahead: Ahead { walk: image.walk(), bytes: 0, reads: 0 },
            image,
            parts: Sent::default(),
            payloads_sent: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            collected: Vec::new(),
            collected_count: 0,
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
        let open = self.payloads_sent.saturating_sub(ack.to_payload) as usize;
        let durable = self.in_flight.drain(..self.in_flight.len().saturating_sub(open));
        self.in_flight_bytes -= durable.sum::<u64>();
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
        self.ahead.reads = self.ahead.reads.saturating_sub(1);
    }

    /// Tells the target that nothing will come of it, behind what it was told before.
    pub(crate) fn abort(&self, turn: &mut Turn<'_>, detail: &str) {
        let Some(up) = turn.peers.bulk_to(self.route.to) else { return };
        let Route { cluster, group, from, to, transfer } = self.route;
        let code = PeerCode::Busy as u16;
        let words = TransferAborted { cluster, group: group.0, from, to, transfer, code, detail };
        turn.outbox.send_bulk(up.connection, &words, Bytes::new());
    }

    /// Sends a turn's share of what may be sent now, and says whether there is more.
    pub(crate) fn advance(&mut self, turn: &mut Turn<'_>, supply: &mut Supply<'_>) -> Result<bool, Failure> {
        let Some(up) = turn.peers.bulk_to(self.route.to) else { return Ok(false) };
        let unsent = turn.outbox.connection(up.connection).map_or(0, |connection| connection.unsent());
        if UNSENT_MAX <= unsent || self.is_cut_off(turn.peers) {
            return Ok(false);
        }
        if self.stage == Stage::Begin {
            self.send_begin(turn, up.connection);
        }
        let frames = if supply.is_busy { FRAMES_PER_TURN_BUSY } else { FRAMES_PER_TURN };
        for _ in 0..frames {
            match self.stage {
                Stage::Parts if self.parts.in_flight() < PARTS_IN_FLIGHT_MAX => {
                    self.send_part(turn, up.connection);
                }
                Stage::Payloads
                    if self.in_flight_bytes < turn.pace.window_bytes()
                        && turn.pace.may_help(supply.help, turn.now) =>
                {
                    let is_there = self.collect(turn.log)?;
                    self.read_ahead(turn, supply);
                    if !is_there {
                        return Ok(false);
                    }
                    turn.pace.on_help(turn.now);
                    self.send_payloads(turn, up.connection);
                }
                Stage::Begin | Stage::Parts | Stage::Payloads | Stage::Sent | Stage::Offered => {
                    return Ok(false);
                }
            }
        }
        Ok(self.stage < Stage::Sent)
    }

    fn send_begin(&mut self, turn: &mut Turn<'_>, to: ConnectionId) {
        let Route { cluster, group, from, to: replica, transfer } = self.route;
        let (index, term) = (self.index.0, self.term.0);
        let begin =
            TransferBegin { cluster, group: group.0, from, to: replica, transfer, index, term, parts: 0 };
        turn.outbox.send_bulk(to, &begin, Bytes::copy_from_slice(&self.membership));
        (self.stage, self.bulk) = (Stage::Parts, Some(to));
    }

    fn send_part(&mut self, turn: &mut Turn<'_>, to: ConnectionId) {
        let Route { cluster, group, from, to: replica, transfer } = self.route;
        let mut bytes = Vec::with_capacity(PART_BYTES_MAX);
        let is_last = self.image.encode_some(&mut bytes, PART_BYTES_MAX);
        let number = self.parts.sent;
        let part = TransferPart { cluster, group: group.0, from, to: replica, transfer, number, is_last };
        turn.outbox.send_bulk(to, &part, Bytes::from(bytes));
        self.parts.sent += 1;
        if is_last {
            self.stage = Stage::Payloads;
        }
    }

    /// Collects messages for a frame. False: it is not full, there are more, and the next must be read from disk first.
    fn collect(&mut self, log: &Log) -> Result<bool, Failure> {
        while let Some((queue, position, bytes)) = self.walk.peek() {
            let is_full = PAYLOADS_BYTES_MAX < self.collected.len() + bytes as usize;
            if is_full && self.collected_count > 0 {
                break;
            }
            let Some(stored) = log.read(position, bytes as usize) else { return Ok(false) };
            if StoredMessage::parse(stored, queue).is_err() {
                return Err(rot(position, bytes, log));
            }
            if self.collected.is_empty() {
                self.collected.reserve(PAYLOADS_BYTES_MAX);
            }
            self.collected.extend_from_slice(stored);
            self.collected_count += 1;
            self.walk.advance();
            self.ahead.bytes -= i64::from(bytes);
        }
        Ok(true)
    }

    /// Asks for what will be sent soon and is not in memory.
    fn read_ahead(&mut self, turn: &mut Turn<'_>, supply: &mut Supply<'_>) {
        let log = &*turn.log;
        let ahead = &mut self.ahead;
        // It fell behind, or what was read has been pushed out of memory before it was sent.
        if ahead.bytes < 0 || (ahead.bytes > 0 && ahead.reads == 0 && is_missing(&mut self.walk, log)) {
            (ahead.walk, ahead.bytes) = (self.walk.clone(), 0);
        }
        let bytes_max =
            turn.pace.window_bytes().min(AHEAD_BYTES_MAX).min(log.options().cache_bytes_max / AHEAD_SHARE)
                as i64;
        while ahead.bytes <= bytes_max
            && ahead.reads < READS_AHEAD_MAX
            && let Some((_, position, bytes)) = ahead.walk.peek()
        {
            let wanted = (position, bytes);
            if log.read(position, bytes as usize).is_none() && !turn.readback.is_under_way(wanted) {
                ahead.reads += 1;
                match turn.readback.request(supply.reader, wanted, log.durable_end()) {
                    Some(window) => supply.reads.push(window),
                    // Every read is taken: it looks again when one comes back.
                    None => return,
                }
            }
            ahead.walk.advance();
            ahead.bytes += i64::from(bytes);
        }
    }

    fn send_payloads(&mut self, turn: &mut Turn<'_>, to: ConnectionId) {
        let Route { cluster, group, from, to: replica, transfer } = self.route;
        let is_last = self.walk.peek().is_none();
        let (number, messages) = (self.payloads_sent, self.collected_count);
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
        self.in_flight.push_back(self.collected.len() as u64);
        self.in_flight_bytes += self.collected.len() as u64;
        turn.outbox.send_bulk(to, &payloads, Bytes::from(std::mem::take(&mut self.collected)));
        self.collected_count = 0;
        self.payloads_sent += 1;
        if is_last {
            self.stage = Stage::Sent;
        }
    }
}
