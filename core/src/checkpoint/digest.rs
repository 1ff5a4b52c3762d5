//! A number for a state: equal for equal states, on every replica. Positions are a replica's own; they have another.

use ringmain_wal::{Index, Position, Term};

use crate::engine::registry::Registry;
use crate::queue::Queue;
use crate::queue::level::{Level, Slot};
use crate::session::Session;
use crate::time::Time;

/// Odd and without pattern; the digest is no defence against anyone.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new((index, term): (Index, Term), clock: Time) -> Self {
        let mut digest = Self(MULTIPLIER);
        digest.number(index.0);
        digest.number(term.0);
        digest.number(clock.0);
        digest
    }

    pub(crate) fn of_places() -> Self {
        Self(MULTIPLIER)
    }

    pub(crate) fn place(&mut self, position: Position) {
        self.number(position.0);
    }

    /// Everything, in the order of a checkpoint.
    pub(crate) fn state(&mut self, sessions: &Registry<Session>, queues: &Registry<Queue>) {
        sessions.iter().for_each(|session| self.session(session));
        for queue in queues.iter() {
            self.queue(queue);
            for level in queue.levels() {
                self.level(level);
                level.iter().for_each(|(sequence, slot)| self.message(sequence, slot));
            }
        }
    }

    pub(crate) fn session(&mut self, session: &Session) {
        self.number(session.id.0);
        self.bytes(session.producer.as_bytes());
        self.number(u64::from(session.epoch));
        self.number(session.used.0);
        self.number(session.window.last());
        if let Some((gap_last, stored)) = session.window.gaps() {
            self.number(gap_last);
            stored.iter().for_each(|&word| self.number(word));
        }
    }

    pub(crate) fn queue(&mut self, queue: &Queue) {
        self.number(queue.id.0);
        self.bytes(queue.name.as_bytes());
        let mut settings = Vec::new();
        queue.settings.encode(&mut settings);
        self.bytes(&settings);
        self.number(queue.totals.acknowledged);
        self.number(queue.totals.rejected);
        self.number(queue.totals.purged);
    }

    pub(crate) fn level(&mut self, level: &Level) {
        self.number(u64::from(level.priority()));
        self.number(level.next());
    }

    pub(crate) fn message(&mut self, sequence: u64, message: &Slot) {
        self.number(sequence);
        self.number(u64::from(message.deliveries) << 32 | u64::from(message.stored_bytes));
    }

    pub(crate) fn value(&self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(MULTIPLIER);
        mixed ^ mixed >> 29
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }

    fn number(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(MULTIPLIER);
    }
}
