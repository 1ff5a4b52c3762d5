//! Sockets for a [`Machine`]: dials, reads, writes and waits, on whichever thread calls it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::error::Error;
use crate::machine::Machine;
use crate::machine::window::Slices;
use crate::options::{IdleStrategy, Options};
use crate::resolver::{self, Resolver};

/// The token of the waker; links have their index.
const WAKER: Token = Token(usize::MAX);
const EVENTS_PER_WAIT: usize = 64;
/// Reads and writes of one connection before the next has its turn: at most 1 MiB each time.
const TURNS: usize = 4;
/// A thread that sleeps looks up at least so often, whatever the timers say.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// The poll counts in milliseconds and rounds up; shorter waits than this must end when they should.
const WAIT_COARSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    connected: bool,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) machine: Machine,

    /// By link.
    sockets: Vec<Option<Socket>>,
    /// Only a driver that sleeps has one: registering sockets costs those that spin.
    poll: Option<(Poll, Events)>,
    /// Its one waker, which wakes it from elsewhere.
    waker: Option<Arc<Waker>>,
    idle: IdleStrategy,
    resolver: Resolver,
}

impl Driver {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let system = |error: &dyn std::fmt::Display| Error::System { reason: error.to_string() };
        let idle = options.idle;
        let seed = getrandom::u64().map_err(|error| system(&error))?;
        let (poll, waker) = match idle {
            IdleStrategy::Park => {
                let poll = Poll::new().map_err(|error| system(&error))?;
                let waker = Waker::new(poll.registry(), WAKER).map_err(|error| system(&error))?;
                (Some((poll, Events::with_capacity(EVENTS_PER_WAIT))), Some(Arc::new(waker)))
            }
            IdleStrategy::Spin | IdleStrategy::Yield => (None, None),
        };
        let resolver = Resolver::new(resolver::ask_system, waker.clone());
        let machine = Machine::new(options, seed, Instant::now());
        Ok(Self { machine, sockets: Vec::new(), poll, waker, idle, resolver })
    }

    /// What wakes this driver's thread from elsewhere; only for one that sleeps.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        self.waker.clone().expect("the caller chose to sleep")
    }

    /// Does what can be done without waiting. Answers whether anything moved.
    pub(crate) fn pass(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.sockets.len() {
            moved |= self.finish_connecting(index);
            moved |= self.write(index);
            moved |= self.read(index);
        }
        // Only after reading: a thread that was away for long must hear what came meanwhile before it calls a
        // connection silent.
        let now = Instant::now();
        self.machine.on_time(now);
        self.drop_sockets();
        moved |= self.dial(now);
        moved | self.flush()
    }

    /// Writes what is there to be written.
    pub(crate) fn flush(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.sockets.len() {
            moved |= self.write(index);
        }
        self.drop_sockets();
        moved
    }

    /// Ends all connections for good. What has no answer gets none.
    pub(crate) fn end(&mut self) {
        self.machine.forget();
        (0..self.sockets.len()).for_each(|index| self.resolver.forget(index));
        self.sockets.clear();
    }

    /// Idles as the strategy says, at most until `until` or the machine's next deadline.
    pub(crate) fn idle(&mut self, until: Option<Instant>) {
        match self.idle {
            IdleStrategy::Spin => std::hint::spin_loop(),
            IdleStrategy::Yield => thread::yield_now(),
            IdleStrategy::Park => self.park(until),
        }
    }

    fn park(&mut self, until: Option<Instant>) {
        let deadline = self.machine.next_deadline();
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        let mut wait = deadline.saturating_duration_since(Instant::now()).min(WAIT_MAX);
        let Some((poll, events)) = &mut self.poll else { return };
        if wait < WAIT_COARSE {
            wait_exactly(poll, wait);
            wait = Duration::ZERO;
        }
        // Interrupted or not, what there is to do is found by trying.
        let _ = poll.poll(events, Some(wait));
    }

    fn drop_sockets(&mut self) {
        while let Some(index) = self.machine.poll_drop() {
            if let Some(socket) = self.sockets.get_mut(index) {
                *socket = None;
            }
            self.resolver.forget(index);
        }
    }

    fn dial(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some((index, address, attempt)) = self.machine.poll_dial(now) {
            moved = true;
            if self.sockets.len() <= index {
                self.sockets.resize_with(index + 1, || None);
            }
            match resolver::literal(&address) {
                Some(target) => self.connect(index, target, now),
                None => self.resolver.ask(index, address, attempt),
            }
        }
        while let Some((index, found)) = self.resolver.poll() {
            moved = true;
            match found {
                Ok(target) => self.connect(index, target, now),
                Err(reason) => self.machine.on_lost(index, reason, now),
            }
        }
        moved
    }

    fn connect(&mut self, index: usize, target: SocketAddr, now: Instant) {
        match self.open(index, target) {
            Ok(stream) => self.sockets[index] = Some(Socket { stream, connected: false }),
            Err(error) => self.machine.on_lost(index, reason(&error), now),
        }
    }

    /// Begins to connect.
    fn open(&self, index: usize, target: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(target)?;
        if let Some((poll, _)) = &self.poll {
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(stream)
    }

    fn finish_connecting(&mut self, index: usize) -> bool {
        let Some(socket) = &mut self.sockets[index] else { return false };
        if socket.connected {
            return false;
        }
        let failed = match socket.stream.take_error() {
            Ok(error) => error,
            Err(error) => Some(error),
        };
        let now = Instant::now();
        if let Some(error) = failed {
            self.machine.on_lost(index, reason(&error), now);
            return true;
        }
        if socket.stream.peer_addr().is_err() {
            return false;
        }
        socket.connected = true;
        // Without it small frames wait for acknowledgements of earlier ones; not having it is no reason to fail.
        let _ = socket.stream.set_nodelay(true);
        self.machine.on_connected(index, now);
        true
    }

    fn write(&mut self, index: usize) -> bool {
        let mut moved = false;
        for _ in 0..TURNS {
            let Some(Socket { stream, connected: true }) = &mut self.sockets[index] else { return moved };
            if !self.machine.has_unsent(index) {
                return moved;
            }
            let mut slices = Slices::new();
            self.machine.transmit(index, &mut slices);
            if slices.is_empty() {
                return moved;
            }
            let bytes = slices.bytes();
            match stream.write_vectored(slices.as_slice()) {
                Ok(0) => self.lost(index, "takes no more bytes"),
                Ok(written) => {
                    moved = true;
                    self.machine.on_transmitted(index, written);
                    if written < bytes {
                        return moved;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lost(index, &reason(&error)),
            }
        }
        moved
    }

    fn read(&mut self, index: usize) -> bool {
        let mut moved = false;
        for _ in 0..TURNS {
            let Some(Socket { stream, connected: true }) = &mut self.sockets[index] else { return moved };
            let inbox = self.machine.inbox(index);
            let room = inbox.len();
            match stream.read(inbox) {
                Ok(0) => self.lost(index, "closed by the other side"),
                Ok(bytes) => {
                    moved = true;
                    self.machine.on_received(index, bytes, Instant::now());
                    self.drop_sockets();
                    if bytes < room {
                        return moved;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lost(index, &reason(&error)),
            }
        }
        moved
    }

    fn lost(&mut self, index: usize, reason: &str) {
        self.machine.on_lost(index, reason.to_owned(), Instant::now());
        self.drop_sockets();
    }
}

/// Waits for an event, or for `wait` to the microsecond; which of them it was, and an interruption, is found by trying.
#[cfg(unix)]
fn wait_exactly(poll: &Poll, wait: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec};
    if let Ok(wait) = Timespec::try_from(wait) {
        let _ = rustix::event::poll(&mut [PollFd::new(poll.registry(), PollFlags::IN)], Some(&wait));
    }
}

/// Elsewhere the poll's milliseconds are all there is.
#[cfg(not(unix))]
fn wait_exactly(poll: &mut Poll, wait: Duration) {
    let _ = poll.poll(&mut Events::with_capacity(EVENTS_PER_WAIT), Some(wait));
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ErrorKind::ConnectionReset => "reset by the other side".to_owned(),
        _ => error.to_string(),
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let messages = self.machine.unacknowledged();
        if messages > 0 && !thread::panicking() {
            eprintln!(
                "ringmain: a client was dropped with {messages} messages unacknowledged: close it to wait for them"
            );
        }
    }
}
