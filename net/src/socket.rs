//! TCP between the wire and a shard: listening, connecting, reading and writing without blocking.
//!
//! Everything here lives on one executor thread. A [`Listener`] is bound before the executor starts, so that
//! its port is known and its errors are plain; the shard turns it into an [`Acceptor`]. A [`Connection`]
//! splits into a [`Reader`] and a [`Writer`] for two tasks, each of which is used by one task at a time.
//!
//! Reads go straight into the caller's slice and writes straight from it. Every call tries the socket first
//! and asks the reactor only if there is nothing to do. A busy-polling shard calls [`Reader::try_read`] and
//! [`Writer::try_write`] and never parks.
//!
//! Not here: frames, timeouts and limits on connections, which belong to whoever reads.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use glommio::GlommioError;
use glommio::io::PollableFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections the kernel keeps for us until they are accepted. With std's 128 a burst of clients would be
/// dropped and retry a second later.
const BACKLOG: i32 = 1024;

/// How long [`Acceptor::accept`] waits before it reports a shortage, so that its caller cannot spin on it.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

/// What the kernel keeps of a connection that may wait: little, so that little stands in the way of others; with a round
/// trip of a millisecond it still allows half a gigabyte per second.
const LOW_PRIORITY_SEND_BYTES: usize = 512 << 10;
/// IP's old word for throughput before delay (RFC 1349), by which the kernel queues it behind everything else.
const LOW_PRIORITY_TOS: u32 = 0x08;

/// A bound port that nobody serves yet; clients that connect wait in the backlog.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    local: SocketAddr,
}

/// Why a port cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.source.kind() {
            io::ErrorKind::AddrInUse => "another process listens there",
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
            _ => return write!(f, "cannot listen on {}: {}", self.address, self.source),
        };
        write!(f, "cannot listen on {}: {why} ({})", self.address, self.source)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Listener {
    /// Takes the port; 0 lets the kernel choose one. A port that another process listens on is an error:
    /// sharing it would split the clients between two brokers.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Self::open(address).map_err(|source| BindError { address, source })
    }

    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted node must not wait for connections of its former life to time out.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let local = listener.local_addr()?;
        Ok(Self { listener, local })
    }

    /// The address bound, with the port that the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Begins to serve the port on the executor that this is called on.
    pub fn serve(self) -> io::Result<Acceptor> {
        let listener = PollableFd::new(self.listener).map_err(into_io)?;
        Ok(Acceptor { listener, local: self.local })
    }
}

/// A port being served by one executor.
#[derive(Debug)]
pub struct Acceptor {
    listener: PollableFd<TcpListener>,
    local: SocketAddr,
}

impl Acceptor {
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection.
    ///
    /// An error concerns one connection, or says that descriptors or memory are short; the port is served on
    /// in any case, and the caller reports it and calls again. A shortage is waited out a little first.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.listener.get_ref().accept() {
                Ok((stream, peer)) => return Connection::new(stream, peer),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.listener.readable().await.map_err(into_io)?,
                    // The client went away again while it was in the backlog.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => {
                        glommio::timer::sleep(SHORTAGE_PAUSE).await;
                        return Err(error);
                    }
                },
            }
        }
    }
}

/// One open connection, not yet divided between its reader and its writer.
#[derive(Debug)]
pub struct Connection {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Non-blocking, with `TCP_NODELAY`.
    stream: PollableFd<TcpStream>,
    peer: SocketAddr,
}

/// The half that one task reads from.
#[derive(Debug)]
pub struct Reader {
    shared: Rc<Shared>,
}

/// The half that one task writes to.
#[derive(Debug)]
pub struct Writer {
    shared: Rc<Shared>,
}

/// What closes a connection from any task of its executor.
#[derive(Clone, Debug)]
pub struct Closer {
    shared: Rc<Shared>,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let stream = PollableFd::new(stream).map_err(into_io)?;
        Ok(Self { shared: Rc::new(Shared { stream, peer }) })
    }

    /// Dials another node.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let started = socket.connect(&address.into());
        let connection = Self::new(TcpStream::from(socket), address)?;
        let stream = &connection.shared.stream;
        // Any error of a non-blocking connect that really failed is kept by the socket, and read below.
        if started.is_err() {
            stream.writable().await.map_err(into_io)?;
            if let Some(error) = stream.get_ref().take_error()? {
                return Err(error);
            }
            // An address that was refused on the spot leaves no error behind, only no peer.
            stream.get_ref().peer_addr()?;
        }
        Ok(connection)
    }

    /// What goes out here may wait for what goes out elsewhere.
    pub fn lower_priority(&self) {
        let socket = SockRef::from(self.shared.stream.get_ref());
        // It is a courtesy: a connection without it, or one of a family that has no such words, works as well.
        let _ = socket.set_send_buffer_size(LOW_PRIORITY_SEND_BYTES);
        let _ = socket.set_tos_v4(LOW_PRIORITY_TOS);
    }

    pub fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.stream.get_ref().local_addr()
    }

    pub fn split(self) -> (Reader, Writer) {
        (Reader { shared: Rc::clone(&self.shared) }, Writer { shared: self.shared })
    }

    pub fn closer(&self) -> Closer {
        Closer { shared: Rc::clone(&self.shared) }
    }
}

impl Reader {
    /// Waits for bytes and puts them into `buffer`; 0: the other side sends no more.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shared.stream.readable().await.map_err(into_io)?;
                }
                result => return result,
            }
        }
    }

    /// Takes what is there now; [`io::ErrorKind::WouldBlock`] if nothing is.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.shared.stream.get_ref().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Waits until a read would find bytes, an end or an error.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.shared.stream.readable().await.map_err(into_io)
    }

    pub fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    pub fn closer(&self) -> Closer {
        Closer { shared: Rc::clone(&self.shared) }
    }
}

impl Writer {
    /// Writes all of `bytes`, waiting as long as the other side does not read.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shared.stream.writable().await.map_err(into_io)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hands over what the socket takes now, which may be less than all; [`io::ErrorKind::WouldBlock`] if
    /// that is nothing.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.shared.stream.get_ref().write(bytes) {
                Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// The same, from several places in one call; not all of them empty.
    pub fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.shared.stream.get_ref().write_vectored(pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Waits until a write would take bytes or fail.
    pub async fn writable(&mut self) -> io::Result<()> {
        self.shared.stream.writable().await.map_err(into_io)
    }

    /// Tells the other side that no more comes; reading goes on.
    pub fn finish(&mut self) {
        // It fails only if the connection is gone already, which the reader learns by itself.
        let _ = self.shared.stream.get_ref().shutdown(Shutdown::Write);
    }

    pub fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    pub fn closer(&self) -> Closer {
        Closer { shared: Rc::clone(&self.shared) }
    }
}

impl Closer {
    /// Ends the connection in both directions: a waiting read returns 0, a waiting write fails. What was
    /// written before is still sent. The descriptor goes with the last half.
    pub fn close(&self) {
        // It fails only if the connection is gone already.
        let _ = self.shared.stream.get_ref().shutdown(Shutdown::Both);
    }
}

fn into_io(error: GlommioError<()>) -> io::Error {
    error.into()
}

#[cfg(test)]
mod tests;
