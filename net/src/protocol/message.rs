//! Messages inside `Publish` and `Delivery`, and the runs that settle them.

use std::slice;

use rkyv::{Archive, Serialize};

use super::{DELIVERY_REDELIVERED, Kind};
use crate::frame::FrameError;

/// What a producer says about one message; its bytes lie in the body.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct MessageHead {
    pub payload_bytes: u32,
    pub headers_bytes: u32,
    pub key_bytes: u16,
    /// Higher is sooner.
    pub priority: u8,
    /// Reserved: 0.
    pub flags: u8,
    /// Reserved: 0, no limit.
    pub ttl_ms: u32,
    /// Reserved: 0, at once.
    pub delay_ms: u32,
}

/// What a shard says about one delivered message; its bytes lie in the body.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct DeliveryHead {
    /// Unique in the queue together with the priority, and dense per priority.
    pub sequence: u64,
    /// When the leader accepted the message, in microseconds since the Unix epoch.
    pub published_us: u64,
    pub payload_bytes: u32,
    pub headers_bytes: u32,
    pub key_bytes: u16,
    /// How often it was delivered, this time included: 1 is the first.
    pub deliveries: u16,
    pub priority: u8,
    /// Bit 0: [`DELIVERY_REDELIVERED`].
    pub flags: u8,
}

/// What becomes of a delivered message.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
#[repr(u8)]
pub enum Outcome {
    /// Done: it is gone.
    Ack = 0,
    /// Not done: it returns to its place in the queue.
    Nack = 1,
    /// Cannot be done: dead letter, or gone where there is none.
    Reject = 2,
}

/// One outcome for `count` messages of one priority with consecutive sequences and equal delivery counts.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct SettleRun {
    pub sequence: u64,
    pub count: u32,
    pub deliveries: u16,
    pub priority: u8,
    pub outcome: Outcome,
}

const _: () = assert!(size_of::<ArchivedMessageHead>() == 20);
const _: () = assert!(size_of::<ArchivedDeliveryHead>() == 30);
const _: () = assert!(size_of::<ArchivedSettleRun>() == 16);

impl ArchivedMessageHead {
    pub fn to_native(&self) -> MessageHead {
        MessageHead {
            payload_bytes: self.payload_bytes.to_native(),
            headers_bytes: self.headers_bytes.to_native(),
            key_bytes: self.key_bytes.to_native(),
            priority: self.priority,
            flags: self.flags,
            ttl_ms: self.ttl_ms.to_native(),
            delay_ms: self.delay_ms.to_native(),
        }
    }
}

impl ArchivedDeliveryHead {
    pub fn to_native(&self) -> DeliveryHead {
        DeliveryHead {
            sequence: self.sequence.to_native(),
            published_us: self.published_us.to_native(),
            payload_bytes: self.payload_bytes.to_native(),
            headers_bytes: self.headers_bytes.to_native(),
            key_bytes: self.key_bytes.to_native(),
            deliveries: self.deliveries.to_native(),
            priority: self.priority,
            flags: self.flags,
        }
    }
}

impl ArchivedSettleRun {
    pub fn to_native(&self) -> SettleRun {
        SettleRun {
            sequence: self.sequence.to_native(),
            count: self.count.to_native(),
            deliveries: self.deliveries.to_native(),
            priority: self.priority,
            outcome: match self.outcome {
                ArchivedOutcome::Ack => Outcome::Ack,
                ArchivedOutcome::Nack => Outcome::Nack,
                ArchivedOutcome::Reject => Outcome::Reject,
            },
        }
    }
}

impl MessageHead {
    /// Bytes of this message in the body.
    pub fn bytes(&self) -> u64 {
        u64::from(self.payload_bytes) + u64::from(self.headers_bytes) + u64::from(self.key_bytes)
    }
}

impl DeliveryHead {
    /// Bytes of this message in the body.
    pub fn bytes(&self) -> u64 {
        u64::from(self.payload_bytes) + u64::from(self.headers_bytes) + u64::from(self.key_bytes)
    }

    pub fn is_redelivered(&self) -> bool {
        self.flags & DELIVERY_REDELIVERED != 0
    }
}

/// One message of a `Publish`, borrowed from the receive buffer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub head: MessageHead,
    pub key: &'a [u8],
    /// See [`crate::headers`].
    pub headers: &'a [u8],
    pub payload: &'a [u8],
    /// Key, headers and payload as they lie in the body.
    pub bytes: &'a [u8],
}

/// One message of a `Delivery`, borrowed from the receive buffer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Delivered<'a> {
    pub head: DeliveryHead,
    pub key: &'a [u8],
    /// See [`crate::headers`].
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

/// The messages of a `Publish` in order.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    /// Invariant: the lengths in the heads left add up to the body left.
    heads: slice::Iter<'a, ArchivedMessageHead>,
    body: &'a [u8],
}

/// The messages of a `Delivery` in order.
#[derive(Clone, Debug)]
pub struct DeliveredMessages<'a> {
    /// Invariant: the lengths in the heads left add up to the body left.
    heads: slice::Iter<'a, ArchivedDeliveryHead>,
    body: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(super) fn new(heads: &'a [ArchivedMessageHead], body: &'a [u8]) -> Result<Self, FrameError> {
        let expected = heads.iter().map(|head| head.to_native().bytes()).sum();
        check_sum(Kind::Publish, expected, body)?;
        Ok(Self { heads: heads.iter(), body })
    }
}

impl<'a> DeliveredMessages<'a> {
    pub(super) fn new(heads: &'a [ArchivedDeliveryHead], body: &'a [u8]) -> Result<Self, FrameError> {
        let expected = heads.iter().map(|head| head.to_native().bytes()).sum();
        check_sum(Kind::Delivery, expected, body)?;
        Ok(Self { heads: heads.iter(), body })
    }
}

fn check_sum(kind: Kind, expected: u64, body: &[u8]) -> Result<(), FrameError> {
    let actual = body.len() as u64;
    if actual != expected {
        return Err(FrameError::Body { kind, expected, actual });
    }
    Ok(())
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let head = self.heads.next()?.to_native();
        let (bytes, rest) = self.body.split_at(head.bytes() as usize);
        self.body = rest;
        let (key, after_key) = bytes.split_at(usize::from(head.key_bytes));
        let (headers, payload) = after_key.split_at(head.headers_bytes as usize);
        Some(Message { head, key, headers, payload, bytes })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.heads.size_hint()
    }
}

impl<'a> Iterator for DeliveredMessages<'a> {
    type Item = Delivered<'a>;

    fn next(&mut self) -> Option<Delivered<'a>> {
        let head = self.heads.next()?.to_native();
        let (bytes, rest) = self.body.split_at(head.bytes() as usize);
        self.body = rest;
        let (key, after_key) = bytes.split_at(usize::from(head.key_bytes));
        let (headers, payload) = after_key.split_at(head.headers_bytes as usize);
        Some(Delivered { head, key, headers, payload })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.heads.size_hint()
    }
}

impl ExactSizeIterator for Messages<'_> {}
impl ExactSizeIterator for DeliveredMessages<'_> {}
