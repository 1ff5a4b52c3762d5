//! A group's whole state on its way to a peer that cannot be helped with the log any more.
//!
//! Lives inside a group. The leader (`source`) sends an image of the state, part by part, and then the messages that it
//! names, in the order of the image; what it reads is frozen in its log meanwhile. The receiver (`target`) stores the
//! messages in its own log, lets the state name their new places, and writes that state down. All of this changes
//! nothing of what the receiver is. Then:
//!
//! ```text
//!  source                                             target
//!  Begin ─────────────────────────────────────────▶   forgets what it had staged
//!  Part 0 … Part n ───────────────────────────────▶   builds the state                ─▶ Ack
//!  Payloads 0 … n ────────────────────────────────▶   Staged records; durable         ─▶ Ack
//!                                                     Install records (parts); durable
//!  offers it to the engine of consensus   ◀───────────────────────────────────────────── Staged
//!  the engine's snapshot message ─────────────────▶   the engine takes it: one Install record (commit),
//!                                                     written with the engine's hard state, puts the staged
//!                                                     state in the place of the old one
//! ```
//!
//! A crash before the commit record leaves the old state, and what was staged is garbage that nothing names. A replay
//! that finds the commit record has read the parts before it: as long as something is staged, recovery begins there at
//! the latest (`first_record`).
//!
//! What the source says goes over a connection of its own (`peers::bulk`), and only while little waits there; what the
//! target says, and the engine's message, over the one for messages. A transfer ends with the connection it began on: what
//! was on its way may be lost, and the next one begins anew.

mod shard;
mod source;
mod target;

use crate::pace::WINDOW_BYTES_MAX;

pub(crate) use source::{Route, Source, Supply};
pub(crate) use target::{INSTALL_COMMIT, Target};

/// Frames of parts that may be unacknowledged.
const PARTS_IN_FLIGHT_MAX: u32 = 4;
/// Messages that came and that the target's log has no room for yet, but for a single larger one: the source's widest window.
const WAITING_BYTES_MAX: u64 = WINDOW_BYTES_MAX;
/// With so much unsent nothing is added: the peer or the way to it takes no more now.
const UNSENT_MAX: usize = 1 << 20;
/// Of messages in one frame, and in one record of the target, but for a single larger message.
const PAYLOADS_BYTES_MAX: usize = 256 << 10;
/// Frames that a turn sends: with somebody's publish under way some 100 µs of work, and then it is his turn; otherwise as
/// much as keeps disk and network busy until the next turn.
const FRAMES_PER_TURN_BUSY: u32 = 1;
const FRAMES_PER_TURN: u32 = 4;
/// So far ahead of what is sent the log is read, and so many reads are under way for it.
const AHEAD_BYTES_MAX: u64 = 4 << 20;
const READS_AHEAD_MAX: u32 = 4;
/// Neither side waits longer for the other.
const SILENCE_MAX_NS: u64 = 10_000_000_000;
