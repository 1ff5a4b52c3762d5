//! The broker: joins the log, the groups and the wire.
//!
//! # One idea
//!
//! A shard is a function. Everything that can happen to one core's part of the broker is a [`shard::Input`];
//! everything it wants done is in [`shard::Output`]. Between them is synchronous code with one owner. The
//! runtime carries outputs to the kernel and inputs back; the simulator does it with virtual devices.
//!
//! ```text
//!   bytes ─▶ request ─▶ engine admits ─▶ batch ─▶ replica proposes ─▶ log ─▶ disk
//!                                                                            │ durable
//!   bytes ◀─ outbox ◀── receipts ◀───────────── replica commits ◀────────────┘
//!                  ◀── deliveries ◀─ dispatch ◀─ engine applies
//! ```
//!
//! # What holds
//!
//! - Nothing is answered as stored before its record is durable.
//! - A limit is never overshot: what does not fit is refused, or left in its sender's buffer.
//! - Bytes from a client or a disk never panic; a broken promise ends the process and says which.
//!
//! What is absent on purpose: a global; a lock outside `formation::exchange`; and a clock or a file outside it, `runtime`,
//! `node`, `identity`, `config` and `cli`.

// The command line calls this crate by its name, as any program around it does.
extern crate self as ringmain_core;

pub mod boot;
pub mod shard;

mod catch_up;
mod change;
mod checkpointer;
pub mod connection;
mod dispatch;
mod group;
mod late;
pub mod member;
mod membership;
mod notice;
mod outbox;
pub mod outgoing;
mod pace;
mod peering;
pub mod peers;
mod proposal;
mod readback;
mod reads;
mod received;
mod relocation;
mod reply;
mod request;
mod trail;
mod transfer;

pub mod checkpoint;
pub mod command;
pub mod engine;
pub mod error;
pub mod queue;
pub mod session;
pub mod time;

pub mod config;
pub mod failure;
pub mod formation;
pub mod identity;

pub mod node;
mod runtime;

pub mod cli;
