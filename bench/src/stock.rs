//! What messages cost that nobody fetches: memory while they are queued, time when a node starts on their log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::machine::on_core;
use crate::node::Node;
use crate::publisher::{Publisher, Shape};
use crate::site::Site;
use crate::table::{Cell, Table};

/// Memory before and after some messages were queued.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Queued {
    messages: u64,
    /// Of the process, beyond what it had when its caches were full.
    grown_bytes: u64,
}

impl Queued {
    pub(crate) fn bytes_per_message(&self) -> f64 {
        self.grown_bytes as f64 / self.messages as f64
    }
}

/// A start after a crash.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Restart {
    log_bytes: u64,
    messages: u64,
    elapsed: Duration,
}

impl Restart {
    /// As if the time grew with the log, which it should not.
    pub(crate) fn seconds_for(&self, log_bytes: u64) -> f64 {
        self.elapsed.as_secs_f64() * (log_bytes as f64 / self.log_bytes as f64).max(1.0)
    }
}

/// Small, but so large that the first of them fill the payload cache.
const SMALL: Shape = Shape { message_bytes: 128, batch: 1_000 };

/// These fill the payload cache (128 MiB unless the node is told otherwise) and all buffers.
const FILL_MESSAGES: u64 = 2_000_000;

/// Queues `messages` in a fresh node and looks at how its memory grows.
pub(crate) fn queue(site: &mut Site, messages: u64) -> Result<Queued> {
    eprintln!("queueing {messages} messages of {} B", SMALL.message_bytes);
    site.renew()?;
    let node = running(site)?;
    let access = site.access();
    on_core(access.core, || {
        let mut publisher = Publisher::connect(&access, "bench.queued", SMALL)?;
        publisher.fill(FILL_MESSAGES)?;
        let before = node.resident_bytes()?;
        let flow = publisher.fill(messages)?;
        let after = node.resident_bytes()?;
        publisher.finish()?;
        Ok(Queued { messages: flow.messages, grown_bytes: after.saturating_sub(before) })
    })
}

/// Writes `log_bytes` of messages into a fresh node, kills it, and takes the time until it serves again.
pub(crate) fn restart(site: &mut Site, log_bytes: u64, message_bytes: usize) -> Result<Restart> {
    eprintln!("writing {} GiB of log and restarting on it", log_bytes >> 30);
    site.renew()?;
    let shape = Shape { message_bytes, batch: (256 << 10) / message_bytes.min(256 << 10) };
    let messages = log_bytes / message_bytes as u64;
    let access = site.access();
    let flow = on_core(access.core, || {
        let mut publisher = Publisher::connect(&access, "bench.restart", shape)?;
        let flow = publisher.fill(messages)?;
        publisher.leave()?;
        Ok(flow)
    })?;
    site.kill();
    let directory = site.directory().ok_or_else(no_child)?;
    let written = bytes_below(directory).doing(|| format!("measuring {}", directory.display()))?;
    let elapsed = site.start()?;
    Ok(Restart { log_bytes: written, messages: flow.messages, elapsed })
}

fn running(site: &Site) -> Result<&Node> {
    site.node().ok_or_else(no_child)
}

fn no_child() -> Error {
    Error::new("looking at a node from outside", "it is not a child of this program")
}

fn bytes_below(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

pub(crate) fn table(queued: Option<Queued>, restart: Option<Restart>) -> Table {
    let title = "messages that stay: memory of the process, and a start after a crash";
    let columns = [("", "what"), ("messages", "messages"), ("MB", "bytes"), ("seconds", "seconds")];
    let mut table = Table::new("stock", title, &columns);
    if let Some(Queued { messages, grown_bytes }) = queued {
        let memory = Cell::Number(grown_bytes as f64 / 1e6);
        table.row(vec![Cell::text("memory"), Cell::Count(messages), memory, Cell::Missing]);
    }
    if let Some(Restart { log_bytes, messages, elapsed }) = restart {
        let (log, seconds) = (Cell::Number(log_bytes as f64 / 1e6), Cell::Number(elapsed.as_secs_f64()));
        table.row(vec![Cell::text("restart"), Cell::Count(messages), log, seconds]);
    }
    table
}
