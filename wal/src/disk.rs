//! The log of one shard on a real disk, through glommio. One per shard, used by tasks of the shard's thread only.
//!
//! Writes are direct and durable when they return (`O_DIRECT | O_DSYNC`): no separate sync, and nothing of the log in
//! the page cache. Segments are wholly written before their first use, so that a write changes no metadata. A file
//! gets its final name when its content is durable; until then it is called `….preparing`, which nobody reads and the
//! next preparation of the same number writes over.
//!
//! Only the preparation of a segment can run out of space. Any other write that fails ends the process: what the
//! kernel then holds of the page is unknown, and trying again would only hide it.
//!
//! The writes of a process that was killed may still be on their way when it is gone: the kernel finishes them behind
//! its back. One that landed under a page that the next start has written would destroy it. So each file is locked as
//! long as anything holds it open, a write on its way included, and whoever opens it next waits for that.
//!
//! Not to be done here: spinning while a write is in flight (its completion needs this very core), opening a file by a
//! name that was changed behind glommio's back, dropping the executor while something is in flight.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::TryLockError;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use crate::error::Error;
use crate::log::{LogOptions, WriteAt};
use crate::recovery::{READ_BYTES_MAX, RecordView, Recovered, Recovery, SegmentFile};
use crate::retention::PrepareSegment;
use crate::segment::{SegmentHeader, segment_file_name, segment_number};
use crate::superblock::{SUPERBLOCK_FILE_NAME, Superblock};
use crate::words::{PAGE_BYTES, Position, page_ceil, page_floor};

mod preflight;
pub use preflight::preflight;

const PAGE: usize = PAGE_BYTES as usize;
/// A new segment is filled in blocks of this size: the shard's other work goes on between them, and a durable write waits on
/// the disk behind no more than one. Much smaller ones would keep a start waiting for its first segment.
const FILL_BYTES: usize = 256 << 10;
/// Files kept open. More are opened when old messages are read, and closed again, oldest first.
const FILES_OPEN_MAX: usize = 128;

/// Writes that take longer than this belong to a process that lives.
const CLAIM_WITHIN: Duration = Duration::from_secs(30);
const CLAIM_ASKED_EVERY: Duration = Duration::from_millis(1);

pub struct Disk {
    directory: PathBuf,
    options: LogOptions,

    /// Always open: buffers are allocated through it.
    superblock: DmaFile,
    /// No borrow of it lives across an `.await`.
    files: RefCell<BTreeMap<u64, Rc<DmaFile>>>,
    /// Segments whose files are being opened.
    opening: RefCell<BTreeSet<u64>>,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Prepared {
    Ready,
    /// Nothing was changed.
    NoSpace,
}

impl Disk {
    /// Opens the directory of a shard, or makes it.
    pub async fn open(directory: &Path, options: LogOptions) -> Result<Self, Error> {
        let at = directory.to_path_buf();
        blocking(directory, "making the directory", move || {
            std::fs::create_dir_all(&at)?;
            let parent = at.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_directory(parent.unwrap_or(Path::new(".")))
        })
        .await?;
        let path = directory.join(SUPERBLOCK_FILE_NAME);
        let fresh = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .custom_flags(libc::O_DSYNC)
            .dma_open(&path)
            .await
            .map_err(|error| refused("opening the superblock", &path, &error))?;
        claim_in_time(&file, &path).await?;
        let disk = Self {
            directory: directory.to_path_buf(),
            options,
            superblock: file,
            files: RefCell::new(BTreeMap::new()),
            opening: RefCell::new(BTreeSet::new()),
        };
        if fresh {
            // Both slots blank. A crash before this is durable leaves a shorter file, which reads the same.
            let mut page = disk.allocate(2 * PAGE);
            page.as_bytes_mut().fill(0);
            let written = disk.superblock.write_at(page, 0).await;
            written.map_err(|error| failed("writing the superblock", &path, &error))?;
            let at = disk.directory.clone();
            blocking(&disk.directory, "syncing the directory", move || sync_directory(&at)).await?;
        }
        Ok(disk)
    }

    /// Reads the log back: `on_record` sees every record that recovery verified, in order. What it answers is durable.
    pub async fn boot(&self, mut on_record: impl FnMut(&RecordView<'_>)) -> Result<Recovered, Error> {
        let slots = self.read_file(&self.superblock, 0, 2 * PAGE, Path::new(SUPERBLOCK_FILE_NAME)).await?;
        let (first, second) = slots.split_at(slots.len().min(PAGE));
        let mut segments = Vec::new();
        for (number, bytes) in self.list().await? {
            let file = self.file(number).await?;
            let name = segment_file_name(number);
            // A file that is shorter than its segment is as good as one without a header page.
            let whole = bytes >= self.options.segment_bytes;
            let length = if whole { PAGE } else { 0 };
            let header = self.read_file(&file, 0, length, Path::new(&name)).await?;
            segments.push(SegmentFile { number, header });
        }
        let mut recovery = Recovery::new(&self.options, [first, second], segments)?;
        while let Some(read) = recovery.poll_read() {
            let file = self.file(read.segment).await?;
            let result = file.read_at_aligned(read.offset, read.bytes).await;
            let path = self.path(read.segment);
            let bytes = result.map_err(|error| failed("reading the log", &path, &error))?;
            recovery.on_read(&bytes);
            while let Some(record) = recovery.next_record() {
                on_record(&record);
            }
        }
        let recovered = recovery.finish()?;
        self.settle(&recovered).await?;
        Ok(recovered)
    }

    /// What was read may only be in the device's cache, of writes that were in flight at the crash. It must be durable
    /// before anyone is told that it is there.
    async fn settle(&self, recovered: &Recovered) -> Result<(), Error> {
        let Some(&(number, _)) = recovered.start.segments.first() else {
            return Ok(());
        };
        let path = self.path(recovered.start.segment.max(number));
        let at = path.clone();
        blocking(&path, "syncing the log", move || std::fs::File::open(&at)?.sync_all()).await
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A buffer for `write`. Its content is arbitrary.
    pub fn allocate(&self, bytes: usize) -> DmaBuffer {
        self.superblock.alloc_dma_buffer(bytes)
    }

    /// Durable when it returns. Takes the first `at.bytes` bytes of the buffer, which may not be longer than that.
    pub async fn write(&self, at: WriteAt, buffer: DmaBuffer) {
        assert!(buffer.len() == at.bytes);
        assert!(at.offset >= PAGE_BYTES);
        assert!(at.offset + at.bytes as u64 <= self.options.segment_bytes);
        let path = || self.path(at.segment);
        let file = match self.file(at.segment).await {
            Ok(file) => file,
            Err(error) => stop(&error),
        };
        match file.write_at(buffer, at.offset).await {
            Ok(written) if written == at.bytes => {}
            Ok(written) => stop(&Error::Io {
                what: "writing the log",
                path: path(),
                why: format!("only {written} of {} bytes at {} were written", at.bytes, at.offset),
            }),
            Err(error) => stop(&failed("writing the log", &path(), &error)),
        }
    }

    /// Reads `bytes` bytes from `position` on; answers the whole pages around them and where these begin.
    pub async fn read(&self, position: Position, bytes: usize) -> Result<(Position, Bytes), Error> {
        let number = position.segment(self.options.segment_bytes);
        let offset = position.offset(self.options.segment_bytes);
        let start = page_floor(offset);
        let end = page_ceil(offset + bytes as u64);
        assert!(end <= self.options.segment_bytes);
        let file = self.file(number).await?;
        let path = self.path(number);
        let read = self.read_file(&file, start, (end - start) as usize, &path).await?;
        if read.len() as u64 != end - start {
            let why = format!("the file ends at {}, before {end}", start + read.len() as u64);
            return Err(Error::Io { what: "reading the log", path, why });
        }
        Ok((Position::new(number, start, self.options.segment_bytes), Bytes::from(read)))
    }

    /// Durable when it returns. The slot is the superblock's own choice.
    pub async fn write_superblock(&self, superblock: &Superblock) {
        assert!(superblock.identity == self.options.identity);
        let mut page = self.allocate(PAGE);
        superblock.encode(page.as_bytes_mut());
        let path = self.directory.join(SUPERBLOCK_FILE_NAME);
        match self.superblock.write_at(page, superblock.slot() * PAGE_BYTES).await {
            Ok(PAGE) => {}
            Ok(written) => stop(&Error::Io {
                what: "writing the superblock",
                path,
                why: format!("only {written} of {PAGE} bytes were written"),
            }),
            Err(error) => stop(&failed("writing the superblock", &path, &error)),
        }
    }

    /// Makes a segment ready, durably. One at a time, and by a task that lives as long as the shard: a helper thread
    /// wakes it.
    pub async fn prepare_segment(&self, prepare: PrepareSegment) -> Prepared {
        let prepared = match prepare {
            PrepareSegment::Create { number } => self.create(number).await,
            PrepareSegment::Recycle { from, number } => self.recycle(from, number).await,
        };
        match prepared {
            Ok(prepared) => prepared,
            Err(error) => stop(&error),
        }
    }

    /// Closes every file. What was in flight has come back before.
    pub async fn close(self) {
        for (_, file) in self.files.take() {
            // Closing a file that was only written durably can lose nothing.
            let _ = file.close_rc().await;
        }
        let _ = self.superblock.close().await;
    }

    async fn create(&self, number: u64) -> Result<Prepared, Error> {
        let path = self.preparing(number);
        let file = OpenOptions::new().write(true).create(true).truncate(true).dma_open(&path).await;
        let file = match file {
            Ok(file) => file,
            Err(error) if is_no_space(&error) => return Ok(Prepared::NoSpace),
            Err(error) => return Err(failed("making a segment", &path, &error)),
        };
        claim_in_time(&file, &path).await?;
        let filled = self.fill(&file).await;
        let header = match filled {
            Ok(()) => self.write_header(&file, number).await,
            Err(error) => Err(error),
        };
        let _ = file.close().await;
        match header {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => {
                let at = path.clone();
                blocking(&path, "removing a part of a segment", move || std::fs::remove_file(&at)).await?;
                return Ok(Prepared::NoSpace);
            }
            Err(error) => return Err(failed("making a segment", &path, &error)),
        }
        self.publish(number).await
    }

    /// Zeros, written: blocks that were only reserved would cost a change of metadata with the first write to each.
    async fn fill(&self, file: &DmaFile) -> glommio::Result<(), ()> {
        match file.pre_allocate(self.options.segment_bytes, false).await {
            Ok(()) => {}
            // Some file systems cannot reserve; writing will do.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
        let block_bytes = (FILL_BYTES as u64).min(self.options.segment_bytes);
        let mut zeros = file.alloc_dma_buffer(block_bytes as usize);
        zeros.as_bytes_mut().fill(0);
        let zeros = Rc::new(zeros);
        // Both are powers of two.
        assert!(self.options.segment_bytes.is_multiple_of(block_bytes));
        for block in 0..self.options.segment_bytes / block_bytes {
            let written = file.write_rc_at(Rc::clone(&zeros), block * block_bytes).await?;
            if written as u64 != block_bytes {
                return Err(std::io::Error::from_raw_os_error(libc::ENOSPC).into());
            }
            glommio::executor().yield_now().await;
        }
        Ok(())
    }

    async fn recycle(&self, from: u64, number: u64) -> Result<Prepared, Error> {
        let source = self.files.borrow_mut().remove(&from);
        if let Some(file) = source {
            let _ = file.close_rc().await;
        }
        let (old, path) = (self.path(from), self.preparing(number));
        let target = path.clone();
        let place = old.clone();
        let renamed = blocking(&place, "renaming a segment", move || match std::fs::rename(&old, &target) {
            Err(error) if no_space(error.raw_os_error()) => Ok(false),
            other => other.map(|()| true),
        });
        if !renamed.await? {
            return Ok(Prepared::NoSpace);
        }
        let opened = OpenOptions::new().write(true).dma_open(&path).await;
        let file = opened.map_err(|error| failed("recycling a segment", &path, &error))?;
        let header = self.write_header(&file, number).await;
        let _ = file.close().await;
        header.map_err(|error| failed("recycling a segment", &path, &error))?;
        self.publish(number).await
    }

    async fn write_header(&self, file: &DmaFile, number: u64) -> glommio::Result<(), ()> {
        let mut page = file.alloc_dma_buffer(PAGE);
        let LogOptions { identity, segment_bytes, .. } = self.options;
        SegmentHeader { number, segment_bytes, identity }.encode(page.as_bytes_mut());
        match file.write_at(page, 0).await? {
            PAGE => Ok(()),
            _ => Err(std::io::Error::from_raw_os_error(libc::ENOSPC).into()),
        }
    }

    /// Everything in the file is durable before it gets its name, and the name before the segment counts as ready.
    async fn publish(&self, number: u64) -> Result<Prepared, Error> {
        let (source, target, directory) = (self.preparing(number), self.path(number), self.directory.clone());
        let path = target.clone();
        blocking(&path, "making a segment durable", move || {
            std::fs::File::open(&source)?.sync_all()?;
            std::fs::rename(&source, &target)?;
            sync_directory(&directory)
        })
        .await?;
        self.files.borrow_mut().remove(&number);
        self.file(number).await?;
        Ok(Prepared::Ready)
    }

    /// The segments' numbers and sizes, ascending.
    async fn list(&self) -> Result<BTreeMap<u64, u64>, Error> {
        let directory = self.directory.clone();
        blocking(&self.directory, "listing the directory", move || {
            let mut segments = BTreeMap::new();
            for entry in std::fs::read_dir(&directory)? {
                let entry = entry?;
                if let Some(number) = entry.file_name().to_str().and_then(segment_number) {
                    segments.insert(number, entry.metadata()?.len());
                }
            }
            Ok(segments)
        })
        .await
    }

    async fn file(&self, number: u64) -> Result<Rc<DmaFile>, Error> {
        loop {
            let known = self.files.borrow().get(&number).cloned();
            if let Some(file) = known {
                return Ok(file);
            }
            // One opens it, whoever else wants it meanwhile waits for that: two would wait for each other's lock.
            if self.opening.borrow_mut().insert(number) {
                break;
            }
            glommio::timer::sleep(CLAIM_ASKED_EVERY).await;
        }
        let opened = self.open_file(number).await;
        self.opening.borrow_mut().remove(&number);
        opened
    }

    async fn open_file(&self, number: u64) -> Result<Rc<DmaFile>, Error> {
        let path = self.path(number);
        let mut open = OpenOptions::new();
        open.read(true).write(true).custom_flags(libc::O_DSYNC);
        let opened = open.dma_open(&path).await;
        let file = Rc::new(opened.map_err(|error| refused("opening a segment", &path, &error))?);
        claim_in_time(&file, &path).await?;
        self.files.borrow_mut().insert(number, Rc::clone(&file));
        self.close_unused(number).await;
        Ok(file)
    }

    async fn close_unused(&self, except: u64) {
        let unused = {
            let mut files = self.files.borrow_mut();
            if files.len() <= FILES_OPEN_MAX {
                return;
            }
            let mut unused =
                files.iter().filter(|&(&number, file)| number != except && Rc::strong_count(file) == 1);
            let number = unused.next().map(|(&number, _)| number);
            number.and_then(|number| files.remove(&number))
        };
        if let Some(file) = unused {
            let _ = file.close_rc().await;
        }
    }

    /// As many of the bytes as there are.
    async fn read_file(
        &self,
        file: &DmaFile,
        offset: u64,
        bytes: usize,
        path: &Path,
    ) -> Result<Vec<u8>, Error> {
        let mut all = Vec::with_capacity(bytes);
        while all.len() < bytes {
            let part = READ_BYTES_MAX.min(bytes - all.len());
            let read = file.read_at_aligned(offset + all.len() as u64, part).await;
            let read = read.map_err(|error| failed("reading", path, &error))?;
            all.extend_from_slice(&read);
            if read.len() < part {
                break;
            }
        }
        Ok(all)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(segment_file_name(number))
    }

    fn preparing(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{}.preparing", segment_file_name(number)))
    }
}

/// Locks a file until the last of whatever holds it open is gone. False: something else holds it now.
fn claim(file: &DmaFile) -> std::io::Result<bool> {
    // The lock belongs to the open file, of which this is only another handle.
    let handle = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
    match handle.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Waits for what another process still writes to the file.
async fn claim_in_time(file: &DmaFile, path: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + CLAIM_WITHIN;
    let failed = |why| Error::Io { what: "locking a file of the log", path: path.to_path_buf(), why };
    while !claim(file).map_err(|error| failed(error.to_string()))? {
        if deadline <= Instant::now() {
            return Err(failed("another process has it open".to_owned()));
        }
        glommio::timer::sleep(CLAIM_ASKED_EVERY).await;
    }
    Ok(())
}

/// Runs what has no asynchronous form on the executor's helper thread.
async fn blocking<T: Send + 'static>(
    path: &Path,
    what: &'static str,
    run: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let result = glommio::executor().spawn_blocking(run).await;
    result.map_err(|error| Error::Io { what, path: path.to_path_buf(), why: error.to_string() })
}

/// A whole sync: a change of names is not data, and some file systems leave it out of a data sync.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

fn no_space(code: Option<i32>) -> bool {
    matches!(code, Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

fn is_no_space(error: &glommio::GlommioError<()>) -> bool {
    no_space(error.raw_os_error())
}

fn failed(what: &'static str, path: &Path, error: &glommio::GlommioError<()>) -> Error {
    let why = match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code).to_string(),
        None => error.to_string(),
    };
    Error::Io { what, path: path.to_path_buf(), why }
}

/// Opening is where a file system says that it has no direct I/O.
fn refused(what: &'static str, path: &Path, error: &glommio::GlommioError<()>) -> Error {
    if error.raw_os_error() == Some(libc::EINVAL) {
        return preflight::no_direct_io(path);
    }
    failed(what, path, error)
}

/// A write that failed leaves nothing to go on with: the process ends, and the next start reads what is really there.
#[cold]
fn stop(error: &Error) -> ! {
    eprintln!("ringmain: stopping: {error}");
    std::process::exit(1)
}

/// For tests: runs them as a shard would.
#[cfg(test)]
fn on_executor<F: Future<Output = ()> + 'static>(run: impl FnOnce() -> F + Send + 'static) {
    let executor = glommio::LocalExecutorBuilder::default().io_memory(4 << 20);
    executor.spawn(run).expect("an executor starts").join().expect("the test does not panic");
}

#[cfg(test)]
mod tests;
