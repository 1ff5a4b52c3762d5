//! The client of a Ringmain cluster.
//!
//! Two ways in, with the same capability:
//!
//! - [`blocking`], for threads of one's own: nothing happens outside of your calls, nothing is allocated per message,
//!   and a waiting thread spins, yields or sleeps as you say ([`IdleStrategy`]).
//! - [`asynchronous`], for async programs on any runtime: futures, fed by one thread per client.
//!
//! ```no_run
//! use ringmain_client::{Message, QueueSettings, blocking::Client};
//! use std::time::Duration;
//!
//! let client = Client::builder().connect("127.0.0.1:7411")?;
//! client.create_queue("orders", &QueueSettings { priorities: 4, ..QueueSettings::default() })?;
//! let receipt = client.producer("orders")?.publish(&Message::new("buy").priority(3), Duration::from_secs(1))?;
//! let mut consumer = client.consumer("orders", 64)?;
//! while consumer.poll(64, |delivery| delivery.ack())? == 0 {
//!     client.idle();
//! }
//! client.close(Duration::from_secs(5))?;
//! # Ok::<(), ringmain_client::Error>(())
//! ```
//!
//! # What it promises
//!
//! - A [`Receipt`] means durable: on the disks of a majority.
//! - *Once*: what is in flight when a connection ends is sent again, in order, and stored once, because its session
//!   and sequence tell. Only if the session itself has expired meanwhile is the outcome uncertain, and then the error
//!   says so ([`Error::is_uncertain`]).
//! - *Ordered*: one producer's messages of one priority keep their order, with thousands of publishes in flight.
//! - *Bounded*: publishes and bytes without a receipt have limits ([`Builder::window`]), and so have deliveries (the
//!   consumer's credit). What does not fit is [`Error::Full`], never more memory.
//! - *Prompt*: nothing lingers. What piles up while a thread is busy leaves in one write, and nothing waits for more.
//! - *Alive*: a dead connection is noticed by its end, or by its silence ([`Builder::heartbeat`]), and what it served
//!   moves: producers, consumers and publishes in flight go to whichever node leads next. While there is none, a
//!   publisher sees delay and no errors: `offer` fills its window, and waits have deadlines of their own. [`Event`]
//!   tells.
//!
//! # How it finds its shard
//!
//! A cluster has nodes; each node has the same shards, each with a port of its own; each shard hosts groups of
//! replicas. A queue's name gives its shard and its group. One node at a time leads a group and serves its queues.
//!
//! Any shard tells where all nodes are. From then on the addresses that the client was given are no more than a last
//! resort. It dials the right shard of a node that it knows, one connection for all queues there, and if another node
//! leads, follows the redirect and remembers.
//!
//! When the leader is gone, that shard is dialled at all nodes side by side, so that a dead or unreachable node holds up
//! nobody. Those that answer are asked in turn, every few milliseconds, until one of them leads or knows who does.
//!
//! A connection that is needed no more, such as one to a follower that was asked for the leader, ends after 30 s. Those to
//! the leaders that were found stay, and one at least.
//!
//! Host names are looked up on helper threads, so that no call of yours waits for the name service longer than it says; an IP
//! address needs none.
//!
//! # Parts
//!
//! The state machine (`machine`) knows no socket, thread or clock; `driver` gives it sockets; the two modules above
//! give it a face.

pub mod asynchronous;
pub mod blocking;
mod cluster;
mod driver;
mod error;
mod event;
mod machine;
mod message;
mod options;
mod receipt;
mod resolver;

pub use cluster::{Change, Cluster, ClusterStatus, GroupStatus, MemberStatus, NodeStatus};
pub use error::{Code, Error};
pub use event::Event;
pub use machine::settler::Lease;
pub use message::Message;
pub use options::{Builder, IdleStrategy};
pub use receipt::{Completion, Receipt, Sequence};
pub use ringmain_net::protocol::{LevelInfo, MemberState, QueueInfo, QueueSettings};
