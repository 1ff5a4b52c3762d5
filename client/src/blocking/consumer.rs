//! Consuming on one's own thread.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use ringmain_net::headers;
use ringmain_net::protocol::{DeliveryHead, Outcome};

use super::{Shared, wait};
use crate::error::Error;
use crate::machine::mailbox::Mailbox;
use crate::machine::settler::{Lease, Settler};

/// Receives the messages of one queue: highest priority first, and in order within a priority.
///
/// When a connection ends, or another node comes to lead, what was delivered and not settled returns to the queue and is
/// delivered again, to this consumer or to another one. The consumer subscribes again by itself, where the queue is
/// served next.
#[derive(Debug)]
pub struct Consumer {
    shared: Shared,
    id: u64,

    /// What the user is working through; the machine fills another one meanwhile.
    mailbox: Mailbox,
    settler: Settler,
    /// Of the connection that filled `mailbox`.
    generation: u64,
}

/// A delivered message, borrowed from the receive buffer. It is leased to this consumer until it is settled or its
/// lease ends.
///
/// Settle it here, or later with its [`Lease`]. One that is never settled comes back after the queue's lease time.
#[derive(Debug)]
pub struct Delivery<'a> {
    head: DeliveryHead,
    bytes: &'a [u8],

    generation: u64,
    settler: &'a mut Settler,
}

impl Consumer {
    pub(super) fn open(shared: &Shared, queue: &str, credit: u32) -> Result<Self, Error> {
        let (id, timeout) = {
            let machine = &mut shared.borrow_mut().machine;
            machine.check_open()?;
            (machine.open_consumer(queue, credit, Instant::now()), machine.options().call_timeout)
        };
        let consumer = Self {
            shared: Rc::clone(shared),
            id,
            mailbox: Mailbox::default(),
            settler: Settler::default(),
            generation: 1,
        };
        let verdict = wait(shared, timeout, |driver| driver.machine.consumer_verdict(id));
        verdict.unwrap_or_else(|| {
            let machine = &shared.borrow().machine;
            let seat = machine.consumers.get(&id).and_then(|consumer| consumer.seat.hindrance.clone());
            let last = seat.or_else(|| machine.hindrance()).map(Box::new);
            Err(Error::Timeout { what: "subscribing", after: timeout, last })
        })?;
        Ok(consumer)
    }

    /// Receives what has come and hands up to `limit` messages to `handler`. Then sends what was settled, in as few
    /// words as possible. Never waits. Answers how many messages were handled; if 0, [`super::Client::idle`].
    ///
    /// An error means that this consumer has failed for good, for example because its queue was deleted. The handler
    /// may use any producer of this client.
    pub fn poll(&mut self, limit: usize, mut handler: impl FnMut(Delivery<'_>)) -> Result<usize, Error> {
        self.shared.borrow_mut().pass();
        self.refresh()?;
        let mut handled = 0;
        while handled < limit {
            let Some((head, range)) = self.mailbox.pop() else {
                if !self.take_arrived() {
                    break;
                }
                continue;
            };
            let bytes = self.mailbox.bytes(range);
            handler(Delivery { head, bytes, generation: self.generation, settler: &mut self.settler });
            handled += 1;
        }
        self.flush();
        Ok(handled)
    }

    /// Notices that the connection has changed: its deliveries and leases have ended with it.
    fn refresh(&mut self) -> Result<(), Error> {
        let machine = &mut self.shared.borrow_mut().machine;
        machine.check_open()?;
        let Some(consumer) = machine.consumers.get_mut(&self.id) else { return Err(Error::Closed) };
        if let Some(error) = &consumer.failed {
            return Err(error.clone());
        }
        if consumer.generation != self.generation {
            self.generation = consumer.generation;
            self.mailbox.clear();
            self.settler.clear();
        }
        Ok(())
    }

    /// Exchanges the mailbox that is empty for the one that was filled.
    fn take_arrived(&mut self) -> bool {
        let machine = &mut self.shared.borrow_mut().machine;
        let Some(consumer) = machine.consumers.get_mut(&self.id) else { return false };
        if consumer.generation != self.generation || consumer.mailbox_mut().is_empty() {
            return false;
        }
        std::mem::swap(&mut self.mailbox, consumer.mailbox_mut());
        true
    }

    /// Settles a message as done. It counts once it is sent, with the next poll or [`Consumer::flush`].
    pub fn ack(&mut self, lease: Lease) {
        self.settle(lease, Outcome::Ack);
    }

    /// Returns a message to its place in the queue; it is delivered again, with a higher count.
    pub fn nack(&mut self, lease: Lease) {
        self.settle(lease, Outcome::Nack);
    }

    /// Gives a message up: it goes to the dead-letter queue, or away if there is none.
    pub fn reject(&mut self, lease: Lease) {
        self.settle(lease, Outcome::Reject);
    }

    fn settle(&mut self, lease: Lease, outcome: Outcome) {
        // A lease of an earlier connection has ended; its message is in the queue again.
        if lease.generation == self.generation {
            lease.settle(&mut self.settler, outcome);
        }
    }

    /// Sends what was settled.
    pub fn flush(&mut self) {
        if !self.settler.is_empty() {
            let driver = &mut *self.shared.borrow_mut();
            driver.machine.settle(self.id, &mut self.settler, self.generation, 0);
            driver.flush();
        }
    }

    /// Whether the consumer is subscribed now; if not, the client is working on it.
    pub fn is_connected(&self) -> bool {
        self.shared.borrow().machine.consumers.get(&self.id).is_some_and(|consumer| consumer.is_ready())
    }

    /// How long ago the last delivery came. Whether that is long is yours to say; that the connection lives is
    /// checked by heartbeats.
    pub fn idle_for(&self) -> Duration {
        let machine = &self.shared.borrow().machine;
        machine.consumers.get(&self.id).map_or(Duration::ZERO, |consumer| consumer.delivered_at.elapsed())
    }

    /// Messages settled so far, and messages whose lease had ended before: those were or will be delivered again.
    pub fn settled(&self) -> (u64, u64) {
        let machine = &self.shared.borrow().machine;
        machine.consumers.get(&self.id).map_or((0, 0), |consumer| (consumer.accepted, consumer.stale))
    }
}

impl Drop for Consumer {
    /// Sends what was settled; the rest returns to the queue. The last words leave with the next poll or close.
    fn drop(&mut self) {
        if let Ok(mut driver) = self.shared.try_borrow_mut() {
            if !self.settler.is_empty() {
                driver.machine.settle(self.id, &mut self.settler, self.generation, 0);
            }
            driver.machine.leave_consumer(self.id);
            driver.flush();
        }
    }
}

impl<'a> Delivery<'a> {
    /// The message's bytes as they were published.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[usize::from(self.head.key_bytes) + self.head.headers_bytes as usize..]
    }

    pub fn key(&self) -> &'a [u8] {
        &self.bytes[..usize::from(self.head.key_bytes)]
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        headers::find(self.headers_blob(), name)
    }

    /// All headers in their order. The walk ends at the first that is not one.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        headers::iterate(self.headers_blob()).map_while(Result::ok)
    }

    fn headers_blob(&self) -> &'a [u8] {
        let start = usize::from(self.head.key_bytes);
        &self.bytes[start..start + self.head.headers_bytes as usize]
    }

    pub fn priority(&self) -> u8 {
        self.head.priority
    }

    /// The message's number in its queue and priority: dense, in commit order, the same at every delivery.
    pub fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// How often it was delivered, this time included.
    pub fn deliveries(&self) -> u16 {
        self.head.deliveries
    }

    pub fn is_redelivered(&self) -> bool {
        self.head.is_redelivered()
    }

    /// When the broker accepted the message, by its clock; microseconds' resolution.
    pub fn published(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.head.published_us)
    }

    /// What settles this message later, with [`Consumer::ack`], [`Consumer::nack`] or [`Consumer::reject`].
    pub fn lease(&self) -> Lease {
        Lease {
            generation: self.generation,
            sequence: self.head.sequence,
            deliveries: self.head.deliveries,
            priority: self.head.priority,
        }
    }

    /// Done. Durable once the broker has answered, see [`Consumer::settled`].
    pub fn ack(self) {
        self.lease().settle(self.settler, Outcome::Ack);
    }

    /// Returned to its place in the queue; it is delivered again, with a higher count.
    pub fn nack(self) {
        self.lease().settle(self.settler, Outcome::Nack);
    }

    /// Given up: it goes to the dead-letter queue, or away if there is none.
    pub fn reject(self) {
        self.lease().settle(self.settler, Outcome::Reject);
    }
}
