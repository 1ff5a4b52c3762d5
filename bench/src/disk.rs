//! The disk by itself: direct writes and reads of a file that was written before, one at a time and many.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::kernel::{Operation, PAGE_BYTES, Ring, Span, Transfer};
use crate::latencies::Latencies;

const PREPARE_BLOCK_BYTES: usize = 1 << 20;

/// A file for direct I/O, written once so that overwriting it changes no metadata. It has no name: nothing is left
/// behind however the process ends.
pub(crate) struct ScratchFile {
    file: File,
    bytes: u64,
}

impl ScratchFile {
    pub(crate) fn create(directory: &Path, bytes: u64) -> Result<Self> {
        assert!(bytes.is_multiple_of(PREPARE_BLOCK_BYTES as u64));
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_TMPFILE);
        let file = options.open(directory).map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::EINVAL) => " (its file system has no direct I/O: choose another with --data)",
                Some(libc::EOPNOTSUPP) => {
                    " (its file system has no unnamed files: choose another with --data)"
                }
                _ => "",
            };
            Error::new(format!("creating a file in {}", directory.display()), format!("{error}{hint}"))
        })?;
        let scratch = Self { file, bytes };
        let mut ring = scratch.ring(1, PREPARE_BLOCK_BYTES)?;
        for offset in (0..bytes).step_by(PREPARE_BLOCK_BYTES) {
            let span = Span { start: 0, bytes: PREPARE_BLOCK_BYTES };
            transfer_one(&mut ring, Transfer::Write { offset }, span)?;
        }
        scratch.file.sync_all().doing(|| "flushing a new file".to_owned())?;
        Ok(scratch)
    }

    /// A ring of the calling thread for `depth` operations on this file at a time, file 0 of it.
    pub(crate) fn ring(&self, depth: u32, arena_bytes: usize) -> Result<Ring> {
        let entries = depth.next_power_of_two();
        Ring::new(entries, arena_bytes, vec![self.descriptor()?]).doing(|| "setting up io_uring".to_owned())
    }

    pub(crate) fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.file.try_clone().doing(|| "duplicating a file descriptor".to_owned())?.into())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The next place of sequential I/O, which starts again at the end of the file.
pub(crate) struct Cursor {
    position: u64,
    file_bytes: u64,
}

impl Cursor {
    pub(crate) fn new(file_bytes: u64) -> Self {
        Self { position: 0, file_bytes }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        assert!(bytes <= self.file_bytes);
        if self.position + bytes > self.file_bytes {
            self.position = 0;
        }
        let offset = self.position;
        self.position += bytes;
        offset
    }
}

pub(crate) fn transfer_one(ring: &mut Ring, transfer: Transfer, span: Span) -> Result<()> {
    ring.push(Operation { transfer, file: 0, span, tag: 0 });
    ring.submit_and_wait(1).doing(|| "submitting to io_uring".to_owned())?;
    let completion = ring.next_completion().expect("waited for one completion");
    expect_whole(completion.result, span.bytes, transfer)
}

pub(crate) fn expect_whole(result: std::io::Result<usize>, wanted: usize, transfer: Transfer) -> Result<()> {
    let doing = || format!("{transfer:?} of {wanted} bytes");
    let moved = result.doing(doing)?;
    if moved == wanted { Ok(()) } else { Err(Error::new(doing(), format!("only {moved} bytes were moved"))) }
}

pub(crate) struct DurableWrites {
    pub(crate) write_bytes: usize,
    pub(crate) latencies: Latencies,
    pub(crate) elapsed: Duration,
}

/// Durable writes one after the other. Sizes take turns in short rounds, so that a noisy phase of the machine meets all.
pub(crate) fn durable_writes(
    file: &ScratchFile,
    sizes: &[usize],
    each: Duration,
) -> Result<Vec<DurableWrites>> {
    const ROUNDS: u32 = 10;
    let largest = sizes.iter().copied().max().unwrap_or(PAGE_BYTES);
    let mut ring = file.ring(1, largest)?;
    ring.memory().fill(0xA5);
    let mut cursor = Cursor::new(file.bytes);
    let empty =
        |&write_bytes| DurableWrites { write_bytes, latencies: Latencies::new(), elapsed: Duration::ZERO };
    let mut results: Vec<DurableWrites> = sizes.iter().map(empty).collect();
    for _ in 0..ROUNDS {
        for result in &mut results {
            let span = Span { start: 0, bytes: result.write_bytes };
            let started = Instant::now();
            let mut before = started;
            while before - started < each / ROUNDS {
                let offset = cursor.take(result.write_bytes);
                transfer_one(&mut ring, Transfer::WriteDurable { offset }, span)?;
                let after = Instant::now();
                result.latencies.record_duration(after - before);
                before = after;
            }
            result.elapsed += before - started;
        }
    }
    Ok(results)
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Writes that the disk has taken, not necessarily to its medium.
    Write,
    /// Every write on stable storage when it completes.
    WriteDurable,
    Read,
}

impl Stream {
    pub(crate) const ALL: [Self; 3] = [Self::Write, Self::WriteDurable, Self::Read];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write, not flushed",
            Self::WriteDurable => "write, durable",
            Self::Read => "read",
        }
    }

    fn at(self, offset: u64) -> Transfer {
        match self {
            Self::Write => Transfer::Write { offset },
            Self::WriteDurable => Transfer::WriteDurable { offset },
            Self::Read => Transfer::Read { offset },
        }
    }
}

#[derive(Copy, Clone, Debug)]
pub(crate) struct Bandwidth {
    pub(crate) stream: Stream,
    pub(crate) block_bytes: usize,
    pub(crate) depth: u32,
    pub(crate) bytes_per_second: f64,
}

pub(crate) const BLOCKS_BYTES: [usize; 5] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const DEPTHS: [u32; 4] = [1, 4, 8, 16];
const BANDWIDTH_ARENA_BYTES: usize = 64 << 20;

/// Sequential bandwidth with every block size and queue depth, `each` per combination, in interleaved rounds.
pub(crate) fn bandwidths(file: &ScratchFile, streams: &[Stream], each: Duration) -> Result<Vec<Bandwidth>> {
    const ROUNDS: u32 = 3;
    let mut ring = file.ring(16, BANDWIDTH_ARENA_BYTES)?;
    ring.memory().fill(0xA5);
    let mut cursor = Cursor::new(file.bytes);
    let mut sums = Vec::new();
    for &stream in streams {
        for block_bytes in BLOCKS_BYTES {
            sums.extend(DEPTHS.map(|depth| (stream, block_bytes, depth, 0_u64, Duration::ZERO)));
        }
    }
    for _ in 0..ROUNDS {
        for (stream, block_bytes, depth, bytes, elapsed) in &mut sums {
            let burst = Burst { stream: *stream, block_bytes: *block_bytes, depth: *depth };
            let (moved, took) = burst.run(&mut ring, &mut cursor, each / ROUNDS)?;
            *bytes += moved;
            *elapsed += took;
        }
    }
    let rate = |(stream, block_bytes, depth, bytes, elapsed): (_, _, _, u64, Duration)| Bandwidth {
        stream,
        block_bytes,
        depth,
        bytes_per_second: bytes as f64 / elapsed.as_secs_f64(),
    };
    Ok(sums.into_iter().map(rate).collect())
}

/// As much in flight, in blocks as large, as any stream that lasts needs.
const BURST: Burst = Burst { stream: Stream::Read, block_bytes: 1 << 20, depth: 8 };

/// Bytes a second of a stream that goes on for so many bytes. A disk that others share may grant much more for a moment.
pub(crate) fn sustained(file: &ScratchFile, stream: Stream, bytes: u64) -> Result<f64> {
    const BURST_LASTS: Duration = Duration::from_millis(250);
    let mut ring = file.ring(BURST.depth, BURST.block_bytes * BURST.depth as usize)?;
    ring.memory().fill(0xA5);
    let mut cursor = Cursor::new(file.bytes);
    let burst = Burst { stream, ..BURST };
    let (mut moved, mut took) = (0, Duration::ZERO);
    while moved < bytes {
        let (more, longer) = burst.run(&mut ring, &mut cursor, BURST_LASTS)?;
        moved += more;
        took += longer;
    }
    Ok(moved as f64 / took.as_secs_f64())
}

/// Bytes a second that are read and written durably elsewhere in the file, block by block, for so many bytes.
pub(crate) fn copied(file: &ScratchFile, bytes: u64) -> Result<f64> {
    let Burst { block_bytes, depth, .. } = BURST;
    let mut ring = file.ring(depth, block_bytes * depth as usize)?;
    let half = file.bytes / 2;
    let (mut source, mut started_bytes) = (Cursor::new(half), 0);
    let push = |ring: &mut Ring, transfer: Transfer, slot: u64| {
        let start = usize::try_from(slot).expect("one of eight slots") * block_bytes;
        ring.push(Operation { transfer, file: 0, span: Span { start, bytes: block_bytes }, tag: slot });
    };
    let started = Instant::now();
    // Where the block of each slot goes, once it was read.
    let mut targets = vec![None; depth as usize];
    let mut moved = 0;
    let mut begin = |ring: &mut Ring, target: &mut Option<u64>, slot: u64| {
        if started_bytes < bytes {
            let offset = source.take(block_bytes);
            started_bytes += block_bytes as u64;
            *target = Some(half + offset);
            push(ring, Transfer::Read { offset }, slot);
        }
    };
    (0..u64::from(depth)).for_each(|slot| begin(&mut ring, &mut targets[slot as usize], slot));
    while ring.in_flight() > 0 {
        ring.submit_and_wait(1).doing(|| "submitting to io_uring".to_owned())?;
        while let Some(completion) = ring.next_completion() {
            let target = &mut targets[completion.tag as usize];
            let is_read = target.is_some();
            let transfer = if is_read { Stream::Read } else { Stream::WriteDurable };
            expect_whole(completion.result, block_bytes, transfer.at(0))?;
            match target.take() {
                Some(offset) => push(&mut ring, Transfer::WriteDurable { offset }, completion.tag),
                None => {
                    moved += block_bytes as u64;
                    begin(&mut ring, target, completion.tag);
                }
            }
        }
    }
    Ok(moved as f64 / started.elapsed().as_secs_f64())
}

/// The best of one kind.
pub(crate) fn best(bandwidths: &[Bandwidth], stream: Stream) -> Option<Bandwidth> {
    let of_kind = bandwidths.iter().filter(|bandwidth| bandwidth.stream == stream);
    of_kind.max_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second)).copied()
}

struct Burst {
    stream: Stream,
    block_bytes: usize,
    depth: u32,
}

impl Burst {
    /// Keeps `depth` blocks in flight for a while; answers the bytes moved and how long it took with the last of them.
    fn run(&self, ring: &mut Ring, cursor: &mut Cursor, lasting: Duration) -> Result<(u64, Duration)> {
        let started = Instant::now();
        let mut bytes = 0;
        let push = |ring: &mut Ring, cursor: &mut Cursor, slot: u64| {
            let transfer = self.stream.at(cursor.take(self.block_bytes));
            let start = usize::try_from(slot).expect("one of sixteen slots") * self.block_bytes;
            ring.push(Operation {
                transfer,
                file: 0,
                span: Span { start, bytes: self.block_bytes },
                tag: slot,
            });
        };
        (0..u64::from(self.depth)).for_each(|slot| push(ring, cursor, slot));
        while ring.in_flight() > 0 {
            ring.submit_and_wait(1).doing(|| "submitting to io_uring".to_owned())?;
            while let Some(completion) = ring.next_completion() {
                expect_whole(completion.result, self.block_bytes, self.stream.at(0))?;
                bytes += self.block_bytes as u64;
                if started.elapsed() < lasting {
                    push(ring, cursor, completion.tag);
                }
            }
        }
        Ok((bytes, started.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_starts_again_before_the_end_is_passed() {
        let mut cursor = Cursor::new(3 * 4096);
        assert_eq!([cursor.take(4096), cursor.take(8192), cursor.take(8192)], [0, 4096, 0]);
    }

    #[test]
    fn best_is_chosen_among_its_kind() {
        let of = |stream, depth, bytes_per_second| Bandwidth {
            stream,
            block_bytes: 4096,
            depth,
            bytes_per_second,
        };
        let all = [of(Stream::Write, 1, 5.0), of(Stream::Read, 2, 9.0), of(Stream::Write, 4, 7.0)];
        assert_eq!(best(&all, Stream::Write).unwrap().depth, 4);
        assert!(best(&all, Stream::WriteDurable).is_none());
    }
}
