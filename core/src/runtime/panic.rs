//! A broken invariant ends the process, not one task or one shard of it.
//!
//! A shard that is half done with something must not be asked any more, and the others are no node without it. A process
//! that ends is restarted, and recovers from what is durable.

use std::cell::Cell;
use std::panic;
use std::process;
use std::sync::Once;

thread_local! {
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic on a thread that is marked is told as any other, and then ends the process with exit code 1.
pub(super) fn end_the_process_on_shards() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            tell(panicked);
            if IS_SHARD.get() {
                process::exit(1);
            }
        }));
    });
}

/// This thread is a shard's.
pub(super) fn mark_shard() {
    IS_SHARD.set(true);
}
