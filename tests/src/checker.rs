//! What a broker promised, and whether it kept it: a model of queues fed with every request and every answer, in the
//! order in which they left and reached the broker.
//!
//! The model knows less than the broker: a publish without an answer may be stored or not, and so may a settle have
//! happened. So it counts what is surely stored and what may be, and complains only about what cannot be right. When
//! every request is answered the two are one, and the checks are exact.
//!
//! ```text
//! durable   an acknowledged message is delivered until it is settled, whatever happens between
//! once      one message has one place; one place has one message; what was settled is never delivered again
//! ordered   of one queue and priority, places are first delivered in rising order, and in each producer's order
//! priority  nothing is delivered while something of a higher priority surely waits
//! exact     counts and bytes are those of what is stored
//! bounded   never more than the limit, and never refused as full with surely enough room
//! leased    nobody gets what another holds; what comes back says how often it was delivered
//! ```

use std::collections::{BTreeMap, BTreeSet};

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

#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub queue: u64,
    /// The producer's session and the number it gave.
    pub producer: (u64, u64),
    pub priority: u8,
    pub bytes: u64,
}

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

/// What a broker says of a queue.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub ready: u64,
    pub ready_bytes: u64,
    pub in_flight: u64,
    pub in_flight_bytes: u64,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Limits {
    /// 0: none.
    pub length_max: u64,
    pub bytes_max: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stored {
    /// Offered and not answered.
    Perhaps,
    Surely,
    /// A settle was asked for and not answered.
    PerhapsSettled,
    Settled,
    /// The broker said that it has not taken it.
    Refused,
}

#[derive(Debug)]
struct Message {
    offer: Offer,
    stored: Stored,
    place: Option<Place>,
    /// Highest count ever seen.
    deliveries: u64,
    /// Who holds it, and until when.
    lease: Option<(u64, u64)>,
}

#[derive(Default, Debug)]
pub struct Checker {
    limits: BTreeMap<u64, Limits>,
    messages: BTreeMap<MessageId, Message>,
    places: BTreeMap<Place, MessageId>,
    /// By queue and priority: the highest place delivered since the broker started.
    delivered_upto: BTreeMap<(u64, u8), u64>,
    /// By queue and priority: what surely waits.
    waiting: BTreeMap<(u64, u8), BTreeSet<MessageId>>,
    /// By producer, queue and priority: the highest number first delivered, and its place.
    producers: BTreeMap<(u64, u64, u8), (u64, u64)>,
}

impl Checker {
    pub fn queue_created(&mut self, queue: u64, limits: Limits) {
        self.limits.insert(queue, limits);
    }

    /// Also for a retry, which must be the same offer.
    pub fn publish_offered(&mut self, message: MessageId, offer: Offer) {
        assert!(self.limits.contains_key(&offer.queue), "the workload publishes to queues that exist");
        let known = self.messages.entry(message).or_insert(Message {
            offer,
            stored: Stored::Perhaps,
            place: None,
            deliveries: 0,
            lease: None,
        });
        assert_eq!(known.offer.producer, offer.producer, "a retry is the same publish");
        if known.stored == Stored::Refused {
            known.stored = Stored::Perhaps;
        }
    }

    pub fn publish_acknowledged(&mut self, message: MessageId) -> Result<(), Violation> {
        let known = self.message(message)?;
        match known.stored {
            Stored::Refused => return Err(format!("once: {message:?} was refused and is acknowledged")),
            Stored::Perhaps => known.stored = Stored::Surely,
            Stored::Surely | Stored::PerhapsSettled | Stored::Settled => {}
        }
        let queue = known.offer.queue;
        self.update_waiting(message);
        self.check_limits(queue)
    }

    /// With an answer that says that the queue is full.
    pub fn publish_refused_full(&mut self, message: MessageId) -> Result<(), Violation> {
        let Offer { queue, bytes, .. } = self.message(message)?.offer;
        let limits = self.limits[&queue];
        let (mut count, mut sum) = (0, 0);
        for other in self.messages.iter().filter(|(id, _)| **id != message).map(|(_, other)| other) {
            if other.offer.queue == queue && !matches!(other.stored, Stored::Settled | Stored::Refused) {
                (count, sum) = (count + 1, sum + other.offer.bytes);
            }
        }
        let full = (limits.length_max > 0 && count >= limits.length_max)
            || (limits.bytes_max > 0 && sum + bytes > limits.bytes_max);
        if !full {
            return Err(format!(
                "bounded: queue {queue} is called full with {count} messages and {sum} bytes at most"
            ));
        }
        self.publish_refused(message)
    }

    /// With any answer that says that nothing was stored.
    pub fn publish_refused(&mut self, message: MessageId) -> Result<(), Violation> {
        let known = self.message(message)?;
        if known.stored != Stored::Perhaps {
            return Err(format!("durable: {message:?} was stored and is refused"));
        }
        known.stored = Stored::Refused;
        Ok(())
    }

    pub fn delivered(&mut self, now: u64, delivery: &Delivery) -> Result<(), Violation> {
        let id = delivery.message;
        let known = self.message(id)?;
        if (known.offer.queue, known.offer.priority) != (delivery.place.queue, delivery.place.priority) {
            return Err(format!("once: {id:?} was published elsewhere than {:?}", delivery.place));
        }
        if matches!(known.stored, Stored::Settled | Stored::Refused) {
            return Err(format!("once: {id:?} is delivered, but it is {:?}", known.stored));
        }
        if let Some((holder, until)) = known.lease.filter(|(_, until)| *until > now) {
            return Err(format!("leased: {id:?} is held by consumer {holder} until {until}"));
        }
        if delivery.deliveries <= known.deliveries {
            return Err(format!(
                "leased: delivery {} of {id:?} after {}",
                delivery.deliveries, known.deliveries
            ));
        }
        known.deliveries = delivery.deliveries;
        // What is delivered is stored.
        if known.stored == Stored::Perhaps {
            known.stored = Stored::Surely;
        }
        let first = known.place.replace(delivery.place);
        self.check_place(id, first, delivery.place)?;
        self.check_order(id, delivery.place)?;
        self.check_priority(delivery.place)?;
        self.message(id)?.lease = Some((delivery.consumer, delivery.until));
        self.update_waiting(id);
        Ok(())
    }

    pub fn settle_asked(&mut self, message: MessageId) -> Result<(), Violation> {
        let known = self.message(message)?;
        if known.stored == Stored::Surely {
            known.stored = Stored::PerhapsSettled;
        }
        self.update_waiting(message);
        Ok(())
    }

    /// The broker has settled it, for good.
    pub fn settle_accepted(&mut self, message: MessageId) -> Result<(), Violation> {
        let known = self.message(message)?;
        if !matches!(known.stored, Stored::PerhapsSettled | Stored::Settled) {
            return Err(format!("once: {message:?} is settled, which nobody asked for"));
        }
        known.stored = Stored::Settled;
        known.lease = None;
        self.update_waiting(message);
        Ok(())
    }

    /// The broker has not settled it, for its lease was over, or has taken it back: it comes again.
    pub fn returned(&mut self, message: MessageId) -> Result<(), Violation> {
        let known = self.message(message)?;
        known.lease = None;
        if known.stored == Stored::PerhapsSettled {
            known.stored = Stored::Surely;
        }
        self.update_waiting(message);
        Ok(())
    }

    /// Whatever this consumer held comes back, but for what it asked to settle: that may have happened.
    pub fn consumer_gone(&mut self, consumer: u64) {
        let held = |message: &Message| message.lease.is_some_and(|(holder, _)| holder == consumer);
        let freed: Vec<MessageId> =
            self.messages.iter().filter(|(_, one)| held(one)).map(|(id, _)| *id).collect();
        for id in freed {
            self.messages.get_mut(&id).expect("it was just seen").lease = None;
            self.update_waiting(id);
        }
    }

    /// Leases live in the broker's memory: everything unsettled is delivered again, in its old order.
    pub fn broker_restarted(&mut self) {
        let all: Vec<MessageId> = self.messages.keys().copied().collect();
        for id in all {
            self.messages.get_mut(&id).expect("it was just seen").lease = None;
            self.update_waiting(id);
        }
        self.delivered_upto.clear();
    }

    pub fn counted(&self, now: u64, queue: u64, counts: Counts) -> Result<(), Violation> {
        let (mut surely, mut perhaps) = (Counts::default(), Counts::default());
        for message in self.messages.values().filter(|one| one.offer.queue == queue) {
            let bytes = message.offer.bytes;
            let leased = message.lease.is_some_and(|(_, until)| until > now);
            match message.stored {
                Stored::Surely => add(&mut surely, leased, bytes),
                Stored::Perhaps | Stored::PerhapsSettled => add(&mut perhaps, leased, bytes),
                Stored::Settled | Stored::Refused => {}
            }
        }
        let (low, high) = (total(surely), total(surely) + total(perhaps));
        let found = total(counts);
        if found < low || found > high {
            return Err(format!("exact: queue {queue} has {found} messages, it should be {low} to {high}"));
        }
        // With nothing unanswered there is one truth, to the byte.
        if total(perhaps) == 0 && counts != surely {
            return Err(format!("exact: queue {queue} counts {counts:?}, it should be {surely:?}"));
        }
        Ok(())
    }

    /// Every queue was consumed until nothing came any more.
    pub fn drained(&self) -> Result<(), Violation> {
        let left = self.messages.iter().find(|(_, one)| one.stored == Stored::Surely && one.lease.is_none());
        match left {
            Some((id, _)) => Err(format!("durable: {id:?} was acknowledged, and it never came")),
            None => Ok(()),
        }
    }

    fn message(&mut self, id: MessageId) -> Result<&mut Message, Violation> {
        self.messages.get_mut(&id).ok_or_else(|| format!("once: {id:?} was never published"))
    }

    fn update_waiting(&mut self, id: MessageId) {
        let message = &self.messages[&id];
        let waiting = self.waiting.entry((message.offer.queue, message.offer.priority)).or_default();
        if message.stored == Stored::Surely && message.lease.is_none() {
            waiting.insert(id);
        } else {
            waiting.remove(&id);
        }
    }

    fn check_limits(&self, queue: u64) -> Result<(), Violation> {
        let limits = self.limits[&queue];
        let sure =
            self.messages.values().filter(|one| one.offer.queue == queue && one.stored == Stored::Surely);
        let (count, bytes) = sure.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.offer.bytes));
        let over = |limit: u64, found: u64| limit > 0 && found > limit;
        if over(limits.length_max, count) || over(limits.bytes_max, bytes) {
            return Err(format!("bounded: queue {queue} holds {count} messages and {bytes} bytes"));
        }
        Ok(())
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
        let level = (place.queue, place.priority);
        let upto = self.delivered_upto.entry(level).or_insert(0);
        let is_new = place.sequence > *upto;
        *upto = place.sequence.max(*upto);
        // One that comes back has a lower place than some that went out meanwhile; nothing known may wait before it.
        for other in self.waiting.get(&level).into_iter().flatten().filter(|other| **other != id) {
            if self.messages[other].place.is_some_and(|other| other.sequence < place.sequence) {
                return Err(format!("ordered: {id:?} is delivered before {other:?}, which waits before it"));
            }
        }
        let (producer, number) = self.messages[&id].offer.producer;
        let last =
            self.producers.entry((producer, place.queue, place.priority)).or_insert((number, place.sequence));
        if (number > last.0) != (place.sequence > last.1) {
            return Err(format!("ordered: {id:?}, number {number} of its producer, is at {place:?}"));
        }
        if is_new && number > last.0 {
            *last = (number, place.sequence);
        }
        Ok(())
    }

    fn check_priority(&self, place: Place) -> Result<(), Violation> {
        let higher = (place.queue, place.priority + 1)..=(place.queue, u8::MAX);
        let waits = self.waiting.range(higher).filter(|_| place.priority < u8::MAX);
        match waits.flat_map(|(_, waiting)| waiting).next() {
            Some(waits) => Err(format!("priority: {place:?} is delivered while {waits:?} waits")),
            None => Ok(()),
        }
    }
}

fn add(counts: &mut Counts, leased: bool, bytes: u64) {
    let (count, sum) = match leased {
        true => (&mut counts.in_flight, &mut counts.in_flight_bytes),
        false => (&mut counts.ready, &mut counts.ready_bytes),
    };
    *count += 1;
    *sum += bytes;
}

fn total(counts: Counts) -> u64 {
    counts.ready + counts.in_flight
}

#[cfg(test)]
mod tests;
