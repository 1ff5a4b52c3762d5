//! What carries a shard's outputs to the kernel and its inputs back: one glommio executor per shard.
//!
//! One pinned thread per shard; everything here lives on it, but for `launch`. The shard itself knows nothing
//! of this file. Tasks of a shard: one that accepts, one per connection that reads, one that runs the turns, one for
//! deadlines, one for commands of other threads, one that finds peers' addresses, and short ones for each write, read,
//! dial and leftover send.
//!
//! How a publish passes: a reader's bytes go into `step(Received)`, which wakes the turn task; other readers
//! that are ready run first, since the run queue is first in, first out; then one `step(Turn)` proposes all of
//! it and one write carries it to the disk; its completion is `step(Written)`, and the next turn sends the
//! answers.
//!
//! Guard rails of the executor, kept here:
//! - the preempt timer stays at its default of 100 ms (a shorter one can park an executor with work to do),
//!   and no task is always runnable: a turn is bounded, and what is left over waits for the next;
//! - a waker that another thread can hold belongs to a task that lives as long as the shard: only the inbox
//!   task waits on a foreign channel;
//! - every task is cancelled and awaited before the executor ends, or its descriptors would leak;
//! - a panic ends the process where it happens: an executor that unwinds waits for completions that never come, and
//!   whoever joins it waits for ever.

mod dial;
mod link;
mod panic;
mod signal;

use crate::boot::Replay;
use crate::config::CUT_MAX;
use crate::connection::ConnectionId;
use crate::failure::Failure;
use crate::identity::Spared;
use crate::outgoing::Outgoing;
use crate::readback::ReadWindow;
use crate::shard::{Input, Output, Shard, ShardOptions};
use crate::time::Time;
use dial::Dials;
use futures_lite::FutureExt;
use glommio::timer::Timer;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, Task};
use link::{Link, Seats};
use ringmain_net::socket::{Acceptor, Connection, Listener};
use ringmain_wal::disk::{Disk, Prepared};
use ringmain_wal::{PrepareSegment, Superblock};
use signal::Signal;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Memory registered with the ring for direct I/O; beyond it buffers come from the heap.
const IO_MEMORY_BYTES: usize = 8 << 20;
/// A spinning shard polls for so long before it parks, and is woken more often than that while it may spin.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(50);
const SPIN_TICK: Duration = Duration::from_micros(20);
/// A shard that cannot get a segment for lack of space asks again after this long.
const RETRY_SEGMENTS_AFTER: Duration = Duration::from_secs(1);
/// Different things said, after which what was said is forgotten.
const NOTICES_MAX: usize = 64;

/// Everything one shard's thread needs to begin.
pub(crate) struct Launch {
    pub(crate) options: ShardOptions,
    pub(crate) directory: PathBuf,
    pub(crate) spared: Spared,
    pub(crate) listener: Listener,
    /// `None`: wherever the system likes.
    pub(crate) cpu: Option<usize>,
    pub(crate) is_spinning: bool,
    /// Told once the shard serves, or why it never will.
    pub(crate) ready: flume::Sender<Result<(), Failure>>,
    /// Told what the node should know of the shard.
    pub(crate) news: flume::Sender<News>,
}

/// What a shard tells its node; each at most once.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// A node that was no member is one in every group here.
    Joined,
    /// The shard is over, however it ended.
    Over,
}

/// Says so when the shard is over, also by a panic.
struct EndNotice(flume::Sender<News>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // There is room for all news of each shard; and a node that is gone needs none.
        let _ = self.0.try_send(News::Over);
    }
}

/// What another thread can ask of a shard.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Finish what was admitted, then end.
    Stop,
    /// End at once, as if the process had died: nothing more is written or answered.
    Kill,
}

/// A running shard, seen from other threads.
pub(crate) struct ShardThread {
    pub(crate) commands: flume::Sender<Command>,
    handle: ExecutorJoinHandle<Result<(), Failure>>,
}

impl ShardThread {
    /// Waits until the shard has ended.
    pub(crate) fn join(self) -> Result<(), Failure> {
        match self.handle.join() {
            Ok(outcome) => outcome,
            Err(error) => Err(Failure::Runtime { why: error.to_string() }),
        }
    }
}

/// Starts the thread of a shard; it reports through `Launch::ready`.
pub(crate) fn launch(launch: Launch) -> Result<ShardThread, Failure> {
    let (commands, inbox) = flume::bounded(8);
    let placement = launch.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let name = format!("shard-{}", launch.options.identity.shard);
    let mut builder = LocalExecutorBuilder::new(placement).name(&name).io_memory(IO_MEMORY_BYTES);
    if launch.is_spinning {
        builder = builder.spin_before_park(SPIN_BEFORE_PARK);
    }
    Ok(ShardThread { commands, handle: start(builder, move || run(launch, inbox))? })
}

fn start<T: Send + 'static, F: Future<Output = T> + 'static>(
    builder: LocalExecutorBuilder,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<ExecutorJoinHandle<T>, Failure> {
    panic::end_the_process_on_shards();
    let marked = move || {
        panic::mark_shard();
        work()
    };
    builder.spawn(marked).map_err(|error| Failure::Runtime { why: error.to_string() })
}

/// A shard and the devices around it. Invariant: no borrow of a cell lives across an `.await`.
pub(crate) struct Host {
    shard: RefCell<Shard>,
    output: RefCell<Output>,
    disk: Disk,
    clock: Clock,

    links: RefCell<BTreeMap<ConnectionId, Rc<Link>>>,
    /// Of accepted connections; what is dialled comes on top.
    seats_max: usize,
    seats: Rc<Seats>,
    connection_next: Cell<u64>,
    /// Durable writes under way, and the news that one is done.
    writes: Cell<usize>,
    write_done: Signal,
    /// Tasks under way for the devices: writes, reads, segments, sends.
    devices: Cell<usize>,
    /// Bytes of all receive buffers.
    receive_bytes: Cell<usize>,

    segments: RefCell<VecDeque<PrepareSegment>>,
    segments_due: Signal,
    dials: Dials,
    /// What was said already, so that it is not said again and again.
    noticed: RefCell<BTreeSet<String>>,
    news: flume::Sender<News>,
    spared: RefCell<Spared>,
    /// The shard has something to do.
    turn: Signal,
    /// The last turn had more to do than its share.
    is_unfinished: Cell<bool>,
    /// The next deadline may have moved.
    deadline: Signal,
    /// Raised once: the shard may be asked.
    serving: Signal,
    is_serving: Cell<bool>,
    /// The shard is over, for the reason in `outcome`.
    over: Signal,
    is_over: Cell<bool>,
    outcome: RefCell<Result<(), Failure>>,
}

async fn run(launch: Launch, inbox: flume::Receiver<Command>) -> Result<(), Failure> {
    let Launch { options, directory, spared, listener, is_spinning, ready, news, .. } = launch;
    let _ended = EndNotice(news.clone());
    let (host, acceptor) = match open(options, directory.clone(), spared, listener, news).await {
        Ok(opened) => opened,
        Err(error) => {
            // The one who waits for it decides what to say.
            let _ = ready.send(Err(error.of_shard(&directory)));
            return Ok(());
        }
    };
    let mut tasks = vec![
        spawn(turns(host.clone())),
        spawn(deadlines(host.clone())),
        spawn(obey(host.clone(), inbox)),
        spawn(prepare_segments(host.clone())),
        spawn(dial::dial(host.clone())),
    ];
    if is_spinning {
        tasks.push(spawn(spin(host.clone())));
    }
    host.turn.raise();
    let mut accepting = None;
    let serving = async {
        host.serving.wait().await;
        // Not before: a publish sent again must not be refused by a shard that cannot know yet whether it has it.
        accepting = Some(spawn(accept(host.clone(), acceptor)));
        // Nobody is there to hear it only if the start was given up.
        let _ = ready.send(Ok(()));
        std::future::pending().await
    };
    serving.or(host.over.wait()).await;
    // Nobody comes in any more while those who are in leave: nobody would show him out.
    if let Some(accepting) = accepting {
        accepting.cancel().await;
    }
    let links: Vec<Rc<Link>> = std::mem::take(&mut *host.links.borrow_mut()).into_values().collect();
    for link in links {
        link.cancel().await;
    }
    while host.devices.get() != 0 {
        sleep(Duration::from_micros(200)).await;
    }
    for task in tasks {
        task.cancel().await;
    }
    let mut outcome = host.outcome.replace(Ok(())).map_err(|failure| failure.of_shard(&directory));
    if !host.is_serving.get() {
        // Whoever waits for the start is told why there is none: the other shards may serve for ever.
        let stopped = || Failure::Runtime { why: "it was ended before it served".to_owned() };
        let why = std::mem::replace(&mut outcome, Ok(())).err().unwrap_or_else(stopped);
        let _ = ready.send(Err(why));
    }
    // Every task is over, so this is the last one who holds it.
    if let Ok(host) = Rc::try_unwrap(host) {
        host.disk.close().await;
    }
    outcome
}

async fn open(
    options: ShardOptions,
    directory: PathBuf,
    spared: Spared,
    listener: Listener,
    news: flume::Sender<News>,
) -> Result<(Rc<Host>, Acceptor), Failure> {
    let disk = Disk::open(&directory, options.log.clone()).await?;
    let seats_max = (options.limits.seats_max() + CUT_MAX) as usize;
    let mut replay = Replay::new(options);
    let mut outcome = Ok(());
    let recovered = disk
        .boot(|record| {
            if outcome.is_ok() {
                outcome = replay.on_record(record);
            }
        })
        .await?;
    outcome?;
    let shard = replay.finish(recovered)?;
    let acceptor =
        listener.serve().map_err(|source| Failure::System { doing: "serving the port", source })?;
    let host = Host {
        shard: RefCell::new(shard),
        output: RefCell::default(),
        disk,
        clock: Clock::new(),
        links: RefCell::default(),
        seats_max,
        seats: Rc::default(),
        connection_next: Cell::new(1),
        writes: Cell::new(0),
        write_done: Signal::default(),
        devices: Cell::new(0),
        receive_bytes: Cell::new(0),
        segments: RefCell::default(),
        segments_due: Signal::default(),
        dials: Dials::default(),
        noticed: RefCell::default(),
        news,
        spared: RefCell::new(spared),
        turn: Signal::default(),
        is_unfinished: Cell::new(false),
        deadline: Signal::default(),
        serving: Signal::default(),
        is_serving: Cell::new(false),
        over: Signal::default(),
        is_over: Cell::new(false),
        outcome: RefCell::new(Ok(())),
    };
    Ok((Rc::new(host), acceptor))
}

async fn accept(host: Rc<Host>, acceptor: Acceptor) {
    loop {
        // The shard has seats for all of them but those that it has cut, which are about to go.
        while host.seats.taken.get() >= host.seats_max {
            host.seats.freed.wait().await;
        }
        match acceptor.accept().await {
            Ok(connection) => {
                let id = host.next_connection();
                host.step(Input::Opened { connection: id });
                host.link(id, connection);
            }
            // Out of descriptors, say: those who wait are served when some connection ends.
            Err(error) => {
                eprintln!("a connection could not be accepted: {error}");
            }
        }
    }
}

async fn turns(host: Rc<Host>) {
    loop {
        host.turn.wait().await;
        host.step(Input::Turn);
        host.submit_writes();
        host.deadline.raise();
        if host.is_unfinished.replace(false) {
            // Long enough for the reactor to look at the devices before the next turn.
            sleep(Duration::from_micros(1)).await;
            host.turn.raise();
        }
        if !host.is_serving.get() && host.shard.borrow().is_serving() {
            host.is_serving.set(true);
            host.serving.raise();
        }
    }
}

/// Runs a turn when the shard's next deadline has come.
async fn deadlines(host: Rc<Host>) {
    let mut armed = None;
    // A shard that is over does nothing about its deadlines: asking it again and again would leave the devices that the end
    // waits for no time.
    while !host.is_over.get() {
        let next = host.shard.borrow().next_deadline();
        // A deadline that moved back is found out when the old one fires: timers are set once, not per turn.
        let due = match (armed, next) {
            (Some(armed), Some(next)) => Some(next.min(armed)),
            (armed, next) => next.or(armed),
        };
        let Some(due) = due else {
            host.deadline.wait().await;
            continue;
        };
        armed = Some(due);
        let left = due.ns_since(host.clock.now());
        if left == 0 {
            armed = None;
            host.turn.raise();
            host.deadline.wait().await;
            continue;
        }
        let is_moved = async {
            while host.shard.borrow().next_deadline().is_none_or(|next| due <= next) {
                host.deadline.wait().await;
            }
        };
        is_moved.or(sleep(Duration::from_nanos(left))).await;
    }
}

/// Keeps a spinning shard from parking, but for the time of a durable write: the kernel finishes one in a worker
/// of this core, which a spinning thread would starve for milliseconds.
async fn spin(host: Rc<Host>) {
    loop {
        match host.writes.get() {
            0 => sleep(SPIN_TICK).await,
            _ => host.write_done.wait().await,
        }
    }
}

/// Makes segments ready, one at a time. A helper thread wakes this task, so it lives as long as the shard.
async fn prepare_segments(host: Rc<Host>) {
    loop {
        host.segments_due.wait().await;
        loop {
            let segment = host.segments.borrow_mut().pop_front();
            let Some(segment) = segment.filter(|_| !host.is_over.get()) else { break };
            let number = segment.number();
            host.devices.set(host.devices.get() + 1);
            let prepared = host.disk.prepare_segment(segment).await;
            host.devices.set(host.devices.get() - 1);
            match prepared {
                Prepared::Ready => host.step(Input::SegmentReady { number }),
                Prepared::NoSpace => {
                    host.step(Input::SegmentRefused { number });
                    sleep(RETRY_SEGMENTS_AFTER).await;
                    // A full disk keeps a shard from starting only if the segments it has are full too.
                    if !host.is_serving.get() {
                        host.end(Err(Failure::NoSpace { directory: host.disk.directory().to_owned() }));
                    }
                    host.step(Input::RetrySegments);
                }
            }
        }
    }
}

async fn obey(host: Rc<Host>, inbox: flume::Receiver<Command>) {
    while let Ok(command) = inbox.recv_async().await {
        match command {
            Command::Stop => host.step(Input::Stop),
            Command::Kill => host.end(Ok(())),
        }
    }
    // Every handle to this shard is gone: nobody can stop it any more but by ending the process.
    std::future::pending::<()>().await;
}

impl Host {
    /// Feeds one input and carries out what came of it; a turn follows.
    pub(crate) fn step(self: &Rc<Self>, input: Input<'_>) {
        self.feed(input);
    }

    /// Feeds received bytes; answers how many were consumed, and whether the rest must wait for a resume.
    pub(crate) fn receive(self: &Rc<Self>, connection: ConnectionId, bytes: &[u8]) -> (usize, bool) {
        self.feed(Input::Received { connection, bytes })
    }

    fn feed(self: &Rc<Self>, input: Input<'_>) -> (usize, bool) {
        if self.is_over.get() {
            return (0, true);
        }
        if !matches!(input, Input::Turn) {
            self.turn.raise();
        }
        let now = self.clock.now();
        let mut output = self.output.take();
        self.shard.borrow_mut().step(now, input, &mut output);
        let received = (output.consumed, output.is_paused);
        self.carry(&mut output);
        output.clear();
        self.output.replace(output);
        received
    }

    /// Carries out what the last step wants done.
    fn carry(self: &Rc<Self>, output: &mut Output) {
        if let Some(failure) = output.failure.take() {
            self.end(Err(failure));
            return;
        }
        if let Some(is_spared) = output.is_spared.take()
            && let Err(error) = self.spared.borrow_mut().record(is_spared)
        {
            self.end(Err(Failure::Identity(error)));
            return;
        }
        for id in output.resumes.drain(..) {
            self.with_link(id, |link| link.resumed.raise());
        }
        for window in output.reads.drain(..) {
            self.device(self.clone().read(window));
        }
        if !output.segments.is_empty() {
            self.segments.borrow_mut().extend(output.segments.drain(..));
            self.segments_due.raise();
        }
        if !output.dials.is_empty() {
            self.dials.push(output.dials.drain(..));
        }
        if output.has_joined {
            // There is room for it: it is said once.
            let _ = self.news.try_send(News::Joined);
        }
        for notice in output.notices.drain(..) {
            self.say(notice);
        }
        if let Some(superblock) = output.superblock.take() {
            self.device(self.clone().write_superblock(superblock));
        }
        for id in output.sends.drain(..) {
            self.with_link(id, |link| link.send(self));
        }
        for id in output.closes.drain(..) {
            self.with_link(id, |link| link.close(self));
        }
        for id in output.cuts.drain(..) {
            self.with_link(id, |link| link.break_off());
        }
        self.is_unfinished.set(output.is_unfinished);
        if output.is_stopped {
            self.end(Ok(()));
        }
    }

    fn with_link(&self, id: ConnectionId, use_it: impl FnOnce(&Rc<Link>)) {
        let link = self.links.borrow().get(&id).cloned();
        if let Some(link) = link {
            use_it(&link);
        }
    }

    fn next_connection(&self) -> ConnectionId {
        let id = ConnectionId(self.connection_next.get());
        self.connection_next.set(id.0 + 1);
        id
    }

    /// Begins to read from a connection that the shard knows, or is about to.
    fn link(self: &Rc<Self>, id: ConnectionId, connection: Connection) {
        let link = Link::start(self, id, connection);
        self.links.borrow_mut().insert(id, link);
    }

    /// Says it once.
    fn say(&self, notice: String) {
        let mut noticed = self.noticed.borrow_mut();
        if noticed.len() == NOTICES_MAX {
            noticed.clear();
        }
        if !noticed.contains(&notice) {
            eprintln!("{notice}");
            noticed.insert(notice);
        }
    }

    pub(crate) fn forget(&self, id: ConnectionId) {
        self.links.borrow_mut().remove(&id);
    }

    pub(crate) fn is_peer(&self, id: ConnectionId) -> bool {
        self.shard.borrow().is_peer(id)
    }

    /// Takes what the shard has for this connection.
    pub(crate) fn take_outgoing(&self, id: ConnectionId, out: &mut Outgoing) {
        self.shard.borrow_mut().take_outgoing(id, out);
    }

    /// Starts every write that the log wants started now.
    fn submit_writes(self: &Rc<Self>) {
        loop {
            let mut shard = self.shard.borrow_mut();
            let Some(bytes) = shard.next_write_bytes() else { return };
            let mut page = self.disk.allocate(bytes);
            let Some(at) = shard.poll_write(page.as_bytes_mut()) else { return };
            drop(shard);
            let host = self.clone();
            self.writes.set(self.writes.get() + 1);
            self.device(async move {
                host.disk.write(at, page).await;
                host.writes.set(host.writes.get() - 1);
                host.write_done.raise();
                host.step(Input::Written { id: at.id });
            });
        }
    }

    async fn read(self: Rc<Self>, window: ReadWindow) {
        match self.disk.read(window.position, window.bytes).await {
            Ok((position, bytes)) => {
                assert_eq!(position, window.position);
                self.step(Input::Read { position, bytes });
            }
            Err(error) => self.end(Err(Failure::Wal(error))),
        }
    }

    async fn write_superblock(self: Rc<Self>, superblock: Superblock) {
        self.disk.write_superblock(&superblock).await;
        self.step(Input::SuperblockWritten);
    }

    /// Runs a task for a device and counts it, so that the shard does not end under it.
    pub(crate) fn device(self: &Rc<Self>, work: impl Future<Output = ()> + 'static) {
        self.devices.set(self.devices.get() + 1);
        let host = self.clone();
        spawn(async move {
            work.await;
            host.devices.set(host.devices.get() - 1);
        })
        .detach();
    }

    fn end(&self, outcome: Result<(), Failure>) {
        if !self.is_over.replace(true) {
            *self.outcome.borrow_mut() = outcome;
        }
        self.over.raise();
    }
}

pub(crate) type TaskHandle = Task<()>;

/// A task on this shard's thread.
pub(crate) fn spawn(work: impl Future<Output = ()> + 'static) -> TaskHandle {
    glommio::spawn_local(work)
}

/// Does what would keep the shard's thread waiting. Only for tasks that live as long as the shard.
pub(crate) async fn on_helper_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}

pub(crate) async fn sleep(duration: Duration) {
    Timer::new(duration).await;
}

/// The clock of a shard: it starts at the wall's time and goes on by the monotonic one, so that it never jumps.
struct Clock {
    wall: Duration,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        // A machine whose clock stands before 1970 gets stamps from 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall, started: Instant::now() }
    }

    fn now(&self) -> Time {
        Time((self.wall + self.started.elapsed()).as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests;
