//! Reads entries and stored messages: checked, borrowing, never a panic whatever the bytes.

use super::{
    CHECKSUM_AT, ENTRY_VERSION, KIND_CREATE_QUEUE, KIND_DELETE_QUEUE, KIND_EXPIRE_SESSIONS,
    KIND_OPEN_SESSION, KIND_PUBLISH, KIND_PURGE_QUEUE, KIND_SETTLE, MessageHead, Outcome, QueueId, RUN_BYTES,
    Reader, Run, STORED_HEAD_BYTES, SessionId, stored_checksum,
};
use crate::error::Error;
use crate::queue::Settings;
use crate::time::Time;

/// One entry: an iterator over its commands.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    reader: Reader<'a>,
    commands_left: u32,
    stamp: Time,
}

#[derive(Clone, Debug)]
pub enum Command<'a> {
    Publish(Publish<'a>),
    Settle { queue: QueueId, runs: Runs<'a> },
    CreateQueue { name: &'a str, settings: Settings },
    DeleteQueue { queue: QueueId },
    PurgeQueue { queue: QueueId, kept: Runs<'a> },
    OpenSession { producer: &'a str },
    ExpireSessions { sessions: SessionIds<'a> },
}

/// One publish: an iterator over its messages.
#[derive(Clone, Debug)]
pub struct Publish<'a> {
    pub queue: QueueId,
    pub session: SessionId,
    pub epoch: u32,
    pub sequence: u64,
    pub count: u32,
    /// Where in the entry the stored messages begin.
    base: usize,
    reader: Reader<'a>,
}

/// What the state machine needs of a stored message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StoredHead {
    pub message: MessageHead,
    pub published_us: u64,
    /// Where in the entry the stored message begins.
    pub offset: usize,
    /// Head, key, headers and payload.
    pub bytes: u32,
}

/// A stored message as read back from the log.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    pub head: MessageHead,
    pub published_us: u64,
    pub key: &'a [u8],
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

/// Runs with what becomes of them.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    reader: Reader<'a>,
}

#[derive(Clone, Debug)]
pub struct SessionIds<'a> {
    reader: Reader<'a>,
}

impl<'a> Entry<'a> {
    /// Reads the header; the commands are read one by one. No bytes at all is an entry without commands.
    pub fn parse(data: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("entry", data);
        if data.is_empty() {
            return Ok(Self { reader, commands_left: 0, stamp: Time::ZERO });
        }
        let version = reader.u8()?;
        if version != ENTRY_VERSION {
            return Err(Error::Version { what: "entry", found: version });
        }
        reader.zero(3)?;
        let commands_left = reader.u32()?;
        let stamp = Time(reader.u64()?);
        Ok(Self { reader, commands_left, stamp })
    }

    pub fn stamp(&self) -> Time {
        self.stamp
    }

    fn command(&mut self) -> Result<Command<'a>, Error> {
        let kind = self.reader.u8()?;
        self.reader.zero(3)?;
        let bytes = self.reader.u32()? as usize;
        let base = self.reader.offset();
        let malformed = self.reader.malformed();
        let mut body = Reader::new("command", self.reader.take(bytes)?);
        match kind {
            KIND_PUBLISH => Publish::parse(base, body).map(Command::Publish),
            KIND_SETTLE => Ok(Command::Settle { queue: QueueId(body.u64()?), runs: Runs::parse(body)? }),
            KIND_CREATE_QUEUE => {
                let settings = Settings::decode(&mut body)?;
                let name = std::str::from_utf8(body.rest()).map_err(|_| malformed)?;
                Ok(Command::CreateQueue { name, settings })
            }
            KIND_DELETE_QUEUE => {
                let queue = QueueId(body.u64()?);
                if body.is_empty() { Ok(Command::DeleteQueue { queue }) } else { Err(malformed) }
            }
            KIND_PURGE_QUEUE => {
                Ok(Command::PurgeQueue { queue: QueueId(body.u64()?), kept: Runs::parse(body)? })
            }
            KIND_OPEN_SESSION => {
                let producer = std::str::from_utf8(body.rest()).map_err(|_| malformed)?;
                Ok(Command::OpenSession { producer })
            }
            KIND_EXPIRE_SESSIONS if bytes.is_multiple_of(8) => {
                Ok(Command::ExpireSessions { sessions: SessionIds { reader: body } })
            }
            _ => Err(malformed),
        }
    }
}

impl<'a> Iterator for Entry<'a> {
    type Item = Result<Command<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.commands_left == 0 {
            if self.reader.is_empty() {
                return None;
            }
            let malformed = self.reader.malformed();
            self.reader.rest();
            return Some(Err(malformed));
        }
        self.commands_left -= 1;
        let command = self.command();
        if command.is_err() {
            self.commands_left = 0;
            self.reader.rest();
        }
        Some(command)
    }
}

impl<'a> Publish<'a> {
    fn parse(base: usize, mut reader: Reader<'a>) -> Result<Self, Error> {
        let queue = QueueId(reader.u64()?);
        let session = SessionId(reader.u64()?);
        let epoch = reader.u32()?;
        let count = reader.u32()?;
        let sequence = reader.u64()?;
        if count == 0 {
            return Err(reader.malformed());
        }
        Ok(Self { queue, session, epoch, sequence, count, base, reader })
    }

    fn message(&mut self) -> Result<StoredHead, Error> {
        let offset = self.base + self.reader.offset();
        let (message, published_us) = stored_head(&mut self.reader)?;
        let malformed = self.reader.malformed();
        let body_bytes = usize::try_from(message.body_bytes()).map_err(|_| malformed)?;
        self.reader.take(body_bytes)?;
        let bytes = u32::try_from(body_bytes + STORED_HEAD_BYTES).map_err(|_| malformed)?;
        Ok(StoredHead { message, published_us, offset, bytes })
    }
}

impl Iterator for Publish<'_> {
    type Item = Result<StoredHead, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.count, self.reader.is_empty()) {
            (0, true) => return None,
            (0, false) => {
                let malformed = self.reader.malformed();
                self.reader.rest();
                return Some(Err(malformed));
            }
            _ => self.count -= 1,
        }
        let message = self.message();
        if message.is_err() {
            self.count = 0;
            self.reader.rest();
        }
        Some(message)
    }
}

impl<'a> Runs<'a> {
    fn parse(reader: Reader<'a>) -> Result<Self, Error> {
        let bytes = reader.clone().rest().len();
        if bytes.is_multiple_of(RUN_BYTES) { Ok(Self { reader }) } else { Err(reader.malformed()) }
    }

    fn run(&mut self) -> Result<(Run, Outcome), Error> {
        let sequence = self.reader.u64()?;
        let count = self.reader.u32()?;
        let priority = self.reader.u8()?;
        let outcome = Outcome::try_from(self.reader.u8()?).map_err(|_| self.reader.malformed())?;
        self.reader.zero(2)?;
        Ok((Run { priority, sequence, count }, outcome))
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<(Run, Outcome), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let run = self.run();
        if run.is_err() {
            self.reader.rest();
        }
        Some(run)
    }
}

impl Iterator for SessionIds<'_> {
    type Item = SessionId;

    fn next(&mut self) -> Option<SessionId> {
        // The length is a multiple of eight: a read that fails is the end.
        self.reader.u64().ok().map(SessionId)
    }
}

impl<'a> StoredMessage<'a> {
    /// Reads exactly one stored message of a queue, as a position and a number of bytes name it. Bytes that have changed
    /// since, or are another queue's, are an error.
    pub fn parse(bytes: &'a [u8], queue: QueueId) -> Result<Self, Error> {
        let mut reader = Reader::new("stored message", bytes);
        let stored = bytes.get(CHECKSUM_AT..).and_then(|rest| rest.first_chunk::<4>());
        if stored.is_none_or(|stored| u32::from_le_bytes(*stored) != stored_checksum(queue, bytes)) {
            return Err(reader.malformed());
        }
        let (head, published_us) = stored_head(&mut reader)?;
        let key = reader.take(usize::from(head.key_bytes))?;
        let headers = reader.take(head.headers_bytes as usize)?;
        let payload = reader.take(head.payload_bytes as usize)?;
        if !reader.is_empty() {
            return Err(reader.malformed());
        }
        Ok(Self { head, published_us, key, headers, payload })
    }
}

fn stored_head(reader: &mut Reader<'_>) -> Result<(MessageHead, u64), Error> {
    let malformed = reader.malformed();
    let mut head = Reader::new("stored message", reader.take(STORED_HEAD_BYTES)?);
    let message = MessageHead {
        payload_bytes: head.u32()?,
        headers_bytes: head.u32()?,
        key_bytes: head.u16()?,
        priority: head.u8()?,
        flags: head.u8()?,
        ttl_ms: head.u32()?,
        delay_ms: head.u32()?,
    };
    // Of the checksum: an entry is covered by its record's.
    head.take(4).map_err(|_| malformed)?;
    Ok((message, head.u64()?))
}

#[cfg(test)]
mod tests;
