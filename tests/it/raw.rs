//! A connection that says exactly what it is told to, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use ringmain_net::frame;
use ringmain_net::protocol::{Code, Hello, PROTOCOL, Reply, Words};
use ringmain_tests::process::PATIENCE;

pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    request: u64,
}

/// How a node has ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It said why.
    Told(Code, String),
    Silent,
}

impl Raw {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new(), request: 0 }
    }

    /// A connection whose hello was welcome.
    pub(crate) fn greeted(address: &str) -> Self {
        let mut raw = Self::connect(address);
        raw.ask(&hello(0), &[]);
        assert!(raw.next(|reply| matches!(reply, Reply::Welcome(_))));
        raw
    }

    /// Whatever the node does with it: it may have closed the connection before the last byte.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn ask(&mut self, words: &impl Words, body: &[&[u8]]) {
        self.request += 1;
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, self.request, words, body);
        assert!(self.say(&bytes));
    }

    pub(crate) fn stop_sending(&self) {
        // The node may have ended it already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Shows the next reply; false once the connection has ended.
    pub(crate) fn next<T: Answer>(&mut self, show: impl FnOnce(Reply<'_>) -> T) -> T {
        loop {
            if let Some(frame) =
                frame::split(&self.received, frame::FRAME_BYTES_MAX).expect("a node sends frames")
            {
                let bytes = frame.bytes;
                let shown = show(Reply::decode(&frame).expect("a node sends replies"));
                self.received.drain(..bytes);
                return shown;
            }
            let mut part = [0; 65_536];
            match self.stream.read(&mut part) {
                Ok(0) => return T::ended(),
                Ok(bytes) => self.received.extend_from_slice(&part[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return T::ended();
                }
                Err(error) => panic!("the connection neither goes on nor ends: {error}"),
            }
        }
    }

    /// Reads until the node ends the connection.
    pub(crate) fn end(mut self) -> End {
        let mut end = End::Silent;
        loop {
            let told = self.next(|reply| match reply {
                Reply::Closing(closing) => Some(Some((Code::from(closing.code), closing.detail.to_owned()))),
                _ => Some(None),
            });
            match told {
                None => return end,
                Some(Some((code, detail))) => end = End::Told(code, detail),
                Some(None) => {}
            }
        }
    }
}

/// What stands for "the connection has ended".
pub(crate) trait Answer {
    fn ended() -> Self;
}

impl Answer for bool {
    fn ended() -> Self {
        false
    }
}

impl<T> Answer for Option<T> {
    fn ended() -> Self {
        None
    }
}

pub(crate) fn hello(cluster: u64) -> Hello<'static> {
    Hello { protocol: PROTOCOL, cluster, agent: "raw" }
}

pub(crate) fn encoded(words: &impl Words, body: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, 1, words, body);
    bytes
}

/// The checksum that fits what the bytes have become.
pub(crate) fn sealed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
