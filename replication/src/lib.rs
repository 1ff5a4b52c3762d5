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
//! tick()              every 25 ms
//! on_persisted(token) every write up to this one is on the disk
//! read_index(number)   asks whether this replica still leads; the answer is among `reads`
//! drive(&mut effects) after any of these:
//!     writes     to be appended to the log of the shard in this order; durable → on_persisted, in this order
//!     messages   to be sent to peers at once: whatever had to wait for the disk has waited already
//!     committed  everything proposed in this term up to this index is on the disks of a majority: acknowledge it
//!     apply      committed entries, for the state machine; each exactly once per life of the process
//!     reads      numbers of `read_index`, each with what must be applied before the state is told
//!     role       who leads now
//! lacking()           who is to be sent entries that are not in memory any more
//! on_read_back(to, entries)   they were read back from the log of the shard
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
//! Entries leave memory while followers may still need them. What the caller's log has of them it says with
//! [`Replica::set_readable_from`], and reads back for those whom [`Replica::lacking`] names.
//!
//! A follower that lacks entries which cannot be read back either is named by [`Replica::checkpoint_wanted`]. The caller
//! brings it a checkpoint by a way of its own; once that is durable there it is offered to the engine, whose message then
//! tells the follower to continue from it ([`Write::install`]).
//!
//! Absent: the transport (frames, connections, retries), the bytes of a checkpoint, and where an entry lies on the disk.

mod checkpoint;
mod effects;
mod entry;
mod error;
mod log;
mod membership;
mod message;
mod plain;
mod progress;
mod read_back;
mod replica;
mod restored;
mod terms;

pub use checkpoint::{Install, Offer, checkpoint_named};
pub use effects::{Effects, Role, RoleChange, Write};
pub use entry::{Entry, EntryKind};
pub use error::{Error, Refusal};
pub use membership::membership_context;
pub use message::{Message, MessageError, is_handover, speaks_of_entries};
pub use plain::{Kind, Plain, PlainSnapshot};
pub use progress::{Members, Progress};
pub use read_back::Lacking;
pub use replica::{
    ELECTION_RANKS, ELECTION_TICKS, ENTRY_BYTES_OVERHEAD, HEARTBEAT_TICKS, LOG_BYTES_MAX, LOG_HELD_FACTOR,
    LOG_KEPT_SHARE, Options, Replica, UNCOMMITTED_BYTES_MAX,
};
pub use restored::Restored;
pub use ringmain_wal::{GroupId, HardState, Index, Term};
pub use terms::Terms;

#[cfg(test)]
mod simulation;
