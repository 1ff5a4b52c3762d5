//! One producer for each queue of the demo: samples its part of `/proc` at a steady rate and publishes every sample.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ringmain_client::blocking::{Client, Producer as Session};
use ringmain_client::{Completion, Error, Message, Sequence};
use ringmain_core::config::Address;
use serde::{Deserialize, Serialize};

use super::stage::{Happening, Stage};
use super::telemetry::{Class, Cores, Counters, Devices, Figures, Processes, Reading, Topic};
use super::verdict::{Event, Stamp};
use crate::cli::Failure;
use crate::cli::link;

/// Samples are taken in steps of this length.
const STEP: Duration = Duration::from_millis(2);
/// Messages of all cores together; one core is sampled at most `CORE_SWEEPS_MAX` times a second.
const CORES_PER_SECOND: u32 = 400;
const CORE_SWEEPS_MAX: u32 = 100;
const DEVICE_SWEEPS: u32 = 20;
const PROCESSES_PER_SECOND: u32 = 1_500;
const COUNTERS_PER_SECOND: u32 = 1_000;

/// A message of the demo: whose it is and when it was offered, then the sample.
#[derive(Serialize)]
struct Payload<'a> {
    producer: u16,
    number: u64,
    offered_ns: u64,
    source: &'a str,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// The part of a payload that its consumer needs; the rest must be JSON all the same.
#[derive(Deserialize)]
struct Head {
    producer: u16,
    number: u64,
    offered_ns: u64,
}

/// The stamp of a payload, if it is one of this demo and whole.
pub(super) fn stamp_of(payload: &[u8]) -> Option<Stamp> {
    let Head { producer, number, offered_ns } = serde_json::from_slice(payload).ok()?;
    Some(Stamp { producer, number, offered: offered_ns })
}

pub(super) struct Producer<'a> {
    topic: Topic,
    stage: &'a Stage,
    client: Client,
    session: Session,

    sampler: Sampler,
    pace: Pace,
    /// The number of the next message.
    number: u64,
    /// Offered and not answered, oldest first.
    outstanding: VecDeque<(Sequence, Parcel)>,
    /// Refused for now, to be offered again.
    again: Vec<Parcel>,
    readings: Vec<Reading>,
}

/// A message, kept until its fate is known.
struct Parcel {
    stamp: Stamp,
    class: Class,
    source: String,
    payload: Vec<u8>,
}

enum Sampler {
    Cores(Cores),
    Devices(Devices),
    Processes(Processes),
    Counters(Counters),
}

/// How many samples are due. What could not be sent while the broker was away is not made up for: those moments are gone.
struct Pace {
    per_second: f64,
    owed: f64,
    last: Instant,
}

impl<'a> Producer<'a> {
    pub(super) fn open(topic: Topic, stage: &'a Stage, addresses: &[Address]) -> Result<Self, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let (sampler, per_second) = match topic {
            Topic::Cores => {
                (Sampler::Cores(Cores::new()), (CORES_PER_SECOND / cores).clamp(1, CORE_SWEEPS_MAX))
            }
            Topic::Devices => (Sampler::Devices(Devices::new()), DEVICE_SWEEPS),
            Topic::Processes => (Sampler::Processes(Processes::new()), PROCESSES_PER_SECOND),
            Topic::Counters => (Sampler::Counters(Counters::new()), COUNTERS_PER_SECOND),
        };
        let client = link::dial_often(addresses)?;
        let session = client.producer(topic.queue())?;
        Ok(Self {
            topic,
            stage,
            client,
            session,
            sampler,
            pace: Pace { per_second: f64::from(per_second), owed: 0.0, last: Instant::now() },
            number: 0,
            outstanding: VecDeque::new(),
            again: Vec::new(),
            readings: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<(), Failure> {
        let mut next = Instant::now();
        while !self.stage.producers_stopped() {
            self.offer_again()?;
            self.sample();
            let mut readings = std::mem::take(&mut self.readings);
            for reading in readings.drain(..) {
                let parcel = self.pack(reading);
                self.offer(parcel)?;
            }
            self.readings = readings;
            next = (next + STEP).max(Instant::now());
            self.collect_until(next);
        }
        let drained = |producer: &Self| producer.outstanding.is_empty() && producer.again.is_empty();
        while !drained(&self) && !self.stage.consumers_stopped() {
            self.offer_again()?;
            self.collect_until(Instant::now() + STEP);
        }
        Ok(())
    }

    fn sample(&mut self) {
        let now = Instant::now();
        let due = self.pace.due(now);
        let readings = &mut self.readings;
        match &mut self.sampler {
            Sampler::Cores(cores) => (0..due.min(1)).for_each(|_| cores.sample(now, readings)),
            Sampler::Devices(devices) => (0..due.min(1)).for_each(|_| devices.sample(readings)),
            Sampler::Processes(processes) => processes.sample(now, due, readings),
            Sampler::Counters(counters) => counters.sample(due, readings),
        }
    }

    /// Makes a message of a sample. The ledger is told before it leaves, so that it never hears of a delivery first.
    fn pack(&mut self, reading: Reading) -> Parcel {
        let Reading { class, source, figures, .. } = reading;
        let (topic, offered) = (self.topic, self.stage.now());
        let stamp = Stamp { producer: topic as u16, number: self.number, offered };
        self.number += 1;
        let Stamp { producer, number, .. } = stamp;
        let payload = Payload { producer, number, offered_ns: offered, source: &source, figures: &figures };
        let payload = serde_json::to_vec(&payload).expect("numbers and names are always JSON");
        self.stage.tell(Happening::Message(Event::Offered { stamp, topic, class }));
        Parcel { stamp, class, source, payload }
    }

    fn offer(&mut self, parcel: Parcel) -> Result<(), Failure> {
        loop {
            let Parcel { class, source, payload, .. } = &parcel;
            match self.session.offer(&Message::new(payload).priority(class.priority()).key(source)) {
                Ok(sequence) => {
                    self.outstanding.push_back((sequence, parcel));
                    return Ok(());
                }
                Err(Error::Full) if self.stage.consumers_stopped() => return Ok(()),
                // The broker is away, and everything that may wait for it does.
                Err(Error::Full) => self.collect_until(Instant::now() + STEP),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn offer_again(&mut self) -> Result<(), Failure> {
        let again = std::mem::take(&mut self.again);
        again.into_iter().try_for_each(|parcel| self.offer(parcel))
    }

    /// Takes the broker's answers as they come, until `deadline`.
    fn collect_until(&mut self, deadline: Instant) {
        let Self { stage, client, session, outstanding, again, .. } = self;
        link::complete_until(client, session, deadline, |Completion { sequence, result, .. }| {
            let at = stage.now();
            let place = outstanding.iter().position(|(other, _)| *other == sequence);
            let Some((_, parcel)) = place.and_then(|place| outstanding.remove(place)) else { return };
            let stamp = parcel.stamp;
            stage.tell(Happening::Message(match result {
                Ok(_) => Event::Acknowledged { stamp, at },
                // Certainly not stored, and not for ever: a busy shard, for instance.
                Err(error) if error.is_retryable() && !error.is_uncertain() => {
                    again.push(parcel);
                    Event::Retried
                }
                Err(error) => Event::Refused { stamp, why: link::reason(error) },
            }));
        });
    }
}

impl Pace {
    fn due(&mut self, now: Instant) -> u32 {
        let passed = now.duration_since(self.last).min(10 * STEP);
        self.last = now;
        self.owed += passed.as_secs_f64() * self.per_second;
        let due = self.owed.floor();
        self.owed -= due;
        due as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_begins_with_its_stamp() {
        let figures = Figures::Counter { value: 7 };
        let payload =
            Payload { producer: 3, number: 42, offered_ns: 9, source: "vm.pgfault", figures: &figures };
        let text = serde_json::to_string(&payload).unwrap();
        assert_eq!(text, r#"{"producer":3,"number":42,"offered_ns":9,"source":"vm.pgfault","value":7}"#);
        assert_eq!(stamp_of(text.as_bytes()), Some(Stamp { producer: 3, number: 42, offered: 9 }));
        for damaged in [&text[..text.len() - 1], "", "{}", "[]", "\u{1}"] {
            assert_eq!(stamp_of(damaged.as_bytes()), None, "{damaged:?}");
        }
    }

    #[test]
    fn the_pace_is_kept_and_never_caught_up() {
        let start = Instant::now();
        let mut pace = Pace { per_second: 1_500.0, owed: 0.0, last: start };
        let due: u32 = (1..=500).map(|step| pace.due(start + step * STEP)).sum();
        assert!((1_499..=1_500).contains(&due), "{due}");
        assert!(pace.due(start + Duration::from_secs(60)) <= 31);
    }
}
