//! Payloads that are no longer in memory: which reads are under way and which queues wait for them.
//!
//! Lives inside the shard. A read fetches a window of whole pages, so that the messages behind the
//! one asked for come along; the window enters the log's payload cache and the queue goes on.
//! Invariant: outstanding ≤ READS_MAX, so that reads never hold more than READS_MAX of the largest windows in memory.

use ringmain_wal::{PAGE_BYTES, Position};
use std::collections::BTreeMap;

/// Reads under way at once per shard: enough to keep a fast disk busy with 256 KiB windows.
const READS_MAX: usize = 16;
/// What one read asks for: a few hundred small messages, or less than a message of the largest size.
pub(crate) const WINDOW_BYTES: u64 = 256 << 10;
/// The same for a transfer, which goes on where the window ends.
const TRANSFER_WINDOW_BYTES: u64 = 1 << 20;

/// What waits for a window.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    Queue(u64),
    /// Of the group of this ordinal.
    Relocation(usize),
    Transfer(usize),
}

impl Reader {
    fn window_bytes(self) -> u64 {
        match self {
            Self::Queue(_) | Self::Relocation(_) => WINDOW_BYTES,
            Self::Transfer(_) => TRANSFER_WINDOW_BYTES,
        }
    }
}

/// A stretch of the log to be read by the runtime: page-aligned, inside one segment.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ReadWindow {
    pub position: Position,
    pub bytes: usize,
}

pub(crate) struct Readback {
    segment_bytes: u64,

    /// Keyed by the window's first position.
    outstanding: BTreeMap<u64, Outstanding>,
    /// Readers that found every read taken; they ask again when one comes back.
    crowded_out: Vec<Reader>,
}

struct Outstanding {
    bytes: usize,
    readers: Vec<Reader>,
}

impl Readback {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        assert_eq!(segment_bytes % PAGE_BYTES, 0);
        Self { segment_bytes, outstanding: BTreeMap::new(), crowded_out: Vec::new() }
    }

    /// Registers the reader; answers the read to issue, or `None` when one already covers it or none is free.
    ///
    /// Nothing behind `durable_end` is read along: the window stays in memory, and those pages are written later.
    pub(crate) fn request(
        &mut self,
        reader: Reader,
        (position, bytes): (Position, u32),
        durable_end: Position,
    ) -> Option<ReadWindow> {
        let page = PAGE_BYTES;
        let first = position.0 / page * page;
        let end = position.0 + u64::from(bytes);
        if let Some(outstanding) = self.covering(first, end) {
            outstanding.readers.push(reader);
            return None;
        }
        if READS_MAX <= self.outstanding.len() || self.outstanding.contains_key(&first) {
            self.crowded_out.push(reader);
            return None;
        }
        let segment_end = (first / self.segment_bytes + 1) * self.segment_bytes;
        let wanted_end = (first + reader.window_bytes()).min(segment_end).min(durable_end.0);
        let wanted_end = wanted_end.max(end.next_multiple_of(page));
        assert!(wanted_end <= segment_end, "a message never spans two segments");
        let window = ReadWindow { position: Position(first), bytes: (wanted_end - first) as usize };
        self.outstanding.insert(first, Outstanding { bytes: window.bytes, readers: vec![reader] });
        Some(window)
    }

    /// A read that brings these bytes was issued and is not back yet.
    pub(crate) fn is_under_way(&self, (position, bytes): (Position, u32)) -> bool {
        let before = self.outstanding.range(..=position.0).next_back();
        before.is_some_and(|(start, outstanding)| {
            position.0 + u64::from(bytes) <= start + outstanding.bytes as u64
        })
    }

    fn covering(&mut self, first: u64, end: u64) -> Option<&mut Outstanding> {
        let (start, outstanding) = self.outstanding.range_mut(..=first).next_back()?;
        (end <= start + outstanding.bytes as u64).then_some(outstanding)
    }

    /// A read came back: hands over everyone who may look again.
    pub(crate) fn on_read(&mut self, position: Position, wake: &mut Vec<Reader>) {
        let outstanding = self.outstanding.remove(&position.0);
        assert!(outstanding.is_some(), "a read comes back once");
        wake.extend(outstanding.into_iter().flat_map(|outstanding| outstanding.readers));
        wake.append(&mut self.crowded_out);
    }

    pub(crate) fn check(&self) {
        assert!(self.outstanding.len() <= READS_MAX);
        if self.outstanding.is_empty() {
            assert!(self.crowded_out.is_empty(), "nobody waits when nothing is being read");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Position = Position(u64::MAX);

    #[test]
    fn one_window_serves_its_neighbours() {
        let mut readback = Readback::new(1 << 20);
        let window = readback.request(Reader::Queue(1), (Position(5_000), 300), END).unwrap();
        assert_eq!(window, ReadWindow { position: Position(4096), bytes: WINDOW_BYTES as usize });
        assert_eq!(readback.request(Reader::Queue(2), (Position(9_000), 300), END), None);
        let mut wake = Vec::new();
        readback.on_read(Position(4096), &mut wake);
        assert_eq!(wake, [Reader::Queue(1), Reader::Queue(2)]);
        readback.check();
    }

    #[test]
    fn window_stops_at_the_segment_end() {
        let mut readback = Readback::new(1 << 20);
        let window = readback.request(Reader::Queue(1), (Position((1 << 20) - 300), 300), END).unwrap();
        assert_eq!(window, ReadWindow { position: Position((1 << 20) - 4096), bytes: 4096 });
    }

    #[test]
    fn window_stops_where_the_log_may_still_be_written() {
        let mut readback = Readback::new(1 << 20);
        let window = readback.request(Reader::Queue(1), (Position(5_000), 300), Position(16_384)).unwrap();
        assert_eq!(window, ReadWindow { position: Position(4096), bytes: 12_288 });
    }

    #[test]
    fn transfer_reads_more_at_once() {
        let mut readback = Readback::new(64 << 20);
        let window = readback.request(Reader::Transfer(0), (Position(5_000), 300), END).unwrap();
        assert_eq!(window, ReadWindow { position: Position(4096), bytes: TRANSFER_WINDOW_BYTES as usize });
        let end = 4096 + TRANSFER_WINDOW_BYTES;
        assert!(readback.is_under_way((Position(end - 300), 300)));
        assert!(!readback.is_under_way((Position(end - 299), 300)));
        assert!(!readback.is_under_way((Position(4095), 1)));
    }

    #[test]
    fn reads_under_way_are_bounded() {
        let mut readback = Readback::new(1 << 30);
        let issued = (0..100)
            .filter(|i| readback.request(Reader::Queue(*i), (Position(i << 20), 10), END).is_some())
            .count();
        assert_eq!(issued, READS_MAX);
        let mut wake = Vec::new();
        readback.on_read(Position(0), &mut wake);
        assert_eq!(wake.len(), 1 + 100 - READS_MAX);
        readback.check();
    }
}
