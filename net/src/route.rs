//! Which shard and group a queue lives in, and what a queue may be called.

use crate::protocol::NAME_BYTES_MAX;

/// The shard, of `shards`, that the queue of this name lives on: crc32c of the name, modulo.
///
/// Fixed for ever: clients compute it to dial the right port, and shards to refuse what is not theirs.
pub fn shard_of(queue_name: &str, shards: u32) -> u32 {
    assert!(shards > 0);
    crc32c::crc32c(queue_name.as_bytes()) % shards
}

/// The group, of the `groups` of its shard, that the queue of this name lives in: its ordinal there.
///
/// What the shard's number leaves of the hash decides, so that the queues of a shard spread over all of its groups.
/// Fixed for ever, like [`shard_of`].
pub fn group_of(queue_name: &str, shards: u32, groups: u32) -> u32 {
    assert!(shards > 0);
    assert!(groups > 0);
    crc32c::crc32c(queue_name.as_bytes()) / shards % groups
}

/// Whether a queue may be called so: 1 to 255 bytes of letters, digits and `. _ : / -`.
pub fn name_is_valid(queue_name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    (1..=NAME_BYTES_MAX as usize).contains(&queue_name.len()) && queue_name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_of_a_name_never_changes() {
        let rows = [("orders", 0x09a7_c08a), ("telemetry/cpu", 0x448b_787a), ("a", 0xc1d0_4330)];
        for (name, hash) in rows {
            assert_eq!(shard_of(name, u32::MAX), hash % u32::MAX, "{name}");
            assert_eq!(shard_of(name, 7), hash % 7, "{name}");
            assert_eq!(shard_of(name, 1), 0, "{name}");
        }
    }

    #[test]
    fn group_of_a_name_never_changes() {
        let rows = [("orders", 0x09a7_c08a_u32), ("telemetry/cpu", 0x448b_787a), ("a", 0xc1d0_4330)];
        for (name, hash) in rows {
            assert_eq!(group_of(name, 7, 16), hash / 7 % 16, "{name}");
            assert_eq!(group_of(name, 1, 4), hash % 4, "{name}");
            assert_eq!(group_of(name, 7, 1), 0, "{name}");
        }
    }

    #[test]
    fn queues_of_a_shard_spread_over_its_groups() {
        let mut counts = [[0_u32; 4]; 4];
        for number in 0..16_000 {
            let name = format!("queue-{number}");
            counts[shard_of(&name, 4) as usize][group_of(&name, 4, 4) as usize] += 1;
        }
        assert!(counts.as_flattened().iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn names_are_short_plain_text() {
        let longest = "x".repeat(255);
        for name in ["a", "orders.eu:fast/1_2-3", &longest] {
            assert!(name_is_valid(name), "{name}");
        }
        let too_long = "x".repeat(256);
        for name in ["", "a b", "ä", "a\n", "a*", &too_long] {
            assert!(!name_is_valid(name), "{name}");
        }
    }
}
