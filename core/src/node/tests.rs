//! A real node on loopback, spoken to in frames over plain sockets.

use super::*;
use crate::config::Limits;
use ringmain_net::frame::{encode, split};
use ringmain_net::protocol::{
    CreateQueue, Hello, MessageHead, OpenQueue, OpenSession, PROTOCOL, Publish, QueueSettings, Reply,
    ShowQueue, Words,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, received: Vec::new() };
        let hello = Hello { protocol: PROTOCOL, cluster: 0, agent: "test" };
        client.ask(&hello, &[], |reply| matches!(reply, Reply::Welcome(_)).then_some(()));
        client
    }

    /// Sends a request and waits for the reply that `pick` wants.
    fn ask<W: Words, T>(&mut self, words: &W, body: &[&[u8]], pick: impl Fn(Reply<'_>) -> Option<T>) -> T {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, words, body);
        self.stream.write_all(&bytes).unwrap();
        loop {
            while let Some(frame) = split(&self.received, 4 << 20).unwrap() {
                let picked = pick(Reply::decode(&frame).unwrap());
                let bytes = frame.bytes;
                self.received.drain(..bytes);
                if let Some(picked) = picked {
                    return picked;
                }
            }
            let mut buffer = [0; 4096];
            let bytes = self.stream.read(&mut buffer).unwrap();
            assert_ne!(bytes, 0, "the node closed the connection");
            self.received.extend_from_slice(&buffer[..bytes]);
        }
    }
}

fn config(data: &Path) -> Config {
    let listen = crate::config::Address { host: "127.0.0.1".to_owned(), port: 0 };
    let mut config = Config::new(1, data.to_owned(), listen);
    config.shards = Some(1);
    config.limits = Limits { segment_bytes: crate::config::Bytes(16 << 20), ..Limits::default() };
    config.checked().unwrap()
}

#[test]
fn stored_message_is_there_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path());
    for round in 0..3_u64 {
        let node = Node::start(&config).unwrap();
        let mut client = Client::connect(node.ports()[0]);
        let settings = QueueSettings::default();
        client.ask(&CreateQueue { name: "q", settings }, &[], |reply| {
            matches!(reply, Reply::Done(_)).then_some(())
        });
        let queue = client.ask(&OpenQueue { name: "q" }, &[], |reply| match reply {
            Reply::QueueOpened(opened) => Some(opened.queue),
            _ => None,
        });
        let session = client.ask(&OpenSession { queue, producer: "" }, &[], |reply| match reply {
            Reply::SessionOpened(opened) => Some(opened.session),
            _ => None,
        });
        for sequence in 1..=100 {
            let head = MessageHead { payload_bytes: 5, ..MessageHead::default() };
            let publish = Publish { queue, session, epoch: 1, sequence, messages: &[head] };
            let stored = |reply: Reply<'_>| match reply {
                Reply::Receipt(receipt) => Some(receipt.last_sequence),
                _ => None,
            };
            assert_eq!(client.ask(&publish, &[b"hello"], stored), sequence);
        }
        let ready = client.ask(&ShowQueue { name: "q" }, &[], |reply| match reply {
            Reply::QueueShown(shown) => Some(shown.info.ready),
            _ => None,
        });
        assert_eq!(ready, 100 * (round + 1));
        match round {
            0 => node.kill(),
            _ => node.stop().unwrap(),
        }
    }
}
