//! A cluster of real processes under load, with somebody who kills, stops and restarts them at random.
//!
//! ```text
//! fleet    the nodes as processes
//! history  what was offered, acknowledged and delivered, and what follows from it
//! ```
//!
//! Producers and consumers are the client crate's, on threads of their own, and know all nodes. They keep every answer.
//! At the end everything is healed and drained, and the history must be one that keeps the promises: nothing acknowledged
//! is lost, nothing is stored twice, what is delivered again says so, each producer's order is the queue's, and the counts
//! that the broker tells are those of the history.

mod fleet;
mod history;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use ringmain_client::{Error, Message, QueueSettings};

use crate::process::{PATIENCE, Program};
use crate::rng::Rng;
pub use fleet::Fleet;
pub use history::{Delivered, History, Stored};

const QUEUE: &str = "orders";
const PRIORITIES: u64 = 3;
/// Publishes without a receipt, of each producer.
const WINDOW: usize = 64;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub nodes: u32,
    pub duration: Duration,
    pub producers: u32,
    pub consumers: u32,
}

/// What a run was like.
#[derive(Clone, Default, Debug)]
pub struct Report {
    pub stored: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub kills: u32,
    pub stops: u32,
    pub pauses: u32,
    /// From the kill of a node to the next receipt of any producer, when the node led the queue.
    pub failovers: Vec<Duration>,
}

/// Runs it to its end. Panics with the first promise that was broken.
pub fn run(program: &Program, data: &Path, options: &Options) -> Report {
    let mut rng = Rng::new(options.seed);
    let mut fleet = Fleet::start(program, data, options.nodes, &mut rng);
    let admin = fleet.client();
    let settings = QueueSettings { priorities: PRIORITIES as u16, ..QueueSettings::default() };
    admin.create_queue(QUEUE, &settings).unwrap();
    let history = Arc::new(History::default());
    let (publishing, consuming) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let producers: Vec<_> = (0..options.producers)
        .map(|producer| {
            let (connect, history, goes_on) = (fleet.connect(), history.clone(), publishing.clone());
            let rng = Rng::new(options.seed ^ u64::from(producer) << 20);
            thread::spawn(move || produce(&fleet::client(&connect), producer, rng, &history, &goes_on))
        })
        .collect();
    let consumers: Vec<_> = (0..options.consumers)
        .map(|_| {
            let (connect, history, goes_on) = (fleet.connect(), history.clone(), consuming.clone());
            thread::spawn(move || consume(&fleet::client(&connect), &history, &goes_on))
        })
        .collect();
    let mut report = torment(&mut fleet, &admin, &history, &mut rng, options.duration);
    fleet.heal();
    publishing.store(false, Ordering::SeqCst);
    producers.into_iter().for_each(|producer| producer.join().expect("a producer goes to its end"));
    drain(&admin);
    consuming.store(false, Ordering::SeqCst);
    consumers.into_iter().for_each(|consumer| consumer.join().expect("a consumer goes to its end"));
    let shown = admin.show_queue(QUEUE).unwrap();
    history.check();
    // Every publish has a receipt and every message was settled: the counts can be nothing else.
    report.stored = history.stored();
    assert_eq!((shown.published, shown.acknowledged), (report.stored, report.stored), "exact: {shown:?}");
    assert_eq!((shown.ready, shown.in_flight), (0, 0), "exact: {shown:?}");
    (report.delivered, report.redelivered) = history.deliveries();
    fleet.check_alive();
    report
}

/// Publishes with many in flight, and ends when all have their receipts. A fault is a delay, never an error.
fn produce(client: &Client, producer: u32, mut rng: Rng, history: &History, goes_on: &AtomicBool) {
    let mut publishes = client.named_producer(QUEUE, &format!("producer-{producer}")).unwrap();
    let mut heard = Instant::now();
    let mut number = 0;
    let mut is_over = false;
    while !is_over || publishes.in_flight() > 0 {
        is_over |= !goes_on.load(Ordering::SeqCst);
        if !is_over && publishes.in_flight() < WINDOW {
            let payload = format!("{producer}/{number}");
            let priority = rng.below(PRIORITIES) as u8;
            match publishes.offer(&Message::new(&payload).priority(priority)) {
                Ok(_) => {
                    history.offered(producer, number, priority);
                    number += 1;
                }
                Err(Error::Full) => {}
                Err(error) => panic!("alive: a publish fails: {error}"),
            }
        }
        let finished = publishes.poll(|completion| {
            // Sequences count publishes from 1, and each is one message here.
            let receipt = completion.result.unwrap_or_else(|error| panic!("alive: a publish fails: {error}"));
            history.acknowledged(producer, receipt.sequence.0 - 1);
        });
        if finished > 0 {
            heard = Instant::now();
        }
        assert!(heard.elapsed() < PATIENCE, "alive: producer {producer} has no receipt for {PATIENCE:?}");
        client.idle_until(Instant::now() + Duration::from_millis(2));
    }
}

fn consume(client: &Client, history: &History, goes_on: &AtomicBool) {
    let mut consumer = client.consumer(QUEUE, 128).unwrap();
    while goes_on.load(Ordering::SeqCst) {
        let polled = consumer.poll(128, |delivery| {
            history.delivered(Delivered {
                payload: delivery.payload(),
                priority: delivery.priority(),
                sequence: delivery.sequence(),
                is_redelivered: delivery.is_redelivered(),
            });
            delivery.ack();
        });
        if polled.unwrap_or_else(|error| panic!("alive: a consumer fails: {error}")) == 0 {
            client.idle_until(Instant::now() + Duration::from_millis(5));
        }
    }
}

/// One fault after the other, each healed before the next: a majority is always up.
fn torment(
    fleet: &mut Fleet,
    admin: &Client,
    history: &History,
    rng: &mut Rng,
    duration: Duration,
) -> Report {
    let mut report = Report::default();
    let until = Instant::now() + duration;
    while Instant::now() < until {
        let leader = fleet.leader_of(admin, QUEUE);
        let node = match leader {
            Some(leader) if rng.one_in(2) => leader,
            _ => rng.between(1, u64::from(fleet.count())) as u32,
        };
        match rng.below(4) {
            0 | 1 => {
                report.kills += 1;
                let before = history.receipts();
                let killed = Instant::now();
                fleet.kill(node);
                if leader == Some(node) {
                    let first = crate::process::wait_for("a receipt after a failover", || {
                        (history.receipts() > before).then(Instant::now)
                    });
                    report.failovers.push(first - killed);
                }
                pause(rng, 1_500);
                fleet.restart(node);
            }
            2 => {
                report.stops += 1;
                fleet.stop(node);
                pause(rng, 500);
                fleet.restart(node);
            }
            _ => {
                report.pauses += 1;
                fleet.signal(node, "STOP");
                pause(rng, 2_500);
                fleet.signal(node, "CONT");
            }
        }
        pause(rng, 1_500);
    }
    report
}

fn pause(rng: &mut Rng, most_ms: u64) {
    thread::park_timeout(Duration::from_millis(rng.between(100, most_ms)));
}

/// Everything is acknowledged: the queue empties.
fn drain(admin: &Client) {
    crate::process::wait_for("the queue is empty", || {
        let shown = admin.show_queue(QUEUE).ok()?;
        (shown.ready == 0 && shown.in_flight == 0).then_some(())
    });
}
