//! What a disk itself does to small durable writes while a stream goes on beside them: what publishers notice of a catch-up
//! can be no less.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::disk::{Cursor, ScratchFile, expect_whole, transfer_one};
use crate::error::{Doing, Result};
use crate::kernel::{self, Operation, PAGE_BYTES, Ring, Span, Transfer};
use crate::latencies::Latencies;
use crate::machine::{Cores, pin};
use crate::pacing::Schedule;

/// So many bytes a second, and what is done with them.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Load {
    pub(crate) bytes_per_second: f64,
    /// What was read is written durably elsewhere in the file.
    pub(crate) is_copied: bool,
}

/// Latencies of durable writes of a page at this rate, from when each was due.
pub(crate) struct Beside {
    pub(crate) alone: Latencies,
    pub(crate) with_load: Latencies,
}

impl Beside {
    /// How many times as long the slowest hundredth takes at least.
    pub(crate) fn slowdown(&self) -> f64 {
        self.with_load.quantile(0.99) as f64 / self.alone.quantile(0.99) as f64
    }
}

const RESTS: Duration = Duration::from_secs(3);

pub(crate) fn measure(file: &ScratchFile, cores: Cores, schedule: Schedule, load: Load) -> Result<Beside> {
    // A disk that grants so much in a while is asked again when it has forgotten what was before.
    std::thread::sleep(RESTS);
    let alone = on_client_core(file, cores, schedule)?;
    let ends = AtomicBool::new(false);
    let (with_load, streamed) = std::thread::scope(|scope| {
        let stream = scope.spawn(|| pin(cores.server).and_then(|()| stream(file, load, &ends)));
        let writes = on_client_core(file, cores, schedule);
        ends.store(true, Ordering::Relaxed);
        let streamed = stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (writes, streamed)
    });
    streamed?;
    Ok(Beside { alone, with_load: with_load? })
}

fn on_client_core(file: &ScratchFile, cores: Cores, schedule: Schedule) -> Result<Latencies> {
    crate::machine::on_core(cores.client, || write(file, schedule))
}

fn write(file: &ScratchFile, schedule: Schedule) -> Result<Latencies> {
    kernel::set_timers_exact().doing(|| "setting the timer slack".to_owned())?;
    let mut ring = file.ring(1, PAGE_BYTES)?;
    let mut cursor = Cursor::new(file.bytes());
    let mut latencies = Latencies::new();
    let started = Instant::now();
    for number in 0..schedule.messages {
        let due_at = started + Duration::from_nanos(schedule.due_at(number));
        std::thread::sleep(due_at.saturating_duration_since(Instant::now()));
        let offset = cursor.take(PAGE_BYTES);
        transfer_one(&mut ring, Transfer::WriteDurable { offset }, Span { start: 0, bytes: PAGE_BYTES })?;
        if schedule.is_measured(number) {
            latencies.record_duration(due_at.elapsed());
        }
    }
    Ok(latencies)
}

/// Blocks at the pace of the load until it is told to end.
fn stream(file: &ScratchFile, load: Load, ends: &AtomicBool) -> Result<()> {
    const BLOCK_BYTES: usize = 256 << 10;
    const DEPTH: u64 = 4;
    let mut ring = file.ring(DEPTH as u32, BLOCK_BYTES * DEPTH as usize)?;
    let half = file.bytes() / 2;
    let mut cursor = Cursor::new(half);
    // Where the block of each slot goes once it was read; the others are free.
    let mut targets = [None; DEPTH as usize];
    let mut free: Vec<u64> = (0..DEPTH).collect();
    let each = Duration::from_secs_f64(BLOCK_BYTES as f64 / load.bytes_per_second);
    let mut due_at = Instant::now();
    let push = |ring: &mut Ring, transfer, slot: u64| {
        let span = Span { start: slot as usize * BLOCK_BYTES, bytes: BLOCK_BYTES };
        ring.push(Operation { transfer, file: 0, span, tag: slot });
    };
    while !ends.load(Ordering::Relaxed) || ring.in_flight() > 0 {
        let now = Instant::now();
        if due_at <= now
            && !ends.load(Ordering::Relaxed)
            && let Some(slot) = free.pop()
        {
            let offset = cursor.take(BLOCK_BYTES);
            targets[slot as usize] = load.is_copied.then_some(half + offset);
            push(&mut ring, Transfer::Read { offset }, slot);
            // What could not be done in time is not made up for.
            due_at = (due_at + each).max(now - each);
            continue;
        }
        if ring.in_flight() == 0 {
            std::thread::sleep(due_at.saturating_duration_since(now));
            continue;
        }
        ring.submit_and_wait(1).doing(|| "submitting to io_uring".to_owned())?;
        while let Some(completion) = ring.next_completion() {
            expect_whole(completion.result, BLOCK_BYTES, Transfer::Read { offset: 0 })?;
            match targets[completion.tag as usize].take() {
                Some(offset) => push(&mut ring, Transfer::WriteDurable { offset }, completion.tag),
                None => free.push(completion.tag),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowdown_is_of_the_slowest_hundredth() {
        let latencies = |slow_ns| {
            let mut latencies = Latencies::new();
            (0..1_000).for_each(|nth| latencies.record(if nth < 950 { 100_000 } else { slow_ns }));
            latencies
        };
        let beside = Beside { alone: latencies(200_000), with_load: latencies(800_000) };
        assert!((3.9..4.1).contains(&beside.slowdown()));
    }
}
