//! The broker, as a library: joins the log, the groups and the wire.

pub mod config;
pub mod identity;

pub mod time;

pub mod command;
pub mod engine;
pub mod queue;
pub mod session;

pub mod checkpoint;
pub mod error;
