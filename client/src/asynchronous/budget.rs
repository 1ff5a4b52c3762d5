//! How much a producer may have under way, shared between those who send and the thread that gets the receipts.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Publishes and bytes that are free.
#[derive(Debug)]
pub(crate) struct Budget {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Debug)]
struct State {
    publishes: usize,
    bytes: usize,
    closed: bool,
    /// Those who wait for room; all of them look again when there is some.
    waiting: VecDeque<Waker>,
}

impl Budget {
    pub(crate) fn new(publishes: usize, bytes: usize) -> Self {
        let state = State { publishes, bytes, closed: false, waiting: VecDeque::new() };
        Self { state: Mutex::new(state), bytes_max: bytes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What so many bytes count for: a message larger than everything counts as everything, and goes alone.
    fn counted(&self, bytes: usize) -> usize {
        bytes.min(self.bytes_max)
    }

    /// Takes room for one publish. `false`: there is none.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let bytes = self.counted(bytes);
        self.state().take(bytes)
    }

    /// Takes room for one publish, waiting for it. After [`Budget::close`] everything passes and is refused later.
    pub(crate) async fn take(&self, bytes: usize) {
        let bytes = self.counted(bytes);
        poll_fn(|context| {
            let mut state = self.state();
            if state.take(bytes) {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|waiting| waiting.will_wake(context.waker())) {
                state.waiting.push_back(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Gives room back.
    pub(crate) fn give(&self, bytes: usize) {
        let bytes = self.counted(bytes);
        let mut state = self.state();
        state.publishes += 1;
        state.bytes += bytes;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn take(&mut self, bytes: usize) -> bool {
        if self.closed {
            return true;
        }
        if self.publishes == 0 || self.bytes < bytes {
            return false;
        }
        self.publishes -= 1;
        self.bytes -= bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_publishes_and_bytes() {
        let budget = Budget::new(2, 100);
        assert!(budget.try_take(60));
        assert!(!budget.try_take(60));
        assert!(budget.try_take(40));
        assert!(!budget.try_take(0), "two publishes");
        budget.give(60);
        assert!(!budget.try_take(1000), "counts as everything");
        budget.give(40);
        assert!(budget.try_take(1000));
        budget.close();
        assert!(budget.try_take(1), "refused elsewhere");
    }
}
