//! One consumer for each queue of the demo: takes every message, reports it, acknowledges it.
//!
//! The counters are read by a batch job, which rests in the middle of the demo: that queue fills, and its backlog outlives the
//! kill. Its deliveries are not timed, because they wait for their reader and not for the broker.

use std::time::{Duration, Instant};

use ringmain_client::blocking::Delivery;
use ringmain_core::config::Address;

use super::producer::stamp_of;
use super::stage::{Happening, Stage};
use super::telemetry::Topic;
use super::verdict::Event;
use crate::cli::Failure;
use crate::cli::link::{self, CLOSE_MAX};

/// Messages that a consumer holds at most: enough to keep it busy for a round trip, few enough that a late alarm waits for few.
const CREDIT: u32 = 64;
const STEP: Duration = Duration::from_millis(20);
/// The batch job rests between these parts of the demo.
const REST_BEGIN: f64 = 0.30;
const REST_END: f64 = 0.65;

pub(super) struct Consumer<'a> {
    topic: Topic,
    stage: &'a Stage,
    addresses: &'a [Address],
    seconds: u64,
}

impl<'a> Consumer<'a> {
    pub(super) fn new(topic: Topic, stage: &'a Stage, addresses: &'a [Address], seconds: u64) -> Self {
        Self { topic, stage, addresses, seconds }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let client = link::dial_often(self.addresses)?;
        let queue = self.topic.queue();
        let mut seat = Some(client.consumer(queue, CREDIT)?);
        while !self.stage.consumers_stopped() {
            let deadline = Instant::now() + STEP;
            if self.rests() {
                // Leaves: what it holds goes back to the queue.
                seat = None;
                client.poll();
                client.idle_until(deadline);
                continue;
            }
            let consumer = match &mut seat {
                Some(consumer) => consumer,
                None => seat.insert(client.consumer(queue, CREDIT)?),
            };
            link::consume_until(&client, consumer, deadline, |delivery| self.on_message(delivery))?;
        }
        drop(seat);
        client.close(CLOSE_MAX)?;
        Ok(())
    }

    fn rests(&self) -> bool {
        let part = self.stage.now() as f64 / 1e9 / self.seconds as f64;
        self.topic == Topic::Counters
            && (REST_BEGIN..REST_END).contains(&part)
            && !self.stage.producers_stopped()
    }

    fn on_message(&self, delivery: Delivery<'_>) {
        let (topic, at) = (self.topic, self.stage.now());
        let event = match stamp_of(delivery.payload()) {
            Some(stamp) => {
                let (priority, sequence) = (delivery.priority(), delivery.sequence());
                Event::Delivered { stamp, topic, priority, sequence, at, timed: topic != Topic::Counters }
            }
            None => Event::Garbled,
        };
        self.stage.tell(Happening::Message(event));
        delivery.ack();
    }
}
