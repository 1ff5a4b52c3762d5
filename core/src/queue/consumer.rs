//! The consumers of a group. Leader-local; they end with their connection, their queue or the leadership.

use crate::command::QueueId;
use crate::engine::Refusal;
use crate::engine::registry::GROUPS_PER_SHARD_MAX;
use crate::queue::lease::List;

/// A client's connection to the shard, as whoever drives the engine numbers it; never used again.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names a consumer. The low 18 bits are its slot, the next 10 say how often the slot was used, so that a late settle of
/// an ended consumer does not hit its successor; the top 4 are the ordinal of its group in the shard.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub u32);

const SLOT_BITS: u32 = 18;
const ORDINAL_SHIFT: u32 = 28;
const CONSUMERS_MAX: usize = 1 << SLOT_BITS;
pub const CREDIT_MAX: u32 = 65_536;
pub const CONSUMERS_PER_QUEUE_MAX: usize = 4_096;

impl ConsumerId {
    pub(crate) fn slot(self) -> u32 {
        self.0 & ((1 << SLOT_BITS) - 1)
    }

    /// The group, among those of its shard, that gave this id.
    pub(crate) fn ordinal(self) -> usize {
        (self.0 >> ORDINAL_SHIFT) as usize
    }

    /// What the next consumer in the same slot is called.
    fn successor(self) -> Self {
        let below = (1 << ORDINAL_SHIFT) - 1;
        Self(self.0 & !below | self.0.wrapping_add(1 << SLOT_BITS) & below)
    }
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) id: ConsumerId,
    pub(crate) queue: QueueId,
    pub(crate) connection: ConnectionId,
    pub(crate) credit: u32,
    /// Unsettled deliveries; the length of `leases`. Invariant: held ≤ credit.
    pub(crate) held: u32,
    /// In the order of delivery.
    pub(crate) leases: List,
    /// Its connection takes nothing at the moment.
    pub(crate) is_paused: bool,
    /// It waits in its queue's round of takers.
    pub(crate) is_taker: bool,
    /// It takes nothing any more; its leases wait to be returned.
    pub(crate) has_ended: bool,
}

impl Consumer {
    pub(crate) fn can_take(&self) -> bool {
        self.held < self.credit && !self.is_paused && !self.has_ended
    }
}

#[derive(Debug)]
pub(crate) struct Consumers {
    ordinal: u32,

    slots: Vec<Option<Consumer>>,
    /// The id that each slot's next consumer gets.
    next_ids: Vec<ConsumerId>,
    free: Vec<u32>,
}

impl Consumers {
    pub(crate) fn new(ordinal: u32) -> Self {
        assert!(ordinal < GROUPS_PER_SHARD_MAX);
        Self { ordinal, slots: Vec::new(), next_ids: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn open(
        &mut self,
        connection: ConnectionId,
        queue: QueueId,
        credit: u32,
    ) -> Result<ConsumerId, Refusal> {
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None if self.slots.len() == CONSUMERS_MAX => return Err(Refusal::TooMany),
            None => {
                self.slots.push(None);
                let slot = (self.slots.len() - 1) as u32;
                self.next_ids.push(ConsumerId(self.ordinal << ORDINAL_SHIFT | 1 << SLOT_BITS | slot));
                self.slots.len() - 1
            }
        };
        let id = self.next_ids[slot];
        self.next_ids[slot] = id.successor();
        self.slots[slot] = Some(Consumer {
            id,
            queue,
            connection,
            credit,
            held: 0,
            leases: List::default(),
            is_paused: false,
            is_taker: false,
            has_ended: false,
        });
        Ok(id)
    }

    /// All its leases have been returned or were dropped with the queue.
    pub(crate) fn close(&mut self, id: ConsumerId) {
        let consumer = self.slots[id.slot() as usize].take();
        assert!(consumer.is_some_and(|consumer| consumer.id == id && consumer.held == 0));
        self.free.push(id.slot());
    }

    pub(crate) fn find(&self, id: ConsumerId) -> Option<&Consumer> {
        let consumer = self.slots.get(id.slot() as usize)?.as_ref()?;
        (consumer.id == id).then_some(consumer)
    }

    pub(crate) fn find_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        let consumer = self.slots.get_mut(id.slot() as usize)?.as_mut()?;
        (consumer.id == id).then_some(consumer)
    }

    /// The holder of a waiting lease.
    pub(crate) fn holder_mut(&mut self, slot: u32) -> &mut Consumer {
        let consumer = self.slots[slot as usize].as_mut();
        consumer.expect("a consumer's slot is kept until its last lease has ended")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.slots.iter().flatten()
    }
}
