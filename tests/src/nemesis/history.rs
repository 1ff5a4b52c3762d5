//! What was offered, acknowledged, delivered and shown, kept by all threads in one order, and what must follow from it.
//!
//! Event A counts as before event B only where A was over before B began: what is said of a publish before it is offered,
//! of a receipt after it came, of a question before it is asked, of an answer after it came. So whatever is found wrong
//! is wrong for every order in which the nodes can have done it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use ringmain_client::QueueInfo;
use ringmain_client::blocking::Delivery;

#[derive(Default)]
pub struct History {
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    /// By producer and number.
    messages: BTreeMap<(u32, u64), Stored>,
    consumers: BTreeMap<u32, Consumed>,
    /// Events so far: the time of this history.
    clock: u64,
    receipts: u64,
    deliveries: u64,
    redeliveries: u64,
    /// Messages that a consumer has been given, each counted once.
    seen: u64,
    shows: u64,
    /// What the queue has been through for certain.
    floor: Floor,
    /// Published and acknowledged at each index that was shown.
    counts: BTreeMap<u64, (u64, u64)>,
    /// The first thing that can be wrong at once.
    broken: Option<String>,
}

/// One message, as far as it is known.
#[derive(Clone, Default, Debug)]
pub struct Stored {
    pub priority: u8,
    offered: u64,
    /// When its receipt came.
    acknowledged: Option<u64>,
    /// Its place in the queue, once it was delivered.
    sequence: Option<u64>,
}

/// What one consumer was given so far, by priority.
#[derive(Default)]
struct Consumed {
    levels: BTreeMap<u8, Level>,
    /// Settles that the queue has confirmed.
    settled: u64,
}

#[derive(Copy, Clone, Default)]
struct Level {
    /// The highest place.
    sequence: u64,
    /// When the newest of them was offered.
    offered: u64,
}

#[derive(Copy, Clone, Debug)]
pub struct Delivered<'a> {
    /// `PRODUCER/NUMBER`
    pub payload: &'a [u8],
    pub priority: u8,
    pub sequence: u64,
    pub is_redelivered: bool,
}

impl<'a> Delivered<'a> {
    pub fn of(delivery: &Delivery<'a>) -> Self {
        Self {
            payload: delivery.payload(),
            priority: delivery.priority(),
            sequence: delivery.sequence(),
            is_redelivered: delivery.is_redelivered(),
        }
    }
}

/// What an answer must be up to: all that was over when it was asked.
#[derive(Copy, Clone, Default, Debug, PartialEq, Eq)]
pub struct Floor {
    published: u64,
    acknowledged: u64,
    index: u64,
}

impl History {
    pub fn offered(&self, producer: u32, number: u64, priority: u8) {
        let mut events = self.tick();
        let message = Stored { priority, offered: events.clock, ..Stored::default() };
        let before = events.messages.insert((producer, number), message);
        assert!(before.is_none(), "a number is offered once");
    }

    /// The receipt names this index of the log.
    pub fn acknowledged(&self, producer: u32, number: u64, index: u64) {
        let mut events = self.tick();
        let clock = events.clock;
        events.receipts += 1;
        events.floor.published = events.floor.published.max(events.receipts);
        events.floor.index = events.floor.index.max(index);
        let message =
            events.messages.get_mut(&(producer, number)).expect("a receipt is for what was offered");
        assert!(message.acknowledged.is_none(), "a publish has one receipt");
        message.acknowledged = Some(clock);
    }

    pub fn receipts(&self) -> u64 {
        self.events().receipts
    }

    /// Said before the consumer settles it.
    pub fn delivered(&self, consumer: u32, delivered: Delivered<'_>) {
        let mut events = self.tick();
        events.deliveries += 1;
        events.redeliveries += u64::from(delivered.is_redelivered);
        let verdict = events.deliver(consumer, delivered);
        events.note(verdict);
    }

    /// So many settles of this consumer were confirmed, since it began.
    pub fn settled(&self, consumer: u32, settled: u64) {
        let mut events = self.tick();
        events.consumers.entry(consumer).or_default().settled = settled;
        let settled = events.consumers.values().map(|consumer| consumer.settled).sum();
        events.floor.acknowledged = events.floor.acknowledged.max(settled);
    }

    /// Somebody is about to ask for the counts.
    pub fn asks(&self) -> Floor {
        self.events().floor
    }

    /// Somebody who asked when so much was over was answered this.
    pub fn shown(&self, asked: &Floor, info: &QueueInfo) {
        let mut events = self.tick();
        events.shows += 1;
        let verdict = events.show(asked, info);
        events.note(verdict);
    }

    /// Messages that were acknowledged.
    pub fn stored(&self) -> u64 {
        self.events().messages.values().filter(|one| one.acknowledged.is_some()).count() as u64
    }

    /// All of them, and those that said that they may not be the first.
    pub fn deliveries(&self) -> (u64, u64) {
        let events = self.events();
        (events.deliveries, events.redeliveries)
    }

    /// Counts that were asked for and told.
    pub fn shows(&self) -> u64 {
        self.events().shows
    }

    /// What is wrong already.
    pub fn broken(&self) -> Option<String> {
        self.events().broken.clone()
    }

    /// Once everything has come to its end. Panics with the promise that was broken.
    pub fn check(&self) {
        if let Err(why) = self.verdict() {
            panic!("{why}");
        }
    }

    pub fn verdict(&self) -> Result<(), String> {
        let events = self.events();
        if let Some(broken) = &events.broken {
            return Err(broken.clone());
        }
        // Of each producer and priority: the place of its last message.
        let mut last = BTreeMap::new();
        for ((producer, number), message) in &events.messages {
            let Some(sequence) = message.sequence else {
                if message.acknowledged.is_some() {
                    return Err(format!("durable: {producer}/{number} was acknowledged and is lost"));
                }
                continue;
            };
            let place = last.insert((*producer, message.priority), sequence);
            if place.is_some_and(|place| sequence <= place) {
                return Err(format!("ordered: {producer}/{number} lies before what was published before it"));
            }
        }
        Ok(())
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap()
    }

    fn tick(&self) -> MutexGuard<'_, Events> {
        let mut events = self.events();
        events.clock += 1;
        events
    }
}

impl Events {
    fn note(&mut self, verdict: Result<(), String>) {
        if let Err(why) = verdict {
            self.broken.get_or_insert(why);
        }
    }

    fn deliver(&mut self, consumer: u32, delivered: Delivered<'_>) -> Result<(), String> {
        let name = String::from_utf8_lossy(delivered.payload).into_owned();
        let key = name
            .split_once('/')
            .and_then(|(producer, number)| Some((producer.parse().ok()?, number.parse().ok()?)));
        let message = key.and_then(|key| self.messages.get_mut(&key));
        let message = message.ok_or_else(|| format!("honest: {name:?} was never published"))?;
        if message.priority != delivered.priority {
            return Err(format!("honest: {name} has another priority than it was given"));
        }
        match message.sequence {
            None => {
                message.sequence = Some(delivered.sequence);
                self.seen += 1;
            }
            Some(known) if known != delivered.sequence => {
                return Err(format!("once: {name} is stored at {known} and at {}", delivered.sequence));
            }
            Some(_) if !delivered.is_redelivered => {
                return Err(format!("leased: {name} comes again and does not say so"));
            }
            Some(_) => {}
        }
        let consumed = self.consumers.entry(consumer).or_default();
        if !delivered.is_redelivered {
            // It was ready from its receipt on, and nobody had it before.
            consumed.check_order(&name, &delivered)?;
            consumed.check_priority(&name, message)?;
        }
        let level = consumed.levels.entry(delivered.priority).or_default();
        level.sequence = level.sequence.max(delivered.sequence);
        level.offered = level.offered.max(message.offered);
        Ok(())
    }

    fn show(&mut self, asked: &Floor, info: &QueueInfo) -> Result<(), String> {
        let (published, acknowledged, index) = (info.published, info.acknowledged, info.index);
        let at = format!(
            "exact: at index {index} {published} are published and {acknowledged} acknowledged, ready are {} and in \
             flight {}",
            info.ready, info.in_flight
        );
        if published < asked.published || acknowledged < asked.acknowledged || index < asked.index {
            return Err(format!("{at}: it was asked after {asked:?}"));
        }
        if (self.messages.len() as u64) < published || self.seen < acknowledged {
            return Err(format!("{at}: {} were offered and {} delivered", self.messages.len(), self.seen));
        }
        if info.ready + info.in_flight + acknowledged != published {
            return Err(format!("{at}: they do not add up"));
        }
        let ready: u64 = info.levels.iter().map(|level| level.ready).sum();
        let in_flight: u64 = info.levels.iter().map(|level| level.in_flight).sum();
        if (ready, in_flight) != (info.ready, info.in_flight) {
            return Err(format!("{at}: by priority they are {ready} and {in_flight}"));
        }
        let mut earlier = self.counts.range(..=index);
        if let Some((known, before)) = earlier.next_back() {
            let is_same = *known == index;
            let goes_back = published < before.0 || acknowledged < before.1;
            if goes_back || is_same && *before != (published, acknowledged) {
                return Err(format!("{at}: at index {known} they were {before:?}"));
            }
        }
        if let Some((known, after)) = self.counts.range(index + 1..).next()
            && (after.0 < published || after.1 < acknowledged)
        {
            return Err(format!("{at}: at index {known} they were {after:?}"));
        }
        self.counts.insert(index, (published, acknowledged));
        self.floor.published = self.floor.published.max(published);
        self.floor.acknowledged = self.floor.acknowledged.max(acknowledged);
        self.floor.index = self.floor.index.max(index);
        Ok(())
    }
}

impl Consumed {
    fn check_order(&self, name: &str, delivered: &Delivered<'_>) -> Result<(), String> {
        match self.levels.get(&delivered.priority) {
            Some(level) if delivered.sequence < level.sequence => Err(format!(
                "ordered: {name} of place {} comes for the first time, and behind place {}",
                delivered.sequence, level.sequence
            )),
            _ => Ok(()),
        }
    }

    fn check_priority(&self, name: &str, message: &Stored) -> Result<(), String> {
        // Without a receipt it may have been stored just now.
        let Some(acknowledged) = message.acknowledged else { return Ok(()) };
        let mut lower = self.levels.range(..message.priority);
        match lower.find(|(_, level)| acknowledged < level.offered) {
            Some((priority, _)) => Err(format!(
                "priority: {name} of priority {} was stored, and waited behind one of priority {priority} that was \
                 published after that",
                message.priority
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
