//! core

pub mod config;
pub mod identity;
