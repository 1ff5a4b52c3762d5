//! A node under load that is killed again and again. Its clients go on by themselves; a ledger knows what was promised.
//!
//! Producers publish singles and batches to several queues and priorities. Consumers settle at random. One producer has
//! a name and is itself cut off now and then. At the end every message has one fate, the queues are drained, and:
//!
//! - `durable`, `once`: the places of each queue and priority are dense, each holds one message, every message with a
//!   receipt has one, and no message that was refused has any;
//! - `ordered`: each producer's messages lie in the order of its offers, and are delivered in the order in which they lie;
//! - `priority`: the last consumer, alone with a full queue, is given the highest priority first;
//! - `exact`: what the node counts is what is there;
//! - `leased`: what was settled, and answered so, never comes back;
//! - `honest`: `wal verify` is content with whatever a kill leaves behind.

mod consumer;
mod ledger;
mod producer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use ringmain_client::{Error, QueueSettings};
use ringmain_net::route::shard_of;

use crate::process::{Node, PATIENCE, Program, Setup, free_ports, wait_for};
use crate::rng::Rng;
use ledger::Ledger;
pub use ledger::Report;

/// Names that lie on both of two shards.
const QUEUES: [&str; 4] = ["orders", "telemetry", "fills", "risk/1"];
const PRIORITIES: u16 = 6;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    /// Kills.
    pub rounds: u32,
    pub shards: u16,
    pub producers: u32,
    pub consumers: u32,
}

impl Options {
    /// As the ordinary tests run it.
    pub fn new(seed: u64, rounds: u32) -> Self {
        Self { seed, rounds, shards: 2, producers: 3, consumers: 2 }
    }
}

/// What all threads of a run share.
struct Scene {
    ledger: Mutex<Ledger>,
    connect: String,
    seed: u64,
    /// Producers offer nothing new.
    is_ending: AtomicBool,
    /// Consumers stop.
    is_drained: AtomicBool,
}

impl Scene {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nobody panics with the ledger")
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }
}

/// Runs all rounds; panics with what was broken.
pub fn run(program: &Program, data: &Path, options: Options) -> Report {
    let mut rng = Rng::new(options.seed);
    let mut setup = Setup::new(program, data).shards(u32::from(options.shards));
    // Checkpoints, recycling and reading back happen all the time.
    setup = setup.limit("checkpoint_bytes", "\"2MiB\"").limit("cache_bytes_max", "\"8MiB\"");
    setup.port = free_ports(options.shards, &mut rng);
    let node = setup.start().unwrap_or_else(|ended| panic!("the node does not start: {ended:?}"));
    create_queues(&node);
    let scene = Arc::new(Scene {
        ledger: Mutex::new(Ledger::default()),
        connect: node.connect(),
        seed: options.seed,
        is_ending: AtomicBool::new(false),
        is_drained: AtomicBool::new(false),
    });
    let mut consumers = Vec::new();
    for number in 0..options.consumers {
        let scene = Arc::clone(&scene);
        consumers.push(thread::spawn(move || consumer::run(&scene, number)));
    }
    let mut producers = Vec::new();
    for number in 0..options.producers {
        let scene = Arc::clone(&scene);
        producers.push(thread::spawn(move || producer::run(&scene, number)));
    }
    let node = kill_again_and_again(&setup, node, &scene, options, &mut rng);

    scene.is_ending.store(true, Ordering::Relaxed);
    producers.into_iter().for_each(|thread| thread.join().expect("a producer ends well"));
    scene.is_drained.store(true, Ordering::Relaxed);
    consumers.into_iter().for_each(|thread| thread.join().expect("a consumer ends well"));
    conclude(&node, &scene);

    let ended = node.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    verify(program, data);
    scene.ledger().report()
}

fn create_queues(node: &Node) {
    let shards: BTreeSet<u32> = QUEUES.iter().map(|name| shard_of(name, 2)).collect();
    assert_eq!(shards.len(), 2);
    let client = Client::builder().connect(&node.connect()).expect("it serves");
    let settings = QueueSettings { priorities: PRIORITIES, ..QueueSettings::default() };
    for queue in QUEUES {
        client.create_queue(queue, &settings).expect("it is new");
    }
}

fn kill_again_and_again(setup: &Setup, node: Node, scene: &Scene, options: Options, rng: &mut Rng) -> Node {
    let mut node = node;
    for round in 0..options.rounds {
        wait_a_random_while(scene, rng);
        node.kill();
        if round % 4 == 0 {
            verify(&setup.program, &setup.data);
        }
        while rng.one_in(4) {
            // Killed while it recovers, or so soon that it does not even do that.
            let starting = setup.begin();
            thread::park_timeout(Duration::from_millis(rng.skewed(120)));
            starting.kill();
        }
        node =
            setup.start().unwrap_or_else(|ended| panic!("round {round}: the node does not start: {ended:?}"));
        scene.ledger().restarts += 1;
    }
    wait_a_random_while(scene, rng);
    node
}

/// So long that some messages have got through since; and then a little more or less.
fn wait_a_random_while(scene: &Scene, rng: &mut Rng) {
    let messages = rng.skewed(3_000);
    let before = scene.ledger().receipts;
    let is_moving = || (scene.ledger().receipts >= before + messages).then_some(());
    wait_for("messages are stored after a restart", is_moving);
    thread::park_timeout(Duration::from_micros(rng.below(30_000)));
}

fn verify(program: &Program, data: &Path) {
    let verified = program.verify(data);
    assert_eq!(verified.code, Some(0), "wal verify: {}{}", verified.stdout, verified.stderr);
    assert!(!verified.stdout.contains("FAULT"), "{}", verified.stdout);
}

/// Everybody else has gone: the counts are compared, the queues drained, the ledger closed.
fn conclude(node: &Node, scene: &Scene) {
    let client = Client::builder().connect(&node.connect()).expect("it serves");
    for (queue, name) in QUEUES.iter().enumerate() {
        // The leases of those who have gone end with their connections.
        let info = wait_for("all leases end", || {
            let info = client.show_queue(name).expect("it is there");
            (info.in_flight == 0 && info.consumers == 0).then_some(info)
        });
        let left = drain(&client, scene, queue, info.ready);
        let levels: Vec<_> =
            info.levels.iter().map(|level| (level.priority, level.ready, level.ready_bytes)).collect();
        assert_eq!(left.levels(), levels, "{name}: what is counted by level, and what came");
        assert_eq!((left.messages, left.bytes), (info.ready, info.ready_bytes), "{name}");
        assert_eq!(info.published - info.acknowledged, info.ready, "{name}");
        let stored = scene.ledger().stored_in(queue);
        assert_eq!(info.published, stored, "{name}: messages that are stored, and that have a receipt");
        let empty = wait_for("the last settles are applied", || {
            let info = client.show_queue(name).expect("it is there");
            (info.in_flight == 0).then_some(info)
        });
        assert_eq!((empty.ready, empty.ready_bytes), (0, 0), "{name}");
        assert_eq!((empty.published, empty.acknowledged), (stored, stored), "{name}");
        assert!(empty.levels.is_empty(), "{name}");
    }
    scene.ledger().close();
}

fn drain(client: &Client, scene: &Scene, queue: usize, expected: u64) -> ledger::Drained {
    let mut drained = ledger::Drained::default();
    let mut consumer = client.consumer(QUEUES[queue], 500).expect("it is there");
    let deadline = Instant::now() + PATIENCE;
    while drained.messages < expected {
        let handled = consumer.poll(500, |delivery| {
            scene.ledger().drained(queue, &delivery, &mut drained);
            delivery.ack();
        });
        if handled.expect("the queue is there") == 0 {
            assert!(Instant::now() < deadline, "{}: {} of {expected}", QUEUES[queue], drained.messages);
            client.idle();
        }
    }
    wait_for("the last settles are answered", || {
        client.poll();
        (consumer.settled().0 == expected).then_some(())
    });
    drained
}

/// Whether it is only the node that is away, as it is for a while after each kill.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Timeout { .. } | Error::Lost { .. }) || error.is_retryable()
}
