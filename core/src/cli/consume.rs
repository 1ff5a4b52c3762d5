//! `ringmain consume`: prints messages, and acknowledges each once it has been written to stdout.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ringmain_client::Lease;
use ringmain_client::blocking::Delivery;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Failure;
use super::args::{Connect, Consume, Format};
use super::link::{self, CLOSE_MAX, about};
use super::output::{base64, counted};

/// Messages held at most: a round trip's worth for a terminal or a pipe.
const CREDIT: u32 = 256;
/// So many times in a row nothing is ready while somebody else holds messages, before it is left at that.
const PATIENCE_STEPS: u32 = 3;
/// What `--no-ack` shows at most when it is not told how many: every one of them is kept from other consumers meanwhile.
const CREDIT_UNACKNOWLEDGED: u32 = 10_000;
const STEP: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Record<'a> {
    queue: &'a str,
    priority: u8,
    sequence: u64,
    deliveries: u16,
    published_us: u64,
    key: Body<'a>,
    headers: BTreeMap<&'a str, Body<'a>>,
    payload: Body<'a>,
}

/// A text is a JSON string; what is no text is an object with its base64.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text(&'a str),
    Bytes { base64: String },
}

pub(super) fn run(options: Consume) -> Result<(), Failure> {
    let Connect { connect, output } = &options.connect;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    let credit_max = if options.no_ack { CREDIT_UNACKNOWLEDGED } else { CREDIT };
    let credit =
        options.count.map_or(credit_max, |count| credit_max.min(u32::try_from(count).unwrap_or(credit_max)));
    let client = link::dial(connect)?;
    let mut consumer = client.consumer(&options.queue, credit).map_err(about(&options.queue))?;
    let mut reading = Reading {
        options: &options,
        output: *output,
        credit: u64::from(credit),
        received: 0,
        held: Vec::new(),
        failure: None,
    };
    let mut patience = PATIENCE_STEPS;
    while !reading.done() && !interrupted.load(Ordering::Relaxed) {
        let deadline = Instant::now() + STEP;
        let handled =
            link::consume_until(&client, &mut consumer, deadline, |delivery| reading.on_message(delivery))?;
        if handled > 0 || options.follow {
            patience = PATIENCE_STEPS;
            continue;
        }
        // Nothing came and nothing is ready: what is left is in other hands, and may come back from one that has just left.
        let shown = client.show_queue(&options.queue)?;
        if shown.ready == 0 {
            patience -= 1;
            if shown.in_flight == 0 || patience == 0 {
                break;
            }
        }
    }
    if options.no_ack && options.count.is_none() && reading.received == reading.credit {
        let most = counted(reading.credit, "message");
        eprintln!("stopped after {most}: no more are delivered before these are acknowledged");
    }
    if !options.no_ack {
        reading.held.drain(..).for_each(|lease| consumer.ack(lease));
    }
    // Settles and leaves in one go, so that the broker has no time to deliver what nobody wants.
    drop(consumer);
    client.close(CLOSE_MAX)?;
    reading.failure.map_or(Ok(()), Err)
}

struct Reading<'a> {
    options: &'a Consume,
    output: Format,
    credit: u64,

    received: u64,
    /// Printed, and settled only at the end.
    held: Vec<Lease>,
    failure: Option<Failure>,
}

impl Reading<'_> {
    fn done(&self) -> bool {
        let most = self.options.count.or(self.options.no_ack.then_some(self.credit));
        self.failure.is_some() || most.is_some_and(|most| self.received >= most)
    }

    fn on_message(&mut self, delivery: Delivery<'_>) {
        if self.done() {
            return;
        }
        if let Err(failure) = self.print(&delivery) {
            self.failure = Some(failure);
            return;
        }
        self.received += 1;
        if self.options.no_ack {
            return;
        }
        // The last `credit` messages of a count stay unsettled until all are there: each settled earlier would bring one more
        // than was asked for.
        let settled_most = self.options.count.map_or(u64::MAX, |count| count.saturating_sub(self.credit));
        if self.received > settled_most {
            self.held.push(delivery.lease());
        } else {
            delivery.ack();
        }
    }

    fn print(&self, delivery: &Delivery<'_>) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match self.output {
            Format::Text => stdout.write_all(delivery.payload())?,
            Format::Json => serde_json::to_writer(&mut stdout, &record(&self.options.queue, delivery))
                .map_err(io::Error::from)?,
        }
        stdout.write_all(b"\n")?;
        stdout.flush()?;
        Ok(())
    }
}

fn record<'a>(queue: &'a str, delivery: &Delivery<'a>) -> Record<'a> {
    let published = delivery.published().duration_since(UNIX_EPOCH).unwrap_or_default();
    Record {
        queue,
        priority: delivery.priority(),
        sequence: delivery.sequence(),
        deliveries: delivery.deliveries(),
        published_us: u64::try_from(published.as_micros()).unwrap_or(u64::MAX),
        key: body(delivery.key()),
        headers: delivery.headers().map(|(name, value)| (name, body(value))).collect(),
        payload: body(delivery.payload()),
    }
}

fn body(bytes: &[u8]) -> Body<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Body::Text(text),
        Err(_) => Body::Bytes { base64: base64(bytes) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_json_object() {
        let record = Record {
            queue: "q",
            priority: 9,
            sequence: 4,
            deliveries: 1,
            published_us: 5,
            key: body(b"k"),
            headers: [("trace", body(b"7")), ("raw", body(&[0xff]))].into(),
            payload: body("é".as_bytes()),
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"queue":"q","priority":9,"sequence":4,"deliveries":1,"published_us":5,"key":"k","headers":{"raw":{"base64":"/w=="},"trace":"7"},"payload":"é"}"#
        );
    }
}
