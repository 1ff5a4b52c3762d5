//! Somebody who asks one node, and no other, for the counts of the queue, again and again.
//!
//! A client goes to whoever leads. This one stays: a leader that others have left behind is asked as well, and may refuse,
//! or say nothing, but must not tell what was.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringmain_net::frame::{self, FRAME_BYTES_MAX};
use ringmain_net::protocol::{Hello, PROTOCOL, Reply, ShowQueue, Words};

use super::history::History;

const ASK_EVERY: Duration = Duration::from_millis(20);
/// A node that says nothing for so long is dialled anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks until it is told to end.
pub(super) fn watch(address: &str, queue: &str, history: &History, goes_on: &AtomicBool) {
    while goes_on.load(Ordering::SeqCst) {
        if let Some(mut connection) = Connection::open(address) {
            while goes_on.load(Ordering::SeqCst) && connection.ask(queue, history).is_some() {
                thread::park_timeout(ASK_EVERY);
            }
        }
        thread::park_timeout(ASK_EVERY);
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut connection = Self { stream, received: Vec::new() };
        connection.say(&Hello { protocol: PROTOCOL, cluster: 0, agent: "witness" })?;
        connection.hear(|reply| matches!(reply, Reply::Welcome(_)).then_some(()))?;
        Some(connection)
    }

    /// None: the connection is over. A refusal is an answer too.
    fn ask(&mut self, queue: &str, history: &History) -> Option<()> {
        let asked = history.asks();
        self.say(&ShowQueue { name: queue })?;
        self.hear(|reply| match reply {
            Reply::QueueShown(shown) => {
                history.shown(&asked, &shown.info);
                Some(())
            }
            Reply::Refused(_) => Some(()),
            _ => None,
        })
    }

    fn say(&mut self, words: &impl Words) -> Option<()> {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, 1, words, &[]);
        self.stream.write_all(&bytes).ok()
    }

    /// The next thing that is said; None: nothing, or nothing that is understood.
    fn hear<T>(&mut self, understand: impl FnOnce(Reply<'_>) -> Option<T>) -> Option<T> {
        loop {
            if let Some(frame) = frame::split(&self.received, FRAME_BYTES_MAX).expect("a node sends frames") {
                let bytes = frame.bytes;
                let understood = understand(Reply::decode(&frame).expect("a node sends replies"));
                self.received.drain(..bytes);
                return understood;
            }
            let mut part = [0; 4096];
            let length = self.stream.read(&mut part).ok().filter(|length| *length > 0)?;
            self.received.extend_from_slice(&part[..length]);
        }
    }
}
