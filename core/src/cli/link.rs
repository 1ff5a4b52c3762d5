//! The way to a broker: the client crate, as any other program uses it.

use std::time::{Duration, Instant};

use ringmain_client::blocking::{Client, Consumer, Delivery, Producer};
use ringmain_client::{Completion, Error};
use ringmain_core::config::Address;

use super::Failure;

/// Messages handed over before the clock is looked at again.
const MESSAGES_PER_POLL: usize = 256;
/// What is underway when a command ends may take this long to be answered.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// A client of the first of these that answers.
pub(super) fn dial(addresses: &[Address]) -> Result<Client, Failure> {
    Ok(Client::builder().agent(AGENT).connect(&list(addresses))?)
}

/// A client for the demo, whose broker goes away and comes back: it asks for it often.
pub(super) fn dial_often(addresses: &[Address]) -> Result<Client, Failure> {
    let builder = Client::builder().agent(AGENT).call_timeout(Duration::from_secs(2));
    Ok(builder.backoff(Duration::from_millis(5), Duration::from_millis(40)).connect(&list(addresses))?)
}

const AGENT: &str = concat!("ringmain/", env!("CARGO_PKG_VERSION"));

fn list(addresses: &[Address]) -> String {
    let texts: Vec<String> = addresses.iter().map(Address::to_string).collect();
    texts.join(",")
}

/// Hands over what becomes of publishes as it becomes known, until `deadline`.
pub(super) fn complete_until(
    client: &Client,
    producer: &mut Producer,
    deadline: Instant,
    mut handler: impl FnMut(Completion),
) {
    loop {
        let finished = producer.poll(&mut handler);
        if Instant::now() >= deadline {
            return;
        }
        if finished == 0 {
            client.idle_until(deadline);
        }
    }
}

/// Hands over messages as they come, until `deadline`. Answers how many.
pub(super) fn consume_until(
    client: &Client,
    consumer: &mut Consumer,
    deadline: Instant,
    mut handler: impl FnMut(Delivery<'_>),
) -> Result<u64, Failure> {
    let mut handled = 0;
    loop {
        let polled = consumer.poll(MESSAGES_PER_POLL, &mut handler)?;
        handled += polled as u64;
        if Instant::now() >= deadline {
            return Ok(handled);
        }
        if polled == 0 {
            client.idle_until(deadline);
        }
    }
}

/// Why something about a queue was not done: `orders: there is no such queue`.
pub(super) fn about(queue: &str) -> impl Fn(Error) -> Failure {
    move |error| Failure::told(format!("{queue}: {}", reason(error)))
}

pub(super) fn reason(error: Error) -> String {
    match error {
        // The broker's own sentence says more than the name of its code.
        Error::Refused { detail, .. } if !detail.is_empty() => detail,
        error => error.to_string(),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Told(reason(error))
    }
}
