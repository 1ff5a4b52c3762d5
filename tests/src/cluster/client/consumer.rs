//! A consumer: takes, and settles in one of the ways there are, or forgets to.

use ringmain_net::protocol::{Code, OpenQueue, Outcome, Reply, Settle, SettleRun, Subscribe, Unsubscribe};

use super::Context;
use crate::world::MILLISECOND;

#[derive(Clone, Copy, Debug)]
struct Held {
    priority: u8,
    sequence: u64,
    deliveries: u16,
}

#[derive(Debug)]
pub(super) struct Consumer {
    queue: String,
    credit: u32,

    handle: Option<u64>,
    consumer: Option<u32>,
    held: Vec<Held>,
    /// Asked and not answered.
    unanswered: u32,
    request: u64,
    asked_at: u64,
    /// It does nothing until then, and settles what is not its own any more.
    dozes_until: u64,
}

impl Consumer {
    pub(super) fn new(queue: &str, credit: u32) -> Self {
        Self {
            queue: queue.to_owned(),
            credit,
            handle: None,
            consumer: None,
            held: Vec::new(),
            unanswered: 0,
            request: 0,
            asked_at: 0,
            dozes_until: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.held.is_empty() && self.unanswered == 0
    }

    pub(super) fn lost(&mut self) {
        (self.handle, self.consumer, self.unanswered) = (None, None, 0);
        self.held.clear();
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        let (Some(queue), Some(consumer)) = (self.handle, self.consumer) else {
            if self.asked_at + 20 * MILLISECOND < context.now {
                self.asked_at = context.now;
                self.request += 1;
                match self.handle {
                    None => context.say(self.request, &OpenQueue { name: &self.queue }),
                    Some(queue) => context.say(self.request, &Subscribe { queue, credit: self.credit }),
                }
            }
            return;
        };
        if !context.is_calm && context.rng.one_in(100) {
            match context.rng.below(3) {
                0 => context.hangs_up = true,
                _ => {
                    self.request += 1;
                    context.say(self.request, &Unsubscribe { consumer });
                    context.oracle.unsubscribed(context.pipe, consumer);
                    self.consumer = None;
                    self.held.clear();
                }
            }
            return;
        }
        if !context.is_calm && context.rng.one_in(60) {
            self.dozes_until = context.now + 500 * MILLISECOND;
        }
        if context.is_calm || self.dozes_until <= context.now {
            self.settle(queue, consumer, context);
        }
    }

    fn settle(&mut self, queue: u64, consumer: u32, context: &mut Context<'_>) {
        if self.held.is_empty() {
            return;
        }
        let mut count = self.held.len();
        if !context.is_calm {
            // Some are forgotten: their leases run out.
            if context.rng.one_in(30) {
                self.held.pop();
            }
            count = context.rng.below(self.held.len() as u64 + 1) as usize;
        }
        let mut runs: Vec<SettleRun> = Vec::new();
        for Held { priority, sequence, deliveries } in self.held.drain(..count) {
            let outcome = match context.rng.below(20) {
                _ if context.is_calm => Outcome::Ack,
                0..=2 => Outcome::Nack,
                3 => Outcome::Reject,
                _ => Outcome::Ack,
            };
            if let Some(last) = runs.last_mut()
                && (last.priority, last.deliveries, last.outcome) == (priority, deliveries, outcome)
                && last.sequence + u64::from(last.count) == sequence
            {
                last.count += 1;
                continue;
            }
            runs.push(SettleRun { sequence, count: 1, deliveries, priority, outcome });
        }
        if !runs.is_empty() {
            self.request += 1;
            self.unanswered += 1;
            context.oracle.settle_asked(context.pipe, self.request, queue, &runs);
            context.say(self.request, &Settle { consumer, items: &runs });
        }
    }

    pub(super) fn heard(
        &mut self,
        _request: u64,
        reply: &Reply<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        match reply {
            Reply::QueueOpened(opened) => {
                self.handle = Some(opened.queue);
                self.asked_at = 0;
            }
            Reply::Subscribed(subscribed) => self.consumer = Some(subscribed.consumer),
            Reply::Settled(_) => self.unanswered = self.unanswered.saturating_sub(1),
            Reply::Delivery(delivery) if self.consumer == Some(delivery.consumer) => {
                self.held.extend(delivery.messages().map(|message| Held {
                    priority: message.head.priority,
                    sequence: message.head.sequence,
                    deliveries: message.head.deliveries,
                }));
            }
            Reply::ConsumerEnded(ended) if self.consumer == Some(ended.consumer) => match ended.code() {
                Code::NotLeader => context.hangs_up = true,
                _ => {
                    (self.consumer, self.handle) = (None, None);
                    self.held.clear();
                }
            },
            Reply::Refused(refused) => match refused.code() {
                Code::NoSuchQueue => self.handle = None,
                _ => self.unanswered = self.unanswered.saturating_sub(1),
            },
            _ => {}
        }
        Ok(())
    }
}
