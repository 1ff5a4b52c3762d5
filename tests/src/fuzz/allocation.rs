//! A heap that knows what each thread holds. Whoever wants the figures makes it the allocator of its program:
//!
//! ```text
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//! ```
//!
//! In a program that does not, every figure is zero; [`is_counting`] tells.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes allocated less bytes freed by this thread; below zero where it frees what others made.
    static HELD: Cell<i64> = const { Cell::new(0) };
    static MOST: Cell<i64> = const { Cell::new(0) };
}

pub struct Counting;

fn note(bytes: i64) {
    // A thread that is ending has no figures any more, and nobody asks for them.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// An allocator that counts cannot be written without this trait.
#[allow(unsafe_code)]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What the thread holds now; the most is counted from here.
pub fn begin() -> i64 {
    let held = HELD.get();
    MOST.set(held);
    held
}

/// The most that the thread has held since, beyond what it held then.
pub fn most_since(begin: i64) -> usize {
    usize::try_from(MOST.get() - begin).unwrap_or(0)
}

pub fn is_counting() -> bool {
    let before = begin();
    drop(std::hint::black_box(Box::new([0_u8; 64])));
    most_since(before) >= 64
}
