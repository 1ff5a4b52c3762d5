//! Consuming in async code.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ringmain_net::headers;
use ringmain_net::protocol::{DeliveryHead, Outcome};

use super::Handle;
use super::worker::{Command, OpenedConsumer};
use crate::error::Error;
use crate::machine::settler::Lease;

/// Receives the messages of one queue: highest priority first, and in order within a priority.
///
/// When a connection ends, what it delivered and was not settled returns to the queue and is delivered again, to
/// this consumer or to another one. The consumer subscribes again by itself.
#[derive(Debug)]
pub struct Consumer {
    handle: Arc<Handle>,
    id: u64,
    arrived: flume::Receiver<Arrived>,
    status: Arc<Status>,
}

/// What the thread tells about a consumer.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// Of the present connection's deliveries.
    pub(crate) generation: AtomicU64,
    pub(crate) connected: AtomicBool,
    /// For good.
    pub(crate) failed: Mutex<Option<Error>>,
}

/// A message on its way from the thread to the user.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) head: DeliveryHead,
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) range: Range<usize>,
    pub(crate) generation: u64,
}

/// A delivered message. It is leased to this consumer until it is settled, or its lease or its connection ends.
///
/// Dropped without being settled it returns to its queue at once, as with [`Delivery::nack`], and
/// [`crate::Event::Unsettled`] tells.
#[derive(Debug)]
#[must_use = "a delivery that is not settled returns to its queue"]
pub struct Delivery {
    handle: Arc<Handle>,
    consumer: u64,
    arrived: Arrived,
    settled: bool,
}

impl Consumer {
    pub(super) async fn open(handle: &Arc<Handle>, queue: &str, credit: u32) -> Result<Self, Error> {
        let queue = queue.to_owned();
        let opened = handle.ask(|reply| Command::OpenConsumer { queue, credit, reply }).await?;
        let OpenedConsumer { id, arrived, status } = opened;
        Ok(Self { handle: Arc::clone(handle), id, arrived, status })
    }

    /// Waits for the next message. Nothing is lost if this is dropped before it is ready.
    ///
    /// An error means that this consumer has failed for good, for example because its queue was deleted, or that
    /// the client is closed. A lost connection is no error: it is replaced, and this waits on.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        loop {
            let Ok(arrived) = self.arrived.recv_async().await else {
                return Err(self.failure());
            };
            if let Some(delivery) = self.accept(arrived) {
                return Ok(delivery);
            }
        }
    }

    /// The next message, if one is there.
    pub fn try_next(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            match self.arrived.try_recv() {
                Ok(arrived) => {
                    if let Some(delivery) = self.accept(arrived) {
                        return Ok(Some(delivery));
                    }
                }
                Err(flume::TryRecvError::Empty) => return Ok(None),
                Err(flume::TryRecvError::Disconnected) => return Err(self.failure()),
            }
        }
    }

    /// What an earlier connection delivered is in the queue again, and comes again.
    fn accept(&self, arrived: Arrived) -> Option<Delivery> {
        if arrived.generation != self.status.generation.load(Ordering::Acquire) {
            // There is room for newer ones now.
            self.handle.wake();
            return None;
        }
        Some(Delivery { handle: Arc::clone(&self.handle), consumer: self.id, arrived, settled: false })
    }

    fn failure(&self) -> Error {
        let failed = self.status.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone().unwrap_or(Error::Closed)
    }

    /// Whether the consumer is subscribed now; if not, the client is working on it.
    pub fn is_connected(&self) -> bool {
        self.status.connected.load(Ordering::Acquire)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // What was not settled returns. If there is no room to say so, the lease time or the client's end sees to it.
        let _ = self.handle.try_say(Command::LeaveConsumer { consumer: self.id });
    }
}

impl Delivery {
    fn bytes(&self) -> &[u8] {
        &self.arrived.bytes[self.arrived.range.clone()]
    }

    /// The message's bytes as they were published.
    pub fn payload(&self) -> &[u8] {
        let head = &self.arrived.head;
        &self.bytes()[usize::from(head.key_bytes) + head.headers_bytes as usize..]
    }

    pub fn key(&self) -> &[u8] {
        &self.bytes()[..usize::from(self.arrived.head.key_bytes)]
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        headers::find(self.headers_blob(), name)
    }

    /// All headers in their order. The walk ends at the first that is not one.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        headers::iterate(self.headers_blob()).map_while(Result::ok)
    }

    fn headers_blob(&self) -> &[u8] {
        let head = &self.arrived.head;
        let start = usize::from(head.key_bytes);
        &self.bytes()[start..start + head.headers_bytes as usize]
    }

    pub fn priority(&self) -> u8 {
        self.arrived.head.priority
    }

    /// The message's number in its queue and priority: dense, in commit order, the same at every delivery.
    pub fn sequence(&self) -> u64 {
        self.arrived.head.sequence
    }

    /// How often it was delivered, this time included.
    pub fn deliveries(&self) -> u16 {
        self.arrived.head.deliveries
    }

    pub fn is_redelivered(&self) -> bool {
        self.arrived.head.is_redelivered()
    }

    /// When the broker accepted the message, by its clock; microseconds' resolution.
    pub fn published(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.arrived.head.published_us)
    }

    fn lease(&self) -> Lease {
        Lease {
            generation: self.arrived.generation,
            sequence: self.arrived.head.sequence,
            deliveries: self.arrived.head.deliveries,
            priority: self.arrived.head.priority,
        }
    }

    /// Done. Waits until that is durable.
    ///
    /// Acknowledgements that are under way together travel together. [`Error::Stale`]: the lease of at least one of
    /// them had ended, and its message was or will be delivered again. [`Error::Lost`]: the connection ended first,
    /// or its node led no more; the message comes again unless the broker had heard.
    pub async fn ack(self) -> Result<(), Error> {
        self.settle(Outcome::Ack).await
    }

    /// Returned to its place in the queue; it is delivered again, with a higher count. Waits like
    /// [`Delivery::ack`].
    pub async fn nack(self) -> Result<(), Error> {
        self.settle(Outcome::Nack).await
    }

    /// Given up: it goes to the dead-letter queue, or away if there is none. Waits like [`Delivery::ack`].
    pub async fn reject(self) -> Result<(), Error> {
        self.settle(Outcome::Reject).await
    }

    /// Done, without waiting until that is durable: only for room to say it.
    pub async fn ack_soon(mut self) -> Result<(), Error> {
        self.settled = true;
        let settle = Command::Settle {
            consumer: self.consumer,
            lease: self.lease(),
            outcome: Outcome::Ack,
            reply: None,
        };
        self.handle.say(settle).await
    }

    async fn settle(mut self, outcome: Outcome) -> Result<(), Error> {
        self.settled = true;
        let (consumer, lease) = (self.consumer, self.lease());
        self.handle.ask(|reply| Command::Settle { consumer, lease, outcome, reply: Some(reply) }).await
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            let unsettled = Command::Unsettled { consumer: self.consumer, lease: self.lease() };
            // If there is no room to say so, the lease ends by itself.
            let _ = self.handle.try_say(unsettled);
        }
    }
}
