//! Who published what, what became of it, and where it turned up.

use std::collections::BTreeMap;

use ringmain_client::blocking::Delivery;

use super::QUEUES;
use crate::rng::Rng;

/// A producer and its number for the message.
pub(super) type MessageId = (u32, u64);
/// Queue, priority, and the sequence that the node gave.
type Place = (usize, u8, u64);

/// Producer, number, checksum of all of it, filler.
const HEAD_BYTES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Offered, not answered.
    Open,
    /// Has a receipt.
    Stored,
    /// Surely nothing of it is there.
    Refused,
}

#[derive(Debug)]
struct Message {
    queue: usize,
    priority: u8,
    bytes: u64,
    fate: Fate,
    place: Option<u64>,
    /// Settled, and the node has said so.
    is_settled: bool,
}

#[derive(Default, Debug)]
pub(super) struct Ledger {
    messages: BTreeMap<MessageId, Message>,
    places: BTreeMap<Place, MessageId>,
    pub(super) receipts: u64,
    pub(super) duplicates: u64,
    pub(super) deliveries: u64,
    pub(super) redelivered: u64,
    pub(super) takeovers: u64,
    pub(super) restarts: u64,
}

/// What a run has been through.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub messages: u64,
    pub stored: u64,
    /// Receipts for what an earlier try had stored.
    pub duplicates: u64,
    pub deliveries: u64,
    pub redelivered: u64,
    /// Times that a named producer was cut off and went on.
    pub takeovers: u64,
    pub restarts: u64,
}

/// What the last consumer of a queue was given.
#[derive(Default, Debug)]
pub(super) struct Drained {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Messages, bytes and the last sequence.
    by_priority: BTreeMap<u8, (u64, u64, u64)>,
    priority: Option<u8>,
}

impl Drained {
    /// As a node lists its levels: lowest priority first.
    pub(super) fn levels(&self) -> Vec<(u8, u64, u64)> {
        self.by_priority
            .iter()
            .map(|(&priority, &(messages, bytes, _))| (priority, messages, bytes))
            .collect()
    }
}

/// A payload that says who it is and proves that it is whole.
pub(super) fn payload(id: MessageId, rng: &mut Rng) -> Vec<u8> {
    let filler = if rng.one_in(50) { rng.below(40_000) } else { rng.skewed(600) };
    let mut payload = vec![0; HEAD_BYTES + filler as usize];
    rng.fill(&mut payload);
    payload[0..4].copy_from_slice(&id.0.to_le_bytes());
    payload[4..12].copy_from_slice(&id.1.to_le_bytes());
    payload[12..16].fill(0);
    let checksum = crc32c::crc32c(&payload);
    payload[12..16].copy_from_slice(&checksum.to_le_bytes());
    payload
}

fn identify(payload: &[u8]) -> MessageId {
    assert!(payload.len() >= HEAD_BYTES, "a payload came back shorter than any was published");
    let mut whole = payload.to_vec();
    let checksum = u32::from_le_bytes(whole[12..16].first_chunk().copied().unwrap());
    whole[12..16].fill(0);
    assert_eq!(crc32c::crc32c(&whole), checksum, "a payload came back other than it was published");
    let producer = u32::from_le_bytes(*whole[0..4].first_chunk().unwrap());
    (producer, u64::from_le_bytes(*whole[4..12].first_chunk().unwrap()))
}

impl Ledger {
    pub(super) fn offered(&mut self, id: MessageId, queue: usize, priority: u8, bytes: u64) {
        let message = Message { queue, priority, bytes, fate: Fate::Open, place: None, is_settled: false };
        assert!(self.messages.insert(id, message).is_none(), "each number is used once");
    }

    pub(super) fn stored(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            self.become_of(id, Fate::Stored);
            self.receipts += 1;
        }
    }

    pub(super) fn refused(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        ids.into_iter().for_each(|id| self.become_of(id, Fate::Refused));
    }

    fn become_of(&mut self, id: MessageId, fate: Fate) {
        let message = self.messages.get_mut(&id).expect("what is answered was offered");
        assert_eq!(message.fate, Fate::Open, "{id:?} is answered twice");
        message.fate = fate;
    }

    /// Whoever is given a message says so; answers which it is.
    pub(super) fn delivered(&mut self, queue: usize, delivery: &Delivery<'_>) -> MessageId {
        let id = identify(delivery.payload());
        self.deliveries += 1;
        self.redelivered += u64::from(delivery.is_redelivered());
        let message = self.messages.get_mut(&id).expect("what is delivered was offered");
        assert_eq!((message.queue, message.priority), (queue, delivery.priority()), "{id:?} is elsewhere");
        assert!(message.fate != Fate::Refused, "{id:?} was refused, and is there");
        assert!(!message.is_settled, "{id:?} was settled, and comes back");
        let place = (queue, delivery.priority(), delivery.sequence());
        assert_eq!(*message.place.get_or_insert(place.2), place.2, "{id:?} is in two places");
        assert_eq!(*self.places.entry(place).or_insert(id), id, "{place:?} has two messages");
        assert_eq!(delivery.key(), &id.1.to_le_bytes());
        assert_eq!(delivery.header("producer"), Some(&id.0.to_le_bytes()[..]));
        id
    }

    pub(super) fn settled(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            self.messages.get_mut(&id).expect("what is settled was offered").is_settled = true;
        }
    }

    pub(super) fn drained(&mut self, queue: usize, delivery: &Delivery<'_>, drained: &mut Drained) {
        let id = self.delivered(queue, delivery);
        let bytes = self.messages[&id].bytes;
        drained.messages += 1;
        drained.bytes += bytes;
        let priority = delivery.priority();
        assert!(drained.priority.is_none_or(|before| priority <= before), "priority {priority} comes late");
        drained.priority = Some(priority);
        let level = drained.by_priority.entry(priority).or_default();
        assert!(level.0 == 0 || level.2 < delivery.sequence(), "{id:?} comes out of order");
        *level = (level.0 + 1, level.1 + bytes, delivery.sequence());
    }

    pub(super) fn stored_in(&self, queue: usize) -> u64 {
        let stored = |message: &&Message| message.queue == queue && message.fate == Fate::Stored;
        self.messages.values().filter(stored).count() as u64
    }

    /// Nothing moves any more and every queue is empty: what must be true of all of it together.
    pub(super) fn close(&self) {
        for (id, message) in &self.messages {
            match message.fate {
                Fate::Open => panic!("{id:?} was never answered"),
                Fate::Stored => assert!(message.place.is_some(), "{id:?} has a receipt and is gone"),
                Fate::Refused => assert!(message.place.is_none()),
            }
        }
        let mut last: Option<(Place, MessageId)> = None;
        let mut upto: BTreeMap<(usize, u8, u32), u64> = BTreeMap::new();
        for (&place, &id) in &self.places {
            let (queue, priority, sequence) = place;
            if let Some(((q, p, before), other)) = last
                && (q, p) == (queue, priority)
            {
                assert_eq!(
                    sequence,
                    before + 1,
                    "{}: a place between {other:?} and {id:?} is empty",
                    QUEUES[queue]
                );
            }
            last = Some((place, id));
            // The number of each producer rises with the places.
            let before = upto.insert((queue, priority, id.0), id.1);
            assert!(before.is_none_or(|before| before < id.1), "{id:?} was stored behind {before:?}");
        }
    }

    pub(super) fn report(&self) -> Report {
        Report {
            messages: self.messages.len() as u64,
            stored: self.messages.values().filter(|message| message.fate == Fate::Stored).count() as u64,
            duplicates: self.duplicates,
            deliveries: self.deliveries,
            redelivered: self.redelivered,
            takeovers: self.takeovers,
            restarts: self.restarts,
        }
    }
}
