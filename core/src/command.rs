//! The commands of a group: what one Raft entry holds, byte by byte.
//!
//! One entry is one batch of commands with one stamp. Everything in it was decided by the leader when it proposed it, or
//! is decided by the order of the log when it is applied; nothing depends on who applies it, or when.
//!
//! ```text
//! entry
//!  0         1         2         4                   8                                       16
//! ┌─────────┬─────────┬─────────┬───────────────────┬───────────────────────────────────────┬──────────────┐
//! │ version │ 0       │ 0   u16 │ commands      u32 │ stamp, ns since the epoch         u64 │ commands …   │
//! └─────────┴─────────┴─────────┴───────────────────┴───────────────────────────────────────┴──────────────┘
//! command                                              (back to back, no padding)
//!  0         1         2         4                   8
//! ┌─────────┬─────────┬─────────┬───────────────────┬──────────────┐
//! │ kind    │ 0       │ 0   u16 │ body bytes    u32 │ body …       │
//! └─────────┴─────────┴─────────┴───────────────────┴──────────────┘
//! body of Publish (1)
//!  0               8               16         20         24               32
//! ┌───────────────┬───────────────┬──────────┬──────────┬────────────────┬──────────────────────┐
//! │ queue     u64 │ session   u64 │ epoch u32│ count u32│ sequence   u64 │ stored messages …    │
//! └───────────────┴───────────────┴──────────┴──────────┴────────────────┴──────────────────────┘
//! stored message: the bytes that a position names       (bytes = 32 + key + headers + payload)
//!  0            4            8         10         11      12          16          20       24             32
//! ┌────────────┬────────────┬─────────┬──────────┬───────┬───────────┬───────────┬────────┬──────────────┐
//! │ payload u32│ headers u32│ key u16 │ priority │ flags │ ttl ms u32│ delay  u32│ crc u32│ published us │ key ‖ headers ‖ payload
//! └────────────┴────────────┴─────────┴──────────┴───────┴───────────┴───────────┴────────┴──────────────┘
//! body of Settle (2):         queue u64, then runs
//! body of PurgeQueue (5):     queue u64, then the runs that stay because they are leased
//! run
//!  0               8            12         13        14       16
//! ┌───────────────┬────────────┬──────────┬─────────┬────────┐
//! │ sequence  u64 │ count  u32 │ priority │ outcome │ 0  u16 │      outcome: 0 ack · 1 requeue · 2 reject; 0 in a purge
//! └───────────────┴────────────┴──────────┴─────────┴────────┘
//! body of CreateQueue (3):    settings (see `Settings`), then the name
//! body of DeleteQueue (4):    queue u64
//! body of OpenSession (6):    the producer's name, empty for an anonymous one
//! body of ExpireSessions (7): session u64 …
//! ```
//!
//! All integers are little endian. An entry of no bytes is what a new leader writes; it holds no command.

mod batch;
mod entry;
mod reader;

pub use batch::Batch;
pub use entry::{Command, Entry, Publish, Runs, SessionIds, StoredHead, StoredMessage};
pub(crate) use reader::{Reader, put_signed, put_varint};

pub const ENTRY_VERSION: u8 = 1;
pub const ENTRY_HEADER_BYTES: usize = 16;
pub const COMMAND_HEADER_BYTES: usize = 8;
pub const PUBLISH_HEAD_BYTES: usize = 32;
pub const STORED_HEAD_BYTES: usize = 32;
pub const RUN_BYTES: usize = 16;

/// Where in a stored message its checksum lies.
pub(crate) const CHECKSUM_AT: usize = 20;

/// crc32c of the queue's id and a stored message without its checksum. A single message is read back without its
/// record, so it must be able to prove itself, and whose it is.
pub(crate) fn stored_checksum(queue: QueueId, stored: &[u8]) -> u32 {
    let (before, rest) = stored.split_at(CHECKSUM_AT.min(stored.len()));
    let after = rest.get(4..).unwrap_or_default();
    let checksum = crc32c::crc32c(&queue.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(checksum, before), after)
}

pub(crate) const KIND_PUBLISH: u8 = 1;
pub(crate) const KIND_SETTLE: u8 = 2;
pub(crate) const KIND_CREATE_QUEUE: u8 = 3;
pub(crate) const KIND_DELETE_QUEUE: u8 = 4;
pub(crate) const KIND_PURGE_QUEUE: u8 = 5;
pub(crate) const KIND_OPEN_SESSION: u8 = 6;
pub(crate) const KIND_EXPIRE_SESSIONS: u8 = 7;

/// Names a queue for ever: never used again after the queue is deleted. The top 12 bits are always zero.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// Names a producer's session for ever. Zero names none.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// One message as its publisher describes it; its key, headers and payload lie in a body, in this order.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageHead {
    pub payload_bytes: u32,
    pub headers_bytes: u32,
    pub key_bytes: u16,
    pub priority: u8,
    pub flags: u8,
    pub ttl_ms: u32,
    pub delay_ms: u32,
}

impl MessageHead {
    /// What the message counts for in a queue's bytes: key, headers and payload.
    pub fn body_bytes(&self) -> u64 {
        u64::from(self.payload_bytes) + u64::from(self.headers_bytes) + u64::from(self.key_bytes)
    }
}

/// Everything about a publish that decides whether it is taken. One publish is stored wholly or not at all.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PublishHead {
    pub queue: QueueId,
    pub session: SessionId,
    pub epoch: u32,
    /// Of the publish, not of its messages: one number for all of them, from 1.
    pub sequence: u64,
    pub count: u32,
    /// Keys, headers and payloads of all its messages.
    pub bytes: u64,
    /// The highest priority among its messages.
    pub priority_max: u8,
}

/// `count` messages of one priority, one after the other, from `sequence` on.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub priority: u8,
    pub sequence: u64,
    pub count: u32,
}

impl Run {
    pub fn one(priority: u8, sequence: u64) -> Self {
        Self { priority, sequence, count: 1 }
    }

    /// The first sequence behind the run.
    pub fn end(&self) -> u64 {
        self.sequence.saturating_add(u64::from(self.count))
    }

    /// Takes the message behind the run into it, if it is that.
    pub(crate) fn grow(&mut self, priority: u8, sequence: u64) -> bool {
        let next = self.priority == priority && self.end() == sequence && self.count < u32::MAX;
        self.count += u32::from(next);
        next
    }
}

/// What becomes of a message whose lease ends.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// It is done with and removed.
    Ack = 0,
    /// It returns to its old place, with one delivery more on its account.
    Requeue = 1,
    /// It is removed unprocessed.
    Reject = 2,
}

impl TryFrom<u8> for Outcome {
    type Error = u8;

    fn try_from(byte: u8) -> Result<Self, u8> {
        match byte {
            0 => Ok(Self::Ack),
            1 => Ok(Self::Requeue),
            2 => Ok(Self::Reject),
            other => Err(other),
        }
    }
}

/// Ended leases to be logged: made by the engine (`begin_settle`, `expire_leases`), written by `Batch::settle`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub queue: QueueId,
    pub outcome: Outcome,
    pub run: Run,
}

/// Adds one message to the settlements, as part of the last run where it continues it.
pub(crate) fn note_settled(
    out: &mut Vec<Settlement>,
    queue: QueueId,
    outcome: Outcome,
    (priority, sequence): (u8, u64),
) {
    if let Some(last) = out.last_mut()
        && last.queue == queue
        && last.outcome == outcome
        && last.run.grow(priority, sequence)
    {
        return;
    }
    out.push(Settlement { queue, outcome, run: Run::one(priority, sequence) });
}

/// A stretch of the log that is held by live messages, or no longer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub position: ringmain_wal::Position,
    pub bytes: u64,
}
