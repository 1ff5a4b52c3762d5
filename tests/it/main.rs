//! Everything that is proved from outside the crates, in one program: one link instead of many.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

mod cluster;
mod data;
mod fuzz;
mod input;
mod peer;
mod process;
mod raw;
mod seats;
mod space;
mod tidy;

use ringmain_tests::fuzz::allocation::Counting;

/// The fuzz targets are asked what they hold.
#[global_allocator]
static ALLOCATOR: Counting = Counting;
