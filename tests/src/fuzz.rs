//! Every parser of bytes from outside, fed with bytes that are nearly right.
//!
//! A target takes valid bytes, has them changed, repairs lengths and checksums in most cases so that the change gets
//! past them, and feeds the parser. It may answer whatever it likes. It may not panic, not take memory out of
//! proportion to the bytes, and not take for ever. Run `n` of a seed is the same everywhere and alone.
//!
//! ```text
//! allocation  what the fed thread holds on the heap, and the most that it held
//! mutation    what is done to the bytes
//! wire        frames, requests, replies, headers
//! peer        what nodes say to each other
//! log         segments, superblocks, recovery, and the shard that comes out of it
//! engine      entries, stored messages, checkpoints
//! request     a whole shard under a stream of requests
//! config      the configuration file, the identity of a data directory
//! canary      parsers that are wrong in each of the three ways: if these pass, the rest proves nothing
//! ```

pub mod allocation;
mod canary;
mod config;
mod engine;
mod log;
mod mutation;
mod peer;
mod request;
mod wire;

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// One parser.
pub struct Target {
    pub name: &'static str,
    /// Valid bytes to start from.
    samples: fn() -> Vec<Vec<u8>>,
    /// Makes the changed bytes look whole again; called for most inputs.
    repair: fn(&mut Vec<u8>, &mut Rng),
    feed: fn(&[u8]),
    /// Heap that it may hold beside `memory_per_byte` for each byte fed.
    memory_bytes: usize,
    memory_per_byte: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    /// The first run: a finding names its own.
    pub first: u64,
    pub runs: u64,
    /// A run that takes longer hangs.
    pub patience: Duration,
}

/// What a parser did that none may do, with the input that makes it do so.
#[derive(Clone, Debug)]
pub struct Finding {
    pub target: &'static str,
    pub seed: u64,
    pub run: u64,
    pub what: String,
    pub input: Vec<u8>,
}

pub static TARGETS: [Target; 11] = [
    wire::FRAME,
    wire::HEADERS,
    peer::PEER,
    log::PAGES,
    log::RECOVERY,
    log::REPLAY,
    engine::ENTRY,
    engine::APPLICATION,
    engine::CHECKPOINT,
    config::CONFIG,
    request::REQUEST,
];

/// Each must be found out.
pub static CANARIES: [Target; 3] = [canary::PANICS, canary::GREEDY, canary::ENDLESS];

pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().chain(&CANARIES).find(|target| target.name == name)
}

/// The run under way, for whoever waits for it.
#[derive(Default)]
struct Progress {
    run: u64,
    input: Vec<u8>,
    done: bool,
}

/// Answers the time taken.
pub fn fuzz(target: &'static Target, options: Options) -> Result<Duration, Box<Finding>> {
    let started = Instant::now();
    let progress = Arc::new(Mutex::new(Progress::default()));
    let (report, reported) = mpsc::channel();
    let worker = {
        let progress = Arc::clone(&progress);
        thread::spawn(move || {
            let found = run_all(target, options, &progress);
            // Nobody waits any more for one that took too long.
            let _ = report.send(found);
        })
    };
    let mut last_seen = None;
    loop {
        match reported.recv_timeout(options.patience) {
            Ok(found) => {
                worker.join().expect("what the target does is caught");
                return found.map(|()| started.elapsed());
            }
            Err(RecvTimeoutError::Disconnected) => {
                let why = worker.join().expect_err("it ends without a word only by a panic");
                panic::resume_unwind(why);
            }
            Err(RecvTimeoutError::Timeout) => {
                let progress = progress.lock().expect("nobody panics with it");
                // The worker may be between two runs; one run that is seen twice has had its time.
                if !progress.done && last_seen == Some(progress.run) {
                    let what = format!("takes longer than {:?}", options.patience);
                    return Err(finding(target, options.seed, progress.run, what, &progress.input));
                }
                last_seen = Some(progress.run);
            }
        }
    }
}

fn run_all(
    target: &'static Target,
    options: Options,
    progress: &Mutex<Progress>,
) -> Result<(), Box<Finding>> {
    let samples = (target.samples)();
    // What is valid is no finding, or the rest means nothing.
    for sample in &samples {
        feed(target, sample).map_err(|what| finding(target, options.seed, u64::MAX, what, sample))?;
    }
    for run in options.first..options.first.saturating_add(options.runs) {
        let input = input(target, &samples, options.seed, run);
        {
            let mut progress = progress.lock().expect("nobody panics with it");
            progress.run = run;
            progress.input.clone_from(&input);
        }
        feed(target, &input).map_err(|what| finding(target, options.seed, run, what, &input))?;
    }
    progress.lock().expect("nobody panics with it").done = true;
    Ok(())
}

fn input(target: &Target, samples: &[Vec<u8>], seed: u64, run: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ run.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let other = rng.pick(samples);
    let mut input = rng.pick(samples).clone();
    mutation::mutate(&mut input, other, &mut rng);
    if !rng.one_in(5) {
        (target.repair)(&mut input, &mut rng);
    }
    input
}

fn feed(target: &Target, input: &[u8]) -> Result<(), String> {
    let allowed = target.memory_bytes + target.memory_per_byte * input.len();
    let before = allocation::begin();
    let fed = panic::catch_unwind(AssertUnwindSafe(|| (target.feed)(input)));
    let held = allocation::most_since(before);
    if let Err(why) = fed {
        let text = why.downcast_ref::<String>().map(String::as_str).or(why.downcast_ref::<&str>().copied());
        return Err(format!("panics: {}", text.unwrap_or("without a word")));
    }
    if allowed < held {
        return Err(format!("holds {held} bytes for {} that it was fed, and may {allowed}", input.len()));
    }
    Ok(())
}

/// Several pieces in one input, each behind its length.
fn join(pieces: &[Vec<u8>]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| [&(piece.len() as u32).to_le_bytes()[..], piece].concat()).collect()
}

/// The pieces again; where a length was changed the last one is what is left.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let length = (u32::from_le_bytes(*length) as usize).min(behind.len());
        let piece;
        (piece, rest) = behind.split_at(length);
        Some(piece)
    })
}

fn finding(target: &Target, seed: u64, run: u64, what: String, input: &[u8]) -> Box<Finding> {
    Box::new(Finding { target: target.name, seed, run, what, input: input.to_vec() })
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 512;
        if self.run == u64::MAX {
            write!(f, "{}: {} on a valid sample", self.target, self.what)?;
        } else {
            write!(f, "{}: {} (--seed {} --first {})", self.target, self.what, self.seed, self.run)?;
        }
        write!(f, "\n{} bytes: ", self.input.len())?;
        for byte in self.input.iter().take(SHOWN_BYTES) {
            write!(f, "{byte:02x}")?;
        }
        if self.input.len() > SHOWN_BYTES { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use ringmain_net::frame::{self, Frame};
    use ringmain_net::peer::PeerFrame;
    use ringmain_net::protocol::{Reply, Request};

    use super::*;

    /// Bytes that are refused at the door prove nothing about what is behind it.
    #[test]
    fn many_inputs_get_past_lengths_and_checksums() {
        check(&wire::FRAME, |frame| Request::decode(frame).is_ok() || Reply::decode(frame).is_ok());
        check(&peer::PEER, |frame| PeerFrame::decode(frame).is_ok());
    }

    fn check(target: &Target, decodes: impl Fn(&Frame<'_>) -> bool) {
        const RUNS: u64 = 4_000;
        let samples = (target.samples)();
        let (mut whole, mut decoded, mut changed) = (0, 0, 0);
        for run in 0..RUNS {
            let input = input(target, &samples, 1, run);
            changed += u64::from(!samples.contains(&input));
            if let Ok(Some(frame)) = frame::split(&input, frame::FRAME_BYTES_MAX) {
                whole += 1;
                decoded += u64::from(decodes(&frame));
            }
        }
        assert!(changed > RUNS * 3 / 4, "{changed} of {RUNS}");
        assert!(whole > RUNS / 3, "{whole} of {RUNS}");
        // Neither nearly all, nor nearly none.
        assert!((RUNS / 20..RUNS / 2).contains(&decoded), "{decoded} of {RUNS}");
    }
}
