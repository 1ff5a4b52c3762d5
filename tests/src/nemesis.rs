//! A cluster of real processes under load, with somebody who kills, stops, pauses and restarts them and cuts the links between
//! them at random.
//!
//! ```text
//! fleet    the nodes as processes
//! links    what connects them, and can be held, cut and slowed, each direction by itself
//! fault    what can befall them
//! cast     those who use them meanwhile: producers, consumers, witnesses
//! witness  one who asks a single node for the counts
//! history  what was offered, acknowledged, delivered and counted, and what follows from it
//! backlog  what is left at the end, in order
//! ```
//!
//! At the end everything is healed and drained, and the history must be one that keeps the promises: nothing acknowledged
//! is lost, nothing is stored twice, what is delivered again says so, order and priority are kept, no count that was ever
//! told was of the past, and the last ones are those of the history.

mod backlog;
mod cast;
mod fault;
mod fleet;
mod history;
mod links;
mod witness;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use ringmain_client::{QueueInfo, QueueSettings};

use crate::process::{Program, wait_for};
use crate::rng::Rng;
use backlog::Backlog;
use cast::{Cast, WINDOW};
use fault::{Deck, Targets};
pub use fault::{Fault, KINDS, Kind};
pub use fleet::Fleet;
pub use history::{Delivered, History, Stored};
pub use links::{CLIENT, Links, Pair, Place, Rule};

const QUEUE: &str = "orders";
const PRIORITIES: u64 = 3;
/// Published when the consumers have gone, so that there is something to drain in order.
const BACKLOG: u64 = 2_000;
/// Counts as a consumer of its own.
const DRAINER: u32 = 0;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub nodes: u32,
    pub duration: Duration,
    pub producers: u32,
    pub consumers: u32,
    /// What may befall it.
    pub kinds: Vec<Kind>,
}

/// What a run was like.
#[derive(Clone, Default, Debug)]
pub struct Report {
    pub stored: u64,
    pub delivered: u64,
    pub redelivered: u64,
    /// Counts that were told while it went on.
    pub shown: u64,
    /// Messages that the last consumer was given, in order.
    pub drained: u64,
    pub faults: BTreeMap<Kind, u32>,
    /// From the kill of the queue's leader until publishes that were not on their way have receipts.
    pub failovers: Vec<Duration>,
    /// The same, from the isolation of the leader.
    pub isolations: Vec<Duration>,
    /// The same, from the end of each fault: nodes that were killed are started first.
    pub recoveries: Vec<Duration>,
    /// The longest of them, of that how long it took to start the nodes, and from what.
    pub recovery_longest: Option<(Duration, Duration, Kind)>,
    /// How long it took to be told who leads, after each.
    pub lookups: Vec<Duration>,
}

/// Runs it to its end. Panics with the first promise that was broken.
pub fn run(program: &Program, data: &Path, options: &Options) -> Report {
    let mut rng = Rng::new(options.seed);
    let mut fleet = Fleet::start(program, data, options.nodes, &mut rng);
    let admin = fleet.client();
    let settings = QueueSettings { priorities: PRIORITIES as u16, ..QueueSettings::default() };
    admin.create_queue(QUEUE, &settings).unwrap();
    let mut cast = Cast::start(&fleet, options);
    let mut torment = Torment { fleet: &mut fleet, admin: &admin, history: &cast.history, options };
    let mut report = torment.run(&mut rng);
    fleet.heal();

    cast.end_consumers();
    let enough = cast.history.receipts() + BACKLOG;
    wait_for("publishes without consumers", || (enough <= cast.history.receipts()).then_some(()));
    cast.end_producers();
    let shown = wait_for("what consumers held returns to the queue", || at_rest(&admin));
    cast.end_witnesses();
    // Every publish has a receipt: the counts can be nothing else.
    report.stored = cast.history.stored();
    assert_eq!(shown.published, report.stored, "exact: {shown:?}");
    assert_eq!(shown.ready + shown.acknowledged, report.stored, "exact: {shown:?}");
    let backlog = drain(&admin, &cast.history);
    let levels: Vec<_> = shown.levels.iter().map(|level| (level.priority, level.ready)).collect();
    assert_eq!(backlog.levels(), levels, "exact: {shown:?}");
    let last = wait_for("the last settles", || at_rest(&admin).filter(|last| last.ready == 0));
    assert_eq!((last.published, last.acknowledged), (report.stored, report.stored), "exact: {last:?}");
    assert_eq!((last.ready_bytes, last.in_flight_bytes), (0, 0), "exact: {last:?}");
    cast.history.check();
    report.drained = backlog.len();
    report.shown = cast.history.shows();
    (report.delivered, report.redelivered) = cast.history.deliveries();
    fleet.check_alive();
    fleet.stop_all();
    report
}

/// The counts, when no consumer holds anything.
fn at_rest(admin: &Client) -> Option<QueueInfo> {
    admin.show_queue(QUEUE).ok().filter(|shown| shown.in_flight == 0)
}

/// Takes everything that is there, and settles it.
fn drain(admin: &Client, history: &History) -> Backlog {
    let mut backlog = Backlog::default();
    let mut consumer = admin.consumer(QUEUE, 128).unwrap();
    let left = admin.show_queue(QUEUE).unwrap();
    let left = left.ready + left.in_flight;
    wait_for("the queue is drained", || {
        let polled = consumer.poll(128, |delivery| {
            history.delivered(DRAINER, Delivered::of(&delivery));
            backlog.take(delivery.priority(), delivery.sequence()).unwrap_or_else(|why| panic!("{why}"));
            delivery.ack();
        });
        polled.unwrap_or_else(|error| panic!("alive: a consumer fails: {error}"));
        (left <= backlog.len()).then_some(())
    });
    consumer.flush();
    backlog
}

/// One fault after the other, each healed before the next.
struct Torment<'a> {
    fleet: &'a mut Fleet,
    admin: &'a Client,
    history: &'a History,
    options: &'a Options,
}

impl Torment<'_> {
    fn run(&mut self, rng: &mut Rng) -> Report {
        let mut report = Report::default();
        let mut deck = Deck::of(&self.options.kinds);
        let began = Instant::now();
        while began.elapsed() < self.options.duration {
            let asked = Instant::now();
            let leader = self.fleet.leader_of(self.admin, QUEUE);
            report.lookups.push(asked.elapsed());
            let kind = deck.draw(rng);
            let faults = kind.aim(Targets { count: self.fleet.count(), leader }, rng);
            eprintln!(
                "{:>8.3} s: {kind:?}, node {leader:?} leads: {faults:?}",
                began.elapsed().as_secs_f64()
            );
            *report.faults.entry(kind).or_default() += 1;
            let enough = self.news();
            let befallen = Instant::now();
            faults.iter().for_each(|fault| fault.begin(self.fleet));
            if kind.leaves_majority() {
                self.await_receipts(enough);
                match kind {
                    Kind::KillLeader if leader.is_some() => report.failovers.push(befallen.elapsed()),
                    Kind::IsolateLeader if leader.is_some() => report.isolations.push(befallen.elapsed()),
                    _ => {}
                }
            }
            // Longer than a connection that says nothing is believed in, more often than not.
            pause(rng, 3_500);
            let enough = self.news();
            let healed = Instant::now();
            self.fleet.heal();
            let started = healed.elapsed();
            self.await_receipts(enough);
            let recovered = healed.elapsed();
            report.recoveries.push(recovered);
            if report.recovery_longest.is_none_or(|(longest, ..)| longest < recovered) {
                report.recovery_longest = Some((recovered, started, kind));
            }
            pause(rng, 1_500);
            if let Some(broken) = self.history.broken() {
                panic!("{broken}");
            }
        }
        report
    }

    /// More receipts than can be on their way now.
    fn news(&self) -> u64 {
        self.history.receipts() + u64::from(self.options.producers) * WINDOW as u64
    }

    fn await_receipts(&self, enough: u64) {
        wait_for("receipts, with a majority up and connected", || {
            (enough < self.history.receipts()).then_some(())
        });
    }
}

fn pause(rng: &mut Rng, most_ms: u64) {
    thread::park_timeout(Duration::from_millis(rng.between(100, most_ms)));
}
