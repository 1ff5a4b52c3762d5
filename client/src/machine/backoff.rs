//! How long to wait before the next try.

use std::time::Duration;

/// A source of chance that needs no system: xorshift64*, seeded once per client.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that this generator never leaves.
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Doubles with each attempt up to `max`, then spread over half to one and a half of it, so that a thousand
/// clients do not return at once.
pub(crate) fn pause(attempt: u32, min: Duration, max: Duration, random: &mut Random) -> Duration {
    let doubled = min.saturating_mul(1 << attempt.min(20)).min(max);
    let spread = 512 + (random.next() >> 54) as u32;
    doubled * spread / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let mut random = Random::new(7);
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        for attempt in 0..64 {
            let full = (min * (1 << attempt.min(20))).min(max);
            let pause = pause(attempt, min, max, &mut random);
            assert!(pause >= full / 2 && pause <= full * 3 / 2, "attempt {attempt}: {pause:?}");
        }
        let pauses: std::collections::BTreeSet<_> =
            (0..100).map(|_| pause(9, min, max, &mut random)).collect();
        assert!(pauses.len() > 50);
    }
}
