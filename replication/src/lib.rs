//! One replicated group, driven as a pure state machine around the engine of the `raft` crate.
//!
//! A [`Replica`] is this node's member of one group. It lives on the thread of its shard and is called by nobody
//! else. It knows no clock, file, socket or source of randomness: ticks, messages and finished writes are inputs,
//! and everything it wants done comes out of [`Replica::drive`] as [`Effects`]. What it may be asked, in the order
//! of one turn:
//!
//! ```text
//! propose(batch)      one group-commit batch = one entry; answers the (term, index) it will have if it commits
//! on_message(message) from a peer
//! tick()              every 20 ms
//! on_persisted(token) every write up to this one is on the disk
//! drive(&mut effects) after any of these:
//!     writes     to be appended to the log of the shard in this order; durable → on_persisted, in this order
//!     messages   to be sent to peers at once: whatever had to wait for the disk has waited already
//!     committed  everything proposed in this term up to this index is on the disks of a majority: acknowledge it
//!     apply      committed entries, for the state machine; each exactly once per life of the process
//!     role       who leads now
//! ```
//!
//! Invariants: applied ≤ min(committed, persisted) · persisted ≤ last index · an acknowledgement or a vote leaves
//! only after everything written before it is durable · every record carries the hard state of its moment · the
//! election timeout is a function of (seed, id, term, role), never of chance.
//!
//! What the caller must keep: writes become durable in order (after a crash, a prefix of them is there);
//! [`Write::hard_state_at`] goes into the record of each entry; `apply` is drained before the next checkpoint is
//! taken, so that [`Replica::conf_state`] and the state machine speak of the same index.
//!
//! Absent: the transport (frames, connections, retries), reading old entries back from the disk for a follower far
//! behind, and the transfer of a checkpoint to such a follower. Until they exist a snapshot message is refused.

mod effects;
mod entry;
mod error;
mod log;
mod membership;
mod message;
mod plain;
mod replica;
mod restored;

pub use effects::{Effects, Role, RoleChange, Write};
pub use entry::{Entry, EntryKind};
pub use error::{Error, Refusal};
pub use message::{Message, MessageError};
pub use plain::{Kind, Plain, PlainSnapshot};
pub use replica::{
    Install, Offer, Members, Progress, membership_context, checkpoint_named,
    ELECTION_TICKS, ENTRY_BYTES_OVERHEAD, HEARTBEAT_TICKS, LOG_BYTES_MAX, Options, Replica,
    UNCOMMITTED_BYTES_MAX,
};
pub use restored::Restored;
pub use ringmain_wal::{GroupId, HardState, Index, Term};

#[cfg(test)]
mod simulation;
