//! A group's state without payloads: taken at once, written in parts, read back as it streams in.
//!
//! Taking the image shares blocks and chunks with the engine, which copies what it writes to next; so the image stands
//! still while it is encoded, part by part, between other work. A part is bounded in bytes and in messages; the order
//! is sessions, then queues, both by slot, then their levels by priority, then their messages by sequence.
//!
//! ```text
//! part
//!  0         1         2         4                   8                                       16
//! ┌─────────┬─────────┬─────────┬───────────────────┬───────────────────────────────────────┬───────────┐
//! │ version │ flags   │ 0   u16 │ ordinal       u32 │ applied index                     u64 │ items …   │
//! └─────────┴─────────┴─────────┴───────────────────┴───────────────────────────────────────┴───────────┘
//!  flags: 1 the last part                                        ordinal: 0, 1, 2 …; the index is the same in all
//! items: a tag byte, then (v = varint: 7 bits a byte, lowest first; s = signed varint: 0 -1 1 -2 as 0 1 2 3)
//!  1 state     group v · term v · clock v · queue serial v · session serial v              the first item, once
//!  2 session   id v · epoch v · used v · last v · name bytes v · name · gaps u8 · if 1: last gap v, 64 × u64
//!  3 queue     id v · acknowledged v · rejected v · purged v · settings · name bytes v · name
//!  4 level     priority u8 · next sequence v                                               of the queue before
//!  5 messages  sequence v · position v · stored bytes v · deliveries v · codes …           of the level before
//!  6 end       sessions v · queues v · messages v · digest u64 · places u64                the last item, once
//! codes: each adds to the message before, of which `gap` is the log between it and the one before that
//!  0..=15      one message; bits say what follows because it is not as expected:
//!              1 sequence: v, how many are skipped · 2 gap: s, difference · 4 stored bytes: s, difference
//!              8 deliveries: v, otherwise 0
//!  16          repeat v: so many messages as expected: next sequence, same gap, same bytes, no deliveries
//!  17          no more
//! ```
//!
//! So a thousand messages of one size, published alike, are a few bytes; a mixed one is three to six.

mod digest;
mod restore;

pub(crate) use digest::Digest;
use ringmain_wal::{GroupId, Index, Position, Term};

pub use restore::Restore;
pub(crate) use restore::Restored;

use crate::command::{QueueId, put_signed, put_varint};
use crate::engine::registry::Image;
use crate::queue::Queue;
use crate::queue::level::{Level, Slot};
use crate::session::Session;
use crate::time::Time;

pub const CHECKPOINT_VERSION: u8 = 1;
pub const PART_HEADER_BYTES: usize = 16;
pub const PART_BYTES_MAX: usize = 256 * 1024;
/// Bounds the work of a part, and the memory that a reader takes for it.
const PART_MESSAGES_MAX: u32 = 16_384;
/// More than any item but the codes takes: a name, settings with a name, 64 × u64 of gaps, and the numbers.
const ITEM_BYTES_MAX: usize = 1_280;
const PART_BYTES_MIN: usize = 2 * ITEM_BYTES_MAX;

const FLAG_LAST: u8 = 1;

const TAG_STATE: u8 = 1;
const TAG_SESSION: u8 = 2;
const TAG_QUEUE: u8 = 3;
const TAG_LEVEL: u8 = 4;
const TAG_MESSAGES: u8 = 5;
const TAG_END: u8 = 6;

const CODE_SEQUENCE: u8 = 1;
const CODE_GAP: u8 = 2;
const CODE_BYTES: u8 = 4;
const CODE_DELIVERIES: u8 = 8;
const CODE_REPEAT: u8 = 16;
const CODE_NO_MORE: u8 = 17;

/// What the engine is at one index, apart from queues and sessions.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateHead {
    pub(crate) group: GroupId,
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) clock: Time,
    pub(crate) queue_serial: u64,
    pub(crate) session_serial: u64,
}

/// An image of the engine's state, on its way into bytes.
#[derive(Debug)]
pub struct Checkpoint {
    head: StateHead,
    sessions: Image<Session>,
    queues: Image<Queue>,

    stage: Stage,
    ordinal: u32,
    digest: Digest,
    /// Of the positions, which are this replica's own.
    places: Digest,
    counts: Counts,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    sessions: u64,
    queues: u64,
    messages: u64,
}

/// What is written next.
#[derive(Copy, Clone, Debug)]
enum Stage {
    State,
    Sessions { slot: u32 },
    Queues { slot: u32 },
    Level { slot: u32, rank: usize },
    Messages { slot: u32, rank: usize, sequence: u64 },
    End,
    Done,
}

impl Checkpoint {
    pub(crate) fn new(head: StateHead, sessions: Image<Session>, queues: Image<Queue>) -> Self {
        let digest = Digest::new((head.index, head.term), head.clock);
        let counts = Counts::default();
        Self {
            head,
            sessions,
            queues,
            stage: Stage::State,
            ordinal: 0,
            digest,
            places: Digest::of_places(),
            counts,
        }
    }

    /// A walk over the same messages.
    pub(crate) fn walk(&self) -> Walk {
        Walk { queues: self.queues.clone(), place: Place::default() }
    }

    /// Where in the log the image was taken.
    pub fn index(&self) -> Index {
        self.head.index
    }

    pub fn term(&self) -> Term {
        self.head.term
    }

    /// Appends one part of about `budget_bytes`, `PART_BYTES_MAX` at most. True: it was the last.
    pub fn encode_some(&mut self, out: &mut Vec<u8>, budget_bytes: usize) -> bool {
        assert!(!matches!(self.stage, Stage::Done), "the last part was written");
        let base = out.len();
        let limit = base + budget_bytes.clamp(PART_BYTES_MIN, PART_BYTES_MAX) - ITEM_BYTES_MAX;
        out.extend_from_slice(&[CHECKPOINT_VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.ordinal.to_le_bytes());
        out.extend_from_slice(&self.head.index.0.to_le_bytes());
        self.ordinal += 1;
        let mut messages_left = PART_MESSAGES_MAX;
        while out.len() < limit && messages_left > 0 && !matches!(self.stage, Stage::Done) {
            self.stage = self.item(out, limit, &mut messages_left);
        }
        let is_last = matches!(self.stage, Stage::Done);
        out[base + 1] = if is_last { FLAG_LAST } else { 0 };
        assert!(out.len() - base <= PART_BYTES_MAX);
        is_last
    }

    /// Writes one item and says what comes next.
    fn item(&mut self, out: &mut Vec<u8>, limit: usize, messages_left: &mut u32) -> Stage {
        match self.stage {
            Stage::State => {
                self.put_state(out);
                Stage::Sessions { slot: 0 }
            }
            Stage::Sessions { slot } => {
                let Some((slot, session)) = self.sessions.next_used(slot) else {
                    return Stage::Queues { slot: 0 };
                };
                put_session(out, session);
                self.digest.session(session);
                self.counts.sessions += 1;
                Stage::Sessions { slot: slot + 1 }
            }
            Stage::Queues { slot } => {
                let Some((slot, queue)) = self.queues.next_used(slot) else { return Stage::End };
                put_queue(out, queue);
                self.digest.queue(queue);
                self.counts.queues += 1;
                Stage::Level { slot, rank: 0 }
            }
            Stage::Level { slot, rank } => match level_of(&self.queues, slot, rank) {
                None => Stage::Queues { slot: slot + 1 },
                Some(level) => {
                    out.push(TAG_LEVEL);
                    out.push(level.priority());
                    put_varint(out, level.next());
                    self.digest.level(level);
                    Stage::Messages { slot, rank, sequence: 0 }
                }
            },
            Stage::Messages { slot, rank, sequence } => {
                let messages = level_of(&self.queues, slot, rank).map(|level| level.iter_from(sequence));
                let mut coder = Coder::default();
                for (sequence, message) in messages.into_iter().flatten() {
                    if out.len() >= limit || *messages_left == 0 {
                        coder.finish(out);
                        return Stage::Messages { slot, rank, sequence };
                    }
                    coder.put(out, sequence, message);
                    self.digest.message(sequence, message);
                    self.places.place(message.position);
                    self.counts.messages += 1;
                    *messages_left -= 1;
                }
                coder.finish(out);
                Stage::Level { slot, rank: rank + 1 }
            }
            Stage::End | Stage::Done => {
                out.push(TAG_END);
                put_varint(out, self.counts.sessions);
                put_varint(out, self.counts.queues);
                put_varint(out, self.counts.messages);
                out.extend_from_slice(&self.digest.value().to_le_bytes());
                out.extend_from_slice(&self.places.value().to_le_bytes());
                Stage::Done
            }
        }
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        out.push(TAG_STATE);
        put_varint(out, u64::from(self.head.group.0));
        put_varint(out, self.head.term.0);
        put_varint(out, self.head.clock.0);
        put_varint(out, self.head.queue_serial);
        put_varint(out, self.head.session_serial);
    }
}

/// Walks over the messages of an image in the order in which its parts name them. A clone shares the image.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    queues: Image<Queue>,
    place: Place,
}

/// A message, as slot of its queue, rank of its level and sequence at the earliest.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) rank: usize,
    pub(crate) sequence: u64,
}

impl Walk {
    /// The next message: its queue, and where it is stored.
    pub(crate) fn peek(&mut self) -> Option<(QueueId, Position, u32)> {
        loop {
            let (slot, queue) = self.queues.next_used(self.place.slot)?;
            if slot != self.place.slot {
                self.place = Place { slot, ..Place::default() };
            }
            let Some(level) = queue.levels().get(self.place.rank) else {
                self.place = Place { slot: slot + 1, ..Place::default() };
                continue;
            };
            let Some((sequence, message)) = level.iter_from(self.place.sequence).next() else {
                self.place = Place { slot, rank: self.place.rank + 1, sequence: 0 };
                continue;
            };
            self.place.sequence = sequence;
            return Some((queue.id, message.position, message.stored_bytes));
        }
    }

    /// Goes on behind what `peek` named.
    pub(crate) fn advance(&mut self) {
        self.place.sequence += 1;
    }
}

fn level_of(queues: &Image<Queue>, slot: u32, rank: usize) -> Option<&Level> {
    let (_, queue) = queues.next_used(slot)?;
    queue.levels().get(rank)
}

fn put_session(out: &mut Vec<u8>, session: &Session) {
    out.push(TAG_SESSION);
    put_varint(out, session.id.0);
    put_varint(out, u64::from(session.epoch));
    put_varint(out, session.used.0);
    put_varint(out, session.window.last());
    put_varint(out, session.producer.len() as u64);
    out.extend_from_slice(session.producer.as_bytes());
    match session.window.gaps() {
        None => out.push(0),
        Some((gap_last, stored)) => {
            out.push(1);
            put_varint(out, gap_last);
            stored.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        }
    }
}

fn put_queue(out: &mut Vec<u8>, queue: &Queue) {
    out.push(TAG_QUEUE);
    put_varint(out, queue.id.0);
    put_varint(out, queue.totals.acknowledged);
    put_varint(out, queue.totals.rejected);
    put_varint(out, queue.totals.purged);
    queue.settings.encode(out);
    put_varint(out, queue.name.len() as u64);
    out.extend_from_slice(queue.name.as_bytes());
}

/// A message as far as the codes tell it; the writer and the reader both expect the next one from it.
#[derive(Copy, Clone, Debug)]
struct Told {
    sequence: u64,
    position: u64,
    stored_bytes: u32,
    /// Between the end of the message before and this one.
    gap: i64,
}

impl Told {
    fn end(&self) -> u64 {
        self.position.wrapping_add(u64::from(self.stored_bytes))
    }

    fn expected_position(&self) -> u64 {
        self.end().wrapping_add_signed(self.gap)
    }
}

/// Writes the codes of messages that follow on each other.
#[derive(Debug, Default)]
struct Coder {
    previous: Option<Told>,
    /// Messages as expected that are not written yet.
    repeats: u64,
}

impl Coder {
    fn put(&mut self, out: &mut Vec<u8>, sequence: u64, message: &Slot) {
        let Position(position) = message.position;
        let (stored_bytes, deliveries) = (message.stored_bytes, message.deliveries);
        let Some(previous) = self.previous else {
            out.push(TAG_MESSAGES);
            put_varint(out, sequence);
            put_varint(out, position);
            put_varint(out, u64::from(stored_bytes));
            put_varint(out, u64::from(deliveries));
            self.previous = Some(Told { sequence, position, stored_bytes, gap: 0 });
            return;
        };
        let gap = position.wrapping_sub(previous.end()) as i64;
        let code = if sequence == previous.sequence + 1 { 0 } else { CODE_SEQUENCE }
            | if gap == previous.gap { 0 } else { CODE_GAP }
            | if stored_bytes == previous.stored_bytes { 0 } else { CODE_BYTES }
            | if deliveries == 0 { 0 } else { CODE_DELIVERIES };
        self.previous = Some(Told { sequence, position, stored_bytes, gap });
        if code == 0 {
            self.repeats += 1;
            return;
        }
        self.put_repeats(out);
        out.push(code);
        if code & CODE_SEQUENCE != 0 {
            put_varint(out, sequence - previous.sequence - 1);
        }
        if code & CODE_GAP != 0 {
            put_signed(out, gap.wrapping_sub(previous.gap));
        }
        if code & CODE_BYTES != 0 {
            put_signed(out, i64::from(stored_bytes) - i64::from(previous.stored_bytes));
        }
        if code & CODE_DELIVERIES != 0 {
            put_varint(out, u64::from(deliveries));
        }
    }

    fn put_repeats(&mut self, out: &mut Vec<u8>) {
        if self.repeats > 0 {
            out.push(CODE_REPEAT);
            put_varint(out, self.repeats);
            self.repeats = 0;
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.previous.is_some() {
            self.put_repeats(out);
            out.push(CODE_NO_MORE);
        }
    }
}

#[cfg(test)]
mod tests;
