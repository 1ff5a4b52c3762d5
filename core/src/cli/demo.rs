//! `ringmain demo`: a broker in this process carries this host's own telemetry, is killed halfway, and must lose nothing.
//!
//! ```text
//! producers ──► broker ──► consumers      each its own thread, over TCP and the client crate, like any other program
//!     │            ▲           │
//!     └──────► ledger ◄────────┘          this thread: keeps the model, draws, and gives the verdict
//!                  │
//!               keeper                    kills the broker and starts it again, so that this thread goes on drawing
//! ```

mod consumer;
mod producer;
mod site;
mod stage;
mod telemetry;
mod verdict;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use ringmain_client::blocking::Client;
use ringmain_client::{QueueInfo, QueueSettings};
use ringmain_core::config::{Address, Config};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use super::args::{Demo, Format};
use super::broker::Broker;
use super::link;
use super::output::{print_json, print_text};
use consumer::Consumer;
use producer::Producer;
use site::Site;
use stage::{HAPPENINGS_MAX, Happening, Stage};
use telemetry::Topic;
use verdict::{Counts, Ledger, Verdict};
use view::{Phase, Picture, Screen};

/// More shards than queues would only idle, and the clients need cores of their own.
const SHARDS_MAX: u32 = 4;
const PRIORITIES: u16 = 10;
const DRAW_PERIOD: Duration = Duration::from_millis(100);
const COUNT_PERIOD: Duration = Duration::from_millis(200);
/// After the last publish everything must have come through within this time.
const DRAIN_MAX: Duration = Duration::from_secs(30);

pub(super) fn run(options: Demo) -> Result<(), Failure> {
    if options.nodes.is_some_and(|nodes| nodes > 1) {
        eprintln!(
            "one node for now: its broker is killed and started again, until there is a cluster to fail over to"
        );
    }
    let interrupted = watch_signals()?;
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let site = Site::open(options.data, options.shards.unwrap_or(cores.min(SHARDS_MAX)))?;
    let broker = Broker::start(site.config())?;
    let baselines = prepare_queues(&site.addresses())?;

    let (sender, happenings) = flume::bounded(HAPPENINGS_MAX);
    let stage = Stage::new(sender);
    let (kill, kills) = flume::bounded(1);
    let director = Director {
        stage: &stage,
        interrupted: &interrupted,
        kill,
        seconds: options.seconds,
        title: title(&site),
        ledger: Ledger::new(Topic::ALL.len()),
        counts: vec![Counts::default(); Topic::ALL.len()],
        act: Act::Producing,
        producers: Topic::ALL.len(),
        consumers: Topic::ALL.len(),
        kill_ordered: false,
        broker_up: true,
    };
    let addresses = site.addresses();
    let verdict = thread::scope(|scope| {
        let (stage, config) = (&stage, site.config());
        let keeper = scope.spawn(move || keep(stage, broker, config, &kills));
        spawn_clients(scope, stage, &addresses, options.seconds);
        scope.spawn(|| observe(stage, &addresses, &baselines));
        let verdict = director.play(&happenings, &addresses, &baselines);
        // Whatever came of it, nobody waits for a ledger that is closed.
        stage.stop_consumers();
        drop(happenings);
        let kept = keeper.join().expect("the keeper does not panic");
        verdict.and_then(|verdict| kept.map(|()| verdict))
    })?;
    report(options.output, &verdict)
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

fn title(site: &Site) -> String {
    let shards = site.addresses().len();
    let plural = if shards == 1 { "" } else { "s" };
    format!("one node, {shards} shard{plural}, data in {}", site.config().data.display())
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

/// The queues, empty; their counters go on from where an earlier demo on the same data left them.
fn prepare_queues(addresses: &[Address]) -> Result<Vec<Counts>, Failure> {
    let client = link::dial(addresses)?;
    let settings = QueueSettings { priorities: PRIORITIES, ..QueueSettings::default() };
    for topic in Topic::ALL {
        client.create_queue(topic.queue(), &settings)?;
        client.purge_queue(topic.queue())?;
    }
    count(&client, &[])
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

/// Owns the broker: kills it and starts it again when told, and stops it when there is nobody left to tell.
fn keep(stage: &Stage, mut broker: Broker, config: &Config, kills: &Receiver<()>) -> Result<(), Failure> {
    while kills.recv().is_ok() {
        stage.tell(Happening::Killed { at: stage.now() });
        broker.kill();
        broker = match Broker::start(config) {
            Ok(broker) => broker,
            Err(failure) => {
                stage.tell(Happening::Failed(format!("the broker does not start again: {failure}")));
                return Ok(());
            }
        };
        stage.tell(Happening::Restarted { at: stage.now() });
    }
    broker.stop()
}

/// Asks the broker for its counts while there is something to see.
fn observe(stage: &Stage, addresses: &[Address], baselines: &[Counts]) {
    // Without a client there is nothing to see, and whoever else cannot dial says why.
    let Ok(client) = link::dial_often(addresses) else { return };
    while !stage.consumers_stopped() {
        thread::sleep(COUNT_PERIOD);
        // An error means that the broker is down, as the demo has it; the client finds it again.
        if let Ok(counts) = count(&client, baselines) {
            stage.tell(Happening::Counted(counts));
        }
    }
}

/// Leads the demo from the first message to the verdict.
struct Director<'a> {
    stage: &'a Stage,
    interrupted: &'a AtomicBool,
    kill: Sender<()>,
    seconds: u64,
    title: String,

    ledger: Ledger,
    counts: Vec<Counts>,
    act: Act,
    /// Threads that have not ended.
    producers: usize,
    consumers: usize,
    kill_ordered: bool,
    broker_up: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Act {
    Producing,
    /// Nothing is produced any more; what is underway must arrive.
    Draining {
        deadline: Instant,
    },
    /// Everything has arrived, or never will: the consumers are leaving.
    Closing,
    Done,
}

impl Director<'_> {
    fn play(
        mut self,
        happenings: &Receiver<Happening>,
        addresses: &[Address],
        baselines: &[Counts],
    ) -> Result<Verdict, Failure> {
        let mut screen = Screen::open(self.seconds);
        let mut next_draw = Instant::now();
        while self.consumers > 0 {
            match happenings.recv_deadline(next_draw) {
                Ok(happening) => self.on_happening(happening, &mut screen)?,
                Err(RecvTimeoutError::Timeout) => {
                    next_draw += DRAW_PERIOD;
                    self.draw(&mut screen);
                    self.advance()?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.act = Act::Done;
        self.draw(&mut screen);
        drop(screen);
        let seconds = self.stage.now() as f64 / 1e9;
        let counts = link::dial(addresses).and_then(|client| count(&client, baselines)).ok();
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        Ok(self.ledger.verdict(counts.as_deref(), seconds, interrupted))
    }

    fn on_happening(&mut self, happening: Happening, screen: &mut Screen) -> Result<(), Failure> {
        match happening {
            Happening::Message(event) => self.ledger.on_event(event),
            Happening::Killed { at } => {
                self.broker_up = false;
                self.ledger.on_killed(at);
                screen.note(at, "the broker is killed");
            }
            Happening::Restarted { at } => {
                self.broker_up = true;
                self.ledger.on_restarted(at);
                screen.note(at, "the broker is started again on the same data");
            }
            Happening::Counted(counts) => self.counts = counts,
            Happening::ProducerEnded => self.producers -= 1,
            Happening::ConsumerEnded => self.consumers -= 1,
            Happening::Failed(why) => return Err(Failure::told(why)),
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), Failure> {
        let now = self.stage.now();
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        match self.act {
            Act::Producing => {
                let halfway = now >= self.seconds * 1_000_000_000 / 2;
                if halfway && !self.kill_ordered && !interrupted {
                    self.kill_ordered = true;
                    self.kill.send(()).map_err(|_| Failure::told("the broker's keeper has gone"))?;
                }
                if interrupted || now >= self.seconds * 1_000_000_000 {
                    self.stage.stop_producers();
                    self.act = Act::Draining { deadline: Instant::now() + DRAIN_MAX };
                }
            }
            Act::Draining { deadline } => {
                let tally = self.ledger.tally();
                let arrived = self.ledger.unresolved() == 0 && tally.consumed >= tally.acknowledged;
                let broker_up = self.broker_up && self.kill_ordered == self.ledger.outage().is_some();
                if (self.producers == 0 && broker_up && arrived) || Instant::now() >= deadline {
                    self.stage.stop_consumers();
                    self.act = Act::Closing;
                }
            }
            Act::Closing | Act::Done => {}
        }
        Ok(())
    }

    fn draw(&self, screen: &mut Screen) {
        let phase = match self.act {
            _ if !self.broker_up => Phase::Down,
            Act::Producing => Phase::Running,
            Act::Draining { .. } | Act::Closing => Phase::Draining,
            Act::Done => Phase::Done,
        };
        screen.draw(&Picture {
            title: &self.title,
            now: self.stage.now(),
            seconds: self.seconds,
            phase,
            ledger: &self.ledger,
            counts: &self.counts,
        });
    }
}
