//! Reads a checkpoint part by part. Any bytes may come: they become an error, and memory in proportion to their number.

use std::sync::Arc;

use ringmain_wal::{GroupId, Index, Position, Term};

use super::{
    CHECKPOINT_VERSION, CODE_BYTES, CODE_DELIVERIES, CODE_GAP, CODE_NO_MORE, CODE_REPEAT, CODE_SEQUENCE,
    Counts, Digest, FLAG_LAST, PART_MESSAGES_MAX, StateHead, TAG_END, TAG_LEVEL, TAG_MESSAGES, TAG_QUEUE,
    TAG_SESSION, TAG_STATE, Told,
};
use crate::command::{QueueId, Reader, STORED_HEAD_BYTES, SessionId};
use crate::engine::registry::Registry;
use crate::engine::{Engine, EngineOptions};
use crate::error::Error;
use crate::queue::level::Level;
use crate::queue::{Queue, Settings, is_queue_name};
use crate::session::{Session, Window};
use crate::time::Time;

/// An engine's state on its way out of bytes.
#[derive(Debug)]
pub struct Restore {
    options: EngineOptions,

    ordinal: u32,
    /// Known with the first part.
    head: Option<StateHead>,
    sessions: Registry<Session>,
    queues: Registry<Queue>,
    /// The queue whose levels are being read.
    queue: Option<Queue>,
    /// The level whose messages are being read, and the sequence it ends before.
    level: Option<(Level, u64)>,
    messages_left: u32,
    counts: Counts,
    places: Digest,
    is_ended: bool,
}

/// The state, whole.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) head: StateHead,
    pub(crate) sessions: Registry<Session>,
    pub(crate) queues: Registry<Queue>,
}

impl Restore {
    pub fn new(options: EngineOptions) -> Self {
        let (sessions, queues) = Engine::registries(options.ordinal);
        Self {
            options,
            ordinal: 0,
            head: None,
            sessions,
            queues,
            queue: None,
            level: None,
            messages_left: 0,
            counts: Counts::default(),
            places: Digest::of_places(),
            is_ended: false,
        }
    }

    /// The next part; after an error nothing more is to be fed.
    pub fn feed(&mut self, part: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new("checkpoint part", part);
        let version = reader.u8()?;
        if version != CHECKPOINT_VERSION {
            return Err(Error::Version { what: "checkpoint part", found: version });
        }
        let flags = reader.u8()?;
        reader.zero(2)?;
        let ordinal = reader.u32()?;
        let index = Index(reader.u64()?);
        let is_expected = ordinal == self.ordinal && self.head.is_none_or(|head| head.index == index);
        if !is_expected || self.is_ended || flags & !FLAG_LAST != 0 {
            return Err(Error::Diverged { what: "checkpoint part", id: u64::from(ordinal) });
        }
        self.ordinal += 1;
        self.messages_left = PART_MESSAGES_MAX;
        while !reader.is_empty() {
            self.item(index, &mut reader)?;
        }
        let is_last = flags & FLAG_LAST != 0;
        if is_last == self.is_ended { Ok(()) } else { Err(reader.malformed()) }
    }

    /// The engine, once the last part was fed.
    pub fn finish(self) -> Result<Engine, Error> {
        let (true, Some(head)) = (self.is_ended, self.head) else {
            return Err(Error::Incomplete { what: "checkpoint" });
        };
        Engine::restored(self.options, Restored { head, sessions: self.sessions, queues: self.queues })
    }

    fn item(&mut self, index: Index, reader: &mut Reader<'_>) -> Result<(), Error> {
        let malformed = reader.malformed();
        let tag = reader.u8()?;
        if self.is_ended || self.head.is_none() != (tag == TAG_STATE) {
            return Err(malformed);
        }
        match tag {
            TAG_STATE => self.on_state(index, reader),
            TAG_SESSION => self.on_session(reader),
            TAG_QUEUE => self.on_queue(reader),
            TAG_LEVEL => self.on_level(reader),
            TAG_MESSAGES => self.on_messages(reader),
            TAG_END => self.on_end(reader),
            _ => Err(malformed),
        }
    }

    fn on_state(&mut self, index: Index, reader: &mut Reader<'_>) -> Result<(), Error> {
        let malformed = reader.malformed();
        let group = reader.varint()?;
        if group != u64::from(self.options.group.0) {
            return Err(Error::Diverged { what: "checkpoint of group", id: group });
        }
        let head = StateHead {
            group: GroupId(self.options.group.0),
            index,
            term: Term(reader.varint()?),
            clock: Time(reader.varint()?),
            queue_serial: reader.varint()?,
            session_serial: reader.varint()?,
        };
        let fits = self.queues.restore_serial(head.queue_serial)
            && self.sessions.restore_serial(head.session_serial);
        self.head = Some(head);
        if fits { Ok(()) } else { Err(malformed) }
    }

    fn on_session(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let malformed = reader.malformed();
        let id = reader.varint()?;
        let epoch = u32::try_from(reader.varint()?).map_err(|_| malformed)?;
        let used = Time(reader.varint()?);
        let last = reader.varint()?;
        let producer: Box<str> = text(reader)?.into();
        let gaps = match reader.u8()? {
            0 => None,
            1 => {
                let gap_last = reader.varint()?;
                let mut stored = Box::new([0; 64]);
                for word in stored.iter_mut() {
                    *word = reader.u64()?;
                }
                Some((gap_last, stored))
            }
            _ => return Err(malformed),
        };
        let window = Window::restore(last, gaps).ok_or(malformed)?;
        let clock = self.head.map_or(Time::ZERO, |head| head.clock);
        let session = Session { id: SessionId(id), producer, epoch, window, used };
        self.counts.sessions += 1;
        let fits = self.queue.is_none() && used <= clock && self.sessions.restore(id, session);
        if fits { Ok(()) } else { Err(malformed) }
    }

    fn on_queue(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.close_queue().ok_or(reader.malformed())?;
        let malformed = reader.malformed();
        let id = QueueId(reader.varint()?);
        let acknowledged = reader.varint()?;
        let rejected = reader.varint()?;
        let purged = reader.varint()?;
        let settings = Settings::decode(reader)?;
        let name = text(reader)?;
        if !is_queue_name(name) || settings.validate().is_err() {
            return Err(malformed);
        }
        let mut queue = Queue::new(id, Arc::from(name), settings);
        queue.totals.acknowledged = acknowledged;
        queue.totals.rejected = rejected;
        queue.totals.purged = purged;
        self.queue = Some(queue);
        self.counts.queues += 1;
        Ok(())
    }

    fn on_level(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.close_level().ok_or(reader.malformed())?;
        let malformed = reader.malformed();
        let priority = reader.u8()?;
        let next = reader.varint()?;
        let queue = self.queue.as_ref().ok_or(malformed)?;
        let is_higher = queue.levels().last().is_none_or(|level| level.priority() < priority);
        if !is_higher || u16::from(priority) >= queue.settings.priorities {
            return Err(malformed);
        }
        self.level = Some((Level::new(priority), next));
        Ok(())
    }

    fn on_messages(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let malformed = reader.malformed();
        let (sequence, position) = (reader.varint()?, reader.varint()?);
        let stored_bytes = u32::try_from(reader.varint()?).map_err(|_| malformed)?;
        let deliveries = reader.varint()?;
        let mut told = Told { sequence, position, stored_bytes, gap: 0 };
        self.message(told, deliveries).ok_or(malformed)?;
        loop {
            let malformed = reader.malformed();
            let code = reader.u8()?;
            match code {
                0..CODE_REPEAT => {
                    let (next, deliveries) = coded(told, code, reader)?;
                    told = next;
                    self.message(told, deliveries).ok_or(malformed)?;
                }
                CODE_REPEAT => {
                    // Bounded by `messages_left`, whatever the number is.
                    for _ in 0..reader.varint()? {
                        told = expected(told).ok_or(malformed)?;
                        self.message(told, 0).ok_or(malformed)?;
                    }
                }
                CODE_NO_MORE => return Ok(()),
                _ => return Err(malformed),
            }
        }
    }

    fn on_end(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.close_queue().ok_or(reader.malformed())?;
        let malformed = reader.malformed();
        let sessions = reader.varint()?;
        let queues = reader.varint()?;
        let messages = reader.varint()?;
        let expected = (reader.u64()?, reader.u64()?);
        if (Counts { sessions, queues, messages }) != self.counts {
            return Err(malformed);
        }
        let found = (self.digest(), self.places.value());
        self.is_ended = true;
        if found == expected {
            Ok(())
        } else {
            Err(Error::Diverged { what: "checkpoint digest", id: found.0 })
        }
    }

    fn digest(&self) -> u64 {
        let head = self.head.unwrap_or_default();
        let mut digest = Digest::new((head.index, head.term), head.clock);
        digest.state(&self.sessions, &self.queues);
        digest.value()
    }

    /// One message of the level that is being read. None: there cannot be one.
    fn message(&mut self, told: Told, deliveries: u64) -> Option<()> {
        self.messages_left = self.messages_left.checked_sub(1)?;
        let deliveries = u16::try_from(deliveries).ok()?;
        let (level, next) = self.level.as_mut()?;
        let is_whole = told.stored_bytes >= STORED_HEAD_BYTES as u32 && told.sequence < *next;
        let slot = (Position(told.position), told.stored_bytes, deliveries);
        self.counts.messages += 1;
        self.places.place(Position(told.position));
        (is_whole && level.restore(told.sequence, slot)).then_some(())
    }

    fn close_level(&mut self) -> Option<()> {
        let Some((mut level, next)) = self.level.take() else { return Some(()) };
        let fits = level.restore_next(next);
        self.queue.as_mut()?.restore_level(level);
        fits.then_some(())
    }

    fn close_queue(&mut self) -> Option<()> {
        self.close_level()?;
        let Some(queue) = self.queue.take() else { return Some(()) };
        let fits = queue.totals.adds_up() && self.queues.restore(queue.id.0, queue);
        fits.then_some(())
    }
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Error> {
    let malformed = reader.malformed();
    let bytes = reader.varint()?;
    if bytes > crate::queue::NAME_BYTES_MAX as u64 {
        return Err(malformed);
    }
    reader.text(bytes as usize)
}

/// The message that follows on this one if nothing else is said.
fn expected(previous: Told) -> Option<Told> {
    let position = previous.expected_position();
    Some(Told { sequence: previous.sequence.checked_add(1)?, position, ..previous })
}

/// The message that the code makes of the one before, and its deliveries.
fn coded(previous: Told, code: u8, reader: &mut Reader<'_>) -> Result<(Told, u64), Error> {
    let malformed = reader.malformed();
    let mut told = previous;
    let skipped = if code & CODE_SEQUENCE != 0 { reader.varint()? } else { 0 };
    let sequence = previous.sequence.checked_add(1).and_then(|next| next.checked_add(skipped));
    told.sequence = sequence.ok_or(malformed)?;
    if code & CODE_GAP != 0 {
        told.gap = previous.gap.wrapping_add(reader.signed()?);
    }
    told.position = previous.end().wrapping_add_signed(told.gap);
    if code & CODE_BYTES != 0 {
        let stored_bytes = i64::from(previous.stored_bytes).checked_add(reader.signed()?);
        told.stored_bytes = stored_bytes.and_then(|bytes| u32::try_from(bytes).ok()).ok_or(malformed)?;
    }
    let deliveries = if code & CODE_DELIVERIES != 0 { reader.varint()? } else { 0 };
    Ok((told, deliveries))
}
