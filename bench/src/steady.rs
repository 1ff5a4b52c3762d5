//! A publisher that goes on beside something else: so many publishes a second whatever happens to the nodes meanwhile, and
//! what became of each of them. Open loop: each is due at its moment, and late if it is answered later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringmain_client::blocking::{Client, Producer};
use ringmain_client::{Completion, Error as ClientError, Event, Message, QueueSettings, Sequence};

use crate::error::{Doing, Error, Result};
use crate::kernel;
use crate::latencies::Latencies;
use crate::machine::pin;
use crate::pacing::{LEAD, Schedule};
use crate::publisher::{Access, SILENCE_MAX};

/// What is published: messages of this size to a queue of its own, which is deleted at the end.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Steady {
    pub(crate) queue: &'static str,
    pub(crate) rate: u64,
    pub(crate) message_bytes: usize,
}

/// A publish that was acknowledged.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) due_at: Instant,
    pub(crate) at: Instant,
    pub(crate) term: u64,
}

/// What became of the publishes until now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The queue's, known from the first receipt on.
    pub(crate) group: Option<u32>,
    /// Invariant: sorted by `at`.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Publishes that were answered with an error, by what it says.
    pub(crate) errors: BTreeMap<String, u64>,
    /// What the client has coped with by itself.
    pub(crate) events: Vec<(Instant, Event)>,
    /// Messages that the queue says it got, asked at the end.
    pub(crate) stored: u64,
    is_over: bool,
}

impl Record {
    /// The publish that was the first to be acknowledged by a leader of a later term.
    pub(crate) fn first_of_later_term(&self, term: u64) -> Option<Acknowledged> {
        // The newest are at the end, and a term lasts.
        let newest = self.acknowledged.iter().rev();
        newest.take_while(|each| each.term > term).last().copied()
    }

    /// Latencies of the publishes that count.
    pub(crate) fn latencies(&self, counts: impl Fn(&Acknowledged) -> bool) -> Latencies {
        let mut latencies = Latencies::new();
        for each in self.acknowledged.iter().filter(|each| counts(each)) {
            latencies.record_duration(each.at.saturating_duration_since(each.due_at));
        }
        latencies
    }

    fn record(&mut self, completion: Completion, due_at: Instant, at: Instant) {
        match completion.result {
            Ok(receipt) => {
                self.group = Some(receipt.group);
                self.acknowledged.push(Acknowledged { due_at, at, term: receipt.term });
            }
            Err(error) => *self.errors.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// The record while it grows, for whoever acts beside the publisher.
#[derive(Default)]
pub(crate) struct Watch {
    record: Mutex<Record>,
    ends: AtomicBool,
}

impl Watch {
    /// Looks at the record until `ready` answers.
    pub(crate) fn wait<T>(&self, what: &str, ready: impl Fn(&Record) -> Option<T>) -> Result<T> {
        const LOOK_EACH: Duration = Duration::from_millis(2);
        let started = Instant::now();
        loop {
            let record = self.record();
            if let Some(answer) = ready(&record) {
                return Ok(answer);
            }
            if record.is_over || SILENCE_MAX < started.elapsed() {
                let why = if record.is_over { "the publisher has ended" } else { "it takes too long" };
                return Err(Error::new(format!("waiting for {what}"), why));
            }
            drop(record);
            std::thread::sleep(LOOK_EACH);
        }
    }

    pub(crate) fn look<T>(&self, at: impl FnOnce(&Record) -> T) -> T {
        at(&self.record())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes on the client's core while `act` runs on this thread; ends with it.
pub(crate) fn beside<T>(
    access: &Access,
    steady: Steady,
    act: impl FnOnce(&Watch) -> Result<T>,
) -> Result<(T, Record)> {
    let watch = Watch::default();
    let acted = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let published = pin(access.core)
                .and_then(|()| Publisher::connect(access, steady))
                .and_then(|publisher| publisher.publish(&watch));
            watch.record().is_over = true;
            published
        });
        let acted = act(&watch);
        watch.ends.store(true, Ordering::Relaxed);
        let published = publisher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What ended the publisher may be why the other failed, so it is the error to show.
        published.and(acted)
    })?;
    Ok((acted, watch.record.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

struct Publisher {
    client: Client,
    producer: Producer,
    steady: Steady,
    message: Message<'static>,

    offered: u64,
    /// When each publish without an answer was due.
    due: BTreeMap<Sequence, Instant>,
}

/// Publishes without an answer beyond which none is offered: what is late then still counts from when it was due.
const IN_FLIGHT_MAX: usize = 4_000;

impl Publisher {
    fn connect(access: &Access, steady: Steady) -> Result<Self> {
        let client = access.connect()?;
        let doing = || format!("opening the queue {}", steady.queue);
        client.create_queue(steady.queue, &QueueSettings::default()).doing(doing)?;
        let producer = client.producer(steady.queue).doing(doing)?;
        let message = Message::owned(vec![0x5A; steady.message_bytes]);
        Ok(Self { client, producer, steady, message, offered: 0, due: BTreeMap::new() })
    }

    /// Until it is told to end; then all answers are waited for.
    fn publish(mut self, watch: &Watch) -> Result<()> {
        /// So often it looks whether it shall end.
        const PAUSE_MAX: Duration = Duration::from_millis(10);
        kernel::set_timers_exact().doing(|| "setting the timer slack".to_owned())?;
        let schedule = Schedule { rate: self.steady.rate, messages: u64::MAX, warm_up: 0 };
        let started = Instant::now();
        let mut heard_at = started;
        loop {
            let ends = watch.ends.load(Ordering::Relaxed);
            let due_at = |number| started + Duration::from_nanos(schedule.due_at(number));
            if !ends {
                self.offer_what_is_due(due_at)?;
            }
            if self.poll(watch) > 0 || self.due.is_empty() {
                heard_at = Instant::now();
            }
            if ends && self.due.is_empty() {
                return self.finish(watch);
            }
            if SILENCE_MAX < heard_at.elapsed() {
                return Err(Error::new("publishing", format!("no receipt came for {SILENCE_MAX:?}")));
            }
            let now = Instant::now();
            let next = due_at(self.offered);
            let until = if self.has_room() { next.checked_sub(LEAD).unwrap_or(now) } else { now + PAUSE_MAX };
            if now < until {
                self.client.idle_until(until.min(now + PAUSE_MAX));
            }
        }
    }

    fn has_room(&self) -> bool {
        self.due.len() < IN_FLIGHT_MAX
    }

    fn offer_what_is_due(&mut self, due_at: impl Fn(u64) -> Instant) -> Result<()> {
        while self.has_room() && due_at(self.offered) <= Instant::now() {
            match self.producer.offer(&self.message) {
                Ok(sequence) => {
                    self.due.insert(sequence, due_at(self.offered));
                    self.offered += 1;
                }
                Err(ClientError::Full) => return Ok(()),
                Err(error) => return Err(Error::new("publishing", error)),
            }
        }
        Ok(())
    }

    /// Sends and receives what can be; answers how many answers came.
    fn poll(&mut self, watch: &Watch) -> usize {
        let due = &mut self.due;
        while let Some(event) = self.client.poll_event() {
            watch.record().events.push((Instant::now(), event));
        }
        self.producer.poll(|completion| {
            let due_at = due.remove(&completion.sequence).expect("an answer to a publish that was offered");
            watch.record().record(completion, due_at, Instant::now());
        })
    }

    fn finish(self, watch: &Watch) -> Result<()> {
        let doing = || format!("ending with the queue {}", self.steady.queue);
        watch.record().stored = self.client.show_queue(self.steady.queue).doing(doing)?.published;
        drop(self.producer);
        self.client.delete_queue(self.steady.queue).doing(doing)?;
        self.client.close(SILENCE_MAX).doing(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (due, answered, term), in milliseconds.
    fn record(start: Instant, all: &[(u64, u64, u64)]) -> Record {
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let acknowledged =
            all.iter().map(|&(due, answered, term)| Acknowledged { due_at: at(due), at: at(answered), term });
        Record { acknowledged: acknowledged.collect(), ..Record::default() }
    }

    #[test]
    fn leader_of_a_later_term_counts() {
        let start = Instant::now();
        let record = record(start, &[(0, 1, 4), (1, 3, 4), (2, 40, 6), (3, 41, 6), (4, 42, 7)]);
        let first = |term| record.first_of_later_term(term).map(|each| (each.at - start, each.term));
        assert_eq!(first(4), Some((Duration::from_millis(40), 6)));
        assert_eq!(first(6), Some((Duration::from_millis(42), 7)));
        assert_eq!(first(7), None);
    }

    #[test]
    fn latencies_are_of_what_counts() {
        let start = Instant::now();
        let record = record(start, &[(0, 5, 1), (10, 11, 1), (19, 30, 1), (20, 90, 1)]);
        let span = start + Duration::from_millis(10)..start + Duration::from_millis(20);
        let latencies = record.latencies(|each| span.contains(&each.due_at));
        assert_eq!(latencies.count(), 2);
        assert!(latencies.max().abs_diff(11_000_000) < 20_000);
    }
}
