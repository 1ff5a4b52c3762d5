//! What comes back for what was published.

use std::fmt;
use std::time::Duration;

use crate::error::Error;

/// The number of a publish within its producer: 1 is the first, and each publish, single or batch, has the next.
///
/// For a named producer it goes on where the previous process of that name stopped.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Proof that a publish is durable: on the disks of a majority of its group's replicas.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which publish.
    pub sequence: Sequence,
    /// How many messages it carried.
    pub messages: u32,
    /// Where it is in the replicated log: group, term and index of the entry that holds it, or of a later one that
    /// was committed with it.
    pub group: u32,
    pub term: u64,
    pub index: u64,
    /// An earlier try of this publish had been stored already, before a connection was lost. It is stored once.
    pub duplicate: bool,
    /// From `offer` to the receipt's arrival in this client.
    pub round_trip: Duration,
    /// In the shard, from received to proposed; microseconds' resolution.
    pub waited: Duration,
    /// In the shard, from proposed to on disk at a majority; microseconds' resolution.
    pub durable: Duration,
}

/// What became of one publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which publish.
    pub sequence: Sequence,
    /// How many messages it carried.
    pub messages: u32,
    /// The receipt, or why nothing of the publish was stored — unless [`Error::is_uncertain`].
    pub result: Result<Receipt, Error>,
}
