//! Deliveries: from the queues' ready messages to the outgoing bytes of consumers' connections.
//!
//! Lives inside the shard. The engine says which message goes to whom; here its bytes are found, in memory
//! or by a read, and consecutive messages for one consumer are put into one frame. Payload bytes go from
//! the log's pages straight into the connection's outgoing bytes.

use crate::command::{STORED_HEAD_BYTES, StoredMessage};
use crate::connection::ConnectionId;
use crate::engine::Dispatch;
use crate::failure::Failure;
use crate::group::Group;
use crate::outbox::Outbox;
use crate::readback::Reader;
use crate::time::Time;
use ringmain_net::frame::FrameBuilder;
use ringmain_net::protocol::{DELIVERY_REDELIVERED, Delivery, DeliveryHead};
use ringmain_wal::{Log, Position};

/// Bytes delivered in one turn of one group, but for a single larger message.
const TURN_BYTES_MAX: usize = 1 << 20;
/// One delivery frame, but for a single larger message.
const FRAME_BYTES_MAX: usize = 256 << 10;
const FRAME_MESSAGES_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Dispatcher {
    /// The frame being collected: all for one consumer.
    heads: Vec<DeliveryHead>,
    places: Vec<(Position, u32)>,
    bytes: usize,
    to: Option<Recipient>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
struct Recipient {
    connection: ConnectionId,
    consumer: u32,
    queue: u64,
}

/// How a run ended.
pub(crate) enum Dispatched {
    /// Nothing more can be delivered now.
    All,
    /// The turn's share is done; there is more.
    Some,
    Failed(Failure),
}

/// What deliveries work with.
pub(crate) struct Source<'a> {
    pub(crate) now: Time,
    pub(crate) log: &'a Log,
    pub(crate) outbox: &'a mut Outbox,
    /// Asks for a stretch of the log on behalf of a reader.
    pub(crate) read: &'a mut dyn FnMut(Reader, Position, u32),
}

impl Dispatcher {
    /// Delivers what can be delivered, within a turn's budget.
    pub(crate) fn run(&mut self, group: &mut Group, source: &mut Source<'_>) -> Dispatched {
        let mut budget = TURN_BYTES_MAX;
        let mut outcome = Dispatched::All;
        while let Some(dispatch) = group.engine.poll_delivery() {
            if self.is_choked(dispatch.connection, source.outbox) {
                self.flush(source);
                group.engine.pause(dispatch.connection);
                continue;
            }
            let Some(bytes) = source.log.read(dispatch.position, dispatch.bytes as usize) else {
                group.engine.park(dispatch.queue);
                (source.read)(Reader::Queue(dispatch.queue.0), dispatch.position, dispatch.bytes);
                continue;
            };
            let Ok(stored) = StoredMessage::parse(bytes, dispatch.queue) else {
                outcome = Dispatched::Failed(rot(dispatch.position, dispatch.bytes, source.log));
                break;
            };
            self.add(&dispatch, &stored, source);
            group.engine.delivered(&dispatch, source.now);
            budget = budget.saturating_sub(dispatch.bytes as usize);
            if budget == 0 {
                outcome = Dispatched::Some;
                break;
            }
        }
        self.flush(source);
        outcome
    }

    /// Whether this connection's unsent bytes, those collected here included, are at their limit.
    fn is_choked(&self, id: ConnectionId, outbox: &mut Outbox) -> bool {
        let collected = if self.to.is_some_and(|to| to.connection == id) { self.bytes } else { 0 };
        let Some(connection) = outbox.connections.get_mut(id) else { return true };
        // Only what is sent unchokes it: a paused connection waits for that.
        connection.choked |= connection.is_choked_with(collected);
        connection.choked
    }

    fn add(&mut self, dispatch: &Dispatch, stored: &StoredMessage<'_>, source: &mut Source<'_>) {
        let to = Recipient {
            connection: dispatch.connection,
            consumer: dispatch.consumer.0,
            queue: dispatch.queue.0,
        };
        let is_full =
            FRAME_BYTES_MAX <= self.bytes + dispatch.bytes as usize || self.heads.len() == FRAME_MESSAGES_MAX;
        if self.to != Some(to) || is_full {
            self.flush(source);
            self.to = Some(to);
        }
        self.heads.push(DeliveryHead {
            sequence: dispatch.sequence,
            published_us: stored.published_us,
            payload_bytes: stored.head.payload_bytes,
            headers_bytes: stored.head.headers_bytes,
            key_bytes: stored.head.key_bytes,
            deliveries: dispatch.deliveries,
            priority: dispatch.priority,
            flags: if dispatch.is_redelivered { DELIVERY_REDELIVERED } else { 0 },
        });
        // Key, headers and payload lie behind the stored head as they lie in a frame.
        let body = dispatch.position.advance(STORED_HEAD_BYTES as u64);
        self.places.push((body, dispatch.bytes - STORED_HEAD_BYTES as u32));
        self.bytes += dispatch.bytes as usize;
    }

    fn flush(&mut self, source: &mut Source<'_>) {
        let Some(to) = self.to.take() else { return };
        if let Some(out) = source.outbox.outgoing(to.connection) {
            let delivery = Delivery { consumer: to.consumer, queue: to.queue, messages: &self.heads };
            let mut frame = FrameBuilder::new(out, 0, &delivery);
            for (position, bytes) in &self.places {
                // It was in memory when it was added, earlier in this turn, and nothing evicts during dispatch.
                frame.body(source.log.read(*position, *bytes as usize).expect("a page stays for its turn"));
            }
            frame.finish();
        }
        self.heads.clear();
        self.places.clear();
        self.bytes = 0;
    }
}

/// The stored message here is not what was stored.
pub(crate) fn rot(position: Position, bytes: u32, log: &Log) -> Failure {
    let segment_bytes = log.options().segment_bytes;
    Failure::Rot { segment: position.segment(segment_bytes), offset: position.offset(segment_bytes), bytes }
}
