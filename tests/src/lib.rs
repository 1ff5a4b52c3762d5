//! The simulator: the product's own code on virtual disks and in virtual time, everything drawn from one number.
//!
//! ```text
//! rng      the only source of chance; a seed is a run
//! world    what happens next, and when; a trace that two runs of one seed share
//! disk     one shard's directory, with everything a disk can do to it
//! log      a log alone: append, write, crash, recover, recycle
//! shard    a whole node: clients, queues, log and disk
//! cluster  several of them, and the network between
//! nemesis  a cluster of real processes, killed and stopped at random, with a history and its checker
//! checker  what a broker promised, and whether it kept it
//! ```
//!
//! Product code is never built differently for it. A planted bug is a lie of the surroundings: of the disk, or of the
//! code that carries outputs to it and answers back.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

pub mod checker;
pub mod cluster;
pub mod disk;
pub mod fuzz;
pub mod log;
pub mod nemesis;
pub mod process;
pub mod rng;
pub mod shard;
pub mod soak;
pub mod world;
