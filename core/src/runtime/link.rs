//! One client connection and its two directions, on the shard's thread.
//!
//! Receiving: one task reads into one buffer and offers the shard all that is there; the shard says what it
//! consumed. The buffer grows only as bytes really come, and all buffers of a shard have one budget.
//!
//! Sending: what a turn leaves for a connection is sent at once, without a task; only what the kernel does not
//! take is left to one. Invariant: at most one such task runs per link, and nothing is taken from the shard
//! while it does.

use super::signal::Signal;
use super::{Host, TaskHandle, sleep, spawn};
use crate::config::NODES_MAX;
use crate::connection::ConnectionId;
use crate::outgoing::Outgoing;
use crate::shard::Input;
use futures_lite::FutureExt;
use ringmain_net::peer::PEER_FRAME_BYTES_MAX;
use ringmain_net::socket::{Closer, Connection, Reader, Writer};
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

/// A connection at rest holds this much; many small frames fit.
const RECEIVE_BYTES_MIN: usize = 16 << 10;
/// A connection that fills its buffer gets a larger one, up to this, and beyond it only for a larger frame.
const RECEIVE_BYTES_BUSY: usize = 256 << 10;
/// Receive buffers of all connections of a shard together; who needs more then is closed.
const RECEIVE_BYTES_MAX: usize = 256 << 20;
/// What peers may have beyond that, so that a crowd of clients with large frames ends no connection of theirs: a buffer for
/// the largest frame of each other node.
const RECEIVE_BYTES_OF_PEERS: usize = (NODES_MAX - 1) * (64 << 20);
const _: () = assert!(PEER_FRAME_BYTES_MAX as usize <= 64 << 20);
/// Handed to the kernel in one call; what a turn leaves for a peer rarely has more.
const PIECES_MAX: usize = 32;
/// What was said last has this long to reach the client before the connection goes.
const LINGER: Duration = Duration::from_secs(1);

pub(crate) struct Link {
    id: ConnectionId,
    /// Absent while a task sends what the kernel did not take at once.
    writer: RefCell<Option<Writer>>,
    closer: Closer,
    /// The shard has room again for what it left unconsumed.
    pub(crate) resumed: Signal,
    /// Bytes taken from the shard; reused.
    unsent: RefCell<Outgoing>,
    is_closing: Cell<bool>,
    is_broken: Cell<bool>,
    /// Nothing is read any more.
    over: Signal,
    reader: RefCell<Option<TaskHandle>>,
    /// The descriptor is closed with the last holder of this link.
    _seat: Seat,
}

/// How many descriptors the connections of a shard hold, and the news that one is free again.
#[derive(Default)]
pub(crate) struct Seats {
    pub(crate) taken: Cell<usize>,
    pub(crate) freed: Signal,
}

struct Seat(Rc<Seats>);

impl Seat {
    fn take(seats: &Rc<Seats>) -> Self {
        seats.taken.set(seats.taken.get() + 1);
        Self(seats.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.freed.raise();
    }
}

impl Link {
    /// Makes the link of a new connection and starts to read from it.
    pub(crate) fn start(host: &Rc<Host>, id: ConnectionId, connection: Connection) -> Rc<Self> {
        let closer = connection.closer();
        let (reader, writer) = connection.split();
        let link = Rc::new(Self {
            id,
            writer: RefCell::new(Some(writer)),
            closer,
            resumed: Signal::default(),
            unsent: RefCell::default(),
            is_closing: Cell::new(false),
            is_broken: Cell::new(false),
            over: Signal::default(),
            reader: RefCell::default(),
            _seat: Seat::take(&host.seats),
        });
        let task = spawn(link.clone().receive(host.clone(), reader));
        link.reader.replace(Some(task));
        link
    }

    /// Sends what the shard has for this connection.
    pub(crate) fn send(self: &Rc<Self>, host: &Rc<Host>) {
        // Absent: the task that sends comes back for the rest.
        let Some(mut writer) = self.writer.take() else { return };
        let mut outgoing = self.unsent.take();
        host.take_outgoing(self.id, &mut outgoing);
        let mut sent = 0;
        match write_now(&mut writer, &outgoing, &mut sent) {
            Ok(()) => {
                outgoing.clear();
                self.writer.replace(Some(writer));
                self.unsent.replace(outgoing);
                host.step(Input::Sent { connection: self.id, bytes: sent });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                host.device(self.clone().send_rest(host.clone(), writer, outgoing, sent));
            }
            Err(_) => {
                self.break_off();
                self.writer.replace(Some(writer));
            }
        }
    }

    async fn send_rest(
        self: Rc<Self>,
        host: Rc<Host>,
        mut writer: Writer,
        mut outgoing: Outgoing,
        mut sent: usize,
    ) {
        loop {
            let written = match write_now(&mut writer, &outgoing, &mut sent) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match writer.writable().await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                written => written,
            };
            if written.is_err() {
                self.break_off();
                break;
            }
            outgoing.clear();
            host.step(Input::Sent { connection: self.id, bytes: std::mem::take(&mut sent) });
            host.take_outgoing(self.id, &mut outgoing);
            if outgoing.is_empty() {
                break;
            }
        }
        if self.is_closing.get() {
            writer.finish();
        }
        // Nothing that is shared is held longer than it takes to send it.
        outgoing.clear();
        self.unsent.replace(outgoing);
        self.writer.replace(Some(writer));
    }

    /// Ends the connection once what was said has been sent: first our direction, so that the last words
    /// arrive, then, if the client does not follow, both.
    pub(crate) fn close(self: &Rc<Self>, host: &Rc<Host>) {
        self.is_closing.set(true);
        if let Some(writer) = self.writer.borrow_mut().as_mut() {
            writer.finish();
        }
        let link = self.clone();
        host.device(async move {
            // Not a moment longer than it is there: its seat may be waited for.
            sleep(LINGER).or(link.over.wait()).await;
            link.closer.close();
        });
    }

    /// The connection is gone. The reader sees that too and reports it, unless it waits for room: a client that reads no
    /// answers is not read from either, and nothing else would tell the reader that it has gone.
    pub(crate) fn break_off(&self) {
        self.closer.close();
        self.is_broken.set(true);
        self.resumed.raise();
    }

    async fn receive(self: Rc<Self>, host: Rc<Host>, mut reader: Reader) {
        let mut buffer = ReceiveBuffer::new(&host.receive_bytes);
        'reading: while let Some(room) = buffer.room(|| host.is_peer(self.id)) {
            // Always by way of the reactor, even if more is there: a client that sends without end would keep this
            // task running, and no write would be seen to finish.
            if reader.readable().await.is_err() {
                break;
            }
            match reader.try_read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => break,
                Ok(bytes) => buffer.filled += bytes,
            }
            loop {
                let (consumed, is_paused) = host.receive(self.id, buffer.bytes());
                buffer.consume(consumed);
                if !is_paused {
                    break;
                }
                self.resumed.wait().await;
                if self.is_broken.get() {
                    break 'reading;
                }
            }
        }
        drop(buffer);
        host.forget(self.id);
        self.over.raise();
        self.closer.close();
        host.step(Input::Closed { connection: self.id });
    }

    /// Ends the reading task and so the connection.
    pub(crate) async fn cancel(&self) {
        let task = self.reader.take();
        if let Some(task) = task {
            task.cancel().await;
        }
        self.over.raise();
        self.closer.close();
    }
}

/// Hands the kernel what it takes now of what is not sent, and counts it.
fn write_now(writer: &mut Writer, outgoing: &Outgoing, sent: &mut usize) -> io::Result<()> {
    while *sent < outgoing.bytes() {
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (piece, bytes) in pieces.iter_mut().zip(outgoing.pieces_behind(*sent)) {
            *piece = IoSlice::new(bytes);
            count += 1;
        }
        *sent += match &pieces[..count] {
            [one] => writer.try_write(one)?,
            several => writer.try_write_vectored(several)?,
        };
    }
    Ok(())
}

/// The bytes of one connection that the shard has not consumed yet.
struct ReceiveBuffer<'a> {
    budget: &'a Cell<usize>,

    storage: Vec<u8>,
    /// Invariant: consumed ≤ filled ≤ storage.len().
    consumed: usize,
    filled: usize,
    /// One read filled it: a larger one would take more at once.
    is_busy: bool,
}

impl<'a> ReceiveBuffer<'a> {
    fn new(budget: &'a Cell<usize>) -> Self {
        budget.set(budget.get() + RECEIVE_BYTES_MIN);
        Self { budget, storage: vec![0; RECEIVE_BYTES_MIN], consumed: 0, filled: 0, is_busy: false }
    }

    fn bytes(&self) -> &[u8] {
        &self.storage[self.consumed..self.filled]
    }

    fn consume(&mut self, bytes: usize) {
        self.is_busy |= self.filled == self.storage.len();
        self.consumed += bytes;
        assert!(self.consumed <= self.filled);
        if self.consumed == self.filled {
            (self.consumed, self.filled) = (0, 0);
            // The large frame that it grew for has gone.
            if RECEIVE_BYTES_BUSY < self.storage.len() {
                self.budget.set(self.budget.get() - self.storage.len() + RECEIVE_BYTES_MIN);
                self.storage = vec![0; RECEIVE_BYTES_MIN];
            }
        }
    }

    /// Where the next bytes go; `None` when all buffers together are at their limit.
    fn room(&mut self, is_peer: impl FnOnce() -> bool) -> Option<&mut [u8]> {
        if self.storage.len() - self.filled < self.storage.len() / 2 && self.consumed != 0 {
            self.storage.copy_within(self.consumed..self.filled, 0);
            (self.consumed, self.filled) = (0, self.filled - self.consumed);
        }
        if self.filled == self.storage.len() || self.is_busy && self.storage.len() < RECEIVE_BYTES_BUSY {
            self.is_busy = false;
            let more = self.storage.len();
            let wanted = self.budget.get() + more;
            if RECEIVE_BYTES_MAX < wanted
                && (RECEIVE_BYTES_MAX + RECEIVE_BYTES_OF_PEERS < wanted || !is_peer())
            {
                return None;
            }
            self.budget.set(wanted);
            self.storage.resize(2 * more, 0);
        }
        Some(&mut self.storage[self.filled..])
    }
}

impl Drop for ReceiveBuffer<'_> {
    fn drop(&mut self) {
        self.budget.set(self.budget.get() - self.storage.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the buffer again and again. Answers how large it was when there was no more room.
    fn grow(buffer: &mut ReceiveBuffer<'_>, is_peer: bool) -> usize {
        while let Some(room) = buffer.room(|| is_peer) {
            let bytes = room.len();
            buffer.filled += bytes;
        }
        buffer.storage.len()
    }

    #[test]
    fn clients_take_no_room_of_a_peers_frame() {
        let budget = Cell::new(0);
        let mut crowd: Vec<ReceiveBuffer<'_>> = Vec::new();
        while budget.get() + RECEIVE_BYTES_MIN <= RECEIVE_BYTES_MAX {
            crowd.push(ReceiveBuffer::new(&budget));
            grow(crowd.last_mut().unwrap(), false);
        }
        for _ in 1..NODES_MAX {
            let mut peer = ReceiveBuffer::new(&budget);
            assert_eq!(grow(&mut peer, false), RECEIVE_BYTES_MIN);
            while peer.storage.len() < PEER_FRAME_BYTES_MAX as usize {
                let bytes = peer.room(|| true).expect("there is room for a frame").len();
                peer.filled += bytes;
            }
            crowd.push(peer);
        }
        drop(crowd);
        assert_eq!(budget.get(), 0);
    }
}
