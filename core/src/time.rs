//! Time as an input.
//!
//! Nothing in the engine reads a clock: whoever drives it says what time it is, and what the replicated state knows of
//! time is the stamp of each entry. Both are the same word.

use std::fmt;

/// Nanoseconds since the Unix epoch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Self = Self(0);

    pub fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    pub fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// How long ago in microseconds, as far as 32 bits go; zero when it is not earlier.
    pub fn micros_since(self, earlier: Self) -> u32 {
        u32::try_from(self.ns_since(earlier) / 1_000).unwrap_or(u32::MAX)
    }

    /// How long ago `earlier` was; zero when it is not earlier.
    pub fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn us(self) -> u64 {
        self.0 / 1_000
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
