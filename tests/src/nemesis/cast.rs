//! Those who use a cluster while it is tormented, each on a thread of its own: producers and consumers are the client
//! crate's and know all nodes, witnesses know one node each. All of them keep what they were told in one history.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use ringmain_client::{Error, Message};

use super::fleet::{self, Fleet};
use super::history::{Delivered, History};
use super::{Options, PRIORITIES, QUEUE, witness};
use crate::process::PATIENCE;
use crate::rng::Rng;

/// Publishes without a receipt, of each producer.
pub(super) const WINDOW: usize = 64;

/// Threads that go on until they are told to end.
struct Troupe {
    goes_on: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Cast {
    pub(super) history: Arc<History>,

    producers: Troupe,
    consumers: Troupe,
    witnesses: Troupe,
}

impl Troupe {
    fn start<A: FnOnce(&AtomicBool) + Send + 'static>(count: u32, act: impl Fn(u32) -> A) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let start = |number: u32| {
            let (goes_on, act) = (goes_on.clone(), act(number));
            thread::spawn(move || act(&goes_on))
        };
        let threads = (1..=count).map(start).collect();
        Self { goes_on, threads }
    }

    fn end(&mut self) {
        self.goes_on.store(false, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok(), "somebody has found what cannot be; it is told above");
        }
    }
}

impl Cast {
    pub(super) fn start(fleet: &Fleet, options: &Options) -> Self {
        let history = Arc::new(History::default());
        let producers = Troupe::start(options.producers, |producer| {
            let (connect, history) = (fleet.connect(), history.clone());
            let rng = Rng::new(options.seed ^ u64::from(producer) << 20);
            move |goes_on| produce(fleet::client(&connect), producer, rng, (&history, goes_on))
        });
        let consumers = Troupe::start(options.consumers, |consumer| {
            let (connect, history) = (fleet.connect(), history.clone());
            move |goes_on| consume(fleet::client(&connect), consumer, &history, goes_on)
        });
        let witnesses = Troupe::start(fleet.count(), |node| {
            let (address, history) = (fleet.address(node), history.clone());
            move |goes_on| witness::watch(&address, QUEUE, &history, goes_on)
        });
        Self { history, producers, consumers, witnesses }
    }

    /// What they were given and have not settled returns to the queue.
    pub(super) fn end_consumers(&mut self) {
        self.consumers.end();
    }

    /// Returns when every publish has its receipt.
    pub(super) fn end_producers(&mut self) {
        self.producers.end();
    }

    pub(super) fn end_witnesses(&mut self) {
        self.witnesses.end();
    }
}

/// Publishes with many in flight, and ends when all have their receipts. A fault is a delay, never an error.
fn produce(client: Client, producer: u32, mut rng: Rng, (history, goes_on): (&History, &AtomicBool)) {
    let mut publishes = client.named_producer(QUEUE, &format!("producer-{producer}")).unwrap();
    let mut heard = Instant::now();
    let mut number = 0;
    // Kept until the client takes it: that it is offered counts from before anybody can have heard of it.
    let mut offer = None;
    while goes_on.load(Ordering::SeqCst) || publishes.in_flight() > 0 {
        if goes_on.load(Ordering::SeqCst) && publishes.in_flight() < WINDOW {
            let (payload, priority) = offer.take().unwrap_or_else(|| {
                let priority = rng.below(PRIORITIES) as u8;
                history.offered(producer, number, priority);
                number += 1;
                (format!("{producer}/{}", number - 1), priority)
            });
            match publishes.offer(&Message::new(&payload).priority(priority)) {
                Ok(_) => {}
                Err(Error::Full) => offer = Some((payload, priority)),
                Err(error) => panic!("alive: a publish fails: {error}"),
            }
        }
        let finished = publishes.poll(|completion| {
            // Sequences count publishes from 1, and each is one message here.
            let receipt = completion.result.unwrap_or_else(|error| panic!("alive: a publish fails: {error}"));
            history.acknowledged(producer, receipt.sequence.0 - 1, receipt.index);
        });
        if finished > 0 {
            heard = Instant::now();
        }
        assert!(heard.elapsed() < PATIENCE, "alive: producer {producer} has no receipt for {PATIENCE:?}");
        client.idle_until(Instant::now() + Duration::from_millis(2));
    }
    drop(publishes);
    client.close(PATIENCE).unwrap();
}

fn consume(client: Client, number: u32, history: &History, goes_on: &AtomicBool) {
    let mut consumer = client.consumer(QUEUE, 128).unwrap();
    while goes_on.load(Ordering::SeqCst) {
        let polled = consumer.poll(128, |delivery| {
            history.delivered(number, Delivered::of(&delivery));
            delivery.ack();
        });
        history.settled(number, consumer.settled().0);
        if polled.unwrap_or_else(|error| panic!("alive: a consumer fails: {error}")) == 0 {
            client.idle_until(Instant::now() + Duration::from_millis(5));
        }
    }
    drop(consumer);
    client.close(PATIENCE).unwrap();
}
