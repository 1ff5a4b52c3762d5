//! What happens to connections, for those who want to see it.

use std::fmt;

/// A change that the client copes with by itself. Kept are the last 256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A shard is connected and has welcomed us.
    Connected { address: String, node: u32, shard: u32 },
    /// A connection ended or could not be made; it is tried again until the client closes.
    Lost { address: String, reason: String },
    /// A queue is said to be served elsewhere; its producer or consumer asks there.
    Moved { queue: String, address: String },
    /// What was in flight at the loss of a connection was sent again.
    Resent { queue: String, publishes: u64 },
    /// A producer's session had expired; it goes on with a new one.
    SessionReopened { queue: String },
    /// The shard counted leases that had ended before their messages were settled.
    Stale { queue: String, messages: u32 },
    /// A producer or consumer cannot go on; its calls answer with this reason.
    Failed { queue: String, reason: String },
    /// A connection said nothing for longer than a ping should take; it is being replaced.
    Silent { address: String },
    /// Deliveries were dropped without being settled; they were returned to their queue.
    Unsettled { queue: String, messages: u64 },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { address, node, shard } => {
                write!(f, "connected to {address}: node {node}, shard {shard}")
            }
            Self::Lost { address, reason } => write!(f, "connection to {address} lost: {reason}"),
            Self::Moved { queue, address } => write!(f, "queue {queue} is served by {address}"),
            Self::Resent { queue, publishes } => write!(f, "queue {queue}: {publishes} publishes sent again"),
            Self::SessionReopened { queue } => {
                write!(f, "queue {queue}: the session had expired, opened anew")
            }
            Self::Stale { queue, messages } => {
                write!(f, "queue {queue}: {messages} messages settled after their lease")
            }
            Self::Failed { queue, reason } => write!(f, "queue {queue}: {reason}"),
            Self::Silent { address } => write!(f, "{address} is silent"),
            Self::Unsettled { queue, messages } => {
                write!(f, "queue {queue}: {messages} deliveries dropped unsettled, returned")
            }
        }
    }
}
