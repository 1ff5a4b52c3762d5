//! A consumer: takes, and settles in one of the ways there are, or forgets to.

use ringmain_net::protocol::{Code, OpenQueue, Outcome, Reply, Settle, SettleRun, Subscribe, Unsubscribe};

use super::{Context, hello};
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

    is_greeted: bool,
    handle: Option<u64>,
    consumer: Option<u32>,
    held: Vec<Held>,
    /// Asked and not answered.
    unanswered: u32,
    request: u64,
    asks_again: u64,
}

impl Consumer {
    pub(super) fn new(queue: &str, credit: u32) -> Self {
        Self {
            queue: queue.to_owned(),
            credit,
            is_greeted: false,
            handle: None,
            consumer: None,
            held: Vec::new(),
            unanswered: 0,
            request: 0,
            asks_again: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.held.is_empty() && self.unanswered == 0
    }

    pub(super) fn describe(&self) -> String {
        format!("{self:?}")
    }

    pub(super) fn disconnected(&mut self) {
        (self.is_greeted, self.handle, self.consumer, self.unanswered) = (false, None, None, 0);
        self.held.clear();
    }

    pub(super) fn connected(&mut self, context: &mut Context<'_>) {
        self.request += 1;
        context.say(self.request, &hello());
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        if !self.is_greeted {
            return;
        }
        let Some(consumer) = self.consumer else {
            if self.asks_again <= context.now {
                self.asks_again = context.now + 3 * MILLISECOND;
                self.request += 1;
                match self.handle {
                    None => context.say(self.request, &OpenQueue { name: &self.queue }),
                    Some(queue) => context.say(self.request, &Subscribe { queue, credit: self.credit }),
                }
            }
            return;
        };
        if !context.is_calm && context.rng.one_in(200) {
            match context.rng.below(3) {
                0 => context.hangs_up = true,
                _ => {
                    self.request += 1;
                    context.say(self.request, &Unsubscribe { consumer });
                    self.consumer = None;
                    self.held.clear();
                }
            }
            return;
        }
        self.settle(consumer, context);
    }

    fn settle(&mut self, consumer: u32, context: &mut Context<'_>) {
        if self.held.is_empty() {
            return;
        }
        let count = if context.is_calm {
            self.held.len()
        } else {
            // Some are forgotten: their leases run out.
            if context.rng.one_in(30) {
                self.held.pop();
            }
            context.rng.below(self.held.len() as u64 + 1) as usize
        };
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
            context.say(self.request, &Settle { consumer, items: &runs });
        }
    }

    pub(super) fn heard(&mut self, _request: u64, reply: &Reply<'_>, _context: &mut Context<'_>) {
        match reply {
            Reply::Welcome(_) => self.is_greeted = true,
            Reply::QueueOpened(opened) => {
                self.handle = Some(opened.queue);
                self.asks_again = 0;
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
            // Its queue was deleted.
            Reply::ConsumerEnded(ended) if self.consumer == Some(ended.consumer) => {
                (self.consumer, self.handle) = (None, None);
                self.held.clear();
            }
            Reply::Refused(refused) => match refused.code() {
                Code::NoSuchQueue => self.handle = None,
                _ => self.unanswered = self.unanswered.saturating_sub(1),
            },
            _ => {}
        }
    }
}
