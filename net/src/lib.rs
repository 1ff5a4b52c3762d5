//! The wire: what the bytes between a client and a shard mean.
//!
//! A connection carries *frames* in both directions. [`frame`] cuts a byte stream into frames and builds
//! them, [`protocol`] says what a frame of each kind means, [`route`] which shard a queue lives on, and
//! [`headers`] how the headers that users attach to a message are laid out. All of that is pure: bytes in,
//! views and bytes out, no clock, no file, no socket. The socket itself is one file apart, behind the
//! feature `socket`.
//!
//! What holds everywhere here:
//!
//! - Bytes from outside never panic. They become a [`FrameError`] and the connection that sent them closes.
//! - A limit is checked before anything is allocated for what it limits. Decoding a request allocates only
//!   for queue settings and lists, and never more than a small multiple of the bytes received.
//! - Archives are read in place with checked access; payloads are borrowed from the receive buffer.
//! - The layout of every frame is written down in bytes in [`protocol`] and pinned by golden-byte tests.
//!
//! Not here: retries, sessions, windows (the client crate), queues and their limits (the core crate).

mod archive;
pub mod frame;
pub mod headers;
pub mod peer;
pub mod protocol;
pub mod route;
#[cfg(feature = "socket")]
pub mod socket;

pub use frame::{Frame, FrameError};
