//! What a broker says of a queue, and what it may say.

use std::collections::BTreeMap;

use super::{Checker, Lease, Stored, Violation};

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub ready: u64,
    pub ready_bytes: u64,
    pub in_flight: u64,
    pub in_flight_bytes: u64,
}

/// By priority; those with nothing in them may be left out.
pub type LevelCounts = BTreeMap<u8, Counts>;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Bounds {
    low: Counts,
    high: Counts,
    /// Ready and in flight together.
    total: (u64, u64),
}

impl Checker {
    /// Answers whether there was only one truth.
    pub fn counted(&self, queue: u64, levels: &LevelCounts) -> Result<bool, Violation> {
        let bounds = self.bounds(queue);
        let mut is_exact = true;
        for priority in bounds.keys().chain(levels.keys()) {
            let expected = bounds.get(priority).copied().unwrap_or_default();
            let found = levels.get(priority).copied().unwrap_or_default();
            is_exact &= expected.low == expected.high;
            let total = found.ready + found.in_flight;
            let is_right = within(found, expected) && (expected.total.0..=expected.total.1).contains(&total);
            if !is_right {
                return Err(format!(
                    "exact: queue {queue}, priority {priority} counts {found:?}, it should be {expected:?}"
                ));
            }
        }
        Ok(is_exact)
    }

    /// Consumers of a queue that the broker has told so.
    pub fn consumers(&self, queue: u64) -> u64 {
        self.consumers.values().filter(|consumer| consumer.queue == queue).count() as u64
    }

    fn bounds(&self, queue: u64) -> BTreeMap<u8, Bounds> {
        let mut levels: BTreeMap<u8, Bounds> = BTreeMap::new();
        let live = self.queues.get(&queue).into_iter().flat_map(|queue| &queue.live);
        for message in live.map(|id| &self.messages[id]) {
            let is_sure = match message.stored {
                Stored::OnItsWay { .. } | Stored::Gone | Stored::Refused => continue,
                Stored::Perhaps | Stored::PerhapsGone => false,
                Stored::Surely => true,
            };
            let bytes = message.offer.bytes;
            let Bounds { low, high, total } = levels.entry(message.offer.priority).or_default();
            let (may_wait, may_be_held) = match message.lease {
                Lease::None => (true, false),
                Lease::Held { .. } | Lease::Settling { .. } => (false, true),
                Lease::Returning { .. } => (true, true),
            };
            if may_wait {
                (high.ready, high.ready_bytes) = (high.ready + 1, high.ready_bytes + bytes);
                if is_sure && !may_be_held {
                    (low.ready, low.ready_bytes) = (low.ready + 1, low.ready_bytes + bytes);
                }
            }
            if may_be_held {
                (high.in_flight, high.in_flight_bytes) = (high.in_flight + 1, high.in_flight_bytes + bytes);
                if is_sure && !may_wait {
                    (low.in_flight, low.in_flight_bytes) = (low.in_flight + 1, low.in_flight_bytes + bytes);
                }
            }
            *total = (total.0 + u64::from(is_sure), total.1 + 1);
        }
        levels
    }
}

fn within(found: Counts, Bounds { low, high, .. }: Bounds) -> bool {
    [
        (low.ready, found.ready, high.ready),
        (low.ready_bytes, found.ready_bytes, high.ready_bytes),
        (low.in_flight, found.in_flight, high.in_flight),
        (low.in_flight_bytes, found.in_flight_bytes, high.in_flight_bytes),
    ]
    .iter()
    .all(|(low, found, high)| low <= found && found <= high)
}
