//! One consumer of all queues on its own thread: acks most, returns some, keeps some for a while.

use std::time::{Duration, Instant};

use ringmain_client::blocking::{Client, Consumer};
use ringmain_client::{Event, Lease};

use super::ledger::MessageId;
use super::{QUEUES, Scene, is_passing};
use crate::process::wait_for;
use crate::rng::Rng;

const CREDIT: u32 = 100;
/// Kept unsettled, of one queue.
const HELD_MAX: usize = 30;

struct Line {
    queue: usize,
    consumer: Consumer,
    held: Vec<(Lease, MessageId)>,
    /// Acks sent and not answered, and what the answers will add up to.
    acked: Vec<MessageId>,
    awaited: u64,
    /// Of the messages that came for the first time on this connection, by priority.
    upto: [Option<u64>; 256],
}

pub(super) fn run(scene: &Scene, number: u32) {
    let mut rng = Rng::new(scene.seed ^ u64::from(number + 1) << 48);
    let (short, long) = (Duration::from_millis(5), Duration::from_millis(100));
    let client =
        wait_for("a client connects", || Client::builder().backoff(short, long).connect(&scene.connect).ok());
    let mut lines: Vec<Line> = (0..QUEUES.len()).map(|queue| Line::open(&client, queue)).collect();
    while !scene.is_drained() {
        let mut handled = 0;
        for line in &mut lines {
            handled += line.poll(scene, &mut rng);
        }
        while let Some(event) = client.poll_event() {
            // Which of the lines it concerns is not said: none of them knows what was answered.
            if let Event::Lost { .. } | Event::Silent { .. } = event {
                lines.iter_mut().for_each(Line::forget);
            }
        }
        if handled == 0 {
            client.idle();
        }
    }
    // What is held comes back to the queues with the end of the connection.
    drop(lines);
    let _ = client.close(Duration::from_secs(5));
}

impl Line {
    fn open(client: &Client, queue: usize) -> Self {
        let consumer = wait_for("a consumer opens", || match client.consumer(QUEUES[queue], CREDIT) {
            Ok(consumer) => Some(consumer),
            Err(error) => {
                assert!(is_passing(&error), "{error}");
                None
            }
        });
        Self { queue, consumer, held: Vec::new(), acked: Vec::new(), awaited: 0, upto: [None; 256] }
    }

    fn poll(&mut self, scene: &Scene, rng: &mut Rng) -> usize {
        let Self { queue, consumer, held, acked, awaited, upto } = self;
        let now_and_then = Instant::now();
        let handled = consumer.poll(64, |delivery| {
            let id = scene.ledger().delivered(*queue, &delivery);
            if delivery.deliveries() == 1 {
                let upto = &mut upto[usize::from(delivery.priority())];
                let sequence = delivery.sequence();
                assert!(upto.is_none_or(|upto| upto < sequence), "{id:?} comes out of order");
                *upto = Some(sequence);
            }
            match rng.below(10) {
                0 => {
                    delivery.nack();
                    *awaited += 1;
                }
                1..=3 if held.len() < HELD_MAX => held.push((delivery.lease(), id)),
                _ => {
                    delivery.ack();
                    acked.push(id);
                    *awaited += 1;
                }
            }
        });
        let handled = handled.expect("the queue is there");
        while !held.is_empty() && rng.one_in(2) {
            let (lease, id) = held.swap_remove(rng.below(held.len() as u64) as usize);
            consumer.ack(lease);
            acked.push(id);
            *awaited += 1;
        }
        consumer.flush();
        let (accepted, stale) = consumer.settled();
        assert!(now_and_then.elapsed() < Duration::from_secs(20) || stale == 0);
        if accepted + stale >= *awaited && stale == 0 && !acked.is_empty() {
            scene.ledger().settled(acked.drain(..));
        }
        handled
    }

    /// The connection is gone: what was settled may have been, or not; what was held is the queue's again.
    fn forget(&mut self) {
        self.held.clear();
        self.acked.clear();
        let (accepted, stale) = self.consumer.settled();
        self.awaited = accepted + stale;
        self.upto = [None; 256];
    }
}
