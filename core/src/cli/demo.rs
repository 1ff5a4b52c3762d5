//! `ringmain demo`: a cluster in this process carries this host's own telemetry, loses the node that leads, and must lose
//! nothing else.
//!
//! ```text
//! producers ──► nodes ──► consumers      each its own thread, over TCP and the client crate, like any other program
//!     │           ▲           │
//!     └─────► director ◄──────┘          this thread: keeps the ledger, draws, and gives the verdict
//!                 │
//!              keeper                    kills the leader and starts it again, so that this thread goes on drawing
//! ```

mod consumer;
mod director;
mod keeper;
mod producer;
mod site;
mod stage;
mod standing;
mod telemetry;
mod verdict;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::Duration;

use ringmain_client::blocking::Client;
use ringmain_client::{QueueInfo, QueueSettings};
use ringmain_core::config::Address;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use super::args::{Demo, Format};
use super::link;
use super::output::{counted, print_json, print_text};
use consumer::Consumer;
use director::{Cast, Director};
use keeper::Keeper;
use producer::Producer;
use site::{Site, Size};
use stage::{HAPPENINGS_MAX, Happening, Stage};
use telemetry::Topic;
use verdict::{Counts, Verdict};

/// More shards than queues would only idle, and the clients need cores of their own.
const SHARDS_MAX: u32 = 4;
const PRIORITIES: u16 = 10;
const COUNT_PERIOD: Duration = Duration::from_millis(200);

pub(super) fn run(options: Demo) -> Result<(), Failure> {
    let interrupted = watch_signals()?;
    let size = Size { nodes: options.nodes, shards: options.shards.unwrap_or_else(|| shards(options.nodes)) };
    let site = Site::open(options.data, size)?;
    let keeper = Keeper::start(&site, &interrupted)?;
    let addresses = site.addresses();
    let queues = Queues::prepare(&addresses)?;

    let (sender, happenings) = flume::bounded(HAPPENINGS_MAX);
    let stage = Stage::new(sender);
    let (order, orders) = flume::bounded(2);
    let cast = Cast { nodes: size.nodes, seconds: options.seconds, title: title(&site, size) };
    let director = Director::new(&stage, &interrupted, order, cast);
    let verdict = thread::scope(|scope| {
        let (stage, addresses, queues) = (&stage, addresses.as_slice(), &queues);
        let keeper = scope.spawn(move || keeper.keep(stage, addresses, &queues.groups, &orders));
        spawn_clients(scope, stage, addresses, options.seconds);
        scope.spawn(|| observe(stage, addresses, &queues.baselines));
        if size.nodes > 1 {
            scope.spawn(|| standing::watch(stage, addresses, &queues.groups));
        }
        let verdict = director.play(&happenings, addresses, &queues.baselines);
        // Whatever came of it, nobody waits for a ledger that is closed.
        stage.stop_consumers();
        drop(happenings);
        let kept = keeper.join().expect("the keeper does not panic");
        verdict.and_then(|verdict| kept.map(|()| verdict))
    })?;
    report(options.output, &verdict)
}

/// Nodes that share a machine share its cores, and leave as many to their clients.
fn shards(nodes: u32) -> u32 {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    if nodes == 1 { cores.min(SHARDS_MAX) } else { (cores / (2 * nodes)).clamp(1, SHARDS_MAX) }
}

/// The first Ctrl-C ends the demo with its verdict, the second one at once.
fn watch_signals() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let flag = Arc::clone(&interrupted);
    thread::spawn(move || {
        for _ in signals.forever() {
            if flag.swap(true, Ordering::Relaxed) {
                view::leave_terminal();
                std::process::exit(1);
            }
        }
    });
    Ok(interrupted)
}

fn title(site: &Site, size: Size) -> String {
    let nodes = if size.nodes == 1 { "one node".to_owned() } else { counted(u64::from(size.nodes), "node") };
    let shards = counted(u64::from(size.shards), "shard");
    let each = if size.nodes == 1 { "" } else { " each" };
    format!("{nodes}, {shards}{each}, data in {}", site.path().display())
}

fn report(output: Format, verdict: &Verdict) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(verdict)?,
        Format::Text => {
            let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print_text(&view::table(verdict, colours))?;
        }
    }
    if verdict.ok { Ok(()) } else { Err(Failure::Judged) }
}

/// The demo's queues, in the order of `Topic::ALL`.
struct Queues {
    /// The number of each one's group.
    groups: Vec<u32>,
    /// Where an earlier demo on the same data left the counters.
    baselines: Vec<Counts>,
}

impl Queues {
    /// The queues, empty.
    fn prepare(addresses: &[Address]) -> Result<Self, Failure> {
        let client = link::dial(addresses)?;
        let settings = QueueSettings { priorities: PRIORITIES, ..QueueSettings::default() };
        let mut groups = Vec::new();
        for topic in Topic::ALL {
            client.create_queue(topic.queue(), &settings)?;
            client.purge_queue(topic.queue())?;
            groups.push(client.show_queue(topic.queue())?.group);
        }
        Ok(Self { groups, baselines: count(&client, &[])? })
    }
}

/// The broker's counts of each of `Topic::ALL`, as they have grown since `baselines`.
fn count(client: &Client, baselines: &[Counts]) -> Result<Vec<Counts>, Failure> {
    let mut counts = Vec::with_capacity(Topic::ALL.len());
    for (place, topic) in Topic::ALL.into_iter().enumerate() {
        counts.push(Counts::since(&client.show_queue(topic.queue())?, baselines.get(place)));
    }
    Ok(counts)
}

impl Counts {
    fn since(info: &QueueInfo, baseline: Option<&Self>) -> Self {
        let before = baseline.map_or((0, 0), |baseline| (baseline.published, baseline.settled));
        let levels = info.levels.iter().map(|level| (level.priority, level.ready, level.in_flight));
        Self {
            published: info.published.wrapping_sub(before.0),
            settled: info.acknowledged.wrapping_sub(before.1),
            levels: levels.collect(),
        }
    }
}

fn spawn_clients<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'scope Stage,
    addresses: &'scope [Address],
    seconds: u64,
) {
    for topic in Topic::ALL {
        scope.spawn(move || {
            let outcome = Producer::open(topic, stage, addresses).and_then(Producer::run);
            ended(stage, outcome, &format!("the producer of {}", topic.queue()), Happening::ProducerEnded);
        });
        scope.spawn(move || {
            let outcome = Consumer::new(topic, stage, addresses, seconds).run();
            ended(stage, outcome, &format!("the consumer of {}", topic.queue()), Happening::ConsumerEnded);
        });
    }
}

fn ended(stage: &Stage, outcome: Result<(), Failure>, who: &str, happening: Happening) {
    if let Err(failure) = outcome {
        stage.tell(Happening::Failed(format!("{who}: {failure}")));
    }
    stage.tell(happening);
}

/// Asks the broker for its counts while there is something to see.
fn observe(stage: &Stage, addresses: &[Address], baselines: &[Counts]) {
    // Without a client there is nothing to see, and whoever else cannot dial says why.
    let Ok(client) = link::dial_often(addresses) else { return };
    while !stage.consumers_stopped() {
        thread::sleep(COUNT_PERIOD);
        // An error means that a node is down, as the demo has it; the client finds its way again.
        if let Ok(counts) = count(&client, baselines) {
            stage.tell(Happening::Counted(counts));
        }
    }
}
