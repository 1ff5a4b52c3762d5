//! What only the leader knows of a queue: what is next, who takes it, what is on its way into the log.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Queue;
use super::consumer::ConsumerId;
use super::lease::List;
use super::level::Level;
use super::priorities::PrioritySet;
use crate::command::QueueId;

/// Deliveries from one queue before the next queue's turn: few enough to be fair, enough to stay in the cache.
pub(crate) const TURN_DELIVERIES: u32 = 32;

#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) queue: QueueId,
    pub(crate) lease_ms: u32,

    /// Admitted and not yet applied.
    pub(crate) unapplied: u64,
    pub(crate) unapplied_bytes: u64,
    /// A delete is on its way: nothing is admitted behind it.
    pub(crate) is_deleting: bool,
    /// Purges on their way: nothing is delivered until they are applied, so that what they keep is what is leased.
    pub(crate) purges: u32,
    /// The next payload is being read from disk.
    pub(crate) is_parked: bool,

    /// The priorities that have ready messages.
    ready: PrioritySet,
    /// One for each level of the queue, in the same order.
    levels: Vec<DeskLevel>,

    /// Who has subscribed and not ended.
    pub(crate) consumers: Vec<ConsumerId>,
    /// Consumers in turn. Holds every one that can take something; others leave when their turn comes.
    pub(crate) takers: VecDeque<ConsumerId>,
    /// Leases in deadline order.
    pub(crate) waiting: List,
    /// Leases whose end is proposed.
    pub(crate) settling: List,
    /// There is a timer for the first waiting lease, or for an earlier time.
    pub(crate) has_timer: bool,
    /// The queue waits in the round of queues.
    pub(crate) is_in_round: bool,
    pub(crate) turn_left: u32,
}

#[derive(Debug)]
struct DeskLevel {
    /// Everything before the cursor is leased, gone, or in `returned`; nothing behind it is leased.
    cursor: u64,
    /// Ready messages before the cursor, lowest first; may name ones that have gone since.
    returned: BinaryHeap<Reverse<u64>>,
    in_flight: u64,
    in_flight_stored_bytes: u64,
    /// What lies before it was there when another replica led, which may have delivered it.
    past: u64,
}

impl DeskLevel {
    fn new() -> Self {
        Self { cursor: 0, returned: BinaryHeap::new(), in_flight: 0, in_flight_stored_bytes: 0, past: 0 }
    }
}

impl Desk {
    /// Of a queue of which nothing is leased.
    pub(crate) fn new(queue: &Queue) -> Self {
        let mut desk = Self {
            queue: queue.id,
            lease_ms: queue.settings.lease_ms,
            unapplied: 0,
            unapplied_bytes: 0,
            is_deleting: false,
            purges: 0,
            is_parked: false,
            ready: PrioritySet::default(),
            levels: queue.levels().iter().map(|_| DeskLevel::new()).collect(),
            consumers: Vec::new(),
            takers: VecDeque::new(),
            waiting: List::default(),
            settling: List::default(),
            has_timer: false,
            is_in_round: false,
            turn_left: TURN_DELIVERIES,
        };
        for (rank, level) in queue.levels().iter().enumerate() {
            desk.refresh(rank, level);
        }
        desk
    }

    /// Something could be delivered if a consumer takes it.
    pub(crate) fn has_offer(&self) -> bool {
        !self.ready.is_empty() && !self.is_parked && self.purges == 0
    }

    /// Whatever the queue holds may have been delivered by the leader before.
    pub(crate) fn note_past(&mut self, queue: &Queue) {
        for (desk, level) in self.levels.iter_mut().zip(queue.levels()) {
            desk.past = level.next();
        }
    }

    pub(crate) fn is_past(&self, rank: usize, sequence: u64) -> bool {
        sequence < self.levels[rank].past
    }

    pub(crate) fn open_level(&mut self, rank: usize) {
        self.levels.insert(rank, DeskLevel::new());
    }

    /// To be called when the number of live or leased messages of a level has changed.
    pub(crate) fn refresh(&mut self, rank: usize, level: &Level) {
        assert!(self.levels[rank].in_flight <= level.live());
        if level.live() > self.levels[rank].in_flight {
            self.ready.insert(level.priority());
        } else {
            self.ready.remove(level.priority());
            self.levels[rank].returned.clear();
        }
    }

    /// The next message: highest priority, then lowest sequence.
    pub(crate) fn next(&mut self, queue: &Queue) -> Option<(u8, u64)> {
        let priority = self.ready.highest()?;
        // A priority is in `ready` only while its level has ready messages, so level and message are there.
        let rank = queue.rank(priority).expect("a ready priority has a level");
        let (level, desk) = (&queue.levels()[rank], &mut self.levels[rank]);
        while let Some(&Reverse(sequence)) = desk.returned.peek() {
            if level.slot(sequence).is_some_and(|slot| slot.is_ready()) {
                return Some((priority, sequence));
            }
            desk.returned.pop();
        }
        desk.cursor = level.next_live(desk.cursor).expect("a ready level has a live message to give");
        Some((priority, desk.cursor))
    }

    /// The message that `next` named is leased now.
    pub(crate) fn take(&mut self, rank: usize, sequence: u64, stored_bytes: u32) {
        let level = &mut self.levels[rank];
        if level.returned.peek() == Some(&Reverse(sequence)) {
            level.returned.pop();
        } else {
            assert_eq!(level.cursor, sequence);
            level.cursor += 1;
        }
        level.in_flight += 1;
        level.in_flight_stored_bytes += u64::from(stored_bytes);
    }

    /// The lease of a message has ended; `refresh` follows when it is known what became of the message.
    pub(crate) fn untake(&mut self, rank: usize, stored_bytes: u32) {
        let level = &mut self.levels[rank];
        level.in_flight -= 1;
        level.in_flight_stored_bytes -= u64::from(stored_bytes);
    }

    /// A message that was leased is ready again, in its old place.
    pub(crate) fn give_back(&mut self, rank: usize, sequence: u64) {
        assert!(sequence < self.levels[rank].cursor);
        self.levels[rank].returned.push(Reverse(sequence));
    }

    /// Leased messages of a level and their stored bytes.
    pub(crate) fn in_flight(&self, rank: usize) -> (u64, u64) {
        (self.levels[rank].in_flight, self.levels[rank].in_flight_stored_bytes)
    }

    pub(crate) fn check(&self, queue: &Queue) {
        assert_eq!(self.queue, queue.id);
        assert_eq!(self.levels.len(), queue.levels().len());
        for (rank, level) in queue.levels().iter().enumerate() {
            let desk = &self.levels[rank];
            let (mut in_flight, mut stored_bytes) = (0, 0);
            for (_, slot) in level.iter().filter(|(_, slot)| !slot.is_ready()) {
                in_flight += 1;
                stored_bytes += u64::from(slot.stored_bytes);
            }
            assert_eq!(in_flight, desk.in_flight);
            assert_eq!(stored_bytes, desk.in_flight_stored_bytes);
            assert_eq!(self.ready.contains(level.priority()), level.live() > desk.in_flight);
            let mut returned: Vec<u64> = desk.returned.iter().map(|&Reverse(sequence)| sequence).collect();
            returned.sort_unstable();
            assert!(returned.is_sorted_by(|a, b| a < b));
            for (sequence, slot) in level.iter() {
                if sequence >= desk.cursor {
                    assert!(slot.is_ready());
                } else if slot.is_ready() {
                    assert!(returned.binary_search(&sequence).is_ok());
                }
            }
        }
        let total_length = queue.totals.live + self.unapplied;
        assert!(queue.settings.max_length == 0 || total_length <= queue.settings.max_length);
        let total_bytes = queue.totals.live_bytes() + self.unapplied_bytes;
        assert!(queue.settings.max_bytes == 0 || total_bytes <= queue.settings.max_bytes);
    }
}
