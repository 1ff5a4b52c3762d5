//! Publishing from one's own thread.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Shared, wait};
use crate::error::Error;
use crate::machine::producer as machine;
use crate::message::Message;
use crate::receipt::{Completion, Receipt, Sequence};

/// Publishes to one queue, in order, with many publishes in flight.
///
/// Order: messages of one producer and one priority are stored, and so delivered, in the order of their offers, also
/// across reconnects and changes of leaders. A publish that is *refused* (a full queue, a busy shard) is left out, and those behind it are
/// not held up: who needs the order even then has one publish in flight at a time.
#[derive(Debug)]
pub struct Producer {
    shared: Shared,
    id: u64,
}

impl Producer {
    pub(super) fn open(shared: &Shared, queue: &str, name: &str) -> Result<Self, Error> {
        let (id, timeout) = {
            let machine = &mut shared.borrow_mut().machine;
            machine.check_open()?;
            (machine.open_producer(queue, name, Instant::now()), machine.options().call_timeout)
        };
        let producer = Self { shared: Rc::clone(shared), id };
        let ready = wait(shared, timeout, |driver| driver.machine.producer_verdict(id));
        match ready {
            Some(verdict) => verdict.map(|()| producer),
            None => Err(producer.timeout("opening a producer", timeout)),
        }
    }

    fn timeout(&self, what: &'static str, after: Duration) -> Error {
        let machine = &self.shared.borrow().machine;
        let seat = machine.producers.get(&self.id).and_then(|producer| producer.seat.hindrance.clone());
        Error::Timeout { what, after, last: seat.or_else(|| machine.hindrance()).map(Box::new) }
    }

    /// Takes a message, and copies it once into the buffer that it is sent from. Never waits and never sends:
    /// [`Producer::poll`] does, and everything offered until then goes in one write. A poll after each offer is the
    /// promptest; a poll after a dozen costs a fraction of it per message.
    ///
    /// [`Error::Full`]: the window (publishes or bytes without receipt, receipts not fetched) is full: poll.
    /// [`Error::TooLarge`]: it can never be sent. Other errors: this producer has failed for good.
    pub fn offer(&mut self, message: &Message<'_>) -> Result<Sequence, Error> {
        self.offer_batch(std::slice::from_ref(message))
    }

    /// Takes messages as one publish: one sequence, one receipt, stored wholly or not at all. 1 to 16,384 messages,
    /// together at most a frame (4 MiB unless the broker says otherwise). Like [`Producer::offer`] otherwise.
    pub fn offer_batch(&mut self, messages: &[Message<'_>]) -> Result<Sequence, Error> {
        self.shared.borrow_mut().machine.offer(self.id, messages, Instant::now())
    }

    /// Sends what was offered, receives what has come, and hands each finished publish to `handler`, in the order
    /// of their answers. Never waits. Answers how many were finished.
    ///
    /// The handler may use any producer or consumer of this client.
    pub fn poll(&mut self, mut handler: impl FnMut(Completion)) -> usize {
        self.shared.borrow_mut().pass();
        let mut finished = 0;
        while let Some(completion) = self.pop() {
            handler(completion);
            finished += 1;
        }
        finished
    }

    /// The next finished publish, without sending or receiving anything.
    pub fn pop(&mut self) -> Option<Completion> {
        self.shared.borrow_mut().machine.poll_completion(self.id)
    }

    /// Publishes one message and waits for its receipt, at most for `timeout`.
    ///
    /// A retryable refusal (a full queue, a busy shard) is tried again until then. After [`Error::Timeout`] the
    /// message may still be stored: it stays in the window and is sent on. [`Error::Full`] means that it never got in.
    pub fn publish(&mut self, message: &Message<'_>, timeout: Duration) -> Result<Receipt, Error> {
        self.publish_batch(std::slice::from_ref(message), timeout)
    }

    /// Publishes messages wholly or not at all and waits for the receipt; see [`Producer::publish`].
    pub fn publish_batch(&mut self, messages: &[Message<'_>], timeout: Duration) -> Result<Receipt, Error> {
        let until = Instant::now() + timeout;
        loop {
            let left = || until.saturating_duration_since(Instant::now());
            let sequence = self.offer_in_time(messages, left())?;
            let id = self.id;
            let answer = wait(&self.shared, left(), |driver| driver.machine.take_completion(id, sequence));
            let error = match answer {
                Some(Completion { result: Ok(receipt), .. }) => return Ok(receipt),
                Some(Completion { result: Err(error), .. }) => error,
                None => {
                    // Nobody will ask for this receipt any more.
                    self.shared.borrow_mut().machine.abandon(id, sequence);
                    return Err(self.timeout("publishing", timeout));
                }
            };
            let Error::Refused { retry_after, .. } = &error else { return Err(error) };
            let pause = (*retry_after).max(Duration::from_millis(1));
            if !error.is_retryable() || pause >= left() {
                return Err(error);
            }
            wait(&self.shared, pause, |_| None::<()>);
        }
    }

    fn offer_in_time(&mut self, messages: &[Message<'_>], timeout: Duration) -> Result<Sequence, Error> {
        let id = self.id;
        let first = self.offer_batch(messages);
        if first != Err(Error::Full) {
            return first;
        }
        let offered = wait(&self.shared, timeout, |driver| {
            let offered = driver.machine.offer(id, messages, Instant::now());
            (offered != Err(Error::Full)).then_some(offered)
        });
        offered.unwrap_or(Err(Error::Full))
    }

    /// The last sequence given out; before the first offer of a named producer, the last one that is stored.
    pub fn last_sequence(&self) -> Sequence {
        let machine = &self.shared.borrow().machine;
        machine.producers.get(&self.id).map_or(Sequence(0), machine::Producer::last_sequence)
    }

    /// Publishes without an answer yet.
    pub fn in_flight(&self) -> usize {
        let machine = &self.shared.borrow().machine;
        machine.producers.get(&self.id).map_or(0, |producer| producer.window.frames())
    }

    /// Waits until no publish is in flight, at most for `timeout`. What is finished stays to be fetched.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), Error> {
        let id = self.id;
        let idle = |machine: &crate::machine::Machine| {
            machine.producers.get(&id).is_none_or(|producer| producer.window.frames() == 0)
        };
        let flushed = wait(&self.shared, timeout, |driver| idle(&driver.machine).then_some(()));
        flushed.ok_or_else(|| self.timeout("flushing", timeout))
    }
}

impl Drop for Producer {
    /// What was offered is still sent while the client is polled, or by its `close`.
    fn drop(&mut self) {
        // A handler that panics inside a poll unwinds through here while nothing is borrowed.
        if let Ok(mut driver) = self.shared.try_borrow_mut() {
            driver.machine.leave_producer(self.id);
        }
    }
}
