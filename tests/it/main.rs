//! Everything that is proved from outside the crates, in one program: one link instead of many.

#![allow(clippy::unwrap_used, reason = "all of it is tests: what cannot go on says where")]

mod tidy;
