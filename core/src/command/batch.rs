//! Writes entries: the leader's side of the format in `command`.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    CHECKSUM_AT, COMMAND_HEADER_BYTES, ENTRY_HEADER_BYTES, ENTRY_VERSION, KIND_CREATE_QUEUE,
    KIND_DELETE_QUEUE, KIND_EXPIRE_SESSIONS, KIND_OPEN_SESSION, KIND_PUBLISH, KIND_PURGE_QUEUE, KIND_SETTLE,
    MessageHead, Outcome, PublishHead, QueueId, Run, SessionId, Settlement, stored_checksum,
};
use crate::queue::Settings;
use crate::time::Time;

/// The entry under construction. Its buffer is reused as soon as nobody holds the entries sealed before.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: BytesMut,
    commands: u32,
    stamp: Time,
    /// Of the last entry sealed: room for as much is made at once.
    entry_bytes: usize,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts an entry; what was not sealed is thrown away.
    pub fn begin(&mut self, stamp: Time) {
        self.bytes.clear();
        self.commands = 0;
        self.stamp = stamp;
        self.bytes.reserve(self.entry_bytes.max(ENTRY_HEADER_BYTES));
        self.bytes.put_u8(ENTRY_VERSION);
        self.bytes.put_bytes(0, 3);
        self.bytes.put_u32_le(0);
        self.bytes.put_u64_le(stamp.0);
        debug_assert_eq!(self.bytes.len(), ENTRY_HEADER_BYTES);
    }

    /// No command has been added since `begin`.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Bytes of the entry so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A publish that was admitted; `body` holds key ‖ headers ‖ payload of each message in turn.
    pub fn publish(
        &mut self,
        head: &PublishHead,
        messages: impl IntoIterator<Item = MessageHead>,
        body: &[u8],
    ) {
        let command = self.open(KIND_PUBLISH);
        self.bytes.put_u64_le(head.queue.0);
        self.bytes.put_u64_le(head.session.0);
        self.bytes.put_u32_le(head.epoch);
        self.bytes.put_u32_le(head.count);
        self.bytes.put_u64_le(head.sequence);
        let mut rest = body;
        let mut count = 0;
        for message in messages {
            // The sizes were checked against the body when the frame was decoded.
            let (this, behind) = rest
                .split_at_checked(message.body_bytes() as usize)
                .expect("the sizes of the messages add up to the body");
            self.message(head.queue, &message, this);
            rest = behind;
            count += 1;
        }
        assert!(rest.is_empty());
        assert_eq!(count, head.count);
        self.close(command);
    }

    /// Ended leases: one command for each stretch of settlements of the same queue.
    pub fn settle(&mut self, settlements: &[Settlement]) {
        for of_queue in settlements.chunk_by(|a, b| a.queue == b.queue) {
            let command = self.open(KIND_SETTLE);
            self.bytes.put_u64_le(of_queue[0].queue.0);
            for settlement in of_queue {
                self.run(&settlement.run, settlement.outcome);
            }
            self.close(command);
        }
    }

    pub fn create_queue(&mut self, name: &str, settings: &Settings) {
        let command = self.open(KIND_CREATE_QUEUE);
        let mut encoded = Vec::new();
        settings.encode(&mut encoded);
        self.bytes.put_slice(&encoded);
        self.bytes.put_slice(name.as_bytes());
        self.close(command);
    }

    pub fn delete_queue(&mut self, queue: QueueId) {
        let command = self.open(KIND_DELETE_QUEUE);
        self.bytes.put_u64_le(queue.0);
        self.close(command);
    }

    /// `kept` is what `Engine::begin_purge` said.
    pub fn purge_queue(&mut self, queue: QueueId, kept: &[Run]) {
        let command = self.open(KIND_PURGE_QUEUE);
        self.bytes.put_u64_le(queue.0);
        for run in kept {
            self.run(run, Outcome::Ack);
        }
        self.close(command);
    }

    pub fn open_session(&mut self, producer: &str) {
        let command = self.open(KIND_OPEN_SESSION);
        self.bytes.put_slice(producer.as_bytes());
        self.close(command);
    }

    pub fn expire_sessions(&mut self, sessions: &[SessionId]) {
        let command = self.open(KIND_EXPIRE_SESSIONS);
        for session in sessions {
            self.bytes.put_u64_le(session.0);
        }
        self.close(command);
    }

    /// The finished entry; `begin` starts the next.
    pub fn seal(&mut self) -> Bytes {
        assert!(self.bytes.len() >= ENTRY_HEADER_BYTES, "a batch is begun before it is sealed");
        let commands = self.commands.to_le_bytes();
        self.bytes[4..8].copy_from_slice(&commands);
        self.commands = 0;
        self.entry_bytes = self.bytes.len();
        self.bytes.split().freeze()
    }

    fn message(&mut self, queue: QueueId, head: &MessageHead, body: &[u8]) {
        let at = self.bytes.len();
        self.bytes.put_u32_le(head.payload_bytes);
        self.bytes.put_u32_le(head.headers_bytes);
        self.bytes.put_u16_le(head.key_bytes);
        self.bytes.put_u8(head.priority);
        self.bytes.put_u8(head.flags);
        self.bytes.put_u32_le(head.ttl_ms);
        self.bytes.put_u32_le(head.delay_ms);
        self.bytes.put_u32_le(0);
        self.bytes.put_u64_le(self.stamp.us());
        self.bytes.put_slice(body);
        let checksum = stored_checksum(queue, &self.bytes[at..]);
        self.bytes[at + CHECKSUM_AT..at + CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    fn run(&mut self, run: &Run, outcome: Outcome) {
        self.bytes.put_u64_le(run.sequence);
        self.bytes.put_u32_le(run.count);
        self.bytes.put_u8(run.priority);
        self.bytes.put_u8(outcome as u8);
        self.bytes.put_u16_le(0);
    }

    /// Writes a command's header with its length still open and says where it is.
    fn open(&mut self, kind: u8) -> usize {
        assert!(self.bytes.len() >= ENTRY_HEADER_BYTES, "a batch is begun before it is filled");
        let at = self.bytes.len();
        self.bytes.put_u8(kind);
        self.bytes.put_bytes(0, COMMAND_HEADER_BYTES - 1);
        at
    }

    fn close(&mut self, at: usize) {
        let bytes = self.bytes.len() - at - COMMAND_HEADER_BYTES;
        let bytes = u32::try_from(bytes).expect("an entry is far smaller than 4 GiB");
        self.bytes[at + 4..at + 8].copy_from_slice(&bytes.to_le_bytes());
        self.commands += 1;
    }
}
