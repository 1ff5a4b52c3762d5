//! Delivered messages on their way to the user, in memory that is used again and again.

use std::collections::VecDeque;
use std::ops::Range;

use ringmain_net::protocol::{ArchivedDeliveryHead, DeliveryHead, DeliveryView};

/// A queue of delivered messages: heads, and the bytes they speak of back to back.
///
/// Bounded by the consumer's credit: whoever fills it checks that. Two of them take turns: one fills from the
/// connection while the user empties the other.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    heads: VecDeque<DeliveryHead>,
    bytes: Vec<u8>,

    /// Where the bytes of the first head begin.
    start: usize,
}

impl Mailbox {
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.heads.clear();
        self.bytes.clear();
        self.start = 0;
    }

    pub(crate) fn push(&mut self, delivery: &DeliveryView<'_>) {
        if self.heads.is_empty() {
            self.clear();
        }
        self.heads.extend(delivery.heads.iter().map(ArchivedDeliveryHead::to_native));
        self.bytes.extend_from_slice(delivery.body);
    }

    /// Takes the first message; its bytes stay where [`Mailbox::bytes`] finds them until the next push.
    pub(crate) fn pop(&mut self) -> Option<(DeliveryHead, Range<usize>)> {
        let head = self.heads.pop_front()?;
        let start = self.start;
        self.start += head.bytes() as usize;
        assert!(self.start <= self.bytes.len());
        Some((head, start..self.start))
    }

    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Takes everything, and leaves the memory behind.
    pub(crate) fn take(&mut self) -> (Vec<DeliveryHead>, Vec<u8>) {
        let taken = (self.heads.drain(..).collect(), self.bytes[self.start..].to_vec());
        self.clear();
        taken
    }
}
