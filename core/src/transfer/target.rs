//! The receiving side: builds the state beside the one in use, and writes it down.

use super::source::Route;
use super::{SILENCE_MAX_NS, WAITING_BYTES_MAX};
use crate::checkpoint::{Place, Restore};
use crate::checkpointer::{Image, ReplayFrom, WrittenPart, append_part};
use crate::command::{Extent, StoredMessage};
use crate::connection::ConnectionId;
use crate::engine::{Engine, EngineOptions};
use crate::group::Turn;
use crate::member::{Book, decode_membership, node_of};
use crate::peers::Peers;
use crate::time::Time;
use bytes::Bytes;
use ringmain_net::peer::{
    PeerCode, TransferAborted, TransferAck, TransferBegin, TransferPart, TransferPayloads, TransferStaged,
};
use ringmain_replication::Install;
use ringmain_wal::{HardState, Index, Record, RecordKind, Sequence, Term};
use std::collections::VecDeque;

/// Why a transfer cannot go on, for the other side.
type Reason = (PeerCode, &'static str);

const MALFORMED: Reason = (PeerCode::Malformed, "the checkpoint makes no sense");
const OUT_OF_ORDER: Reason = (PeerCode::Malformed, "a frame of the checkpoint is missing");

pub(crate) struct Target {
    /// From the source to here.
    route: Route,
    index: Index,
    term: Term,
    membership: Vec<u8>,
    book: Book,

    stage: Stage,
    parts: u32,
    payloads: u32,
    payloads_durable: u32,
    /// Came, and the log has no room for them yet; behind `payloads`. Each holds some of the bytes.
    waiting: VecDeque<(TransferPayloads, Bytes)>,
    waiting_bytes: u64,
    /// Payload frames that are written and not known to be durable: the record of each.
    writing: VecDeque<Sequence>,
    /// What the log holds for this transfer.
    held: Vec<Extent>,
    /// The first Install record: recovery must not begin behind it.
    first_record: Option<ReplayFrom>,
    /// Over which it comes.
    bulk: ConnectionId,
    heard: Time,
}

enum Stage {
    Parts(Box<Restore>),
    /// The state is there; its messages come, up to this place.
    Payloads(Box<Engine>, Place),
    /// The state names its messages where they are; it is being written down.
    Writing(Box<Engine>, Box<Image>, u32),
    /// Written, up to this record.
    Syncing(Box<Engine>, Sequence),
    /// Durable, and the source knows.
    Staged(Box<Engine>),
}

/// What takes the place of the state that was.
pub(crate) struct Installed {
    pub(crate) engine: Engine,
    pub(crate) book: Book,
}

impl Target {
    /// `None`: the source says something that cannot be.
    pub(crate) fn new(
        begin: &TransferBegin,
        membership: &[u8],
        options: EngineOptions,
        (bulk, now): (ConnectionId, Time),
    ) -> Option<Self> {
        let (_, book) = decode_membership(membership)?;
        let TransferBegin { cluster, from, to, transfer, index, term, .. } = *begin;
        if transfer == 0 || index == 0 || term == 0 {
            return None;
        }
        Some(Self {
            route: Route { cluster, group: options.group, from, to, transfer },
            index: Index(index),
            term: Term(term),
            membership: membership.to_vec(),
            book,
            stage: Stage::Parts(Box::new(Restore::new(options))),
            parts: 0,
            payloads: 0,
            payloads_durable: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            writing: VecDeque::new(),
            held: Vec::new(),
            first_record: None,
            bulk,
            heard: now,
        })
    }

    pub(crate) fn transfer(&self) -> u64 {
        self.route.transfer
    }

    pub(crate) fn is_of(&self, from: u64, transfer: u64) -> bool {
        self.route.from == from && self.route.transfer == transfer
    }

    pub(crate) fn is_overdue(&self, now: Time) -> bool {
        self.heard.after_ns(SILENCE_MAX_NS) <= now
    }

    /// What is still to come would come over a connection that is no more.
    pub(crate) fn is_cut_off(&self, peers: &Peers) -> bool {
        let is_receiving = matches!(self.stage, Stage::Parts(_) | Stage::Payloads(..));
        is_receiving && peers.bulk_from(self.route.from) != Some(self.bulk)
    }

    /// It is durable here, and this is what the engine is told of it.
    pub(crate) fn is_staged(&self, transfer: u64, index: Index, term: Term) -> bool {
        let is_it = (self.route.transfer, self.index, self.term) == (transfer, index, term);
        is_it && matches!(self.stage, Stage::Staged(_))
    }

    pub(crate) fn first_record(&self) -> Option<ReplayFrom> {
        self.first_record
    }

    pub(crate) fn on_part(
        &mut self,
        part: &TransferPart,
        bytes: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<(), Reason> {
        self.heard = turn.now;
        if part.number != self.parts {
            return Err(OUT_OF_ORDER);
        }
        let Stage::Parts(restore) = &mut self.stage else { return Err(OUT_OF_ORDER) };
        restore.feed(bytes).map_err(|_| MALFORMED)?;
        self.parts += 1;
        if part.is_last {
            let Stage::Parts(restore) = self.take_stage() else { return Err(OUT_OF_ORDER) };
            let engine = restore.finish().map_err(|_| MALFORMED)?;
            if engine.applied() != (self.index, self.term) {
                return Err(MALFORMED);
            }
            self.stage = Stage::Payloads(Box::new(engine), Place::default());
        }
        self.acknowledge(turn);
        Ok(())
    }

    /// Stores messages, and lets the state name their new places; at once, or when the log has room for them.
    pub(crate) fn on_payloads(
        &mut self,
        frame: &TransferPayloads,
        bytes: &[u8],
        hard_state: HardState,
        turn: &mut Turn<'_>,
    ) -> Result<(), Reason> {
        self.heard = turn.now;
        let is_next = frame.number == self.payloads + self.waiting.len() as u32;
        if !is_next || WAITING_BYTES_MAX <= self.waiting_bytes {
            return Err(OUT_OF_ORDER);
        }
        self.waiting_bytes += bytes.len() as u64;
        self.waiting.push_back((*frame, Bytes::copy_from_slice(bytes)));
        self.store_waiting(hard_state, turn)
    }

    fn store_waiting(&mut self, hard_state: HardState, turn: &mut Turn<'_>) -> Result<(), Reason> {
        while let Some((frame, bytes)) = self.waiting.pop_front() {
            if !bytes.is_empty() && !turn.log.room(bytes.len() as u64) {
                self.waiting.push_front((frame, bytes));
                return Ok(());
            }
            self.waiting_bytes -= bytes.len() as u64;
            self.store(&frame, bytes, hard_state, turn)?;
        }
        Ok(())
    }

    fn store(
        &mut self,
        frame: &TransferPayloads,
        bytes: Bytes,
        hard_state: HardState,
        turn: &mut Turn<'_>,
    ) -> Result<(), Reason> {
        let Stage::Payloads(engine, place) = &mut self.stage else { return Err(OUT_OF_ORDER) };
        if bytes.is_empty() {
            if frame.messages != 0 {
                return Err(MALFORMED);
            }
            self.payloads_durable += 1;
        } else {
            let ends = ends_of(frame, &bytes, engine, *place).ok_or(MALFORMED)?;
            let extent_bytes = bytes.len() as u64;
            let appended = turn.log.append(Record {
                group: self.route.group,
                kind: RecordKind::Staged,
                tag: 0,
                term: Term(0),
                index: Index(0),
                hard_state,
                payload: bytes,
            });
            let mut start = 0;
            for end in ends {
                // Looked at above, in the same order.
                let _ = engine.message_at(place);
                engine.store_at(place, appended.payload.advance(start as u64));
                start = end;
            }
            turn.log.hold(appended.payload, extent_bytes);
            self.held.push(Extent { position: appended.payload, bytes: extent_bytes });
            self.writing.push_back(appended.sequence);
        }
        self.payloads += 1;
        if frame.is_last {
            self.begin_writing(hard_state)?;
        }
        Ok(())
    }

    fn begin_writing(&mut self, hard_state: HardState) -> Result<(), Reason> {
        let Stage::Payloads(engine, mut place) = self.take_stage() else { return Err(OUT_OF_ORDER) };
        if engine.message_at(&mut place).is_some() {
            return Err(MALFORMED);
        }
        let image = Image {
            group: self.route.group,
            applied: self.index,
            term: self.term,
            membership: self.membership.clone(),
            hard_state,
            state: engine.checkpoint(),
        };
        self.stage = Stage::Writing(engine, Box::new(image), 0);
        Ok(())
    }

    /// A turn's share of what is left to do; what has become durable is acknowledged.
    pub(crate) fn advance(&mut self, hard_state: HardState, turn: &mut Turn<'_>) -> Result<(), Reason> {
        self.store_waiting(hard_state, turn)?;
        let durable_upto = turn.log.durable_upto();
        let before = self.payloads_durable;
        while self.writing.front().is_some_and(|sequence| *sequence <= durable_upto) {
            self.writing.pop_front();
            self.payloads_durable += 1;
        }
        if before != self.payloads_durable {
            self.acknowledge(turn);
        }
        if let Stage::Writing(_, image, part) = &mut self.stage {
            let written = append_part(turn.log, image, self.route.transfer, *part, RecordKind::Install);
            let Some(WrittenPart { appended, is_last, .. }) = written else { return Ok(()) };
            *part += 1;
            let first = ReplayFrom { position: appended.record, sequence: appended.sequence };
            self.first_record.get_or_insert(first);
            if is_last && let Stage::Writing(engine, _, _) = self.take_stage() {
                self.stage = Stage::Syncing(engine, appended.sequence);
            }
        }
        if let Stage::Syncing(_, last) = &self.stage
            && *last <= durable_upto
            && let Stage::Syncing(engine, _) = self.take_stage()
        {
            self.stage = Stage::Staged(engine);
            self.tell_staged(turn);
        }
        Ok(())
    }

    /// There is a part to write, if there is room.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Writing(..))
    }

    /// The engine has accepted it: writes the record that makes it so, and says which.
    pub(crate) fn commit_record(&self, install: &Install, hard_state: HardState) -> Record {
        assert!(self.is_staged(install.transfer, install.index, install.term));
        Record {
            group: self.route.group,
            kind: RecordKind::Install,
            tag: INSTALL_COMMIT,
            term: self.term,
            index: self.index,
            hard_state,
            payload: Bytes::copy_from_slice(&self.route.transfer.to_le_bytes()),
        }
    }

    /// What is to take the place of the state that was; the log holds its messages already.
    pub(crate) fn into_installed(self) -> Installed {
        let Stage::Staged(engine) = self.stage else {
            panic!("a checkpoint was installed that was not staged");
        };
        Installed { engine: *engine, book: self.book }
    }

    /// Nothing will come of it: the log lets go of what was stored. The source is told, unless it was the one to say so.
    pub(crate) fn abandon(self, turn: &mut Turn<'_>, reason: Option<Reason>) {
        for extent in &self.held {
            turn.log.release(extent.position, extent.bytes);
        }
        let Some((code, detail)) = reason else { return };
        let Some(up) = turn.peers.up(node_of(self.route.from)) else { return };
        let Route { cluster, group, from, to, transfer } = self.route;
        let words = TransferAborted {
            cluster,
            group: group.0,
            from: to,
            to: from,
            transfer,
            code: code as u16,
            detail,
        };
        turn.outbox.send_urgent(up.connection, &words);
    }

    fn acknowledge(&self, turn: &mut Turn<'_>) {
        let Some(up) = turn.peers.up(node_of(self.route.from)) else { return };
        let Route { cluster, group, from, to, transfer } = self.route;
        let ack = TransferAck {
            cluster,
            group: group.0,
            from: to,
            to: from,
            transfer,
            to_part: self.parts,
            to_payload: self.payloads_durable,
        };
        turn.outbox.send_urgent(up.connection, &ack);
    }

    fn tell_staged(&self, turn: &mut Turn<'_>) {
        let Some(up) = turn.peers.up(node_of(self.route.from)) else { return };
        let Route { cluster, group, from, to, transfer } = self.route;
        let (index, term) = (self.index.0, self.term.0);
        let staged = TransferStaged { cluster, group: group.0, from: to, to: from, transfer, index, term };
        turn.outbox.send_urgent(up.connection, &staged);
    }

    /// The stage, of which the next one is made.
    fn take_stage(&mut self) -> Stage {
        let options = EngineOptions { group: self.route.group, ordinal: 0, messages_max: 0 };
        std::mem::replace(&mut self.stage, Stage::Parts(Box::new(Restore::new(options))))
    }
}

/// Where each message of a frame ends. `None`: they are not those that the state names next.
fn ends_of(frame: &TransferPayloads, bytes: &[u8], engine: &Engine, place: Place) -> Option<Vec<usize>> {
    let mut probe = place;
    let mut ends = Vec::new();
    let mut at = 0;
    for _ in 0..frame.messages {
        let (queue, message_bytes) = engine.message_at(&mut probe)?;
        let stored = bytes.get(at..at + message_bytes as usize)?;
        StoredMessage::parse(stored, queue).ok()?;
        at += stored.len();
        ends.push(at);
        probe.sequence += 1;
    }
    (at == bytes.len()).then_some(ends)
}

/// The tag of the Install record that puts the parts before it into force.
pub(crate) const INSTALL_COMMIT: u16 = 1;
