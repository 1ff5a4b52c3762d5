//! How likely each fault is in a run.

use crate::cluster::Plant;
use crate::rng::Rng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cluster) enum Fault {
    Crash,
    Blink,
    Cut,
    Pause,
    Slow,
    Stuck,
    Reset,
    Corrupt,
    Replay,
    Jump,
    Wipe,
    Rot,
    Lie,
    Stop,
    Members,
    Full,
    Depose,
    Betray,
    Split,
    Nothing,
}

/// All of them, and how likely each is at most, against the others.
const FAULTS: [(Fault, u64); 20] = [
    (Fault::Crash, 12),
    (Fault::Blink, 8),
    (Fault::Cut, 16),
    (Fault::Pause, 8),
    (Fault::Slow, 8),
    (Fault::Stuck, 2),
    (Fault::Reset, 8),
    (Fault::Corrupt, 8),
    (Fault::Replay, 8),
    (Fault::Jump, 4),
    (Fault::Wipe, 20),
    (Fault::Rot, 20),
    (Fault::Lie, 20),
    (Fault::Stop, 8),
    (Fault::Members, 20),
    (Fault::Full, 3),
    (Fault::Depose, 6),
    (Fault::Betray, 4),
    (Fault::Split, 4),
    (Fault::Nothing, 40),
];

pub(in crate::cluster) struct Weather {
    /// As likely as this, against the others.
    weights: [(Fault, u64); FAULTS.len()],
    pub(in crate::cluster) replays: bool,
    pub(in crate::cluster) latency_us: u64,
}

impl Weather {
    pub(in crate::cluster) fn draw(plant: Plant, rng: &mut Rng) -> Self {
        let weights = FAULTS.map(|(fault, most)| (fault, if rng.one_in(3) { 0 } else { rng.skewed(most) }));
        let mut weather = Self { weights, replays: false, latency_us: 0 };
        weather.replays = weather.has(Fault::Replay);
        weather.latency_us = if rng.one_in(4) { rng.between(300, 20_000) } else { 200 };
        match plant {
            // Two that stand for election and do not hear each other, and a third that is asked by both.
            Plant::VoteForgotten | Plant::PromiseDropped => {
                weather.become_only(&[(Fault::Depose, 30), (Fault::Cut, 20), (Fault::Crash, 4)]);
            }
            Plant::DurableEarly => weather.prefer(&[(Fault::Blink, 30), (Fault::Crash, 20)]),
            Plant::FollowerEarly => {
                weather.become_only(&[(Fault::Betray, 30), (Fault::Cut, 4), (Fault::Crash, 10)]);
            }
            Plant::CommitForgotten => {
                weather.become_only(&[(Fault::Split, 20), (Fault::Members, 40), (Fault::Crash, 4)]);
            }
            Plant::IncarnationForgotten => weather.prefer(&[(Fault::Blink, 30), (Fault::Crash, 20)]),
            Plant::CountStale => weather.prefer(&[(Fault::Cut, 30)]),
            Plant::Nothing
            | Plant::SessionForgotten
            | Plant::SettledAgain
            | Plant::MessageLost
            | Plant::ReadElsewhere
            | Plant::AgreementForged => {}
        }
        weather
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        !self.weights.contains(&(fault, 0))
    }

    fn prefer(&mut self, these: &[(Fault, u64)]) {
        for (fault, weight) in &mut self.weights {
            let preferred = these.iter().find(|(other, _)| other == fault);
            *weight = preferred.map_or(*weight, |(_, preferred)| *preferred);
        }
    }

    fn become_only(&mut self, these: &[(Fault, u64)]) {
        self.weights = FAULTS.map(|(fault, _)| (fault, 0));
        self.replays = false;
        self.prefer(these);
    }

    pub(super) fn pick(&self, rng: &mut Rng) -> Fault {
        // Some of the time nothing happens whatever the weather.
        const CALM: u64 = 4;
        let mut drawn = rng.below(CALM + self.weights.iter().map(|(_, weight)| weight).sum::<u64>());
        for (fault, weight) in self.weights {
            if drawn < weight {
                return fault;
            }
            drawn -= weight;
        }
        Fault::Nothing
    }
}
