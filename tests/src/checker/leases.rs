//! Deliveries, and how they end.

use super::{Checker, Consumer, Doom, Lease, MessageId, Place, Stored, Violation};

#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub message: MessageId,
    pub place: Place,
    pub consumer: u64,
    /// 1: the first.
    pub deliveries: u64,
    /// The lease ends then.
    pub until: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Remove,
    Return,
}

/// A settle that the broker has taken and not answered.
#[derive(Default, Debug)]
pub struct Settle {
    consumer: u64,
    /// Held when it was asked.
    sure: Vec<(MessageId, Outcome)>,
    /// Perhaps held.
    maybe: Vec<(MessageId, Outcome)>,
    stale: u64,
}

impl Checker {
    pub fn subscribed(&mut self, consumer: u64, queue: u64, credit: u64) {
        self.consumers.insert(consumer, Consumer { queue, credit, held: 0 });
    }

    /// Whatever this consumer held comes back.
    pub fn consumer_gone(&mut self, consumer: u64) {
        let Some(Consumer { queue, .. }) = self.consumers.remove(&consumer) else { return };
        let Some(queue) = self.queues.get(&queue) else { return };
        for id in queue.live.iter().copied().collect::<Vec<_>>() {
            let lease = self.messages[&id].lease;
            if matches!(lease, Lease::Held { consumer: holder, .. } if holder == consumer) {
                self.set_lease(id, Lease::Returning { consumer });
            }
        }
    }

    /// The broker had the occasion to notice which leases are over.
    pub fn turned(&mut self, now: u64) {
        while let Some((until, id)) = self.deadlines.first().copied()
            && until <= now
        {
            if let Lease::Held { consumer, .. } = self.messages[&id].lease {
                self.set_lease(id, Lease::Returning { consumer });
            }
            self.deadlines.remove(&(until, id));
        }
    }

    /// The broker has nothing under way: whatever was to return has returned.
    pub fn quiet(&mut self) {
        let live = self.queues.values().flat_map(|queue| &queue.live).copied();
        let is_returning = |id: &MessageId| matches!(self.messages[id].lease, Lease::Returning { .. });
        for id in live.filter(is_returning).collect::<Vec<_>>() {
            self.set_lease(id, Lease::None);
        }
    }

    /// The broker chose it just now, after all that it had answered.
    pub fn delivered(&mut self, delivery: &Delivery) -> Result<(), Violation> {
        let Delivery { message: id, place, .. } = *delivery;
        let known = self.message(id)?;
        if (known.offer.queue, known.offer.priority) != (place.queue, place.priority) {
            return Err(format!("once: {id:?} was published elsewhere than {place:?}"));
        }
        if matches!(known.stored, Stored::Gone | Stored::Refused) {
            return Err(format!("once: {id:?} is delivered, but it is {:?}", known.stored));
        }
        let first = known.place.replace(place);
        self.check_place(id, first, place)?;
        let known = self.message(id)?;
        if let Lease::Held { .. } | Lease::Settling { .. } = known.lease {
            return Err(format!("leased: {id:?} is delivered to {delivery:?}, but {:?}", known.lease));
        }
        let (low, high) = known.next;
        if delivery.deliveries < low || delivery.deliveries > high {
            let deliveries = delivery.deliveries;
            return Err(format!("leased: delivery {deliveries} of {id:?} should be {low} to {high}"));
        }
        // What is delivered is stored.
        (known.stored, known.doom) = (Stored::Surely, Doom::None);
        known.next = (delivery.deliveries + 1, delivery.deliveries + 1);
        self.update(id);
        self.check_order(id, place)?;
        self.check_priority(place)?;
        self.set_lease(id, Lease::Held { consumer: delivery.consumer, until: delivery.until });
        self.check_credit(delivery)
    }

    /// `items`: places, how often they were delivered, and what is to become of them.
    pub fn settle_asked(&mut self, consumer: u64, items: &[(Place, u64, Outcome)]) -> Settle {
        let mut settle = Settle { consumer, ..Settle::default() };
        for (place, deliveries, outcome) in items {
            let id = self.places.get(place).copied();
            let message = id.and_then(|id| self.messages.get(&id));
            let lease = message.filter(|message| message.next.0 == deliveries + 1).map(|one| one.lease);
            match (id, lease) {
                (Some(id), Some(Lease::Held { consumer: holder, until })) if holder == consumer => {
                    self.set_lease(id, Lease::Settling { consumer, until, outcome: *outcome });
                    settle.sure.push((id, *outcome));
                }
                (Some(id), Some(Lease::Returning { consumer: holder })) if holder == consumer => {
                    self.perhaps(id, *outcome);
                    settle.maybe.push((id, *outcome));
                }
                _ => settle.stale += 1,
            }
        }
        settle
    }

    pub fn settle_answered(&mut self, settle: Settle, accepted: u64, stale: u64) -> Result<(), Violation> {
        let (sure, maybe) = (settle.sure.len() as u64, settle.maybe.len() as u64);
        if accepted + stale != sure + maybe + settle.stale || accepted < sure || stale < settle.stale {
            return Err(format!("leased: {accepted} settled and {stale} stale, of {settle:?}"));
        }
        settle.sure.iter().for_each(|&(id, outcome)| self.ended(id, outcome));
        for (id, outcome) in settle.maybe {
            if accepted == sure + maybe {
                self.ended(id, outcome);
            } else if accepted == sure {
                self.not_ended(id, settle.consumer);
            }
        }
        Ok(())
    }

    /// Nothing of it was done.
    pub fn settle_refused(&mut self, settle: Settle) {
        for (id, _) in settle.sure {
            let is_there = self.consumers.contains_key(&settle.consumer);
            match self.messages[&id].lease {
                Lease::Settling { consumer, until, .. } if is_there => {
                    self.set_lease(id, Lease::Held { consumer, until });
                }
                Lease::Settling { consumer, .. } => self.set_lease(id, Lease::Returning { consumer }),
                Lease::None | Lease::Held { .. } | Lease::Returning { .. } => {}
            }
        }
        settle.maybe.iter().for_each(|&(id, _)| self.not_ended(id, settle.consumer));
    }

    /// Its answer is lost.
    pub fn settle_abandoned(&mut self, settle: Settle) {
        for (id, outcome) in settle.sure {
            if let Lease::Settling { consumer, .. } = self.messages[&id].lease {
                self.perhaps(id, outcome);
                self.set_lease(id, Lease::Returning { consumer });
            }
        }
    }

    fn perhaps(&mut self, id: MessageId, outcome: Outcome) {
        let message = self.messages.get_mut(&id).expect("what is settled is known");
        if outcome == Outcome::Remove && message.stored == Stored::Surely {
            message.stored = Stored::PerhapsGone;
        }
        self.update(id);
    }

    fn ended(&mut self, id: MessageId, outcome: Outcome) {
        let message = self.messages.get_mut(&id).expect("what is settled is known");
        if outcome == Outcome::Remove {
            message.stored = Stored::Gone;
        }
        self.set_lease(id, Lease::None);
    }

    fn not_ended(&mut self, id: MessageId, consumer: u64) {
        let message = self.messages.get_mut(&id).expect("what is settled is known");
        let is_ours = matches!(message.lease, Lease::Returning { consumer: holder } if holder == consumer);
        if is_ours && message.stored == Stored::PerhapsGone && message.doom == Doom::None {
            message.stored = Stored::Surely;
        }
        self.update(id);
    }

    pub(super) fn set_lease(&mut self, id: MessageId, lease: Lease) {
        let message = self.messages.get_mut(&id).expect("who sets a lease knows the message");
        let before = std::mem::replace(&mut message.lease, lease);
        if let Lease::Held { consumer, until } = before {
            self.deadlines.remove(&(until, id));
            if let Some(consumer) = self.consumers.get_mut(&consumer) {
                consumer.held -= 1;
            }
        }
        if let Lease::Held { consumer, until } = lease {
            self.deadlines.insert((until, id));
            if let Some(consumer) = self.consumers.get_mut(&consumer) {
                consumer.held += 1;
            }
        }
        self.update(id);
    }

    fn check_credit(&self, delivery: &Delivery) -> Result<(), Violation> {
        match self.consumers.get(&delivery.consumer) {
            None => Err(format!("leased: {delivery:?} goes to a consumer that is not there")),
            Some(consumer) if consumer.queue != delivery.place.queue => {
                Err(format!("leased: {delivery:?} goes to a consumer of queue {}", consumer.queue))
            }
            Some(consumer) if consumer.held > consumer.credit => {
                Err(format!("bounded: {delivery:?} is more than the credit of {}", consumer.credit))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_place(&mut self, id: MessageId, first: Option<Place>, place: Place) -> Result<(), Violation> {
        if first.is_some_and(|first| first != place) {
            return Err(format!("once: {id:?} was at {first:?} and is at {place:?}"));
        }
        let holder = *self.places.entry(place).or_insert(id);
        if holder != id {
            return Err(format!("once: {place:?} was {holder:?} and is {id:?}"));
        }
        Ok(())
    }

    fn check_order(&mut self, id: MessageId, place: Place) -> Result<(), Violation> {
        let order = self.messages[&id].order;
        let queue = self.queues.get(&place.queue);
        let waiting = queue.and_then(|queue| queue.waiting.get(&place.priority));
        for other in waiting.into_iter().flatten().filter(|other| **other != id) {
            let waits = &self.messages[other];
            let is_before = match (waits.place, waits.order, order) {
                (Some(other), _, _) => other.sequence < place.sequence,
                (None, Some(other), Some(order)) => other < order,
                (None, _, _) => false,
            };
            if is_before {
                return Err(format!("ordered: {id:?} is delivered before {other:?}, which waits before it"));
            }
        }
        if let Some(order) = order {
            let level = self.orders.entry((place.queue, place.priority)).or_default();
            check_neighbours(level, place.sequence, order)
                .map_err(|()| format!("ordered: {id:?} at {place:?} is not in the order of the log"))?;
        }
        let (producer, number) = self.messages[&id].offer.producer;
        let places = self.producers.entry((producer, place.queue, place.priority)).or_default();
        check_neighbours(places, number, place.sequence)
            .map_err(|()| format!("ordered: {id:?}, number {number} of its producer, is at {place:?}"))
    }

    fn check_priority(&self, place: Place) -> Result<(), Violation> {
        let Some(queue) = self.queues.get(&place.queue) else { return Ok(()) };
        let waits = queue.waiting.iter().filter(|(priority, _)| **priority > place.priority);
        match waits.flat_map(|(_, waiting)| waiting).next() {
            Some(waits) => Err(format!("priority: {place:?} is delivered while {waits:?} waits")),
            None => Ok(()),
        }
    }
}

/// Both rise together.
fn check_neighbours<V: Copy + Ord>(
    known: &mut std::collections::BTreeMap<u64, V>,
    key: u64,
    value: V,
) -> Result<(), ()> {
    let before = known.range(..key).next_back().is_none_or(|(_, before)| *before < value);
    let after = known.range(key + 1..).next().is_none_or(|(_, after)| *after > value);
    known.insert(key, value);
    if before && after { Ok(()) } else { Err(()) }
}
