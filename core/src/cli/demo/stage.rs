//! What every thread of the demo shares: one clock, one channel towards the thread that keeps the ledger, and the word to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flume::Sender;

use super::standing::Standing;
use super::telemetry::Topic;
use super::verdict::{Counts, Event};

/// Happenings that wait for the ledger: a second's worth at ten times the demo's rate, in about 4 MB.
pub(super) const HAPPENINGS_MAX: usize = 32_768;

/// Everything that the thread with the ledger is told.
pub(super) enum Happening {
    Message(Event),
    /// A node is about to be killed that leads these queues.
    Killed {
        node: u32,
        leads: Vec<Topic>,
        at: u64,
    },
    /// None of its threads runs any more.
    Gone {
        at: u64,
    },
    /// It is started again, on the same data.
    Restarting {
        at: u64,
    },
    /// It serves again.
    Restarted {
        at: u64,
    },
    Counted(Vec<Counts>),
    Standing(Standing),
    ProducerEnded,
    ConsumerEnded,
    /// The demo cannot go on.
    Failed(String),
}

pub(super) struct Stage {
    origin: Instant,
    happenings: Sender<Happening>,

    producers_stop: AtomicBool,
    consumers_stop: AtomicBool,
}

impl Stage {
    pub(super) fn new(happenings: Sender<Happening>) -> Self {
        let origin = Instant::now();
        Self {
            origin,
            happenings,
            producers_stop: AtomicBool::new(false),
            consumers_stop: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the demo began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a demo is shorter than 584 years")
    }

    pub(super) fn tell(&self, happening: Happening) {
        // Once the ledger is closed there is nobody left to tell.
        let _ = self.happenings.send(happening);
    }

    pub(super) fn stop_producers(&self) {
        self.producers_stop.store(true, Ordering::Relaxed);
    }

    /// Consumers, and whoever else watches, end after the producers.
    pub(super) fn stop_consumers(&self) {
        self.producers_stop.store(true, Ordering::Relaxed);
        self.consumers_stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn producers_stopped(&self) -> bool {
        self.producers_stop.load(Ordering::Relaxed)
    }

    pub(super) fn consumers_stopped(&self) -> bool {
        self.consumers_stop.load(Ordering::Relaxed)
    }
}
