//! What a queue's creator chose; it never changes afterwards.
//!
//! ```text
//!  0               2            3          4               8
//! ┌───────────────┬────────────┬──────────┬───────────────┬───────────────────────────────┐
//! │ priorities u16│ durability │ overflow │ lease ms  u32 │ max length                u64 │
//! └───────────────┴────────────┴──────────┴───────────────┴───────────────────────────────┘
//!  16                              24                      32                36            38       40
//! ┌───────────────────────────────┬───────────────────────┬─────────────────┬─────────────┬────────┬─────────────┐
//! │ max bytes                 u64 │ ttl ms            u64 │ max deliver. u32│ bytes   u16 │ 0  u16 │ dead letter…│
//! └───────────────────────────────┴───────────────────────┴─────────────────┴─────────────┴────────┴─────────────┘
//! ```

use crate::command::Reader;
use crate::engine::Refusal;
use crate::error::Error;

/// Of a queue's or a producer's name.
pub const NAME_BYTES_MAX: usize = 255;

/// A week: longer leases are a sign of a unit mistaken.
const LEASE_MS_MAX: u32 = 7 * 24 * 60 * 60 * 1_000;

/// In `durability`: 0 is quorum-disk.
const DURABILITY_QUORUM_MEMORY: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages may have priorities 0..priorities; 1..=256.
    pub priorities: u16,
    /// 0: on the disks of a majority.
    pub durability: u8,
    /// 0: a message that does not fit is refused.
    pub overflow: u8,
    pub lease_ms: u32,
    /// Messages, ready and in flight; 0: no limit.
    pub max_length: u64,
    /// Key, headers and payload of all messages, ready and in flight; 0: no limit.
    pub max_bytes: u64,
    /// 0: messages do not expire.
    pub ttl_ms: u64,
    /// 0: a message is delivered as often as it takes.
    pub max_deliveries: u32,
    /// Empty: none.
    pub dead_letter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            priorities: 1,
            durability: 0,
            overflow: 0,
            lease_ms: 30_000,
            max_length: 0,
            max_bytes: 0,
            ttl_ms: 0,
            max_deliveries: 0,
            dead_letter: String::new(),
        }
    }
}

impl Settings {
    /// Acknowledged when a majority has it in memory, not on disk.
    pub(crate) fn is_quorum_memory(&self) -> bool {
        self.durability == DURABILITY_QUORUM_MEMORY
    }

    /// What makes no sense is invalid, what is not built yet is unsupported: a setting is never silently ignored.
    pub fn validate(&self) -> Result<(), Refusal> {
        if !(1..=256).contains(&self.priorities) || !(1..=LEASE_MS_MAX).contains(&self.lease_ms) {
            return Err(Refusal::InvalidSettings);
        }
        if self.durability > DURABILITY_QUORUM_MEMORY {
            return Err(Refusal::InvalidSettings);
        }
        let plain =
            self.overflow == 0 && self.ttl_ms == 0 && self.max_deliveries == 0 && self.dead_letter.is_empty();
        if plain { Ok(()) } else { Err(Refusal::Unsupported) }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.dead_letter.len() <= NAME_BYTES_MAX);
        out.extend_from_slice(&self.priorities.to_le_bytes());
        out.push(self.durability);
        out.push(self.overflow);
        out.extend_from_slice(&self.lease_ms.to_le_bytes());
        out.extend_from_slice(&self.max_length.to_le_bytes());
        out.extend_from_slice(&self.max_bytes.to_le_bytes());
        out.extend_from_slice(&self.ttl_ms.to_le_bytes());
        out.extend_from_slice(&self.max_deliveries.to_le_bytes());
        out.extend_from_slice(&(self.dead_letter.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(self.dead_letter.as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let priorities = reader.u16()?;
        let durability = reader.u8()?;
        let overflow = reader.u8()?;
        let lease_ms = reader.u32()?;
        let max_length = reader.u64()?;
        let max_bytes = reader.u64()?;
        let ttl_ms = reader.u64()?;
        let max_deliveries = reader.u32()?;
        let dead_letter_bytes = usize::from(reader.u16()?);
        reader.zero(2)?;
        if dead_letter_bytes > NAME_BYTES_MAX {
            return Err(reader.malformed());
        }
        let dead_letter = reader.text(dead_letter_bytes)?.to_owned();
        Ok(Self {
            priorities,
            durability,
            overflow,
            lease_ms,
            max_length,
            max_bytes,
            ttl_ms,
            max_deliveries,
            dead_letter,
        })
    }
}

/// 1..=255 bytes of `[A-Za-z0-9._:/-]`.
pub fn is_queue_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back() {
        let settings = Settings { priorities: 256, max_bytes: 1 << 40, ..Settings::default() };
        let mut out = Vec::new();
        settings.encode(&mut out);
        assert_eq!(out.len(), 40);
        assert_eq!(Settings::decode(&mut Reader::new("test", &out)), Ok(settings));
        for bytes in 0..out.len() {
            assert!(Settings::decode(&mut Reader::new("test", &out[..bytes])).is_err());
        }
    }

    #[test]
    fn settings_that_would_be_ignored_are_refused() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate()
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|s| s.priorities = 0), Err(Refusal::InvalidSettings));
        assert_eq!(with(|s| s.priorities = 257), Err(Refusal::InvalidSettings));
        assert_eq!(with(|s| s.lease_ms = 0), Err(Refusal::InvalidSettings));
        assert_eq!(with(|s| s.ttl_ms = 1), Err(Refusal::Unsupported));
        assert_eq!(with(|s| s.max_deliveries = 3), Err(Refusal::Unsupported));
        assert_eq!(with(|s| s.dead_letter = "q".into()), Err(Refusal::Unsupported));
    }

    #[test]
    fn names_have_a_plain_alphabet() {
        assert!(is_queue_name("orders/eu-west:1.fills"));
        assert!(!is_queue_name(""));
        assert!(!is_queue_name("a b"));
        assert!(!is_queue_name("é"));
        assert!(!is_queue_name(&"x".repeat(256)));
    }
}
