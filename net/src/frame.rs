//! The frame: how a byte stream is cut into pieces that are whole and unharmed.
//!
//! ```text
//!  0        4        8   9    10      12         16              24                24 + archive
//!  ┌────────┬────────┬───┬────┬───────┬──────────┬───────────────┬─────────────────┬──────────────┐
//!  │ length │ crc32c │ v │kind│ zero  │ archive  │    request    │     archive     │     body     │
//!  │  u32   │  u32   │u8 │ u8 │  u16  │bytes u32 │      u64      │ archive bytes   │ the rest     │
//!  └────────┴────────┴───┴────┴───────┴──────────┴───────────────┴─────────────────┴──────────────┘
//! ```
//!
//! Integers are little endian. `length` counts the whole frame, itself included. `crc32c` covers bytes 8 to
//! `length`. `v` is [`VERSION`]. `request` is chosen by the client and comes back in every reply to that
//! request; it is 0 in what a shard sends unasked. The archive is an rkyv archive of the struct that
//! `kind` names, with its root at the end; the body is raw bytes whose shape the archive describes.
//!
//! Nothing has to be aligned. The length is checked against the limit as soon as its four bytes are there,
//! so that a receiver never waits for, or makes room for, a frame that it would refuse.

use std::fmt;

use crate::archive;
use crate::protocol::{Code, Kind, PUBLISH_ROOT_BYTES, Words};

/// The version of frame and protocol that this crate speaks.
pub const VERSION: u8 = 1;

/// Bytes before the archive.
pub const HEADER_BYTES: usize = 24;

/// The largest frame either side accepts unless a `Welcome` says otherwise.
pub const FRAME_BYTES_MAX: u32 = 4 << 20;

/// The largest first frame of a connection: what a stranger may make the other side buffer.
pub const HELLO_BYTES_MAX: u32 = 4 << 10;

/// The largest frame for a broker whose messages may have `message_bytes_max` bytes.
pub fn frame_bytes_max(message_bytes_max: u32) -> u32 {
    FRAME_BYTES_MAX.max(message_bytes_max.saturating_add(64 << 10))
}

const LENGTH: usize = 0;
const CHECKSUM: usize = 4;
const CHECKED: usize = 8;
const KIND: usize = 9;
const RESERVED: usize = 10;
const ARCHIVE_BYTES: usize = 12;
const REQUEST: usize = 16;
const _: () = assert!(REQUEST + 8 == HEADER_BYTES);

/// One whole, unharmed frame, borrowed from the receive buffer. Its contents are not looked at yet.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the archive is; a byte that may name no [`Kind`].
    pub kind: u8,
    /// The number that pairs request and reply; 0 for a push.
    pub request: u64,
    pub archive: &'a [u8],
    pub body: &'a [u8],
    /// Length of the whole frame: the next one starts so many bytes further.
    pub bytes: usize,
}

/// Why bytes were not a frame, or a frame not what it says. Each one ends the connection it came from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    TooShort { length: u32 },
    TooLong { length: u32, max: u32 },
    Checksum { stored: u32, computed: u32 },
    Version { version: u8 },
    Reserved { value: u16 },
    ArchiveLength { archive_bytes: u32, length: u32 },
    UnknownKind { kind: u8 },
    UnexpectedKind { kind: Kind },
    Archive { kind: Kind },
    Body { kind: Kind, expected: u64, actual: u64 },
    BodyTooLong { kind: Kind, bytes: u64, max: u32 },
    Count { kind: Kind, count: u32, max: u32 },
    Text { kind: Kind, bytes: u32, max: u32 },
}

impl FrameError {
    /// The code of the `Closing` frame that tells the other side.
    pub fn code(&self) -> Code {
        match self {
            Self::Version { .. } => Code::UnsupportedVersion,
            Self::TooLong { .. } => Code::TooLarge,
            _ => Code::Malformed,
        }
    }
}

impl std::error::Error for FrameError {}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { length } => {
                write!(f, "frame of {length} bytes: a header has {HEADER_BYTES}")
            }
            Self::TooLong { length, max } => write!(f, "frame of {length} bytes: at most {max} are accepted"),
            Self::Checksum { stored, computed } => {
                write!(f, "frame is damaged: its checksum is {stored:08x}, its bytes give {computed:08x}")
            }
            Self::Version { version } => {
                write!(f, "frame of version {version}: this side speaks version {VERSION}")
            }
            Self::Reserved { value } => write!(f, "reserved bytes of the frame are {value:04x}, not zero"),
            Self::ArchiveLength { archive_bytes, length } => {
                write!(f, "archive of {archive_bytes} bytes in a frame of {length}")
            }
            Self::UnknownKind { kind } => write!(f, "frame of unknown kind {kind}"),
            Self::UnexpectedKind { kind } => write!(f, "{kind:?} does not go in this direction"),
            Self::Archive { kind } => write!(f, "archive of {kind:?} is malformed"),
            Self::Body { kind, expected, actual } => {
                write!(f, "{kind:?} announces a body of {expected} bytes and carries {actual}")
            }
            Self::BodyTooLong { kind, bytes, max } => {
                write!(f, "{kind:?} has a body of {bytes} bytes: at most {max} are accepted")
            }
            Self::Count { kind, count, max } => {
                write!(f, "{kind:?} lists {count} items: 1 to {max} are accepted")
            }
            Self::Text { kind, bytes, max } => {
                write!(f, "{kind:?} has a text of {bytes} bytes: at most {max} are accepted")
            }
        }
    }
}

/// Cuts the first frame off `buffer`. `None`: it is not all there yet.
///
/// The length is checked first, then the checksum, then the version, then the rest of the header.
pub fn split(buffer: &[u8], frame_bytes_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(length) = length(buffer, frame_bytes_max)? else {
        return Ok(None);
    };
    let Some(bytes) = buffer.get(..length as usize) else {
        return Ok(None);
    };
    let stored = u32_at(bytes, CHECKSUM);
    let computed = crc32c::crc32c(&bytes[CHECKED..]);
    if stored != computed {
        return Err(FrameError::Checksum { stored, computed });
    }
    if bytes[CHECKED] != VERSION {
        return Err(FrameError::Version { version: bytes[CHECKED] });
    }
    let value = u16::from_le_bytes([bytes[RESERVED], bytes[RESERVED + 1]]);
    if value != 0 {
        return Err(FrameError::Reserved { value });
    }
    let archive_bytes = u32_at(bytes, ARCHIVE_BYTES);
    let Some((archive, body)) = bytes[HEADER_BYTES..].split_at_checked(archive_bytes as usize) else {
        return Err(FrameError::ArchiveLength { archive_bytes, length });
    };
    let request = u64::from(u32_at(bytes, REQUEST)) | u64::from(u32_at(bytes, REQUEST + 4)) << 32;
    Ok(Some(Frame { kind: bytes[KIND], request, archive, body, bytes: length as usize }))
}

/// Length of the frame that starts `buffer`, checked against the limits; `None` before its four bytes came.
///
/// A receiver grows its buffer to this and not further.
pub fn length(buffer: &[u8], frame_bytes_max: u32) -> Result<Option<u32>, FrameError> {
    if buffer.len() < CHECKSUM {
        return Ok(None);
    }
    let length = u32_at(buffer, LENGTH);
    if length < HEADER_BYTES as u32 {
        return Err(FrameError::TooShort { length });
    }
    if length > frame_bytes_max {
        return Err(FrameError::TooLong { length, max: frame_bytes_max });
    }
    Ok(Some(length))
}

/// Appends one frame to `out` and returns its length. Allocates nothing beyond the growth of `out`.
pub fn encode(out: &mut Vec<u8>, request: u64, words: &impl Words, body: &[&[u8]]) -> usize {
    let mut frame = FrameBuilder::new(out, request, words);
    for part in body {
        frame.body(part);
    }
    frame.finish()
}

/// Appends one frame but for its body, which the caller sends right behind it; returns the length of the whole.
pub fn encode_before(out: &mut Vec<u8>, request: u64, words: &impl Words, body: &[u8]) -> usize {
    let mut frame = FrameBuilder::new(out, request, words);
    frame.body_apart(body);
    frame.finish()
}

/// Gives a `Publish` frame that is already encoded another session, epoch and sequence.
///
/// A producer whose session has expired keeps the frames that were certainly not stored, and sends them again
/// under a new one.
pub fn restamp_publish(frame: &mut [u8], session: u64, epoch: u32, sequence: u64) {
    assert!(frame[KIND] == Kind::Publish as u8);
    let root = HEADER_BYTES + u32_at(frame, ARCHIVE_BYTES) as usize - PUBLISH_ROOT_BYTES;
    frame[root + 8..root + 16].copy_from_slice(&session.to_le_bytes());
    frame[root + 16..root + 20].copy_from_slice(&epoch.to_le_bytes());
    frame[root + 20..root + 28].copy_from_slice(&sequence.to_le_bytes());
    frame[REQUEST..HEADER_BYTES].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[CHECKED..]);
    frame[CHECKSUM..CHECKED].copy_from_slice(&checksum.to_le_bytes());
}

/// A frame under construction at the end of a buffer: header and archive are there, body bytes follow.
///
/// Dropped before [`FrameBuilder::finish`] it takes its bytes away again.
#[must_use = "a frame that is not finished is taken away again"]
pub struct FrameBuilder<'a> {
    out: &'a mut Vec<u8>,

    /// Where the frame starts in `out`.
    start: usize,
    /// Of what the frame has up to here, without its first 8 bytes.
    checksum: u32,
    /// How far `out` is in it.
    summed: usize,
    /// Bytes of the body that are not in `out`.
    apart: usize,
    finished: bool,
}

impl<'a> FrameBuilder<'a> {
    pub fn new<W: Words>(out: &'a mut Vec<u8>, request: u64, words: &W) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        archive::append(out, words);
        let archive_bytes = (out.len() - start - HEADER_BYTES) as u32;
        let header = &mut out[start..start + HEADER_BYTES];
        header[CHECKED] = VERSION;
        header[KIND] = W::KIND as u8;
        header[ARCHIVE_BYTES..REQUEST].copy_from_slice(&archive_bytes.to_le_bytes());
        header[REQUEST..].copy_from_slice(&request.to_le_bytes());
        Self { out, start, checksum: 0, summed: start + CHECKED, apart: 0, finished: false }
    }

    pub fn body(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Bytes of the body that the caller sends from where they lie, in this place: behind what `out` has by now. Here
    /// they count in length and checksum only.
    pub fn body_apart(&mut self, bytes: &[u8]) {
        self.sum();
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.apart += bytes.len();
    }

    /// Takes what was appended into the checksum.
    fn sum(&mut self) {
        self.checksum = crc32c::crc32c_append(self.checksum, &self.out[self.summed..]);
        self.summed = self.out.len();
    }

    /// Where the next body bytes would go.
    pub fn end(&self) -> usize {
        self.out.len()
    }

    /// Length so far.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.start + self.apart
    }

    /// Writes length and checksum, and returns the length of the frame.
    pub fn finish(mut self) -> usize {
        self.finished = true;
        self.sum();
        let length = u32::try_from(self.bytes()).expect("a frame is far below 4 GiB");
        let frame = &mut self.out[self.start..];
        frame[LENGTH..CHECKSUM].copy_from_slice(&length.to_le_bytes());
        frame[CHECKSUM..CHECKED].copy_from_slice(&self.checksum.to_le_bytes());
        length as usize
    }
}

impl Drop for FrameBuilder<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Done, MessageHead, Ping, Publish, ShowQueue};

    fn frame() -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, 0x0102_0304_0506_0708, &ShowQueue { name: "orders" }, &[]);
        out
    }

    /// A frame whose checksum is right whatever its other bytes are.
    fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
        let checksum = crc32c::crc32c(&bytes[CHECKED..]);
        bytes[CHECKSUM..CHECKED].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn frames_are_cut_off_one_by_one() {
        let mut stream = Vec::new();
        encode(&mut stream, 1, &Ping, &[]);
        encode(&mut stream, 2, &Done { index: 3, count: 4 }, &[b"ab", b"", b"c"]);
        let first = split(&stream, FRAME_BYTES_MAX).unwrap().unwrap();
        assert_eq!((first.kind, first.request, first.bytes), (14, 1, HEADER_BYTES));
        let second = split(&stream[first.bytes..], FRAME_BYTES_MAX).unwrap().unwrap();
        assert_eq!((second.kind, second.request, second.body), (134, 2, &b"abc"[..]));
        assert_eq!(first.bytes + second.bytes, stream.len());
    }

    #[test]
    fn a_part_of_a_frame_is_no_error_yet() {
        let bytes = frame();
        for cut in 0..bytes.len() {
            assert_eq!(split(&bytes[..cut], FRAME_BYTES_MAX), Ok(None), "cut at {cut}");
        }
        assert_eq!(split(&bytes, FRAME_BYTES_MAX).unwrap().unwrap().request, 0x0102_0304_0506_0708);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = frame();
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let verdict = split(&damaged, FRAME_BYTES_MAX);
            // A longer length waits for bytes that never come; everything else is an error.
            let waits = at < 32 && verdict == Ok(None);
            assert!(waits || verdict.is_err(), "bit {at}: {verdict:?}");
        }
    }

    #[test]
    fn the_length_is_judged_by_its_four_bytes() {
        assert_eq!(split(&[24, 0, 64], 64), Ok(None));
        assert_eq!(split(&[23, 0, 0, 0], 64), Err(FrameError::TooShort { length: 23 }));
        assert_eq!(split(&[65, 0, 0, 0], 64), Err(FrameError::TooLong { length: 65, max: 64 }));
        let http = split(b"GET / HTTP/1.1\r\n\r\n", FRAME_BYTES_MAX).unwrap_err();
        assert_eq!(http.to_string(), "frame of 542393671 bytes: at most 4194304 are accepted");
    }

    #[test]
    fn the_rest_of_the_header_is_judged() {
        let check = |at: usize, value: u8, expected: FrameError| {
            let mut bytes = frame();
            bytes[at] = value;
            assert_eq!(split(&reseal(bytes), FRAME_BYTES_MAX), Err(expected));
        };
        check(CHECKED, 2, FrameError::Version { version: 2 });
        check(RESERVED, 7, FrameError::Reserved { value: 7 });
        check(ARCHIVE_BYTES, 200, FrameError::ArchiveLength { archive_bytes: 200, length: 32 });
    }

    #[test]
    fn an_unfinished_frame_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        let mut unfinished = FrameBuilder::new(&mut out, 1, &Ping);
        unfinished.body(b"body");
        assert_eq!(unfinished.bytes(), HEADER_BYTES + 4);
        drop(unfinished);
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_body_sent_from_elsewhere_makes_the_same_frame() {
        let words = Done { index: 3, count: 4 };
        let (mut whole, mut parts) = (Vec::new(), b"before".to_vec());
        encode(&mut whole, 2, &words, &[b"ab", b"cd", b"ef", b"", b"gh"]);
        let mut builder = FrameBuilder::new(&mut parts, 2, &words);
        let mut apart = Vec::new();
        for (part, is_apart) in [(b"ab", false), (b"cd", true), (b"ef", true)] {
            if is_apart {
                apart.push((builder.end(), part));
                builder.body_apart(part);
            } else {
                builder.body(part);
            }
        }
        builder.body_apart(b"");
        builder.body(b"gh");
        assert_eq!(builder.bytes(), whole.len());
        assert_eq!(builder.finish(), whole.len());
        for (at, part) in apart.into_iter().rev() {
            parts.splice(at..at, *part);
        }
        assert_eq!(&parts[6..], whole);

        let mut before = Vec::new();
        assert_eq!(encode_before(&mut before, 2, &words, b"abcdefgh"), whole.len());
        assert_eq!([&before[..], b"abcdefgh"].concat(), whole);
    }

    #[test]
    fn a_restamped_publish_is_as_if_encoded_so() {
        let encoded = |session, epoch, sequence| {
            let messages = &[MessageHead { payload_bytes: 3, ..MessageHead::default() }; 2];
            let mut out = Vec::new();
            let words = Publish { queue: 7, session, epoch, sequence, messages };
            encode(&mut out, sequence, &words, &[b"abcdef"]);
            out
        };
        let mut frame = encoded(1, 2, 3);
        restamp_publish(&mut frame, u64::MAX, 5, 6);
        assert_eq!(frame, encoded(u64::MAX, 5, 6));
    }

    #[test]
    fn frames_for_large_messages_are_larger() {
        assert_eq!(frame_bytes_max(1 << 20), FRAME_BYTES_MAX);
        assert_eq!(frame_bytes_max(16 << 20), (16 << 20) + (64 << 10));
        assert_eq!(frame_bytes_max(u32::MAX), u32::MAX);
    }
}
