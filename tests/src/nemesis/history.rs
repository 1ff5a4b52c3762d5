//! What was offered, acknowledged and delivered, kept by all threads, and what must follow from it.

use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
pub struct History {
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    /// By producer and number.
    messages: BTreeMap<(u32, u64), Stored>,
    receipts: u64,
    deliveries: u64,
    redeliveries: u64,
    /// The first thing that can be wrong at once.
    broken: Option<String>,
}

/// One message, as far as it is known.
#[derive(Clone, Default, Debug)]
pub struct Stored {
    pub priority: u8,
    pub is_acknowledged: bool,
    /// Its place in the queue, once it was delivered.
    pub sequence: Option<u64>,
}

#[derive(Copy, Clone, Debug)]
pub struct Delivered<'a> {
    /// `PRODUCER/NUMBER`
    pub payload: &'a [u8],
    pub priority: u8,
    pub sequence: u64,
    pub is_redelivered: bool,
}

impl History {
    pub fn offered(&self, producer: u32, number: u64, priority: u8) {
        let message = Stored { priority, ..Stored::default() };
        let before = self.events.lock().unwrap().messages.insert((producer, number), message);
        assert!(before.is_none(), "a number is offered once");
    }

    pub fn acknowledged(&self, producer: u32, number: u64) {
        let mut events = self.events.lock().unwrap();
        events.receipts += 1;
        let message =
            events.messages.get_mut(&(producer, number)).expect("a receipt is for what was offered");
        assert!(!message.is_acknowledged, "a publish has one receipt");
        message.is_acknowledged = true;
    }

    pub fn receipts(&self) -> u64 {
        self.events.lock().unwrap().receipts
    }

    pub fn delivered(&self, delivered: Delivered<'_>) {
        let mut events = self.events.lock().unwrap();
        events.deliveries += 1;
        events.redeliveries += u64::from(delivered.is_redelivered);
        if let Err(why) = events.deliver(delivered) {
            events.broken.get_or_insert(why);
        }
    }

    /// Messages that were acknowledged.
    pub fn stored(&self) -> u64 {
        self.events.lock().unwrap().messages.values().filter(|one| one.is_acknowledged).count() as u64
    }

    /// All of them, and those that said that they may not be the first.
    pub fn deliveries(&self) -> (u64, u64) {
        let events = self.events.lock().unwrap();
        (events.deliveries, events.redeliveries)
    }

    /// Once everything has come to its end. Panics with the promise that was broken.
    pub fn check(&self) {
        if let Err(why) = self.verdict() {
            panic!("{why}");
        }
    }

    pub fn verdict(&self) -> Result<(), String> {
        let events = self.events.lock().unwrap();
        if let Some(broken) = &events.broken {
            return Err(broken.clone());
        }
        // Of each producer and priority: the place of its last message.
        let mut last = BTreeMap::new();
        for ((producer, number), message) in &events.messages {
            let Some(sequence) = message.sequence else {
                if message.is_acknowledged {
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
}

impl Events {
    fn deliver(&mut self, delivered: Delivered<'_>) -> Result<(), String> {
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
            None => message.sequence = Some(delivered.sequence),
            Some(known) if known != delivered.sequence => {
                return Err(format!("once: {name} is stored at {known} and at {}", delivered.sequence));
            }
            Some(_) if !delivered.is_redelivered => {
                return Err(format!("leased: {name} comes again and does not say so"));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(payload: &str, sequence: u64, is_redelivered: bool) -> Delivered<'_> {
        Delivered { payload: payload.as_bytes(), priority: 1, sequence, is_redelivered }
    }

    fn two_acknowledged() -> History {
        let history = History::default();
        for number in 0..2 {
            history.offered(7, number, 1);
            history.acknowledged(7, number);
        }
        history
    }

    #[track_caller]
    fn broken(history: &History, promise: &str) {
        let why = history.verdict().unwrap_err();
        assert!(why.starts_with(promise), "{why}");
    }

    #[test]
    fn a_good_history_is_good() {
        let history = two_acknowledged();
        history.delivered(delivered("7/0", 4, false));
        history.delivered(delivered("7/0", 4, true));
        history.delivered(delivered("7/1", 9, false));
        assert_eq!(history.verdict(), Ok(()));
        assert_eq!((history.stored(), history.deliveries()), (2, (3, 1)));
    }

    #[test]
    fn each_broken_promise_is_found() {
        broken(&two_acknowledged(), "durable:");
        for (deliveries, promise) in [
            (&[("7/0", 1, false), ("7/0", 2, false)][..], "once:"),
            (&[("7/0", 1, false), ("7/0", 1, false)], "leased:"),
            (&[("7/0", 2, false), ("7/1", 1, false)], "ordered:"),
            (&[("7/2", 1, false)], "honest:"),
            (&[("nonsense", 1, false)], "honest:"),
        ] {
            let history = two_acknowledged();
            for (payload, sequence, is_redelivered) in deliveries {
                history.delivered(delivered(payload, *sequence, *is_redelivered));
            }
            broken(&history, promise);
        }
    }

    #[test]
    fn what_was_never_acknowledged_may_be_anywhere() {
        let history = two_acknowledged();
        history.offered(7, 2, 1);
        history.delivered(delivered("7/0", 1, false));
        history.delivered(delivered("7/1", 2, false));
        assert_eq!(history.verdict(), Ok(()));
    }
}
