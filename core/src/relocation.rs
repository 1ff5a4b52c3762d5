//! Copies what is still live out of sparse segments, so that one stuck message never pins the disk.
//!
//! Lives inside the shard. A pass walks all live messages a few at a time, picks those that lie in
//! the segments to be emptied, and appends their bytes in `Relocation` records. Only when such a record
//! is durable do the messages point to their new places and the old segments lose them:
//!
//! 1. Were the old place given up first, a crash would leave messages pointing nowhere.
//! 2. Were a checkpoint begun in between, it would name old places that are recycled before the next one;
//!    so a checkpoint begins only while no relocation is under way, and a pass never while one is written.
//!
//! The payload of a record, little endian: `u32 count`, `u32 zero`, then per message
//!
//! ```text
//!   0  u64  queue      8  u64  sequence      16  u64  old position      24  u32  bytes      28  u8  priority
//!  29  3 bytes zero   32  stored message
//! ```

use crate::command::{QueueId, StoredMessage};
use crate::dispatch::rot;
use crate::engine::{Engine, Stray, Sweep};
use crate::failure::Failure;
use crate::readback::{ReadWindow, Readback, Reader};
use bytes::Bytes;
use ringmain_wal::{GroupId, HardState, Index, Log, Position, Record, RecordKind, Sequence, Term};
use std::collections::VecDeque;

/// Live messages looked at per turn: some tens of microseconds.
const SWEEP_MESSAGES: usize = 4096;
/// Messages found and not yet copied.
const FOUND_MAX: usize = 1024;
/// One record's payload, but for a single larger message.
const RECORD_BYTES_MAX: usize = 256 << 10;
const HEADER_BYTES: usize = 8;
const ITEM_BYTES: usize = 32;

#[derive(Default)]
pub(crate) struct Relocation {
    /// Segments to be emptied by the pass under way; empty between passes.
    victims: Vec<u64>,
    is_swept: bool,
    found: Vec<Stray>,
    payload: Vec<u8>,
    /// Copied into `payload`: where inside it the stored message begins.
    copied: Vec<(Stray, usize)>,
    /// Appended, not yet durable.
    appended: VecDeque<(Sequence, Vec<(Stray, Position)>)>,
    is_reading: bool,
}

impl Relocation {
    pub(crate) fn is_idle(&self) -> bool {
        self.victims.is_empty() && self.appended.is_empty()
    }

    /// Begins a pass over the log's sparse segments, if there are any.
    pub(crate) fn begin(&mut self, log: &Log) {
        assert!(self.is_idle());
        log.sparse_segments(&mut self.victims);
        self.is_swept = false;
    }

    pub(crate) fn on_read(&mut self) {
        self.is_reading = false;
    }

    /// Does a turn's share of the pass; answers a read to issue when a payload is not in memory. A message that does not
    /// prove itself is not copied: its copy would be a sound record about rotten bytes, and nobody could say where.
    pub(crate) fn advance(&mut self, pass: Pass<'_>) -> Result<Option<ReadWindow>, Failure> {
        let Pass { engine, log, readback, reader, group, hard_state } = pass;
        self.settle_durable(engine, log);
        if self.victims.is_empty() || self.is_reading {
            return Ok(None);
        }
        if !self.is_swept && self.found.len() < FOUND_MAX {
            let segment_bytes = log.options().segment_bytes;
            let victims = &self.victims;
            let is_victim = |position: Position| victims.contains(&position.segment(segment_bytes));
            self.is_swept = engine.sweep(SWEEP_MESSAGES, is_victim, &mut self.found) == Sweep::Round;
        }
        while let Some(message) = self.found.last().copied() {
            let Some(bytes) = log.read(message.position, message.bytes as usize) else {
                // Settled since it was found, and its segment is gone.
                if !log.is_readable(message.position) {
                    self.found.pop();
                    continue;
                }
                self.is_reading = true;
                let wanted = (message.position, message.bytes);
                return Ok(readback.request(reader, wanted, log.durable_end()));
            };
            if StoredMessage::parse(bytes, message.queue).is_err() {
                return Err(rot(message.position, message.bytes, log));
            }
            self.found.pop();
            self.copy(message, bytes);
            if RECORD_BYTES_MAX <= self.payload.len() && !self.append(log, group, hard_state) {
                return Ok(None);
            }
        }
        let is_done = self.is_swept && self.found.is_empty();
        if is_done && (self.copied.is_empty() || self.append(log, group, hard_state)) {
            self.victims.clear();
        }
        Ok(None)
    }

    fn copy(&mut self, message: Stray, bytes: &[u8]) {
        assert_eq!(bytes.len(), message.bytes as usize);
        if self.payload.is_empty() {
            self.payload.extend_from_slice(&[0; HEADER_BYTES]);
        }
        self.payload.extend_from_slice(&message.queue.0.to_le_bytes());
        self.payload.extend_from_slice(&message.sequence.to_le_bytes());
        self.payload.extend_from_slice(&message.position.0.to_le_bytes());
        self.payload.extend_from_slice(&message.bytes.to_le_bytes());
        self.payload.extend_from_slice(&[message.priority, 0, 0, 0]);
        self.copied.push((message, self.payload.len()));
        self.payload.extend_from_slice(bytes);
    }

    /// False when the log has no room: the copies wait for the next turn.
    fn append(&mut self, log: &mut Log, group: GroupId, hard_state: HardState) -> bool {
        if !log.room(self.payload.len() as u64) {
            return false;
        }
        let count = self.copied.len() as u32;
        self.payload[..4].copy_from_slice(&count.to_le_bytes());
        let payload = Bytes::from(std::mem::take(&mut self.payload));
        let appended = log.append(Record {
            group,
            kind: RecordKind::Relocation,
            tag: 0,
            term: Term(0),
            index: Index(0),
            hard_state,
            payload,
        });
        let moved = self
            .copied
            .drain(..)
            .map(|(message, offset)| (message, Position(appended.payload.0 + offset as u64)))
            .collect();
        self.appended.push_back((appended.sequence, moved));
        true
    }

    /// Points the messages of durable records to their new places.
    fn settle_durable(&mut self, engine: &mut Engine, log: &mut Log) {
        while let Some((sequence, _)) = self.appended.front()
            && *sequence <= log.durable_upto()
        {
            let Some((_, moved)) = self.appended.pop_front() else { return };
            for (message, to) in moved {
                if engine.relocate(&message, to) {
                    log.release(message.position, u64::from(message.bytes));
                    log.hold(to, u64::from(message.bytes));
                }
            }
        }
    }
}

/// What a pass works on.
pub(crate) struct Pass<'a> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) log: &'a mut Log,
    pub(crate) readback: &'a mut Readback,
    /// Who waits for what is read.
    pub(crate) reader: Reader,
    pub(crate) group: GroupId,
    pub(crate) hard_state: HardState,
}

/// Replays a relocation record during recovery; malformed bytes are an error, never a panic.
pub(crate) fn replay(
    engine: &mut Engine,
    payload: &[u8],
    payload_position: Position,
) -> Result<(), &'static str> {
    let count = payload.first_chunk::<4>().ok_or("relocation record is too short")?;
    let mut rest = payload.get(HEADER_BYTES..).ok_or("relocation record is too short")?;
    for _ in 0..u32::from_le_bytes(*count) {
        let (item, after) = rest.split_first_chunk::<ITEM_BYTES>().ok_or("relocation item is cut short")?;
        let field = |at: usize| -> u64 {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&item[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let bytes = (field(24) & 0xffff_ffff) as u32;
        let stray = Stray {
            queue: QueueId(field(0)),
            priority: item[28],
            sequence: field(8),
            position: Position(field(16)),
            bytes,
        };
        let offset = payload.len() - after.len();
        rest = after.get(bytes as usize..).ok_or("a relocated message is cut short")?;
        engine.relocate(&stray, Position(payload_position.0 + offset as u64));
    }
    Ok(())
}
