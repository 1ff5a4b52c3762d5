//! The part of a segment that recovery has in memory.

use std::ops::Range;

use crate::words::{PAGE_BYTES, page_ceil, page_floor};

/// No read is larger.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// Whole pages of a segment.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ReadAt {
    pub segment: u64,
    pub offset: u64,
    pub bytes: usize,
}

pub(super) struct Window {
    segment_bytes: u64,

    segment: u64,
    /// On a page.
    offset: u64,
    bytes: Vec<u8>,
    /// The file ends where the window does.
    ended: bool,
    want: Option<Want>,
    asked: Option<ReadAt>,
}

#[derive(Copy, Clone)]
struct Want {
    segment: u64,
    offset: u64,
    bytes: u64,
}

pub(super) enum Look {
    /// Where in `Window::bytes`.
    At(Range<usize>),
    /// There are no such bytes.
    Beyond,
    /// They are to be read first.
    Wait,
}

impl Window {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            segment: 0,
            offset: 0,
            bytes: Vec::new(),
            ended: false,
            want: None,
            asked: None,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn look(&mut self, segment: u64, offset: u64, bytes: u64) -> Look {
        if offset + bytes > self.segment_bytes {
            return Look::Beyond;
        }
        if segment == self.segment && offset >= self.offset {
            let end = self.end();
            if offset + bytes <= end {
                let start = (offset - self.offset) as usize;
                return Look::At(start..start + bytes as usize);
            }
            if self.ended {
                return Look::Beyond;
            }
        }
        self.want = Some(Want { segment, offset, bytes });
        Look::Wait
    }

    pub(super) fn poll_read(&mut self) -> Option<ReadAt> {
        let want = self.want?;
        let start = page_floor(want.offset);
        let follows = want.segment == self.segment && (self.offset..=self.end()).contains(&start);
        if follows {
            self.bytes.drain(..(start - self.offset) as usize);
        } else {
            self.bytes.clear();
            self.segment = want.segment;
            self.ended = false;
        }
        self.offset = start;
        let end = self.end();
        let missing = page_ceil(want.offset + want.bytes) - end;
        assert!(missing > 0);
        assert!(end.is_multiple_of(PAGE_BYTES));
        let bytes = (READ_BYTES_MAX as u64).min(self.segment_bytes - end) as usize;
        let read = ReadAt { segment: self.segment, offset: end, bytes };
        self.asked = Some(read);
        Some(read)
    }

    pub(super) fn on_read(&mut self, bytes: &[u8]) {
        let asked = self.asked.take().expect("a read is answered once, after it was asked for");
        self.want = None;
        let bytes = &bytes[..bytes.len().min(asked.bytes)];
        self.ended = bytes.len() < asked.bytes;
        self.bytes.extend_from_slice(bytes);
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}
