//! The publishes of one producer that have no answer yet: encoded once, sent from here, sent again from here.
//!
//! Frames lie back to back in chunks. A chunk is used again when all of its frames are answered, so a steady stream
//! allocates nothing and moves nothing.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Instant;

use ringmain_net::frame;

/// Memory is taken in pieces of this size, or of one frame if that is larger.
const CHUNK_BYTES: usize = 256 << 10;

/// One publish without an answer.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    /// What the user calls it; stays when the session changes.
    pub(crate) ticket: u64,
    /// What the wire calls it. Rises along the window.
    pub(crate) sequence: u64,
    pub(crate) messages: u32,
    pub(crate) offered: Instant,
    /// Connections on which it was handed over wholly. After one refusal of the only try it is certainly not stored.
    pub(crate) tries: u32,
    /// Nobody wants to hear what becomes of it.
    pub(crate) abandoned: bool,

    answered: bool,
    /// Where it lies: number of the chunk, offset and length in it.
    chunk: u64,
    start: usize,
    bytes: usize,
}

impl InFlight {
    pub(crate) fn new(ticket: u64, sequence: u64, messages: u32, offered: Instant) -> Self {
        let (tries, abandoned, answered) = (0, false, false);
        Self { ticket, sequence, messages, offered, tries, abandoned, answered, chunk: 0, start: 0, bytes: 0 }
    }
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Frames here without an answer.
    live: usize,
}

/// See the top of this file.
///
/// Invariants: frames from `unsent` on are not answered. `bytes` is the sum of the frames not answered.
#[derive(Debug)]
pub(crate) struct Window {
    frames_max: usize,
    bytes_max: usize,

    frames: VecDeque<InFlight>,
    /// Frames not answered.
    live: usize,
    bytes: usize,
    /// Index of the first frame that is not handed over wholly, and how much of it is.
    unsent: usize,
    progress: usize,
    chunks: VecDeque<Chunk>,
    /// Number of the first chunk.
    first_chunk: u64,
    /// Chunks to use again; at most what `bytes_max` needs.
    spare: Vec<Vec<u8>>,
}

impl Window {
    pub(crate) fn new(frames_max: u32, bytes_max: usize) -> Self {
        Self {
            frames_max: frames_max as usize,
            bytes_max,
            frames: VecDeque::new(),
            live: 0,
            bytes: 0,
            unsent: 0,
            progress: 0,
            chunks: VecDeque::new(),
            first_chunk: 0,
            spare: Vec::new(),
        }
    }

    /// Lowers the limit on frames to what the shard accepts.
    pub(crate) fn limit_frames(&mut self, frames_max: u32) {
        self.frames_max = self.frames_max.min(frames_max.max(1) as usize);
    }

    /// Frames and bytes.
    pub(crate) fn limits(&self) -> (usize, usize) {
        (self.frames_max, self.bytes_max)
    }

    /// Whether another frame fits, when `others` places are taken by answers that nobody has fetched.
    ///
    /// A frame larger than the whole limit passes alone: the limit bounds memory, the broker bounds messages.
    pub(crate) fn has_room(&self, bytes: usize, others: usize) -> bool {
        // Answered frames keep their place until those before them are answered too.
        let frames = self.frames.len() + others < self.frames_max;
        frames && (self.bytes + bytes <= self.bytes_max || self.live == 0)
    }

    pub(crate) fn frames(&self) -> usize {
        self.live
    }

    pub(crate) fn messages(&self) -> u64 {
        self.frames.iter().filter(|frame| !frame.answered).map(|frame| u64::from(frame.messages)).sum()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent < self.frames.len()
    }

    /// Whether a frame is handed over in part, so that nothing else may come before its rest.
    pub(crate) fn is_mid_frame(&self) -> bool {
        self.progress > 0
    }

    /// Adds a frame of `bytes` bytes, which `encode` appends to what it is given.
    pub(crate) fn push(&mut self, mut frame: InFlight, bytes: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.frames.back().is_none_or(|last| last.sequence < frame.sequence));
        let chunk = self.chunk_for(bytes);
        frame.start = chunk.bytes.len();
        frame.bytes = bytes;
        encode(&mut chunk.bytes);
        assert!(chunk.bytes.len() == frame.start + bytes);
        chunk.live += 1;
        frame.chunk = self.first_chunk + self.chunks.len() as u64 - 1;
        self.live += 1;
        self.bytes += bytes;
        self.frames.push_back(frame);
    }

    /// The last chunk, with room for so many bytes.
    fn chunk_for(&mut self, bytes: usize) -> &mut Chunk {
        let fits = |chunk: &Chunk| chunk.bytes.capacity() - chunk.bytes.len() >= bytes;
        if !self.chunks.back().is_some_and(fits) {
            let spare = match self.spare.pop() {
                Some(spare) if spare.capacity() >= bytes => spare,
                _ => Vec::with_capacity(bytes.max(CHUNK_BYTES)),
            };
            self.chunks.push_back(Chunk { bytes: spare, live: 0 });
        }
        self.chunks.back_mut().expect("one was pushed if none fitted")
    }

    /// Appends what is to be sent to `slices`, as far as there is room for it.
    pub(crate) fn transmit<'a>(&'a self, slices: &mut Slices<'a>) {
        let Some(frame) = self.frames.get(self.unsent) else { return };
        let index = (frame.chunk - self.first_chunk) as usize;
        let mut start = frame.start + self.progress;
        for chunk in self.chunks.iter().skip(index) {
            slices.push(&chunk.bytes[start..]);
            start = 0;
        }
    }

    /// So many bytes were handed over; answers how many of them were not this window's.
    pub(crate) fn on_transmitted(&mut self, bytes: usize) -> usize {
        let mut left = bytes;
        while let Some(frame) = self.frames.get_mut(self.unsent) {
            let rest = frame.bytes - self.progress;
            if left < rest {
                self.progress += left;
                return 0;
            }
            left -= rest;
            frame.tries += 1;
            self.unsent += 1;
            self.progress = 0;
        }
        left
    }

    /// All frames from `first` to `last` have their answer. Frames that were not sent cannot have one.
    pub(crate) fn answer(&mut self, first: u64, last: u64, mut each: impl FnMut(&InFlight)) {
        let front = self.frames.front().map_or(u64::MAX, |frame| frame.sequence);
        let start =
            if front >= first { 0 } else { self.frames.partition_point(|frame| frame.sequence < first) };
        for index in start..self.unsent {
            if self.frames[index].sequence > last {
                break;
            }
            if !self.frames[index].answered {
                each(&self.frames[index]);
                self.settle(index);
            }
        }
        self.retire();
    }

    /// The frame of this sequence, if it was sent and has no answer.
    pub(crate) fn find(&self, sequence: u64) -> Option<&InFlight> {
        let index = self.frames.partition_point(|frame| frame.sequence < sequence);
        let frame = self.frames.get(index)?;
        (frame.sequence == sequence && index < self.unsent && !frame.answered).then_some(frame)
    }

    pub(crate) fn abandon(&mut self, ticket: u64) {
        if let Some(frame) = self.frames.iter_mut().find(|frame| frame.ticket == ticket) {
            frame.abandoned = true;
        }
    }

    fn settle(&mut self, index: usize) {
        let frame = &mut self.frames[index];
        assert!(!frame.answered);
        frame.answered = true;
        self.live -= 1;
        self.bytes -= frame.bytes;
        self.chunks[(frame.chunk - self.first_chunk) as usize].live -= 1;
    }

    /// Forgets the answered frames at the front and the chunks that nobody needs.
    fn retire(&mut self) {
        while self.frames.front().is_some_and(|frame| frame.answered) {
            self.frames.pop_front();
            assert!(self.unsent > 0);
            self.unsent -= 1;
        }
        while self.chunks.len() > 1 && self.chunks[0].live == 0 {
            let chunk = self.chunks.pop_front().expect("there are two");
            self.first_chunk += 1;
            self.recycle(chunk.bytes);
        }
        if self.frames.is_empty() {
            assert!(self.live == 0);
            if let Some(chunk) = self.chunks.back_mut() {
                chunk.bytes.clear();
            }
        }
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() == CHUNK_BYTES && self.spare.len() <= self.bytes_max / CHUNK_BYTES {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// A new connection: everything without an answer is to be sent, in order. Answers how many frames of that
    /// had been sent before.
    pub(crate) fn rewind(&mut self) -> u64 {
        self.unsent = 0;
        self.progress = 0;
        if self.live < self.frames.len() {
            // What was refused must not be sent again: the user knows that it is not stored.
            self.remove(|frame| frame.answered, |_| {});
        }
        self.frames.iter().filter(|frame| frame.tries > 0).count() as u64
    }

    /// Ends all frames.
    pub(crate) fn fail_all(&mut self, each: impl FnMut(&InFlight)) {
        self.unsent = 0;
        self.progress = 0;
        self.remove(|_| true, each);
    }

    /// Ends the frames that are not handed over wholly.
    pub(crate) fn fail_unsent(&mut self, mut each: impl FnMut(&InFlight)) {
        for index in self.unsent..self.frames.len() {
            each(&self.frames[index]);
            self.settle(index);
        }
        self.frames.truncate(self.unsent);
        self.progress = 0;
        self.retire();
    }

    /// The frame of this sequence was refused because its session is gone. Ends the frames before it, and those that
    /// another connection may have delivered: nobody knows what became of them. The others are to be sent again.
    pub(crate) fn fail_uncertain(&mut self, sequence: u64, each: impl FnMut(&InFlight)) {
        self.unsent = 0;
        self.progress = 0;
        self.remove(|frame| frame.tries > 1 || frame.sequence < sequence || frame.answered, each);
    }

    /// Moves what stays to new chunks; tells of what goes unless it is answered.
    fn remove(&mut self, goes: impl Fn(&InFlight) -> bool, mut each: impl FnMut(&InFlight)) {
        assert!(self.unsent == 0);
        let frames = std::mem::take(&mut self.frames);
        let chunks = std::mem::take(&mut self.chunks);
        let first_chunk = self.first_chunk;
        self.first_chunk += chunks.len() as u64;
        self.live = 0;
        self.bytes = 0;
        for frame in frames {
            if goes(&frame) {
                if !frame.answered {
                    each(&frame);
                }
                continue;
            }
            let chunk = &chunks[(frame.chunk - first_chunk) as usize];
            let (start, bytes) = (frame.start, frame.bytes);
            self.push(frame, bytes, |out| out.extend_from_slice(&chunk.bytes[start..start + bytes]));
        }
        for chunk in chunks {
            self.recycle(chunk.bytes);
        }
    }

    /// Puts all frames under another session, from `sequence` on; answers the sequence behind the last. They count
    /// as never sent.
    pub(crate) fn restamp(&mut self, session: u64, epoch: u32, sequence: u64) -> u64 {
        assert!(self.unsent == 0);
        let mut next = sequence;
        for frame in &mut self.frames {
            assert!(!frame.answered);
            let chunk = &mut self.chunks[(frame.chunk - self.first_chunk) as usize];
            let bytes = &mut chunk.bytes[frame.start..frame.start + frame.bytes];
            frame::restamp_publish(bytes, session, epoch, next);
            frame.sequence = next;
            frame.tries = 0;
            next += 1;
        }
        next
    }

    #[cfg(test)]
    fn check(&self) {
        let live = || self.frames.iter().filter(|frame| !frame.answered);
        assert_eq!(self.live, live().count());
        assert_eq!(self.bytes, live().map(|frame| frame.bytes).sum::<usize>());
        assert_eq!(self.live, self.chunks.iter().map(|chunk| chunk.live).sum::<usize>());
        assert!(self.unsent <= self.frames.len());
        assert!(self.frames.iter().skip(self.unsent).all(|frame| !frame.answered));
        assert!(self.frames.iter().zip(self.frames.iter().skip(1)).all(|(a, b)| a.sequence < b.sequence));
    }
}

/// Pieces of memory for one write.
#[derive(Debug)]
pub(crate) struct Slices<'a> {
    slices: [IoSlice<'a>; SLICES_MAX],
    count: usize,
    bytes: usize,
}

/// Enough for a write that fills a socket's buffer; the rest goes with the next one.
const SLICES_MAX: usize = 16;
const SLICES_BYTES_MAX: usize = 1 << 20;

impl<'a> Slices<'a> {
    pub(crate) fn new() -> Self {
        Self { slices: [IoSlice::new(&[]); SLICES_MAX], count: 0, bytes: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &'a [u8]) {
        if !bytes.is_empty() && !self.is_full() {
            let bytes = &bytes[..bytes.len().min(SLICES_BYTES_MAX - self.bytes)];
            self.slices[self.count] = IoSlice::new(bytes);
            self.count += 1;
            self.bytes += bytes.len();
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count == SLICES_MAX || self.bytes == SLICES_BYTES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn as_slice(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.count]
    }
}

#[cfg(test)]
mod tests;
