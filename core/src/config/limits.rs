//! Every bound of one shard of the broker, each with the sum that derives it. What is per shard says so: a node has
//! `shards` times as much.

use ringmain_net::peer::Lane;
use serde::Deserialize;

use super::nodes::NODES_MAX;
use super::quantity::{Bytes, Period};

/// The page of the log: the unit of every write and read of the disk.
const PAGE_BYTES: u64 = 4096;
/// Beside its message, a frame holds the frame header, the archive, and the message's key and headers.
const FRAME_OVERHEAD_BYTES: u64 = 64 << 10;
/// A frame that holds many small messages may be this large, however small the largest message is.
const FRAME_BYTES_MAX_LEAST: u64 = 4 << 20;
/// A message is parsed and kept whole; beyond this a queue is the wrong tool.
pub const MESSAGE_BYTES_MAX_MOST: u64 = 16 << 20;
/// Beside one frame's messages, an entry holds the heads of its commands, and its record a header and padding.
const ENTRY_OVERHEAD_BYTES: u64 = 64 << 10;
/// A segment holds a header page and some of the largest entries, so that the room lost at its end stays a small part of it.
const ENTRIES_PER_SEGMENT_LEAST: u64 = 2;
/// An offset in a segment fits 32 bits with room to spare.
const SEGMENT_BYTES_MOST: u64 = 1 << 30;

const LANES: u32 = Lane::Bulk as u32 + 1;
/// Connections to peers that one shard dials at a time: one in each lane to each of 7 nodes.
pub(crate) const DIALS_MAX: u32 = NODES_MAX as u32 * LANES;
/// Connections of one shard with its peers: dialled here, and dialled there: 2 × 14.
pub(crate) const PEERS_MAX: u32 = 2 * DIALS_MAX;
/// Connections of one shard that have not said who they are, or are hearing why they end, when every other seat is taken.
/// Then whoever comes takes the seat of the oldest of them. A flood passes through these seats in turn, a batch of
/// `CUT_MAX` at a time, and a hello that comes with its connection is read long before it is its turn.
pub(crate) const STRANGERS_MAX: u32 = 64;
/// Connections of one shard whose seat is taken from them and whose descriptor is not closed yet. Whoever comes then waits
/// in the kernel, for no longer than it takes to close one.
pub(crate) const CUT_MAX: u32 = 16;

/// The bounds of one shard. `Limits::default()` is what a node without a `[limits]` section uses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Key, headers and payload of one message.
    pub message_bytes_max: Bytes,
    /// Clients of one shard. Each holds a receive buffer of 16 KiB at rest: 4096 × 16 KiB = 64 MiB. Peers have seats of
    /// their own, which no crowd of clients or strangers takes.
    pub connections_max: u32,
    /// Messages of one shard, ready and in flight: 16,777,216 × 64 B = 1 GiB beside the payloads.
    pub messages_max: u64,
    /// Recent payloads that are served from memory, per shard; older ones are read from the log.
    pub cache_bytes_max: Bytes,
    /// Recent entries of one group in memory, for followers that are a little behind; 8 times as much while one of them is
    /// sent a checkpoint. Three groups of a shard: 3 × 32 MiB.
    pub entries_bytes_max: Bytes,
    /// Entries of one group whose places in the log are remembered, for followers that lack more than is in memory:
    /// 1,048,576 × 16 B = 16 MiB. A group that makes 10,000 entries a second remembers 100 seconds.
    pub entries_remembered_max: u32,
    /// Log of one shard that is kept for followers that are behind where nothing else needs it: 1 GiB on its disk, two seconds
    /// of a disk that takes 500 MB/s. Whoever lacks more may have to be sent a checkpoint.
    pub catch_up_bytes_max: Bytes,
    /// One file of the log. Fixed when the data directory is made.
    pub segment_bytes: Bytes,
    /// Durable writes of one shard on their way to the device. Two keep the device busy while the next write is filled; four
    /// cover the jitter of a network disk.
    pub writes_in_flight_max: u32,
    /// Bytes of log between two checkpoints. A start reads at most twice as much: 2 × 256 MiB at 1 GB/s = half a second.
    pub checkpoint_bytes: Bytes,
    /// From the connection to its first whole frame; a peer that says nothing is not kept.
    pub hello_timeout: Period,
    /// From a frame's first byte to its last.
    pub frame_timeout: Period,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: Bytes(1 << 20),
            connections_max: 4096,
            messages_max: 16_777_216,
            cache_bytes_max: Bytes(128 << 20),
            entries_bytes_max: Bytes(32 << 20),
            entries_remembered_max: 1 << 20,
            catch_up_bytes_max: Bytes(1 << 30),
            segment_bytes: Bytes(64 << 20),
            writes_in_flight_max: 4,
            checkpoint_bytes: Bytes(256 << 20),
            hello_timeout: Period(std::time::Duration::from_secs(5)),
            frame_timeout: Period(std::time::Duration::from_secs(30)),
        }
    }
}

impl Limits {
    /// The longest frame: room for the largest message, and never less than 4 MiB so that small messages travel in large batches.
    pub fn frame_bytes_max(&self) -> u32 {
        let bytes = FRAME_BYTES_MAX_LEAST.max(self.message_bytes_max.0 + FRAME_OVERHEAD_BYTES);
        u32::try_from(bytes).expect("a message is at most 16 MiB, which `refusal` has checked")
    }

    /// Connections of one shard, whoever is at the other end.
    pub(crate) fn seats_max(&self) -> u32 {
        self.connections_max + PEERS_MAX + STRANGERS_MAX
    }

    /// The longest entry. A frame is stored wholly or not at all, so an entry has room for one.
    pub fn entry_bytes_max(&self) -> u64 {
        u64::from(self.frame_bytes_max()) + ENTRY_OVERHEAD_BYTES
    }

    /// One durable write has room for the largest entry.
    pub fn write_bytes_max(&self) -> u64 {
        (self.entry_bytes_max() + ENTRY_OVERHEAD_BYTES).next_multiple_of(PAGE_BYTES)
    }

    /// Why these bounds cannot hold together, in the words of the configuration file.
    pub(crate) fn refusal(&self) -> Option<String> {
        if self.message_bytes_max.0 == 0 || self.message_bytes_max.0 > MESSAGE_BYTES_MAX_MOST {
            return Some(format!(
                "message_bytes_max is {}, and must be between 1 B and {}",
                self.message_bytes_max,
                Bytes(MESSAGE_BYTES_MAX_MOST)
            ));
        }
        for (name, value, least, most) in [
            ("connections_max", u64::from(self.connections_max), 1, 65_536),
            ("messages_max", self.messages_max, 1, 1 << 32),
            ("entries_remembered_max", u64::from(self.entries_remembered_max), 1, 1 << 26),
            ("writes_in_flight_max", u64::from(self.writes_in_flight_max), 1, 64),
        ] {
            if value < least || value > most {
                return Some(format!("{name} is {value}, and must be between {least} and {most}"));
            }
        }
        self.byte_refusal()
    }

    fn byte_refusal(&self) -> Option<String> {
        let segment_bytes_least =
            (PAGE_BYTES + ENTRIES_PER_SEGMENT_LEAST * self.write_bytes_max()).next_power_of_two();
        let most = 1 << 40;
        for (name, value, least, most) in [
            ("segment_bytes", self.segment_bytes, segment_bytes_least, SEGMENT_BYTES_MOST),
            ("cache_bytes_max", self.cache_bytes_max, self.entry_bytes_max(), most),
            ("entries_bytes_max", self.entries_bytes_max, 1 << 20, most),
            ("catch_up_bytes_max", self.catch_up_bytes_max, 0, most),
            ("checkpoint_bytes", self.checkpoint_bytes, 1 << 20, most),
        ] {
            if value.0 < least || value.0 > most {
                return Some(format!(
                    "{name} is {value}, and must be between {} and {}",
                    Bytes(least),
                    Bytes(most)
                ));
            }
        }
        // A position divides into segment and offset by its bits.
        if !self.segment_bytes.0.is_power_of_two() {
            let next = Bytes(self.segment_bytes.0.next_power_of_two());
            return Some(format!(
                "segment_bytes is {}, and must be a power of two: {next}",
                self.segment_bytes
            ));
        }
        for (name, period) in [("hello_timeout", self.hello_timeout), ("frame_timeout", self.frame_timeout)] {
            if period.0.is_zero() || period.0.as_secs() > 3_600 {
                return Some(format!("{name} is {period}, and must be between 1 ms and 1 h"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_together() {
        assert_eq!(Limits::default().refusal(), None);
        assert_eq!(Limits::default().frame_bytes_max(), 4 << 20);
    }

    #[test]
    fn the_largest_message_fits_everywhere() {
        let limits = Limits { message_bytes_max: Bytes(MESSAGE_BYTES_MAX_MOST), ..Limits::default() };
        assert!(u64::from(limits.frame_bytes_max()) > MESSAGE_BYTES_MAX_MOST);
        assert!(limits.write_bytes_max() > limits.entry_bytes_max());
        assert_eq!(limits.refusal(), None);
    }

    #[test]
    fn a_segment_is_a_power_of_two() {
        let limits = Limits { segment_bytes: Bytes(100 << 20), ..Limits::default() };
        let refusal = limits.refusal().unwrap();
        assert_eq!(refusal, "segment_bytes is 100 MiB, and must be a power of two: 128 MiB");
    }

    #[test]
    fn a_bound_out_of_range_is_refused_by_its_name() {
        let limits = Limits { connections_max: 0, ..Limits::default() };
        assert_eq!(limits.refusal().unwrap(), "connections_max is 0, and must be between 1 and 65536");
        let limits = Limits { segment_bytes: Bytes(1 << 20), ..Limits::default() };
        assert!(limits.refusal().unwrap().starts_with("segment_bytes is 1 MiB, and must be between "));
    }
}
