//! The raw loop: the least that a durable publish can be on this machine.
//!
//! A server of one thread receives messages, writes them to a file that was written before — padded to a page, direct,
//! durable on return — and answers each; nothing else: no format, no checksum, no queue. Its client sends at a given
//! rate and parks for the answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::disk::{Cursor, ScratchFile, expect_whole};
use crate::drive::{Run, Target, drive};
use crate::error::{Doing, Error, Result};
use crate::kernel::{self, Completion, Operation, PAGE_BYTES, Ring, Span, Transfer};
use crate::loopback::connect_pair;
use crate::machine::{Cores, on_core, pin};
use crate::pacing::Schedule;

const ANSWER_BYTES: usize = 16;

/// What one turn of the server takes at most; more waits in the socket.
const TURN_MESSAGES: usize = 256;

const IN_FLIGHT_MAX: u64 = 4_096;

/// One run over a fresh connection.
pub(crate) fn run(cores: Cores, file: &ScratchFile, message_bytes: usize, schedule: Schedule) -> Result<Run> {
    let (server, client) = connect_pair()?;
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(cores.server)?;
            Server::new(server, file, message_bytes)?.serve()
        });
        let run = on_core(cores.client, || {
            let message = vec![0x5A; message_bytes];
            let mut answers =
                Answers { stream: client, message, buffer: vec![0; 64 * ANSWER_BYTES], partial_bytes: 0 };
            drive(&mut answers, schedule, IN_FLIGHT_MAX)
        });
        let served = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What ended the server is why the client failed, so it is the error to show.
        served.and(run)
    })
}

/// Memory of the ring: the turn's messages, from which they are written, then the answers.
struct Server {
    ring: Ring,
    message_bytes: usize,
    cursor: Cursor,
    /// Received and not yet written, at the start of the memory.
    pending_bytes: usize,
}

const FILE: usize = 0;
const SOCKET: usize = 1;

const TAG_RECEIVED: u64 = 1;
const TAG_WRITTEN: u64 = 2;
const TAG_SENT: u64 = 3;

impl Server {
    fn new(stream: TcpStream, file: &ScratchFile, message_bytes: usize) -> Result<Self> {
        assert!(message_bytes > 0);
        let turn_bytes = (TURN_MESSAGES * message_bytes).next_multiple_of(PAGE_BYTES);
        let arena_bytes = turn_bytes + (TURN_MESSAGES * ANSWER_BYTES).next_multiple_of(PAGE_BYTES);
        let ring = Ring::new(4, arena_bytes, vec![file.descriptor()?, stream.into()])
            .doing(|| "setting up io_uring".to_owned())?;
        Ok(Self { ring, message_bytes, cursor: Cursor::new(file.bytes()), pending_bytes: 0 })
    }

    fn turn_bytes(&self) -> usize {
        TURN_MESSAGES * self.message_bytes
    }

    /// Until the client closes. Two system calls a turn: answer and receive the next, then write.
    fn serve(mut self) -> Result<()> {
        self.push_receive();
        self.submit_and_wait(1)?;
        loop {
            if !self.take_received()? {
                return Ok(());
            }
            let messages = self.pending_bytes / self.message_bytes;
            if messages > 0 {
                self.write(messages)?;
                self.push_answers(messages);
            }
            self.push_receive();
            self.submit_and_wait(self.ring.in_flight() as usize)?;
        }
    }

    fn push_receive(&mut self) {
        let span = Span { start: self.pending_bytes, bytes: self.turn_bytes() - self.pending_bytes };
        self.ring.push(Operation { transfer: Transfer::Receive, file: SOCKET, span, tag: TAG_RECEIVED });
    }

    fn push_answers(&mut self, messages: usize) {
        let start = self.turn_bytes().next_multiple_of(PAGE_BYTES);
        let span = Span { start, bytes: messages * ANSWER_BYTES };
        self.ring.push(Operation { transfer: Transfer::Send, file: SOCKET, span, tag: TAG_SENT });
    }

    /// Takes the completions of the answers and of the receiving after them. False: the client has closed.
    fn take_received(&mut self) -> Result<bool> {
        let mut received = 0;
        while let Some(Completion { tag, result }) = self.ring.next_completion() {
            let bytes = result.doing(|| "moving bytes over the raw loop's socket".to_owned())?;
            if tag == TAG_RECEIVED {
                received = bytes;
            }
        }
        assert_eq!(self.ring.in_flight(), 0);
        self.pending_bytes += received;
        assert!(self.pending_bytes <= self.turn_bytes());
        Ok(received > 0)
    }

    fn write(&mut self, messages: usize) -> Result<()> {
        let taken = messages * self.message_bytes;
        let bytes = taken.next_multiple_of(PAGE_BYTES);
        let transfer = Transfer::WriteDurable { offset: self.cursor.take(bytes) };
        self.ring.push(Operation { transfer, file: FILE, span: Span { start: 0, bytes }, tag: TAG_WRITTEN });
        self.submit_and_wait(1)?;
        let completion = self.ring.next_completion().expect("waited for one completion");
        expect_whole(completion.result, bytes, transfer)?;
        self.ring.memory().copy_within(taken..self.pending_bytes, 0);
        self.pending_bytes -= taken;
        Ok(())
    }

    fn submit_and_wait(&mut self, completions: usize) -> Result<()> {
        self.ring.submit_and_wait(completions).doing(|| "submitting to io_uring".to_owned())
    }
}

/// The client's side of the connection.
struct Answers {
    stream: TcpStream,
    message: Vec<u8>,
    buffer: Vec<u8>,
    /// Of an answer that has come in part.
    partial_bytes: usize,
}

impl Target for Answers {
    fn send(&mut self, _number: u64) -> Result<()> {
        self.stream.write_all(&self.message).doing(|| "sending to the raw loop".to_owned())
    }

    fn wait(&mut self, timeout: Duration) -> Result<u64> {
        let readable = kernel::wait_readable(self.stream.as_fd(), timeout).doing(|| "waiting".to_owned())?;
        if !readable {
            return Ok(0);
        }
        let doing = || "receiving from the raw loop".to_owned();
        let bytes = self.stream.read(&mut self.buffer).doing(doing)?;
        if bytes == 0 {
            return Err(Error::new(doing(), "it has closed the connection"));
        }
        self.partial_bytes += bytes;
        let answers = self.partial_bytes / ANSWER_BYTES;
        self.partial_bytes %= ANSWER_BYTES;
        Ok(answers as u64)
    }
}
