//! What must be true at the end, and whether it is. Producers and consumers report every message to one [`Ledger`], which
//! keeps the model of the broker that its counts are held against. No clock here: every time is nanoseconds since the
//! demo's start, brought by the event.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::telemetry::{Class, Topic};

/// Reasons of refusals that are kept.
const REFUSALS_MAX: usize = 8;

/// What a producer or consumer reports. An offer is reported before the message leaves, so it stands before its delivery.
#[derive(Debug)]
pub(super) enum Event {
    Offered {
        stamp: Stamp,
        topic: Topic,
        class: Class,
    },
    Acknowledged {
        stamp: Stamp,
        at: u64,
    },
    Refused {
        stamp: Stamp,
        why: String,
    },
    /// Refused for now: it is offered again.
    Retried,
    Delivered {
        stamp: Stamp,
        topic: Topic,
        priority: u8,
        sequence: u64,
        at: u64,
        timed: bool,
    },
    /// A delivery that is no message of this demo, or not as it was sent.
    Garbled,
}

/// Which message of which producer, and when it was offered: the first thing in every payload.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) producer: u16,
    /// From 0, without gaps.
    pub(super) number: u64,
    pub(super) offered: u64,
}

/// The broker's own counts of one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) settled: u64,
    /// Priority, ready, in flight.
    pub(super) levels: Vec<(u8, u64, u64)>,
}

/// The kill in the middle and the way back.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) node: u32,
    pub(super) killed: u64,
    /// The queues that the node led, by `Topic`.
    pub(super) led: [bool; Topic::ALL.len()],
    /// Those of them where no message offered since the node is gone was acknowledged yet.
    pub(super) waiting: [bool; Topic::ALL.len()],
    /// No thread of the node ran any more.
    pub(super) gone: Option<u64>,
    /// A message offered after that was acknowledged, in the last of the queues as well.
    pub(super) serving: Option<u64>,
    pub(super) restarted: Option<u64>,
    /// The node had everything again.
    pub(super) current: Option<u64>,
}

impl Outage {
    /// Whether everybody is back.
    pub(super) fn is_over(&self) -> bool {
        self.serving.is_some() && self.current.is_some()
    }

    fn touches(&self, topic: Topic, offered: u64, at: u64) -> bool {
        let waited = self.serving.is_none_or(|serving| offered <= serving);
        self.led[topic as usize] && at >= self.killed && waited
    }
}

#[derive(Copy, Clone)]
struct Fate {
    topic: Topic,
    class: Class,
    acknowledged: bool,
    refused: bool,
    /// The sequence that the broker gave it, once it has been delivered.
    sequence: Option<u64>,
}

pub(super) struct Ledger {
    nodes: u32,

    /// The messages of each producer, by number.
    fates: Vec<Vec<Fate>>,
    /// The highest sequence delivered so far, of each queue and priority.
    highest: BTreeMap<(u8, u8), u64>,
    outage: Option<Outage>,
    /// Why messages were refused, each reason once.
    refusals: Vec<String>,
    tally: Tally,
    publish: Latencies,
    deliver: Latencies,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) retried: u64,
    pub(super) consumed: u64,
    pub(super) redelivered: u64,
    pub(super) duplicated: u64,
    pub(super) out_of_order: u64,
    pub(super) garbled: u64,
}

/// All of them, and those that did not wait for the outage to end.
pub(super) struct Latencies {
    pub(super) all: Histogram<u64>,
    pub(super) steady: Histogram<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// The object that `demo --output json` ends with.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) ok: bool,
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) consumed: u64,
    /// Acknowledged and never delivered.
    pub(super) lost: u64,
    /// Stored twice: one message of a producer came with two identities.
    pub(super) duplicated: u64,
    /// Delivered again with the same identity.
    pub(super) redelivered: u64,
    pub(super) out_of_order: u64,
    /// Neither acknowledged nor refused when the demo ended.
    pub(super) unresolved: u64,
    /// Offered again because the broker was busy.
    pub(super) retried: u64,
    /// Refused for good.
    pub(super) refused: u64,
    /// Why, each reason once.
    pub(super) refusals: Vec<String>,
    pub(super) garbled: u64,
    pub(super) depth_ready: u64,
    pub(super) depth_in_flight: u64,
    /// The broker's counts, in every queue and at every priority, are those of the model.
    pub(super) depth_exact: bool,
    /// Where they are not.
    pub(super) depth_faults: Vec<String>,
    pub(super) nodes: u32,
    /// The node that was killed.
    pub(super) killed: Option<u32>,
    /// From the kill to the first acknowledgement of a message that was offered after it, in the last of the queues that the
    /// node led.
    pub(super) failover_ms: Option<f64>,
    /// From the node's restart until it had everything again.
    pub(super) catch_up_ms: Option<f64>,
    /// Nodes that did not have everything at the end.
    pub(super) absent: Vec<u32>,
    pub(super) publish_us: Percentiles,
    pub(super) deliver_us: Percentiles,
    /// Without the messages that waited for another leader, or for the only one to come back.
    pub(super) publish_steady_us: Percentiles,
    pub(super) deliver_steady_us: Percentiles,
    pub(super) seconds: f64,
    pub(super) interrupted: bool,
}

impl Ledger {
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            nodes,
            fates: vec![Vec::new(); Topic::ALL.len()],
            highest: BTreeMap::new(),
            outage: None,
            refusals: Vec::new(),
            tally: Tally::default(),
            publish: Latencies::new(),
            deliver: Latencies::new(),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn outage(&self) -> Option<Outage> {
        self.outage
    }

    pub(super) fn publish(&self) -> &Latencies {
        &self.publish
    }

    pub(super) fn deliver(&self) -> &Latencies {
        &self.deliver
    }

    pub(super) fn on_killed(&mut self, node: u32, leads: &[Topic], at: u64) {
        assert!(self.outage.is_none(), "the demo kills one node, once");
        let led = Topic::ALL.map(|topic| leads.contains(&topic));
        self.outage = Some(Outage {
            node,
            killed: at,
            led,
            waiting: led,
            gone: None,
            serving: None,
            restarted: None,
            current: None,
        });
    }

    pub(super) fn on_gone(&mut self, at: u64) {
        self.outage.as_mut().expect("a node is killed before it is gone").gone = Some(at);
    }

    pub(super) fn on_restarted(&mut self, at: u64) {
        self.outage.as_mut().expect("a node is killed before it is restarted").restarted = Some(at);
    }

    /// The node that was killed has everything again.
    pub(super) fn on_current(&mut self, at: u64) {
        let outage = self.outage.as_mut().expect("a node is killed before it is back");
        assert!(outage.restarted.is_some(), "a node is started before it has everything");
        outage.current.get_or_insert(at);
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Offered { stamp, topic, class } => self.on_offered(stamp, topic, class),
            Event::Acknowledged { stamp, at } => self.on_acknowledged(stamp, at),
            Event::Retried => self.tally.retried += 1,
            Event::Refused { stamp, why } => self.on_refused(stamp, why),
            Event::Delivered { stamp, topic, priority, sequence, at, timed } => {
                if !self.on_delivered(stamp, topic, priority, sequence) {
                    self.tally.garbled += 1;
                } else if timed {
                    let touched = self.outage.is_some_and(|outage| outage.touches(topic, stamp.offered, at));
                    self.deliver.record(stamp.offered, at, touched);
                }
            }
            Event::Garbled => self.tally.garbled += 1,
        }
    }

    fn on_offered(&mut self, stamp: Stamp, topic: Topic, class: Class) {
        let fates = &mut self.fates[usize::from(stamp.producer)];
        assert_eq!(fates.len() as u64, stamp.number, "a producer numbers its messages without gaps");
        fates.push(Fate { topic, class, acknowledged: false, refused: false, sequence: None });
        self.tally.published += 1;
    }

    fn on_acknowledged(&mut self, stamp: Stamp, at: u64) {
        let fate = &mut self.fates[usize::from(stamp.producer)][stamp.number as usize];
        assert!(!fate.acknowledged, "a message is acknowledged once");
        fate.acknowledged = true;
        let topic = fate.topic;
        self.tally.acknowledged += 1;
        if let Some(Outage { gone: Some(gone), waiting, serving: serving @ None, .. }) = &mut self.outage
            && stamp.offered >= *gone
        {
            waiting[topic as usize] = false;
            if waiting.iter().all(|waits| !waits) {
                *serving = Some(at);
            }
        }
        let touched = self.outage.is_some_and(|outage| outage.touches(topic, stamp.offered, at));
        self.publish.record(stamp.offered, at, touched);
    }

    fn on_refused(&mut self, stamp: Stamp, why: String) {
        self.fates[usize::from(stamp.producer)][stamp.number as usize].refused = true;
        self.tally.refused += 1;
        if self.refusals.len() < REFUSALS_MAX && !self.refusals.contains(&why) {
            self.refusals.push(why);
        }
    }

    /// Whether this delivery is the message that was offered, in the queue and at the priority where it was offered.
    fn on_delivered(&mut self, stamp: Stamp, topic: Topic, priority: u8, sequence: u64) -> bool {
        let fates = self.fates.get_mut(usize::from(stamp.producer));
        let fate = fates.and_then(|fates| fates.get_mut(usize::try_from(stamp.number).ok()?));
        let Some(fate) = fate.filter(|fate| fate.topic == topic && fate.class.priority() == priority) else {
            return false;
        };
        match fate.sequence {
            Some(earlier) if earlier == sequence => self.tally.redelivered += 1,
            Some(_) => self.tally.duplicated += 1,
            None => {
                fate.sequence = Some(sequence);
                self.tally.consumed += 1;
                let highest = self.highest.entry((topic as u8, priority)).or_insert(sequence);
                if sequence < *highest {
                    self.tally.out_of_order += 1;
                }
                *highest = sequence.max(*highest);
            }
        }
        true
    }

    /// Messages that have been offered and neither acknowledged nor refused.
    pub(super) fn unresolved(&self) -> u64 {
        self.tally.published - self.tally.acknowledged - self.tally.refused
    }

    /// The verdict, given what the broker counts in each of `Topic::ALL`. `counts` is `None` when it could not be asked.
    pub(super) fn verdict(&self, counts: Option<&[Counts]>, seconds: f64, interrupted: bool) -> Verdict {
        let fates = self.fates.iter().flatten();
        let lost = fates.filter(|fate| fate.acknowledged && fate.sequence.is_none()).count() as u64;
        let depth_faults = match counts {
            Some(counts) => self.depth_faults(counts),
            None => vec!["the broker could not be asked".to_owned()],
        };
        let levels = || counts.unwrap_or_default().iter().flat_map(|counts| &counts.levels);
        let outage = self.outage;
        let milliseconds = |from: u64, to: u64| tenths(to.saturating_sub(from) as f64 / 1e6);
        let tally = self.tally;
        let faults =
            lost + tally.duplicated + tally.out_of_order + tally.garbled + tally.refused + self.unresolved();
        Verdict {
            ok: faults == 0
                && depth_faults.is_empty()
                && (interrupted || outage.is_some_and(|outage| outage.is_over())),
            published: tally.published,
            acknowledged: tally.acknowledged,
            consumed: tally.consumed,
            lost,
            duplicated: tally.duplicated,
            redelivered: tally.redelivered,
            out_of_order: tally.out_of_order,
            unresolved: self.unresolved(),
            retried: tally.retried,
            refused: tally.refused,
            refusals: self.refusals.clone(),
            garbled: tally.garbled,
            depth_ready: levels().map(|level| level.1).sum(),
            depth_in_flight: levels().map(|level| level.2).sum(),
            depth_exact: depth_faults.is_empty(),
            depth_faults,
            nodes: self.nodes,
            killed: outage.map(|outage| outage.node),
            failover_ms: outage.and_then(|outage| Some(milliseconds(outage.killed, outage.serving?))),
            catch_up_ms: outage.and_then(|outage| Some(milliseconds(outage.restarted?, outage.current?))),
            absent: Vec::new(),
            publish_us: Percentiles::of(&self.publish.all),
            deliver_us: Percentiles::of(&self.deliver.all),
            publish_steady_us: Percentiles::of(&self.publish.steady),
            deliver_steady_us: Percentiles::of(&self.deliver.steady),
            seconds: tenths(seconds),
            interrupted,
        }
    }

    /// Where the broker's counts differ from the model: what was stored and not consumed is ready, and nothing is in flight
    /// once the consumers have gone.
    fn depth_faults(&self, counts: &[Counts]) -> Vec<String> {
        assert_eq!(counts.len(), Topic::ALL.len());
        let mut faults = Vec::new();
        let mut expect = |what: String, counted: u64, expected: u64| {
            if counted != expected {
                faults.push(format!("{what}: the broker counts {counted}, and {expected} is right"));
            }
        };
        let model = self.model();
        for (topic, counts) in Topic::ALL.into_iter().zip(counts) {
            let queue = topic.queue();
            let (mut stored_total, mut consumed_total) = (0, 0);
            for class in Class::ALL {
                let (stored, consumed) = model[topic as usize][class as usize];
                stored_total += stored;
                consumed_total += consumed;
                let level = counts.levels.iter().find(|(priority, ..)| *priority == class.priority());
                let (_, ready, in_flight) = level.copied().unwrap_or_default();
                let priority = class.priority();
                expect(format!("{queue}, priority {priority}, ready"), ready, stored - consumed);
                expect(format!("{queue}, priority {priority}, in flight"), in_flight, 0);
            }
            expect(format!("{queue}, published"), counts.published, stored_total);
            expect(format!("{queue}, acknowledged"), counts.settled, consumed_total);
        }
        faults
    }

    /// Stored and consumed messages of each queue at each priority.
    fn model(&self) -> [[(u64, u64); Class::ALL.len()]; Topic::ALL.len()] {
        let mut model = [[(0, 0); Class::ALL.len()]; Topic::ALL.len()];
        for fate in self.fates.iter().flatten() {
            let (stored, consumed) = &mut model[fate.topic as usize][fate.class as usize];
            *stored += u64::from(fate.acknowledged || fate.sequence.is_some());
            *consumed += u64::from(fate.sequence.is_some());
        }
        model
    }
}

impl Verdict {
    /// A cluster that ends without these nodes, though all of them should be there, is none to be proud of.
    pub(super) fn with_absent(mut self, absent: Vec<u32>) -> Self {
        self.ok &= absent.is_empty();
        self.absent = absent;
        self
    }
}

impl Latencies {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three significant digits are possible");
        Self { all: histogram(), steady: histogram() }
    }

    /// `touched`: it waited for the outage to end.
    fn record(&mut self, offered: u64, at: u64, touched: bool) {
        let latency = at.saturating_sub(offered).max(1);
        self.all.record(latency).expect("the histogram grows to any latency");
        if !touched {
            self.steady.record(latency).expect("the histogram grows to any latency");
        }
    }
}

impl Percentiles {
    /// In microseconds, to a tenth.
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| tenths(histogram.value_at_quantile(quantile) as f64 / 1e3);
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: tenths(histogram.max() as f64 / 1e3) }
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A ledger and the broker that it watches, both fed by a scenario in words.
    struct World {
        ledger: Ledger,
        counts: Vec<Counts>,
    }

    impl World {
        fn new() -> Self {
            let level = |class: Class| (class.priority(), 0, 0);
            let counts = Counts { levels: Class::ALL.map(level).to_vec(), ..Counts::default() };
            Self { ledger: Ledger::new(1), counts: vec![counts; Topic::ALL.len()] }
        }

        /// One message in `host.cores`, at every message's own priority 7, a millisecond apart.
        fn publish(&mut self, number: u64) {
            let stamp = stamp(number);
            self.ledger.on_event(Event::Offered { stamp, topic: Topic::Cores, class: Class::Core });
            self.counts[0].published += 1;
            self.ready(1);
        }

        fn acknowledge(&mut self, number: u64, at: u64) {
            self.ledger.on_event(Event::Acknowledged { stamp: stamp(number), at });
        }

        fn deliver(&mut self, number: u64, sequence: u64) {
            let (stamp, topic) = (stamp(number), Topic::Cores);
            let at = stamp.offered + 2 * MS;
            self.ledger.on_event(Event::Delivered { stamp, topic, priority: 7, sequence, at, timed: true });
        }

        /// The broker drops a consumed message.
        fn settle(&mut self) {
            self.counts[0].settled += 1;
            self.ready(-1);
        }

        fn ready(&mut self, change: i64) {
            let level = self.counts[0].levels.iter_mut().find(|level| level.0 == 7).unwrap();
            level.1 = level.1.checked_add_signed(change).unwrap();
        }

        fn verdict(&self) -> Verdict {
            self.ledger.verdict(Some(&self.counts), 1.0, true)
        }
    }

    fn stamp(number: u64) -> Stamp {
        Stamp { producer: 0, number, offered: number * MS }
    }

    /// Two messages that went through.
    fn settled() -> World {
        let mut world = World::new();
        for number in [0, 1] {
            world.publish(number);
            world.acknowledge(number, number * MS + MS);
            world.deliver(number, number);
            world.settle();
        }
        world
    }

    #[test]
    fn a_run_without_faults_is_good() {
        let verdict = settled().verdict();
        assert!(verdict.ok, "{verdict:?}");
        assert_eq!((verdict.published, verdict.acknowledged, verdict.consumed), (2, 2, 2));
        assert_eq!((verdict.lost, verdict.duplicated, verdict.redelivered), (0, 0, 0));
        assert!((999.0..1002.0).contains(&verdict.publish_us.p50), "{verdict:?}");
        assert!((1999.0..2003.0).contains(&verdict.deliver_us.max), "{verdict:?}");
    }

    #[test]
    fn an_acknowledged_message_that_never_comes_is_lost() {
        let mut world = settled();
        world.publish(2);
        world.acknowledge(2, 3 * MS);
        // The broker forgot it altogether: its count is off as well.
        world.ready(-1);
        let verdict = world.verdict();
        assert_eq!(verdict.lost, 1);
        assert_eq!(
            verdict.depth_faults,
            ["host.cores, priority 7, ready: the broker counts 0, and 1 is right"]
        );
        assert!(!verdict.ok);
    }

    #[test]
    fn the_same_message_with_another_identity_is_a_duplicate() {
        let mut world = settled();
        world.deliver(1, 2);
        world.counts[0].published += 1;
        let verdict = world.verdict();
        assert_eq!((verdict.duplicated, verdict.redelivered, verdict.consumed), (1, 0, 2));
        assert_eq!(verdict.depth_faults, ["host.cores, published: the broker counts 3, and 2 is right"]);
        assert!(!verdict.ok);
    }

    #[test]
    fn the_same_message_with_the_same_identity_is_a_redelivery() {
        let mut world = settled();
        world.deliver(1, 1);
        let verdict = world.verdict();
        assert_eq!((verdict.duplicated, verdict.redelivered), (0, 1));
        assert!(verdict.ok, "{verdict:?}");
    }

    #[test]
    fn an_earlier_sequence_after_a_later_one_is_out_of_order() {
        let mut world = World::new();
        for (number, sequence) in [(0, 0), (1, 2), (2, 1)] {
            world.publish(number);
            world.acknowledge(number, number * MS + MS);
            world.deliver(number, sequence);
            world.settle();
        }
        assert_eq!(world.verdict().out_of_order, 1);
        assert!(!world.verdict().ok);
    }

    #[test]
    fn what_was_never_offered_is_garbled() {
        let mut world = settled();
        world.deliver(7, 9);
        let stamp = stamp(0);
        world.ledger.on_event(Event::Delivered {
            stamp,
            topic: Topic::Cores,
            priority: 3,
            sequence: 0,
            at: 0,
            timed: true,
        });
        world.ledger.on_event(Event::Garbled);
        assert_eq!(world.verdict().garbled, 3);
        assert!(!world.verdict().ok);
    }

    #[test]
    fn a_message_in_flight_or_left_behind_is_counted() {
        let mut world = settled();
        world.publish(2);
        world.acknowledge(2, 3 * MS);
        // Ready and expected to be ready, but nobody was given it: lost to its reader, though not to the broker.
        let verdict = world.verdict();
        assert!(verdict.depth_exact);
        assert_eq!((verdict.depth_ready, verdict.lost), (1, 1));
        world.counts[0].levels[1] = (7, 0, 1);
        let verdict = world.verdict();
        assert_eq!((verdict.depth_in_flight, verdict.depth_faults.len()), (1, 2));
    }

    #[test]
    fn a_publish_without_an_answer_is_unresolved() {
        let mut world = settled();
        world.publish(2);
        world.deliver(2, 2);
        world.settle();
        let verdict = world.verdict();
        assert_eq!((verdict.unresolved, verdict.lost, verdict.depth_exact), (1, 0, true));
        assert!(!verdict.ok);
        world.ledger.on_event(Event::Refused { stamp: stamp(2), why: "full".to_owned() });
        let verdict = world.verdict();
        assert_eq!((verdict.unresolved, verdict.refused, verdict.ok), (0, 1, false));
        assert_eq!(verdict.refusals, ["full"]);
    }

    #[test]
    fn the_outage_ends_with_a_message_offered_after_it() {
        let mut world = settled();
        world.publish(2);
        world.ledger.on_killed(2, &[Topic::Cores], 3 * MS);
        for number in [3, 4, 5, 6, 7] {
            world.publish(number);
        }
        world.ledger.on_gone(5 * MS);
        world.acknowledge(2, 6 * MS);
        world.acknowledge(3, 6 * MS);
        assert_eq!(world.ledger.outage().unwrap().serving, None);
        world.acknowledge(4, 6 * MS);
        world.acknowledge(5, 7 * MS);
        world.acknowledge(6, 8 * MS);
        assert_eq!(world.ledger.outage().unwrap().serving, Some(7 * MS));
        assert_eq!((world.verdict().failover_ms, world.verdict().killed), (Some(4.0), Some(2)));
        // Those of before the kill, and none that waited for the broker.
        assert_eq!((world.ledger.publish().all.len(), world.ledger.publish().steady.len()), (7, 2));
        assert!(!world.ledger.outage().unwrap().is_over());
        world.ledger.on_restarted(9 * MS);
        world.ledger.on_current(11 * MS);
        assert!(world.ledger.outage().unwrap().is_over());
        assert_eq!(world.verdict().catch_up_ms, Some(2.0));
    }

    #[test]
    fn every_queue_that_was_led_must_serve_again() {
        let mut world = settled();
        world.ledger.on_killed(1, &[Topic::Cores, Topic::Devices], 2 * MS);
        world.ledger.on_gone(2 * MS);
        world.publish(2);
        world.acknowledge(2, 3 * MS);
        assert_eq!(world.verdict().failover_ms, None);
        let stamp = Stamp { producer: 1, number: 0, offered: 4 * MS };
        world.ledger.on_event(Event::Offered { stamp, topic: Topic::Devices, class: Class::Device });
        world.ledger.on_event(Event::Acknowledged { stamp, at: 5 * MS });
        assert_eq!(world.verdict().failover_ms, Some(3.0));
    }

    #[test]
    fn queues_that_others_lead_are_not_touched() {
        let mut world = settled();
        world.ledger.on_killed(1, &[Topic::Devices], 2 * MS);
        world.publish(2);
        world.acknowledge(2, 3 * MS);
        assert_eq!(world.ledger.publish().steady.len(), 3);
    }

    #[test]
    fn a_cluster_that_ends_without_a_node_is_not_good() {
        assert!(settled().verdict().with_absent(Vec::new()).ok);
        let verdict = settled().verdict().with_absent(vec![3]);
        assert_eq!((verdict.ok, verdict.absent), (false, vec![3]));
    }

    #[test]
    fn a_whole_run_without_a_kill_is_no_proof() {
        let world = settled();
        assert!(!world.ledger.verdict(Some(&world.counts), 1.0, false).ok);
        assert!(!world.ledger.verdict(None, 1.0, true).ok);
    }
}
