//! Outcomes of messages, joined into runs before they are sent.

use ringmain_net::protocol::{Outcome, SettleRun};

/// What settles a message: its place in the queue and which delivery of it is meant.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which connection's delivery: another one's leases have ended with it.
    pub(crate) generation: u64,
    pub(crate) sequence: u64,
    pub(crate) deliveries: u16,
    pub(crate) priority: u8,
}

/// How far back an outcome is joined to a run: deliveries alternate between a few priorities at a time.
const RUNS_OPEN: usize = 4;

/// The outcomes of one consumer that are not sent yet. Bounded by its credit: a message is settled once.
#[derive(Debug, Default)]
pub(crate) struct Settler {
    runs: Vec<SettleRun>,
}

impl Settler {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }

    pub(crate) fn runs(&self) -> &[SettleRun] {
        &self.runs
    }

    pub(crate) fn push(&mut self, lease: Lease, outcome: Outcome) {
        let open = self.runs.len().saturating_sub(RUNS_OPEN);
        for run in self.runs[open..].iter_mut().rev() {
            let next = run.sequence.checked_add(u64::from(run.count)) == Some(lease.sequence);
            let alike = run.priority == lease.priority && run.outcome == outcome;
            if next && alike && run.deliveries == lease.deliveries && run.count < u32::MAX {
                run.count += 1;
                return;
            }
        }
        let Lease { sequence, deliveries, priority, .. } = lease;
        self.runs.push(SettleRun { sequence, count: 1, deliveries, priority, outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(priority: u8, sequence: u64, deliveries: u16) -> Lease {
        Lease { generation: 1, sequence, deliveries, priority }
    }

    #[test]
    fn acknowledgements_in_a_row_become_one_run() {
        let mut settler = Settler::default();
        for sequence in 10..1010 {
            settler.push(lease(0, sequence, 1), Outcome::Ack);
        }
        let run = SettleRun { sequence: 10, count: 1000, deliveries: 1, priority: 0, outcome: Outcome::Ack };
        assert_eq!(settler.runs(), [run]);
    }

    #[test]
    fn alternating_priorities_still_join() {
        let mut settler = Settler::default();
        for sequence in 0..100 {
            settler.push(lease(3, sequence, 1), Outcome::Ack);
            settler.push(lease(1, sequence, 1), Outcome::Ack);
        }
        let counts: Vec<_> = settler.runs().iter().map(|run| (run.priority, run.count)).collect();
        assert_eq!(counts, [(3, 100), (1, 100)]);
    }

    #[test]
    fn what_differs_is_not_joined() {
        let mut settler = Settler::default();
        settler.push(lease(0, 1, 1), Outcome::Ack);
        settler.push(lease(0, 2, 2), Outcome::Ack);
        settler.push(lease(0, 2, 1), Outcome::Nack);
        settler.push(lease(0, 3, 1), Outcome::Ack);
        assert_eq!(settler.runs().len(), 4);
        settler.push(lease(0, u64::MAX, 1), Outcome::Ack);
        settler.push(lease(0, 0, 1), Outcome::Ack);
        assert_eq!(settler.runs().len(), 6);
    }
}
