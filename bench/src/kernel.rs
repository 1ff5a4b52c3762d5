//! The kernel calls that no safe library offers: io_uring with registered memory, `ppoll`, timers, signals.
//!
//! This is the only file of the crate with `unsafe` in it. A `Ring` owns the memory and the files its operations use
//! and hands that memory out only while nothing is in flight, so what it offers outside is safe.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

/// What direct I/O wants its memory, lengths and offsets to be multiples of.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A part of a ring's memory.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    Read {
        offset: u64,
    },
    Write {
        offset: u64,
    },
    /// On stable storage when it completes (`RWF_DSYNC`).
    WriteDurable {
        offset: u64,
    },
    Receive,
    Send,
}

#[derive(Copy, Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) transfer: Transfer,
    /// Which of the ring's files, by the order they were given in.
    pub(crate) file: usize,
    pub(crate) span: Span,
    pub(crate) tag: u64,
}

pub(crate) struct Completion {
    pub(crate) tag: u64,
    pub(crate) result: io::Result<usize>,
}

/// An io_uring with the files and the memory its operations use. It belongs to the thread that made it.
pub(crate) struct Ring {
    ring: IoUring,
    files: Vec<OwnedFd>,
    /// Freed in `drop`, unless the kernel may still write into it.
    arena: ManuallyDrop<Arena>,
    arena_registered: bool,
    in_flight: u32,
}

impl Ring {
    pub(crate) fn new(entries: u32, arena_bytes: usize, files: Vec<OwnedFd>) -> io::Result<Self> {
        let arena = Arena::new(arena_bytes);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        let descriptors: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&descriptors)?;
        let whole = libc::iovec { iov_base: arena.pointer.as_ptr().cast(), iov_len: arena.bytes() };
        // SAFETY: the memory lives until `drop`, and `drop` leaks it if the kernel may still use it.
        let registered = unsafe { ring.submitter().register_buffers(&[whole]) };
        // A user with a low memlock limit cannot register memory: ordinary operations serve as well, a little slower.
        Ok(Self {
            ring,
            files,
            arena: ManuallyDrop::new(arena),
            arena_registered: registered.is_ok(),
            in_flight: 0,
        })
    }

    /// The memory, for filling it before and reading it after operations.
    pub(crate) fn memory(&mut self) -> &mut [u8] {
        assert_eq!(self.in_flight, 0, "memory that the kernel may be using is not handed out");
        let bytes = self.arena.bytes();
        // SAFETY: the arena is `bytes` long, initialised when allocated, and no operation is in flight on it (asserted),
        // so that this borrow of the ring is the only access for as long as it lasts.
        unsafe { std::slice::from_raw_parts_mut(self.arena.pointer.as_ptr(), bytes) }
    }

    pub(crate) fn push(&mut self, operation: Operation) {
        let Operation { transfer, file, span, tag } = operation;
        assert!(file < self.files.len());
        assert!(span.start <= self.arena.bytes());
        assert!(span.bytes <= self.arena.bytes() - span.start);
        let bytes = u32::try_from(span.bytes).expect("an arena is far smaller than 4 GiB");
        let file = types::Fixed(u32::try_from(file).expect("a ring has a handful of files"));
        // SAFETY: `start` lies inside the arena (asserted above).
        let memory = unsafe { self.arena.pointer.as_ptr().add(span.start) };
        let fixed = self.arena_registered;
        let entry = match transfer {
            Transfer::Read { offset } if fixed => {
                opcode::ReadFixed::new(file, memory, bytes, 0).offset(offset).build()
            }
            Transfer::Read { offset } => opcode::Read::new(file, memory, bytes).offset(offset).build(),
            Transfer::Write { offset } if fixed => {
                opcode::WriteFixed::new(file, memory, bytes, 0).offset(offset).build()
            }
            Transfer::Write { offset } => opcode::Write::new(file, memory, bytes).offset(offset).build(),
            Transfer::WriteDurable { offset } if fixed => opcode::WriteFixed::new(file, memory, bytes, 0)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
            Transfer::WriteDurable { offset } => {
                opcode::Write::new(file, memory, bytes).offset(offset).rw_flags(libc::RWF_DSYNC).build()
            }
            Transfer::Receive => opcode::Recv::new(file, memory, bytes).build(),
            Transfer::Send => opcode::Send::new(file, memory, bytes).flags(libc::MSG_NOSIGNAL).build(),
        };
        // SAFETY: the memory and the files belong to the ring; `memory` refuses access while anything is in flight and
        // `drop` leaks the arena in that case, so both outlive the operation.
        unsafe { self.ring.submission().push(&entry.user_data(tag)) }
            .expect("callers keep fewer operations in flight than the ring has entries");
        self.in_flight += 1;
    }

    /// Submits what was pushed and parks until at least `completions` are there.
    pub(crate) fn submit_and_wait(&mut self, completions: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(completions) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        self.in_flight -= 1;
        let result = match usize::try_from(entry.result()) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
        };
        Some(Completion { tag: entry.user_data(), result })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            // SAFETY: dropped once, here; nothing in flight, so the kernel writes into it no more.
            unsafe { ManuallyDrop::drop(&mut self.arena) };
        }
    }
}

/// Page-aligned memory, zeroed.
struct Arena {
    pointer: NonNull<u8>,
    layout: Layout,
}

impl Arena {
    fn new(bytes: usize) -> Self {
        assert!(bytes > 0);
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("arenas are a few MiB");
        // SAFETY: the size is not zero (asserted).
        let Some(pointer) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { pointer, layout }
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) };
    }
}

/// Parks until `file` can be read or `timeout` is over. `Duration::ZERO` asks and returns.
///
/// A socket's own read timeout is counted in scheduler ticks of up to 4 ms; this one is a high-resolution timer.
pub(crate) fn wait_readable(file: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one pollfd and a timespec that outlive the call; no signal mask.
    let ready = unsafe { libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    Ok(ready > 0)
}

/// Asks for timers of this thread to end when they should: by default the kernel may be 50 µs late to save power.
pub(crate) fn set_timers_exact() -> io::Result<()> {
    // SAFETY: plain integers; changes this thread's timer slack to one nanosecond.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel kill `command`'s process when the thread that starts it ends, so that none is left behind.
pub(crate) fn end_with_this_thread(command: &mut Command) {
    let die_with_parent = || {
        // SAFETY: plain integers; sets an attribute of the new process.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this makes one system call.
    unsafe { command.pre_exec(die_with_parent) };
}

/// Asks one process to stop in good order.
pub(crate) fn terminate(process: u32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).expect("the kernel gave this id as a pid_t");
    assert!(process > 1, "0 and negative ids name groups of processes");
    // SAFETY: plain integers; the caller holds the child, so its id was not given to another process.
    let result = unsafe { libc::kill(process, libc::SIGTERM) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
