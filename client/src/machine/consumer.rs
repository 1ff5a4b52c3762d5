//! Consumers: subscriptions that survive their connections.

use std::time::{Duration, Instant};

use ringmain_net::protocol::{
    Code, ConsumerEnded, DeliveryView, ITEMS_PER_FRAME_MAX, OpenQueue, Outcome, Refused, Settle, SettleRun,
    Settled, Subscribe, Unsubscribe,
};

use super::link::Pending;
use super::mailbox::Mailbox;
use super::places::Goal;
use super::seat::{Seat, SeatOf, Turn, is_elsewhere};
use super::settler::{Lease, Settler};
use super::{Machine, refusal};
use crate::error::Error;
use crate::event::Event;

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) seat: Seat,
    /// The queue's number.
    queue: Option<u64>,
    /// For good.
    pub(crate) failed: Option<Error>,
    /// Messages that may be unsettled at a time.
    credit: u32,
    /// The number that the present connection gave it. It has one while it is subscribed.
    number: Option<u32>,
    /// Rises when a subscription ends: what it delivered is void.
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

    /// Whatever was delivered is void: its messages are in the queue again.
    fn end_subscription(&mut self) {
        self.number = None;
        self.generation += 1;
        self.mailbox.clear();
    }
}

impl Machine {
    /// Adds a consumer of this queue; it is subscribed, or fails, in time.
    pub(crate) fn open_consumer(&mut self, queue: &str, credit: u32, now: Instant) -> u64 {
        assert!(credit > 0);
        let id = self.next_id();
        let consumer = Consumer {
            seat: Seat::new(Goal::Queue(queue.to_owned())),
            queue: None,
            failed: None,
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
        match &consumer.failed {
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

    /// A connection has come up: those without one may need it.
    pub(super) fn attach_consumers(&mut self, index: usize, now: Instant) {
        let ids: Vec<u64> = self.consumers.keys().copied().collect();
        for id in ids {
            let Some(seat) = self.consumers.get(&id).map(|consumer| &consumer.seat) else { continue };
            let suits = seat.link.is_none() && self.suits(index, seat.search(&self.places));
            if let Some(consumer) = self.consumers.get_mut(&id).filter(|_| suits) {
                consumer.seat.link = Some(index);
                consumer.seat.retry_at = None;
            }
            self.advance_consumer(id, now);
        }
    }

    pub(super) fn detach_consumers(&mut self, index: usize, lost: &Error, now: Instant) {
        for consumer in self.consumers.values_mut().filter(|consumer| consumer.seat.link == Some(index)) {
            consumer.end_subscription();
            consumer.seat.on_unseated(index, lost.clone(), now);
        }
    }

    /// Takes the next step towards being subscribed, if there is one to take.
    pub(super) fn advance_consumer(&mut self, id: u64, now: Instant) {
        let Some(consumer) = self.consumers.get(&id) else { return };
        let seat = &consumer.seat;
        if consumer.failed.is_some() || !seat.may_ask() || consumer.number.is_some() {
            return;
        }
        let (link, search) = (seat.link, seat.search(&self.places));
        let found = link.or_else(|| self.look(search, now));
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.seat.link = found;
        let Some(index) = found else { return consumer.seat.on_nobody(now) };
        let link = &mut self.links[index];
        if !link.has_room_for_requests() {
            return;
        }
        consumer.seat.on_asked(now);
        match consumer.queue {
            None => {
                let pending = Pending::ConsumerQueue { consumer: id };
                link.request(pending, &OpenQueue { name: consumer.seat.name() });
            }
            Some(queue) => {
                let pending = Pending::Subscribe { consumer: id };
                link.request(pending, &Subscribe { queue, credit: consumer.credit });
            }
        }
    }

    pub(super) fn on_consumer_queue(&mut self, index: usize, id: u64, queue: u64, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        if consumer.number.is_some() || !consumer.seat.is_searching() {
            return;
        }
        consumer.seat.on_served_by(index);
        consumer.queue = Some(queue);
        self.places.on_leader(self.places.resolve(&consumer.seat.goal), index);
        self.advance_consumer(id, now);
    }

    pub(super) fn on_subscribed(&mut self, index: usize, id: u64, number: u32) {
        // The user has gone in the meantime, or another shard has answered.
        let waiting = |consumer: &&mut Consumer| consumer.number.is_none() && consumer.seat.is_searching();
        let Some(consumer) = self.consumers.get_mut(&id).filter(waiting) else {
            self.links[index].request(Pending::Unsubscribe, &Unsubscribe { consumer: number });
            return;
        };
        consumer.seat.on_served_by(index);
        consumer.number = Some(number);
        self.places.on_leader(self.places.resolve(&consumer.seat.goal), index);
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
            let queue = consumer.seat.name().to_owned();
            self.event(Event::Stale { queue, messages: settled.stale });
        }
    }

    /// Settles that have no answer yet.
    pub(crate) fn unsettled(&self) -> usize {
        self.links.iter().map(super::link::Link::settles).sum()
    }

    /// The shard serves this consumer no more. The connection stays, for others and perhaps for this one.
    pub(super) fn on_consumer_ended(&mut self, index: usize, ended: &ConsumerEnded<'_>, now: Instant) {
        let Some(id) = self.links[index].consumers.remove(&ended.consumer) else { return };
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        consumer.end_subscription();
        if ended.code() == Code::NoSuchQueue {
            // Perhaps there is a new queue of that name. If not, asking for it says so.
            consumer.queue = None;
            self.advance_consumer(id, now);
            return;
        }
        let (detail, retry_after) = (ended.detail.to_owned(), Duration::ZERO);
        let why = Error::Refused { code: ended.code(), detail, retry_after };
        consumer.seat.on_unseated(index, why, now);
        self.places.on_not_leader(self.places.resolve(&consumer.seat.goal), index);
        self.due = now;
    }

    /// Nothing of a settle was done, as far as this shard knows. Answers what that means to whoever settled.
    pub(super) fn on_settle_refused(
        &mut self,
        index: usize,
        id: u64,
        refused: &Refused<'_>,
        now: Instant,
    ) -> Error {
        let code = refused.code();
        let error = match code {
            // The consumer has ended, and with it its leases.
            Code::NoSuchConsumer => Error::Stale,
            // Whether it reached the next leader is known there: if not, the message comes again.
            code if is_elsewhere(code) => {
                let address = self.links[index].address.to_string();
                Error::Lost { address, reason: refusal(refused).to_string() }
            }
            _ => refusal(refused),
        };
        let number = self.consumers.get(&id).filter(|c| c.seat.link == Some(index)).and_then(|c| c.number);
        if let Some(consumer) = number.filter(|_| is_elsewhere(code)) {
            let ended = ConsumerEnded { consumer, code: refused.code, detail: refused.detail };
            self.on_consumer_ended(index, &ended, now);
        }
        error
    }

    pub(super) fn on_consumer_refused(&mut self, index: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(&id).filter(|c| c.seat.link == Some(index)) else {
            return;
        };
        if !std::mem::take(&mut consumer.seat.asking) {
            return;
        }
        match refused.code() {
            code if is_elsewhere(code) => {
                if self.on_elsewhere(index, SeatOf::Consumer(id), refused, now) == Turn::Ask {
                    self.advance_consumer(id, now);
                }
            }
            // The number was of a queue that is gone; perhaps there is a new one of that name.
            Code::NoSuchQueue if consumer.queue.is_some() => {
                consumer.queue = None;
                self.advance_consumer(id, now);
            }
            code if code.is_retryable() => {
                let attempts = consumer.seat.attempts;
                consumer.seat.attempts = attempts.saturating_add(1);
                consumer.seat.hindrance = Some(refusal(refused));
                let pause = match code {
                    Code::Busy => self.pause_until_ready(attempts, refused.retry_after_ms),
                    _ => self.pause(attempts, refused.retry_after_ms),
                };
                let at = now + pause;
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.seat.retry_at = Some(at);
                }
            }
            _ => {
                let error = refusal(refused);
                let (queue, reason) = (consumer.seat.name().to_owned(), error.to_string());
                consumer.failed = Some(error);
                self.event(Event::Failed { queue, reason });
            }
        }
    }

    pub(super) fn retry_consumers(&mut self, now: Instant) {
        let due = |consumer: &Consumer| consumer.seat.retry_at.is_some_and(|at| at <= now);
        let due: Vec<u64> = self.consumers.iter().filter(|(_, c)| due(c)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(consumer) = self.consumers.get_mut(&id) {
                consumer.seat.on_retry();
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
