//! Whether the other nodes can do without this one, as durable knowledge: it decides what becomes of a rotten log.
//!
//! Node view, one file for each shard. It is there while in every group of the shard the voters on other nodes are a
//! majority by themselves: then they have all that was ever acknowledged, and one of them can lead and send it. Where it is
//! not there, this log may be the only one, or one without which nobody leads; it stays where it is.
//!
//! Order that matters: the file is gone, durably, before anything leaves the shard that the smaller membership has led to.
//! 1. Of two nodes one is removed, and what the other one has on its disk is a majority from now on.
//! 2. It acknowledges a message that nobody else has, and crashes; a part of its log rots.
//! 3. With the file, the next start would set that log aside and wait for others, of which there are none.
//!
//! That it comes later than it could is harmless.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{IdentityError, system};

/// What is known of one shard.
#[derive(Debug)]
pub(crate) struct Spared {
    directory: PathBuf,
    path: PathBuf,

    /// By this process: a file that an earlier one made or removed may not be durable.
    recorded: Option<bool>,
}

impl Spared {
    pub(super) fn new(directory: &Path, shard: u32) -> Self {
        let path = directory.join(format!("spared-{shard:04}"));
        Self { directory: directory.to_owned(), path, recorded: None }
    }

    pub(super) fn holds(&self) -> bool {
        self.path.exists()
    }

    /// Returns once it is durable. It blocks, once at the start and for the rare change of the members that matters.
    pub(crate) fn record(&mut self, is_spared: bool) -> Result<(), IdentityError> {
        if self.recorded == Some(is_spared) {
            return Ok(());
        }
        let written = if is_spared { self.make() } else { self.remove() };
        written.map_err(system(&self.path, "recording whether other nodes can do without this one"))?;
        self.recorded = Some(is_spared);
        Ok(())
    }

    fn make(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        file.write_all(b"Without this node the others are a majority, and have all of this shard's log.\n")?;
        file.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.directory)?.sync_all(),
        }
    }
}
