//! How much of what a follower lacks may be on its way to it, so that publishes hardly notice.
//!
//! Lives inside the shard. A catch-up takes whatever disk, network and core have left, and a publish waits behind what it has
//! queued there. So the shard compares how long its own small writes take while somebody is helped with how long the slowest of
//! them take otherwise. One that takes much longer halves the window, and below the smallest window there is a rest between
//! two records, which doubles; each other lets the rest and then the window recover a little. That comes to stand where about
//! one write in fifty is too long. When nobody publishes there is nobody to wait, and the window doubles with every look.

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
/// The longest rest: 256 KiB each 8 ms are 32 MB/s, and help comes to an end.
const REST_NS_MAX: u64 = 8_000_000;
/// A shorter rest is none.
const REST_NS_MIN: u64 = 125_000;
/// What a small write takes before it is known: a disk with a cache that survives.
const CALM_NS_FIRST: u64 = 200_000;
/// A write that takes longer than 49 of 50 raises what is usual by one of so many parts; each other lowers it by one of 49 times
/// as many, so that it comes to stand there.
const CALM_SHARE: u64 = 16;
const CALM_OTHERS: u64 = 49;
/// So much longer than usual is noise.
const NOISE_NS: u64 = 50_000;
/// Help was under way at most so long ago: its last bytes may be before a write still.
const HELPED_NS: u64 = 100_000_000;
/// What was taken back must have had its effect before more is.
const SHRINK_EVERY_NS: u64 = 5_000_000;
/// Nobody has published for so long.
const QUIET_NS: u64 = 50_000_000;
/// Each good write gives back one of so many parts of the rest or the window.
const GROW_SHARE: u64 = 64;

/// Whose followers are helped, by the ordinal of the group, and with what.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Help {
    Log(usize),
    Checkpoint(usize),
}

pub(crate) struct Pace {
    /// Invariant: the smallest while there is a rest.
    window_bytes: u64,
    /// Between two records of bulk, whoever they are for.
    rest_ns: u64,
    /// Who was told first to wait for the end of the rest, and is next.
    first: Option<Help>,
    /// When the next of those who were told to wait in this turn may ask again.
    awaited: Option<Time>,
    /// What 49 of 50 small writes take at most while nobody is helped.
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
            rest_ns: 0,
            first: None,
            awaited: None,
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

    /// Whether this bulk may leave now. If not, there is a turn when it may.
    pub(crate) fn may_help(&mut self, help: Help, now: Time) -> bool {
        let rested = self.helped.after_ns(self.rest_ns);
        let is_next = self.first.is_none_or(|first| first == help);
        // Who is next may want nothing any more.
        let at = if is_next { rested } else { rested.after_ns(self.rest_ns) };
        if at <= now {
            self.first = None;
            return true;
        }
        self.first.get_or_insert(help);
        self.awaited = Some(self.awaited.map_or(at, |other| other.min(at)));
        false
    }

    /// Whoever was told to wait asks again.
    pub(crate) fn on_turn(&mut self) {
        self.awaited = None;
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.awaited
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
        let is_calm = self.helped == Time(0) || self.helped.after_ns(HELPED_NS) <= now;
        // Where help can be no slower it is not what the writes wait for.
        if is_calm || self.rest_ns == REST_NS_MAX {
            self.note_calm(took_ns);
        }
        if is_calm {
            return;
        }
        if took_ns <= self.calm_ns + self.calm_ns / 2 + NOISE_NS {
            self.grow();
        } else if self.shrunk.after_ns(SHRINK_EVERY_NS) <= now {
            self.shrunk = now;
            self.shrink();
        }
    }

    fn note_calm(&mut self, took_ns: u64) {
        if self.calm_ns < took_ns {
            self.calm_ns += self.calm_ns / CALM_SHARE + 1;
        } else {
            self.calm_ns -= self.calm_ns / (CALM_SHARE * CALM_OTHERS);
        }
    }

    fn grow(&mut self) {
        self.rest_ns -= self.rest_ns / GROW_SHARE;
        if self.rest_ns < REST_NS_MIN {
            self.rest_ns = 0;
            self.window_bytes = (self.window_bytes + self.window_bytes / GROW_SHARE).min(WINDOW_BYTES_MAX);
        }
    }

    fn shrink(&mut self) {
        if self.window_bytes == WINDOW_BYTES_MIN {
            self.rest_ns = (2 * self.rest_ns).clamp(REST_NS_MIN, REST_NS_MAX);
        }
        self.window_bytes = (self.window_bytes / 2).max(WINDOW_BYTES_MIN);
    }

    /// Looked at with every tick.
    pub(crate) fn on_tick(&mut self, now: Time) {
        if self.writes.is_empty() && self.written.after_ns(QUIET_NS) <= now {
            self.rest_ns = 0;
            self.window_bytes = (self.window_bytes * 2).min(WINDOW_BYTES_MAX);
        }
    }

    pub(crate) fn check(&self) {
        assert!(WINDOW_BYTES_MIN <= self.window_bytes);
        assert!(self.window_bytes <= WINDOW_BYTES_MAX);
        assert!(self.rest_ns <= REST_NS_MAX);
        if self.rest_ns > 0 {
            assert_eq!(self.window_bytes, WINDOW_BYTES_MIN);
        }
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
    fn below_the_smallest_window_there_is_a_rest() {
        let mut pace = Pace::new();
        let mut now = Time(1_000_000_000);
        let mut write = |pace: &mut Pace, took_ns: u64| {
            pace.on_help(now);
            pace.on_write(WriteId(now.0), 4096, now);
            now = now.after_ns(took_ns);
            pace.on_written(WriteId(now.0 - took_ns), now);
            pace.check();
            now
        };
        (0..5).for_each(|_| _ = write(&mut pace, 9_000_000));
        assert_eq!((pace.window_bytes, pace.rest_ns), (WINDOW_BYTES_MIN, 4 * REST_NS_MIN));
        let now = write(&mut pace, 9_000_000);
        pace.on_help(now);
        assert!(!pace.may_help(Help::Log(0), now));
        assert!(!pace.may_help(Help::Log(1), now));
        let rested = now.after_ns(8 * REST_NS_MIN);
        assert_eq!(pace.next_deadline(), Some(rested));
        pace.on_turn();
        assert_eq!(pace.next_deadline(), None);
        assert!(!pace.may_help(Help::Log(1), rested), "the other was first");
        assert!(pace.may_help(Help::Log(0), rested));
        pace.on_help(rested);
        assert!(!pace.may_help(Help::Checkpoint(0), rested));
        assert!(!pace.may_help(Help::Log(1), rested.after_ns(8 * REST_NS_MIN)));
        assert!(pace.may_help(Help::Log(1), rested.after_ns(16 * REST_NS_MIN)), "who was first is gone");
        (0..200).for_each(|_| _ = write(&mut pace, 100_000));
        assert_eq!(pace.rest_ns, 0);
        assert!(WINDOW_BYTES_MIN < pace.window_bytes);
    }

    #[test]
    fn what_is_usual_is_what_nearly_all_writes_take() {
        let mut pace = Pace::new();
        for number in 0..20_000 {
            let took_ns = if number % 100 == 0 { 5_000_000 } else { 300_000 };
            pace.on_write(WriteId(number), 4096, Time(number));
            pace.on_written(WriteId(number), Time(number + took_ns));
        }
        assert!((250_000..350_000).contains(&pace.calm_ns), "{}", pace.calm_ns);
        for number in 0..20_000 {
            let took_ns = if number % 10 == 0 { 5_000_000 } else { 300_000 };
            pace.on_write(WriteId(number), 4096, Time(number));
            pace.on_written(WriteId(number), Time(number + took_ns));
        }
        assert!((4_000_000..6_000_000).contains(&pace.calm_ns), "{}", pace.calm_ns);
    }

    #[test]
    fn help_that_can_be_no_slower_is_not_what_writes_wait_for() {
        let mut pace = Pace::new();
        let mut now = Time(1_000_000_000);
        for number in 0..200 {
            pace.on_help(now);
            pace.on_write(WriteId(number), 4096, now);
            now = now.after_ns(6_000_000);
            pace.on_written(WriteId(number), now);
        }
        assert!(4_000_000 < pace.calm_ns);
        assert!(pace.rest_ns < REST_NS_MAX);
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
