//! How much of what a follower lacks may be on its way to it, so that publishes hardly notice.
//!
//! Lives inside the shard. A catch-up takes whatever disk, network and core have left, and a publish waits behind what it has
//! queued there. So the shard compares how long its own small writes take while somebody is helped with how long they take
//! otherwise. While they take much longer the window shrinks by half at a time, and while they do not it grows a little with
//! each; when nobody publishes there is nobody to wait, and it doubles with every look.

use crate::time::Time;
use ringmain_wal::WriteId;
use std::collections::VecDeque;

/// One record of bulk, or help would come to a standstill.
const WINDOW_BYTES_MIN: u64 = 256 << 10;
/// A disk that syncs 1 GB/s over a link with 4 ms each way.
pub(crate) const WINDOW_BYTES_MAX: u64 = 8 << 20;
const WINDOW_BYTES_FIRST: u64 = 1 << 20;
/// Larger writes take their time for being large.
const SMALL_BYTES: usize = 64 << 10;
/// What a small write takes before it is known: a disk with a cache that survives.
const CALM_NS_FIRST: u64 = 200_000;
/// The weight of one write in what is usual, as a divisor.
const CALM_SHARE: u64 = 64;
/// So much longer than usual is noise.
const NOISE_NS: u64 = 50_000;
/// Help was under way at most so long ago: its last bytes may be before a write still.
const HELPED_NS: u64 = 100_000_000;
/// What was taken back must have had its effect before more is.
const SHRINK_EVERY_NS: u64 = 5_000_000;
/// Nobody has published for so long.
const QUIET_NS: u64 = 50_000_000;
/// Each good write lets the window grow by one of so many parts.
const GROW_SHARE: u64 = 64;

pub(crate) struct Pace {
    window_bytes: u64,
    /// What a small write usually takes while nobody is helped: a moving average.
    calm_ns: u64,
    /// Small writes under way, and since when.
    writes: VecDeque<(WriteId, Time)>,
    /// When bulk was last sent.
    helped: Time,
    shrunk: Time,
    /// When the last small write was done.
    written: Time,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            window_bytes: WINDOW_BYTES_FIRST,
            calm_ns: CALM_NS_FIRST,
            writes: VecDeque::new(),
            helped: Time(0),
            shrunk: Time(0),
            written: Time(0),
        }
    }

    /// Of bulk to one peer, sent and not acknowledged: more is sent only below it.
    pub(crate) fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    /// Bulk leaves for a peer.
    pub(crate) fn on_help(&mut self, now: Time) {
        self.helped = now;
    }

    pub(crate) fn on_write(&mut self, id: WriteId, bytes: usize, now: Time) {
        if bytes <= SMALL_BYTES {
            self.writes.push_back((id, now));
        }
    }

    pub(crate) fn on_written(&mut self, id: WriteId, now: Time) {
        let Some(at) = self.writes.iter().position(|(write, _)| *write == id) else { return };
        let Some((_, since)) = self.writes.remove(at) else { return };
        let took_ns = now.ns_since(since);
        self.written = now;
        if self.helped == Time(0) || self.helped.after_ns(HELPED_NS) <= now {
            self.calm_ns = self.calm_ns - self.calm_ns / CALM_SHARE + took_ns / CALM_SHARE;
        } else if took_ns <= self.calm_ns + self.calm_ns / 2 + NOISE_NS {
            let grown = self.window_bytes + self.window_bytes / GROW_SHARE;
            self.window_bytes = grown.min(WINDOW_BYTES_MAX);
        } else if self.shrunk.after_ns(SHRINK_EVERY_NS) <= now {
            self.shrunk = now;
            self.window_bytes = (self.window_bytes / 2).max(WINDOW_BYTES_MIN);
        }
    }

    /// Looked at with every tick.
    pub(crate) fn on_tick(&mut self, now: Time) {
        if self.writes.is_empty() && self.written.after_ns(QUIET_NS) <= now {
            self.window_bytes = (self.window_bytes * 2).min(WINDOW_BYTES_MAX);
        }
    }

    pub(crate) fn check(&self) {
        assert!(WINDOW_BYTES_MIN <= self.window_bytes);
        assert!(self.window_bytes <= WINDOW_BYTES_MAX);
        assert!(self.writes.iter().is_sorted_by_key(|(id, _)| *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of 200 µs, then help beside writes that take so long. Answers the window after each of them.
    fn windows(took_ns: u64, count: u64) -> Vec<u64> {
        let mut pace = Pace::new();
        let mut now = Time(1_000_000_000);
        let mut write = |pace: &mut Pace, number: u64, took_ns: u64, helps: bool| {
            pace.on_write(WriteId(number), 4096, now);
            now = now.after_ns(took_ns);
            if helps {
                pace.on_help(now);
            }
            pace.on_written(WriteId(number), now);
            pace.check();
            now = now.after_ns(1_000_000);
            pace.window_bytes()
        };
        (0..1_000).for_each(|number| _ = write(&mut pace, number, 200_000, false));
        (1_000..1_000 + count).map(|number| write(&mut pace, number, took_ns, true)).collect()
    }

    #[test]
    fn a_window_grows_while_writes_take_as_long_as_ever() {
        let windows = windows(250_000, 300);
        assert!(windows.is_sorted());
        assert_eq!(windows.last(), Some(&WINDOW_BYTES_MAX));
    }

    #[test]
    fn a_window_shrinks_while_writes_take_much_longer() {
        let windows = windows(2_000_000, 20);
        assert_eq!(windows[0], WINDOW_BYTES_FIRST / 2);
        assert_eq!(windows[1], windows[0], "what was taken back needs time to have its effect");
        assert_eq!(windows.last(), Some(&WINDOW_BYTES_MIN));
    }

    #[test]
    fn what_writes_take_beside_help_is_not_usual() {
        let mut pace = Pace::new();
        pace.on_help(Time(1_000_000_000));
        for number in 0..100 {
            let now = Time(1_000_000_000 + number);
            pace.on_write(WriteId(number), 4096, now);
            pace.on_written(WriteId(number), now.after_ns(9_000_000));
        }
        assert_eq!(pace.calm_ns, CALM_NS_FIRST);
    }

    #[test]
    fn large_writes_say_nothing() {
        let mut pace = Pace::new();
        pace.on_help(Time(1_000_000_000));
        pace.on_write(WriteId(1), SMALL_BYTES + 1, Time(1_000_000_000));
        pace.on_written(WriteId(1), Time(1_090_000_000));
        assert_eq!(pace.window_bytes(), WINDOW_BYTES_FIRST);
    }

    #[test]
    fn a_window_is_wide_when_nobody_publishes() {
        let mut pace = Pace::new();
        (1..4).for_each(|number| pace.on_tick(Time(1_000_000_000 * number)));
        assert_eq!(pace.window_bytes(), WINDOW_BYTES_MAX);
        pace.on_write(WriteId(1), 4096, Time(5_000_000_000));
        pace.on_written(WriteId(1), Time(5_000_100_000));
        let before = pace.window_bytes;
        pace.on_tick(Time(5_010_000_000));
        assert_eq!(pace.window_bytes(), before);
    }
}
