//! `ringmain publish`: one message a line. A line is read ahead while others are underway; each is sent as soon as it is there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use ringmain_client::blocking::{Client, Producer};
use ringmain_client::{Completion, Error, Message};
use ringmain_core::config::MESSAGE_BYTES_MAX_MOST;
use serde::Serialize;

use super::Failure;
use super::args::{Connect, Format, Publish};
use super::link::{self, about, reason};
use super::output::{counted, grouped, print_json, print_text};

/// Lines read ahead; of the largest messages there can be, 32 × 16 MiB = 512 MiB.
const LINES_MAX: usize = 32;
const STEP: Duration = Duration::from_millis(2);
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);

#[derive(Serialize)]
struct Summary<'a> {
    queue: &'a str,
    published: u64,
    refused: u64,
    seconds: f64,
}

/// What the lines have become.
struct Sending<'a> {
    options: &'a Publish,
    client: &'a Client,
    producer: Producer,

    /// Lines handed over. The sequence of a publish is the number of its line.
    taken: u64,
    stored: u64,
    refused: u64,
    /// The first refusal; nothing is sent after it.
    refusal: Option<String>,
    started: Instant,
    told: Instant,
}

pub(super) fn run(options: Publish) -> Result<(), Failure> {
    if options.ttl.is_some() {
        return Err(Failure::told("--ttl is not supported yet: messages wait until they are consumed"));
    }
    if options.delay.is_some() {
        return Err(Failure::told("--delay is not supported yet: messages are ready at once"));
    }
    let Connect { connect, output } = &options.connect;
    // The file is opened before anybody is called: a misspelt name is told at once.
    let input = open(&options.file)?;
    let client = link::dial(connect)?;
    let producer = client.producer(&options.queue).map_err(about(&options.queue))?;
    let (sender, lines) = flume::bounded(LINES_MAX);
    thread::spawn(move || read(input, MESSAGE_BYTES_MAX_MOST, &sender));

    let started = Instant::now();
    let mut sending = Sending {
        options: &options,
        client: &client,
        producer,
        taken: 0,
        stored: 0,
        refused: 0,
        refusal: None,
        started,
        told: started,
    };
    let outcome = sending.send_all(&lines);
    let Sending { stored: published, refused, refusal, .. } = sending;
    let seconds = (started.elapsed().as_secs_f64() * 1e6).round() / 1e6;
    summary(*output, &Summary { queue: &options.queue, published, refused, seconds })?;
    match refusal {
        Some(refusal) => Err(Failure::Told(refusal)),
        None => outcome,
    }
}

impl Sending<'_> {
    fn send_all(&mut self, lines: &Receiver<io::Result<Vec<u8>>>) -> Result<(), Failure> {
        while self.refusal.is_none() {
            match lines.recv_timeout(STEP) {
                Ok(line) => self.send(&line.map_err(|error| self.unreadable(&error))?)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.collect_until(Instant::now());
        }
        while self.stored + self.refused < self.taken {
            self.collect_until(Instant::now() + STEP);
        }
        self.clear_progress();
        Ok(())
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::told(format!("{}, line {}: {error}", self.options.file.display(), self.taken + 1))
    }

    fn send(&mut self, line: &[u8]) -> Result<(), Failure> {
        let mut message = Message::new(line).priority(self.options.priority).key(&self.options.key);
        for (name, value) in &self.options.header {
            message = message.header(name, value)?;
        }
        loop {
            match self.producer.offer(&message) {
                Ok(_) => {
                    self.taken += 1;
                    return Ok(());
                }
                Err(Error::Full) => self.collect_until(Instant::now() + STEP),
                Err(error) => return Err(Failure::told(format!("line {}: {error}", self.taken + 1))),
            }
        }
    }

    fn collect_until(&mut self, deadline: Instant) {
        let Self { client, producer, stored, refused, refusal, .. } = self;
        link::complete_until(
            client,
            producer,
            deadline,
            |Completion { sequence, result, .. }| match result {
                Ok(_) => *stored += 1,
                Err(error) => {
                    *refused += 1;
                    refusal.get_or_insert_with(|| format!("line {sequence}: {}", reason(error)));
                }
            },
        );
        self.tell_progress();
    }

    fn tell_progress(&mut self) {
        if self.told.elapsed() >= PROGRESS_PERIOD && io::stderr().is_terminal() {
            self.told = Instant::now();
            eprint!("\r{} published\x1b[K", grouped(self.stored));
        }
    }

    fn clear_progress(&self) {
        if self.told > self.started {
            eprint!("\r\x1b[K");
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(Failure::told(format!("{}: {error}", PathBuf::from(path).display()))),
    }
}

/// Sends every line without its line end. A line longer than any message may be is an error before it is held in memory.
fn read(input: impl Read, line_bytes_max: u64, lines: &Sender<io::Result<Vec<u8>>>) {
    let mut input = BufReader::with_capacity(64 << 10, input);
    loop {
        let mut line = Vec::new();
        let result = (&mut input).take(line_bytes_max + 1).read_until(b'\n', &mut line);
        let line = match result {
            Ok(0) => return,
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Ok(line)
            }
            Ok(bytes) if bytes as u64 > line_bytes_max => {
                Err(io::Error::other(format!("it is longer than a message may be ({line_bytes_max} bytes)")))
            }
            // The last line may lack its end.
            Ok(_) => Ok(line),
            Err(error) => Err(error),
        };
        let failed = line.is_err();
        if lines.send(line).is_err() || failed {
            return;
        }
    }
}

fn summary(output: Format, summary: &Summary<'_>) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(summary),
        Format::Text => {
            let _ = io::stderr().flush();
            print_text(&format!("{} to {}\n", counted(summary.published, "message"), summary.queue))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &[u8], line_bytes_max: u64) -> Vec<Result<Vec<u8>, String>> {
        let (sender, lines) = flume::unbounded();
        read(text, line_bytes_max, &sender);
        drop(sender);
        lines.iter().map(|line| line.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn each_line_is_a_message() {
        assert_eq!(lines_of(b"", 9), []);
        assert_eq!(lines_of(b"a\n\nb\r\nc", 9), [&b"a"[..], b"", b"b\r", b"c"].map(|line| Ok(line.to_vec())));
    }

    #[test]
    fn a_line_longer_than_a_message_ends_the_reading() {
        assert_eq!(lines_of(b"1234\n", 4), [Ok(b"1234".to_vec())]);
        assert_eq!(lines_of(b"1234", 4), [Ok(b"1234".to_vec())]);
        let told = "it is longer than a message may be (4 bytes)".to_owned();
        assert_eq!(lines_of(b"1\n12345\n2\n", 4), [Ok(b"1".to_vec()), Err(told)]);
    }
}
