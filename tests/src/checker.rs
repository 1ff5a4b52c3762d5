//! What a broker promised, and whether it kept it: a model of queues fed with every request at the moment when the
//! broker took it, and with every answer at the moment when the broker gave it.
//!
//! The model knows less than the broker where an answer was lost: what was asked may have happened or not. So it keeps
//! what is surely so apart from what may be, and complains only about what cannot be right. Where nothing is unanswered
//! the two are one, and the checks are exact.
//!
//! ```text
//! durable   an acknowledged message is delivered until it is settled, whatever happens between
//! once      one message has one place; one place has one message; what was settled is never delivered again
//! ordered   of one queue and priority, delivery follows the log: nothing known to be earlier is passed over
//! priority  nothing is delivered while something of a higher priority surely waits
//! exact     counts and bytes of every level are those of what is stored
//! bounded   never more than the limit, and never refused as full with surely enough room; credit is kept
//! leased    nobody gets what another holds; what comes back says exactly how often it was delivered
//! ```

mod counts;
mod leases;
mod removal;

use std::collections::{BTreeMap, BTreeSet};

pub use counts::{Counts, LevelCounts};
pub use leases::{Delivery, Outcome, Settle};
pub use removal::{Delete, Purge};

pub type Violation = String;

/// A message, by the number that its producer put into its payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MessageId(pub u64);

/// Where the broker has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub queue: u64,
    pub priority: u8,
    pub sequence: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    pub queue: u64,
    /// The producer's session and the number it gave; messages of one publish have rising numbers too.
    pub producer: (u64, u64),
    pub priority: u8,
    pub bytes: u64,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Limits {
    /// 0: none.
    pub length_max: u64,
    pub bytes_max: u64,
}

/// What a refusal of a publish says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The broker knows the session and has not stored it, now or before.
    NotStored,
    /// It was not taken this time.
    NotNow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stored {
    /// The broker has it and will answer: not there before it does.
    OnItsWay {
        connection: u64,
    },
    /// Offered, and the answer was lost.
    Perhaps,
    Surely,
    /// Something was asked that removes it, and the answer was lost.
    PerhapsGone,
    Gone,
    /// The broker said that it has not taken it.
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lease {
    None,
    Held {
        consumer: u64,
        until: u64,
    },
    /// The broker was told what is to become of it, and has not answered.
    Settling {
        consumer: u64,
        until: u64,
        outcome: Outcome,
    },
    /// It may be held still, or be on its way back, or be back.
    Returning {
        consumer: u64,
    },
}

/// Whether a purge hit it that was taken before its own answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doom {
    None,
    Perhaps,
    Surely,
}

#[derive(Debug)]
struct Message {
    offer: Offer,
    stored: Stored,
    /// Since it was last known not to be stored.
    tries: u32,
    /// Of the last offer.
    number: u64,
    /// The index of its entry and its number, where both are known.
    order: Option<(u64, u64)>,
    doom: Doom,
    place: Option<Place>,
    lease: Lease,
    /// What its next delivery may say: lowest and highest.
    next: (u64, u64),
}

#[derive(Default, Debug)]
struct Queue {
    limits: Limits,
    /// Its deletion was asked, and the answer was lost.
    may_be_deleted: bool,
    /// Everything that is there, or may be.
    live: BTreeSet<MessageId>,
    /// What surely waits, by priority.
    waiting: BTreeMap<u8, BTreeSet<MessageId>>,
}

#[derive(Debug)]
struct Consumer {
    queue: u64,
    credit: u64,
    /// Surely held.
    held: u64,
}

#[derive(Default, Debug)]
pub struct Checker {
    queues: BTreeMap<u64, Queue>,
    messages: BTreeMap<MessageId, Message>,
    places: BTreeMap<Place, MessageId>,
    consumers: BTreeMap<u64, Consumer>,
    /// When the surely held ones are over.
    deadlines: BTreeSet<(u64, MessageId)>,
    /// By queue and priority: what is known of the log's order, by place.
    orders: BTreeMap<(u64, u8), BTreeMap<u64, (u64, u64)>>,
    /// By producer, queue and priority: places by the producer's numbers.
    producers: BTreeMap<(u64, u64, u8), BTreeMap<u64, u64>>,
    offers: u64,
}

impl Checker {
    pub fn queue_created(&mut self, queue: u64, limits: Limits) {
        self.queues.entry(queue).or_insert(Queue { limits, ..Queue::default() });
    }

    /// Whether a publish of so much may be refused as full: with everything that may be there, it does not fit.
    pub fn may_be_full(&self, queue: u64, messages: &[MessageId], bytes: u64) -> bool {
        let Some(queue) = self.queues.get(&queue) else { return true };
        let (mut count, mut sum) = (messages.len() as u64, bytes);
        for other in queue.live.iter().filter(|other| !messages.contains(other)) {
            (count, sum) = (count + 1, sum + self.messages[other].offer.bytes);
        }
        let Limits { length_max, bytes_max } = queue.limits;
        (length_max > 0 && count > length_max) || (bytes_max > 0 && sum > bytes_max)
    }

    /// The broker took it; also for a retry, which must be the same offer. With a connection: its answer is heard at
    /// once, so nothing of it is there before.
    pub fn publish_offered(&mut self, id: MessageId, offer: Offer, connection: Option<u64>) {
        self.offers += 1;
        let number = self.offers;
        let known = self.messages.entry(id).or_insert(Message {
            offer,
            stored: Stored::Refused,
            tries: 0,
            number,
            order: None,
            doom: Doom::None,
            place: None,
            lease: Lease::None,
            next: (1, 1),
        });
        assert_eq!(known.offer.producer, offer.producer, "a retry is the same publish");
        known.number = number;
        if known.stored == Stored::Refused {
            (known.tries, known.doom, known.offer) = (0, Doom::None, offer);
        }
        known.tries += 1;
        known.stored = match (known.stored, connection) {
            (Stored::Refused, Some(connection)) => Stored::OnItsWay { connection },
            (Stored::Refused | Stored::OnItsWay { .. }, _) => Stored::Perhaps,
            (stored, _) => stored,
        };
        self.update(id);
    }

    /// `index`: of its entry; none if the broker had stored it before.
    pub fn publish_acknowledged(&mut self, id: MessageId, index: Option<u64>) -> Result<(), Violation> {
        let known = self.message(id)?;
        match known.stored {
            Stored::Refused => return Err(format!("once: {id:?} was refused and is acknowledged")),
            Stored::OnItsWay { .. } | Stored::Perhaps => {
                known.stored = match known.doom {
                    Doom::None => Stored::Surely,
                    Doom::Perhaps => Stored::PerhapsGone,
                    Doom::Surely => Stored::Gone,
                };
                // Of several tries nobody knows which one was stored.
                known.order = index.filter(|_| known.tries == 1).map(|index| (index, known.number));
            }
            Stored::Surely | Stored::PerhapsGone | Stored::Gone => {}
        }
        let queue = known.offer.queue;
        self.update(id);
        self.check_limits(queue)
    }

    pub fn publish_refused(&mut self, id: MessageId, refusal: Refusal) -> Result<(), Violation> {
        let known = self.message(id)?;
        let is_certain = refusal == Refusal::NotStored || known.tries == 1;
        match known.stored {
            Stored::Surely if refusal == Refusal::NotStored => {
                return Err(format!("durable: {id:?} was stored and is refused"));
            }
            Stored::OnItsWay { .. } | Stored::Perhaps if is_certain => known.stored = Stored::Refused,
            _ => {}
        }
        self.update(id);
        Ok(())
    }

    /// Nobody hears what the broker answers here.
    pub fn connection_gone(&mut self, connection: u64) {
        let is_lost = |message: &Message| message.stored == Stored::OnItsWay { connection };
        for message in self.messages.values_mut().filter(|message| is_lost(message)) {
            message.stored = Stored::Perhaps;
        }
    }

    /// Leases live in the broker's memory: everything unsettled is ready again, and nobody said how it ended.
    pub fn restarted(&mut self) {
        let all: Vec<MessageId> = self.queues.values().flat_map(|queue| &queue.live).copied().collect();
        for id in all {
            let message = self.messages.get_mut(&id).expect("what is live is known");
            match message.lease {
                Lease::None => {}
                Lease::Held { .. } => message.next = (message.next.0 - 1, message.next.1 - 1),
                Lease::Settling { outcome, .. } => {
                    message.next.0 -= 1;
                    if outcome == Outcome::Remove {
                        message.stored = Stored::PerhapsGone;
                    }
                }
                Lease::Returning { .. } => message.next.0 -= 1,
            }
            message.lease = Lease::None;
            if let Stored::OnItsWay { .. } = message.stored {
                message.stored = Stored::Perhaps;
            }
            self.update(id);
        }
        self.consumers.clear();
        self.deadlines.clear();
    }

    /// Everything that can be consumed was consumed: nothing acknowledged is left.
    pub fn drained(&self) -> Result<(), Violation> {
        let mut live = self.queues.values().flat_map(|queue| &queue.live);
        match live.find(|id| self.messages[id].stored == Stored::Surely) {
            Some(id) => {
                Err(format!("durable: {id:?} was acknowledged, and it never came: {:?}", self.messages[id]))
            }
            None => Ok(()),
        }
    }

    fn message(&mut self, id: MessageId) -> Result<&mut Message, Violation> {
        self.messages.get_mut(&id).ok_or_else(|| format!("once: {id:?} was never published"))
    }

    /// Lists what changed where it belongs.
    fn update(&mut self, id: MessageId) {
        let message = &self.messages[&id];
        let Some(queue) = self.queues.get_mut(&message.offer.queue) else { return };
        match message.stored {
            Stored::Gone | Stored::Refused => queue.live.remove(&id),
            _ => queue.live.insert(id),
        };
        let waiting = queue.waiting.entry(message.offer.priority).or_default();
        if message.stored == Stored::Surely && message.lease == Lease::None {
            waiting.insert(id);
        } else {
            waiting.remove(&id);
        }
    }

    fn check_limits(&self, id: u64) -> Result<(), Violation> {
        let Some(queue) = self.queues.get(&id) else { return Ok(()) };
        let sure = queue.live.iter().map(|id| &self.messages[id]).filter(|one| one.stored == Stored::Surely);
        let (count, bytes) = sure.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.offer.bytes));
        let over = |limit: u64, found: u64| limit > 0 && found > limit;
        if over(queue.limits.length_max, count) || over(queue.limits.bytes_max, bytes) {
            return Err(format!("bounded: queue {id} holds {count} messages and {bytes} bytes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
