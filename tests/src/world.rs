//! Virtual time: what happens next. Events of one moment come in the order in which they were planned, so that a run
//! is a function of its seed.

use std::collections::BTreeMap;

use crate::rng::Rng;

pub const MICROSECOND: u64 = 1_000;
pub const MILLISECOND: u64 = 1_000 * MICROSECOND;
pub const SECOND: u64 = 1_000 * MILLISECOND;

pub struct World<E> {
    pub rng: Rng,
    pub trace: Trace,

    /// Nanoseconds since the run began.
    now: u64,
    /// Of the last event planned.
    number: u64,
    events: BTreeMap<(u64, u64), E>,
}

impl<E> World<E> {
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self { rng: Rng::new(seed), trace, now: 0, number: 0, events: BTreeMap::new() }
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    pub fn after(&mut self, delay: u64, event: E) {
        self.number += 1;
        self.events.insert((self.now + delay, self.number), event);
    }

    pub fn advance(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        assert!(at >= self.now);
        self.now = at;
        Some(event)
    }

    pub fn note(&mut self, what: &'static str, numbers: &[u64]) {
        self.trace.note(self.now, what, numbers);
    }
}

/// Everything that happened, as one number; and in words for whoever looks for a cause.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    is_spoken: bool,
}

impl Trace {
    pub fn silent() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, is_spoken: false }
    }

    pub fn spoken() -> Self {
        Self { is_spoken: true, ..Self::silent() }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn note(&mut self, now: u64, what: &'static str, numbers: &[u64]) {
        self.mix(now);
        what.bytes().for_each(|byte| self.mix(u64::from(byte)));
        numbers.iter().for_each(|&number| self.mix(number));
        if self.is_spoken {
            eprintln!("{:>13.3} µs  {what} {numbers:?}", now as f64 / MICROSECOND as f64);
        }
    }

    /// FNV-1a, a word at a time.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01B3);
        self.hash ^= self.hash >> 29;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_planning() {
        let mut world = World::new(1, Trace::silent());
        for (delay, name) in [(5, 'c'), (0, 'a'), (5, 'd'), (1, 'b')] {
            world.after(delay, name);
        }
        let told: String = std::iter::from_fn(|| world.advance()).collect();
        assert_eq!((told.as_str(), world.now()), ("abcd", 5));
        world.after(1, 'e');
        assert_eq!((world.advance(), world.now()), (Some('e'), 6));
    }

    #[test]
    fn trace_tells_runs_apart() {
        let told = |numbers: &[u64]| {
            let mut trace = Trace::silent();
            trace.note(1, "write", numbers);
            trace.hash()
        };
        assert_eq!(told(&[1, 2]), told(&[1, 2]));
        assert_ne!(told(&[1, 2]), told(&[2, 1]));
        assert_ne!(told(&[]), told(&[0]));
    }
}
