//! What a seed decides once: how bad the network, the disks and the weather are, and what the group looks like.

use super::rng::Rng;

#[derive(Debug)]
pub(super) struct Climate {
    pub(super) machines: u64,
    /// The ids from 1; the other machines are newcomers.
    pub(super) founders: u64,
    /// No change of membership leaves fewer.
    pub(super) voters_min: usize,
    /// Nor more than so many: a lone voter with learners elects itself, before that is durable.
    pub(super) voters_max: usize,
    pub(super) changes_membership: bool,
    /// Machines lose their disks and come back as somebody else.
    pub(super) wipes: bool,
    pub(super) preferred: Option<u64>,
    pub(super) payload_bytes: usize,

    pub(super) dropped_per_thousand: u64,
    pub(super) doubled_per_thousand: u64,
    /// Some messages come when nobody expects them any more.
    pub(super) late_per_thousand: u64,
    pub(super) delay_max: u64,
    pub(super) write_max: u64,
    /// An input is not followed by `drive` at once.
    pub(super) lazy_per_thousand: u64,
    pub(super) propose_max: u64,
    /// Between two faults, and until a crashed replica is back: from storms to long peace.
    pub(super) fault_max: u64,
    pub(super) outage_max: u64,
}

impl Climate {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let is_lone = rng.chance(120);
        let changes_membership = is_lone || rng.chance(750);
        let founders = if rng.chance(750) { 3 } else { 1 + rng.below(5) };
        let founders = if is_lone { 1 } else { founders };
        let voters_min = if rng.chance(700) && !is_lone { 3 } else { 1 + rng.below(2) as usize };
        let is_large = rng.chance(200);
        Self {
            machines: if changes_membership { 5 } else { founders },
            founders,
            voters_min,
            voters_max: if is_lone { 1 } else { 5 },
            changes_membership,
            wipes: changes_membership && voters_min == 3 && rng.chance(600),
            preferred: rng.chance(500).then(|| 1 + rng.below(founders)),
            payload_bytes: if is_large { 512 << 10 } else { 8 },
            dropped_per_thousand: rng.below(60),
            doubled_per_thousand: rng.below(40),
            late_per_thousand: rng.below(20),
            delay_max: 5 + rng.below(300),
            write_max: 5 + rng.below(700),
            lazy_per_thousand: if rng.chance(500) { 0 } else { rng.below(500) },
            propose_max: if is_large { 150 } else { 50 + rng.below(400) },
            fault_max: 200 << rng.below(5),
            outage_max: 200 << rng.below(8),
        }
    }

    pub(super) fn clear_up(&mut self) {
        self.dropped_per_thousand = 0;
        self.late_per_thousand = 0;
        self.delay_max = self.delay_max.min(100);
        self.write_max = self.write_max.min(200);
    }
}
