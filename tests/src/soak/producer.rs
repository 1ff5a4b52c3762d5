//! One producer on its own thread. Number 0 has a name and is cut off now and then, as if its process had died.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringmain_client::blocking::{Client, Producer};
use ringmain_client::{Completion, Message};

use super::ledger::{MessageId, payload};
use super::{PRIORITIES, QUEUES, Scene, is_passing};
use crate::process::{PATIENCE, wait_for};
use crate::rng::Rng;

/// Messages without a receipt, of one producer and queue.
const IN_FLIGHT_MAX: usize = 200;
const BATCH_MAX: u64 = 40;

struct Line {
    queue: usize,
    producer: Producer,
    /// By the client's sequence.
    open: BTreeMap<u64, Vec<MessageId>>,
}

struct Worker<'a> {
    scene: &'a Scene,
    number: u32,

    rng: Rng,
    client: Client,
    lines: Vec<Line>,
    next: u64,
}

pub(super) fn run(scene: &Scene, number: u32) {
    let rng = Rng::new(scene.seed ^ u64::from(number + 1) << 32);
    let client = connect(scene);
    let mut worker = Worker { scene, number, rng, client, lines: Vec::new(), next: 1 };
    worker.open();
    while !scene.is_ending() {
        worker.offer();
        worker.poll();
        if number == 0 && worker.rng.one_in(400) {
            worker.take_over();
        }
    }
    worker.finish();
}

fn connect(scene: &Scene) -> Client {
    let (short, long) = (Duration::from_millis(5), Duration::from_millis(100));
    let builder = || Client::builder().backoff(short, long).connect_timeout(Duration::from_secs(2));
    wait_for("a client connects", || match builder().connect(&scene.connect) {
        Ok(client) => Some(client),
        Err(error) => {
            assert!(is_passing(&error), "{error}");
            None
        }
    })
}

impl Worker<'_> {
    fn open(&mut self) {
        for (queue, name) in QUEUES.iter().enumerate() {
            let producer = wait_for("a producer opens", || {
                let opened = match self.number {
                    0 => self.client.named_producer(name, &format!("producer of {name}")),
                    _ => self.client.producer(name),
                };
                match opened {
                    Ok(producer) => Some(producer),
                    Err(error) => {
                        assert!(is_passing(&error), "{error}");
                        None
                    }
                }
            });
            self.lines.push(Line { queue, producer, open: BTreeMap::new() });
        }
    }

    fn offer(&mut self) {
        let line = &mut self.lines[self.rng.below(QUEUES.len() as u64) as usize];
        if line.open.values().map(Vec::len).sum::<usize>() > IN_FLIGHT_MAX {
            // Somebody must read what the node says.
            self.client.idle();
            return;
        }
        let count = if self.rng.one_in(3) { self.rng.skewed(BATCH_MAX) } else { 1 };
        let mut payloads = Vec::new();
        for _ in 0..count {
            let id = (self.number, self.next);
            self.next += 1;
            payloads.push((id, self.rng.below(u64::from(PRIORITIES)) as u8, payload(id, &mut self.rng)));
        }
        let keys: Vec<_> = payloads.iter().map(|(id, ..)| id.1.to_le_bytes()).collect();
        let messages: Vec<Message<'_>> = payloads
            .iter()
            .zip(&keys)
            .map(|((id, priority, payload), key)| {
                let message = Message::new(payload).priority(*priority).key(key);
                message.header("producer", id.0.to_le_bytes()).expect("it is short")
            })
            .collect();
        // Before the node can know of it: a delivery may come before the receipt.
        for ((id, priority, _), message) in payloads.iter().zip(&messages) {
            self.scene.ledger().offered(*id, line.queue, *priority, message.bytes() as u64);
        }
        let ids = payloads.iter().map(|(id, ..)| *id);
        match line.producer.offer_batch(&messages) {
            Ok(sequence) => drop(line.open.insert(sequence.0, ids.collect())),
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                self.scene.ledger().refused(ids);
            }
        }
    }

    fn poll(&mut self) {
        for line in &mut self.lines {
            let (scene, open) = (self.scene, &mut line.open);
            line.producer.poll(|completion| complete(scene, open, &completion));
        }
    }

    /// The process of this producer is gone, with what it had in flight; another one of its name takes over.
    fn take_over(&mut self) {
        let before = std::mem::take(&mut self.lines);
        let open: Vec<_> = before.into_iter().map(|line| line.open).collect();
        self.client = connect(self.scene);
        self.open();
        self.scene.ledger().takeovers += 1;
        for (line, open) in self.lines.iter().zip(open) {
            // All that the node ever stores of the former one is stored by now, and nothing of it was refused.
            let last = line.producer.last_sequence().0;
            for (sequence, ids) in open {
                if sequence <= last {
                    self.scene.ledger().stored(ids);
                } else {
                    self.scene.ledger().refused(ids);
                }
            }
        }
    }

    fn finish(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.lines.iter().any(|line| !line.open.is_empty()) {
            self.poll();
            self.client.idle();
            let open: usize = self.lines.iter().map(|line| line.open.len()).sum();
            assert!(Instant::now() < deadline, "producer {}: {open} publishes are not answered", self.number);
        }
        self.client.clone().close(PATIENCE).expect("everything has its receipt");
    }
}

fn complete(scene: &Scene, open: &mut BTreeMap<u64, Vec<MessageId>>, completion: &Completion) {
    let ids = open.remove(&completion.sequence.0).expect("what is answered was offered, and once");
    assert_eq!(ids.len(), completion.messages as usize);
    match &completion.result {
        Ok(receipt) => {
            let mut ledger = scene.ledger();
            ledger.duplicates += u64::from(receipt.duplicate);
            ledger.stored(ids);
        }
        Err(error) => panic!("a publish within all limits is not stored: {error}"),
    }
}
