//! Consumers: subscriptions that survive their connections.

use std::time::Instant;

use ringmain_net::protocol::{
    Code, DeliveryView, ITEMS_PER_FRAME_MAX, Outcome, Refused, Settle, SettleRun, Settled, Subscribe,
    Unsubscribe,
};

use super::link::Pending;
use super::mailbox::Mailbox;
use super::settler::{Lease, Settler};
use super::{HOPS_MAX, Machine, Seat, refusal};
use crate::error::Error;
use crate::event::Event;

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) seat: Seat,
    /// Messages that may be unsettled at a time.
    credit: u32,
    /// The number that the present connection gave it.
    number: Option<u32>,
    /// Rises when a connection ends: what it delivered is void.
    pub(crate) generation: u64,
    /// Delivered and not taken by the user. At most `credit` messages.
    mailbox: Mailbox,
    /// Messages settled so far, and how many of them too late.
    pub(crate) accepted: u64,
    pub(crate) stale: u64,
    /// When the queue last delivered something.
    pub(crate) delivered_at: Instant,
}

impl Consumer {
    pub(crate) fn is_ready(&self) -> bool {
        self.number.is_some()
    }

    pub(crate) fn mailbox_mut(&mut self) -> &mut Mailbox {
        &mut self.mailbox
    }
}

impl Machine {
    /// Adds a consumer of this queue; it is subscribed, or fails, in time.
    pub(crate) fn open_consumer(&mut self, queue: &str, credit: u32, now: Instant) -> u64 {
        assert!(credit > 0);
        let id = self.next_id();
        let consumer = Consumer {
            seat: Seat::new(queue),
            credit,
            number: None,
            generation: 1,
            mailbox: Mailbox::default(),
            accepted: 0,
            stale: 0,
            delivered_at: now,
        };
        self.consumers.insert(id, consumer);
        self.advance_consumer(id, now);
        id
    }

    /// Whether the consumer is subscribed, or has failed; `None`: not yet known.
    pub(crate) fn consumer_verdict(&self, id: u64) -> Option<Result<(), Error>> {
        let consumer = self.consumers.get(&id)?;
        match &consumer.seat.failed {
            Some(error) => Some(Err(error.clone())),
            None => consumer.is_ready().then_some(Ok(())),
        }
    }

    /// Nobody uses this consumer any more: what it has not settled returns to the queue.
    pub(crate) fn leave_consumer(&mut self, id: u64) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        let (Some(index), Some(number)) = (consumer.seat.link, consumer.number) else { return };
        self.links[index].consumers.remove(&number);
        self.links[index].request(Pending::Unsubscribe, &Unsubscribe { consumer: number });
    }

    pub(super) fn attach_consumers(&mut self, index: usize, now: Instant) {
        let ids: Vec<u64> = self.consumers.keys().copied().collect();
        for id in ids {
            let Some(seat) = self.consumers.get(&id).map(|consumer| &consumer.seat) else { continue };
            if seat.link != Some(index) && !seat.link.is_some_and(|link| self.links[link].is_up()) {
                let name = seat.name.clone();
                let link = self.route(&name, now);
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.seat.link = link.or(consumer.seat.link);
                }
            }
            self.advance_consumer(id, now);
        }
    }

    pub(super) fn detach_consumers(&mut self, index: usize, lost: &Error) {
        for consumer in self.consumers.values_mut().filter(|consumer| consumer.seat.link == Some(index)) {
            consumer.seat.asking = false;
            consumer.seat.hindrance = Some(lost.clone());
            consumer.number = None;
            consumer.generation += 1;
            consumer.mailbox.clear();
        }
    }

    /// Takes the next step towards being subscribed, if there is one to take.
    pub(super) fn advance_consumer(&mut self, id: u64, now: Instant) {
        let Some(consumer) = self.consumers.get(&id) else { return };
        let seat = &consumer.seat;
        if seat.failed.is_some() || seat.asking || seat.retry_at.is_some() || consumer.number.is_some() {
            return;
        }
        let (link, queue, credit, name) = (seat.link, seat.queue, consumer.credit, seat.name.clone());
        let Some(index) = link.or_else(|| self.route(&name, now)) else { return };
        let ready = self.links[index].is_up() && self.links[index].has_room_for_requests();
        match queue {
            _ if !ready => {}
            None => self.open_queue(index, Pending::ConsumerQueue { consumer: id }, &name),
            Some(queue) => {
                let pending = Pending::Subscribe { consumer: id };
                self.links[index].request(pending, &Subscribe { queue, credit });
            }
        }
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.seat.link = Some(index);
            consumer.seat.asking = ready;
        }
    }

    pub(super) fn on_consumer_queue(&mut self, id: u64, queue: u64, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.seat.on_progress();
        consumer.seat.queue = Some(queue);
        self.advance_consumer(id, now);
    }

    pub(super) fn on_subscribed(&mut self, index: usize, id: u64, number: u32) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            // The user has gone in the meantime.
            self.links[index].request(Pending::Unsubscribe, &Unsubscribe { consumer: number });
            return;
        };
        consumer.seat.on_progress();
        consumer.number = Some(number);
        self.links[index].consumers.insert(number, id);
    }

    pub(super) fn on_delivery(&mut self, index: usize, delivery: &DeliveryView<'_>) -> Result<(), String> {
        let heard = self.links[index].heard;
        // Deliveries that were under way when the consumer left return by themselves.
        let Some(id) = self.links[index].consumers.get(&delivery.consumer) else { return Ok(()) };
        let Some(consumer) = self.consumers.get_mut(id) else { return Ok(()) };
        if consumer.mailbox.len() + delivery.heads.len() > consumer.credit as usize {
            return Err(format!("delivered more than the credit of {}", consumer.credit));
        }
        consumer.delivered_at = heard;
        consumer.mailbox.push(delivery);
        Ok(())
    }

    /// Sends outcomes, and empties the settler. `token`, unless 0, comes back with how it ended.
    ///
    /// Leases of a connection that has ended are void: their messages are in the queue again.
    pub(crate) fn settle(&mut self, id: u64, settler: &mut Settler, generation: u64, token: u64) {
        let sent = self.settle_runs(id, settler.runs(), generation, token);
        if !sent {
            self.settled(token, Err(Error::Stale));
        }
        settler.clear();
    }

    fn settle_runs(&mut self, id: u64, runs: &[SettleRun], generation: u64, token: u64) -> bool {
        let Some(consumer) = self.consumers.get_mut(&id) else { return false };
        let (Some(index), Some(number)) = (consumer.seat.link, consumer.number) else { return false };
        if consumer.generation != generation {
            consumer.stale += runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
            return false;
        }
        for items in runs.chunks(ITEMS_PER_FRAME_MAX as usize) {
            let pending = Pending::Settle { consumer: id, token };
            self.links[index].request(pending, &Settle { consumer: number, items });
        }
        true
    }

    pub(super) fn on_settled(&mut self, id: u64, token: u64, settled: &Settled) {
        let result = if settled.stale == 0 { Ok(()) } else { Err(Error::Stale) };
        self.settled(token, result);
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.accepted += u64::from(settled.accepted);
        consumer.stale += u64::from(settled.stale);
        if settled.stale > 0 {
            let queue = consumer.seat.name.clone();
            self.event(Event::Stale { queue, messages: settled.stale });
        }
    }

    /// Settles that have no answer yet.
    pub(crate) fn unsettled(&self) -> usize {
        self.links.iter().map(super::link::Link::settles).sum()
    }

    pub(super) fn on_consumer_refused(&mut self, index: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        let target = self.redirect(index, refused, now);
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        let error = refusal(refused);
        let seat = &mut consumer.seat;
        seat.asking = false;
        seat.hindrance = Some(error.clone());
        match refused.code() {
            Code::NotLeader | Code::WrongShard if target.is_some() && seat.hops < HOPS_MAX => {
                seat.hops += 1;
                seat.link = target;
                let queue = seat.name.clone();
                let address = target.map_or_else(String::new, |link| self.links[link].address.to_string());
                self.event(Event::Moved { queue, address });
                self.advance_consumer(id, now);
            }
            // The number was of a queue that is gone; perhaps there is a new one of that name.
            Code::NoSuchQueue if seat.queue.is_some() => {
                seat.queue = None;
                self.advance_consumer(id, now);
            }
            code if code.is_retryable() => {
                let attempts = seat.attempts;
                seat.attempts = attempts.saturating_add(1);
                seat.hops = 0;
                let at = now + self.pause(attempts, refused.retry_after_ms);
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.seat.retry_at = Some(at);
                }
            }
            _ => {
                let (queue, reason) = (seat.name.clone(), error.to_string());
                seat.failed = Some(error);
                self.event(Event::Failed { queue, reason });
            }
        }
    }

    pub(super) fn retry_consumers(&mut self, now: Instant) {
        let due = |consumer: &Consumer| consumer.seat.retry_at.is_some_and(|at| at <= now);
        let due: Vec<u64> = self.consumers.iter().filter(|(_, c)| due(c)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(consumer) = self.consumers.get_mut(&id) {
                consumer.seat.retry_at = None;
                consumer.seat.link = None;
            }
            self.advance_consumer(id, now);
        }
    }
}

impl Lease {
    /// Joins this outcome to those that are not sent yet.
    pub(crate) fn settle(self, settler: &mut Settler, outcome: Outcome) {
        settler.push(self, outcome);
    }
}
