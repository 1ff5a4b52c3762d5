//! The client for async programs: it needs no particular runtime, or none at all.
//!
//! A [`Client`] has one thread of its own for input and output; its futures are woken from there and run on whatever
//! polls them. Everything in between is bounded: a producer's window in publishes and bytes, a consumer's credit.
//!
//! ```no_run
//! use ringmain_client::{Message, asynchronous::Client};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), ringmain_client::Error> {
//! let client = Client::builder().connect("127.0.0.1:7411").await?;
//! let producer = client.producer("orders").await?;
//! let receipt = producer.send(Message::owned("buy 100").priority(3)).await?;
//! println!("durable at index {} after {:?}", receipt.index, receipt.round_trip);
//! let mut consumer = client.consumer("orders", 64).await?;
//! let delivery = consumer.next().await?;
//! println!("{:?}", delivery.payload());
//! delivery.ack().await?;
//! client.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Natural batching: what is sent while the thread is busy leaves in one write. Nothing ever waits for more.

mod budget;
mod consumer;
mod producer;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;
use std::time::Duration;

use mio::Waker;
use ringmain_net::protocol::{QUEUES_PER_LIST_MAX, QueueInfo, QueueSettings};

use crate::cluster::{Change, Cluster, ClusterStatus, STATUS_TIMEOUT};
use crate::driver::Driver;
use crate::error::Error;
use crate::event::Event;
use crate::machine::call::{Answer, Request};
use crate::options::{Address, Builder, IdleStrategy};
use worker::{Command, Reply, Worker};

pub use consumer::{Consumer, Delivery};
pub use producer::{PendingReceipt, Producer, TrySendError};

/// Commands between the users of a client and its thread. Publishes and settles are bounded by windows and credits
/// already; beyond this, whoever has something to say waits.
const COMMANDS_MAX: usize = 8192;
const EVENTS_MAX: usize = 256;

/// A client with a thread of its own. See the [module](self). Cloning gives another handle to the same client.
///
/// When the last handle, producer and consumer are gone the thread sends what it has and ends; that is waited for,
/// and its success known, only with [`Client::close`].
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

/// What everything that belongs to a client shares.
#[derive(Debug)]
pub(crate) struct Handle {
    /// `None` only while it is being dropped.
    commands: Option<flume::Sender<Command>>,
    /// The thread's end of it. What is said when the thread has ended is taken back out here, so that nobody waits
    /// for an answer that cannot come.
    unheard: flume::Receiver<Command>,
    waker: Arc<Waker>,
    signals: Arc<Signals>,
    events: flume::Receiver<Event>,
}

/// Between the thread and those who talk to it.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Whether the thread sleeps, or is about to.
    pub(crate) parked: AtomicBool,
    /// Whether the thread listens no more.
    pub(crate) ended: AtomicBool,
}

impl Builder<Client> {
    /// Connects to the first of these addresses (`HOST:PORT,HOST:PORT`) that welcomes us, within the connect timeout.
    ///
    /// From there the client learns where all nodes and shards are, and needs these addresses no more. It goes on
    /// reconnecting by itself until it is closed.
    pub async fn connect(self, addresses: &str) -> Result<Client, Error> {
        let mut options = self.finish(addresses)?;
        options.idle = IdleStrategy::Park;
        let driver = Driver::new(options)?;
        let waker = driver.waker();
        let signals = Arc::new(Signals::default());
        let (commands, received) = flume::bounded(COMMANDS_MAX);
        let (happened, events) = flume::bounded(EVENTS_MAX);
        let unheard = received.clone();
        let worker = Worker::new(driver, received, Arc::clone(&signals), (happened, events.clone()));
        let thread = thread::Builder::new().name("ringmain-client".to_owned());
        let started = thread.spawn(move || worker.run());
        started.map_err(|error| Error::System { reason: format!("cannot start a thread: {error}") })?;
        let handle = Handle { commands: Some(commands), unheard, waker, signals, events };
        let client = Client { handle: Arc::new(handle) };
        client.handle.ask(Command::Connect).await?;
        Ok(client)
    }
}

impl Client {
    /// Sets up a client.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    /// A producer for this queue with an anonymous session: exactly once across reconnects and failovers, not across
    /// restarts of this process. Fails at once if there is no such queue, otherwise after the call timeout.
    pub async fn producer(&self, queue: &str) -> Result<Producer, Error> {
        Producer::open(&self.handle, queue, "").await
    }

    /// A producer whose session survives this process: the next one of the same name fences this one off and finds
    /// in [`Producer::first_sequence`] where it goes on. Names have 1 to 255 bytes.
    pub async fn named_producer(&self, queue: &str, name: &str) -> Result<Producer, Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::Setting { what: "a producer's name has 1 to 255 bytes" });
        }
        Producer::open(&self.handle, queue, name).await
    }

    /// A consumer of this queue that may have up to `credit` messages unsettled: 1 for the strictest priority, some
    /// hundreds for throughput. Fails at once if there is no such queue, otherwise after the call timeout.
    pub async fn consumer(&self, queue: &str, credit: u32) -> Result<Consumer, Error> {
        if credit == 0 {
            return Err(Error::Setting { what: "a consumer without credit gets nothing" });
        }
        Consumer::open(&self.handle, queue, credit).await
    }

    /// Creates a queue. No error if it exists with equal settings.
    pub async fn create_queue(&self, name: &str, settings: &QueueSettings) -> Result<(), Error> {
        let request = Request::CreateQueue { name: name.to_owned(), settings: settings.clone() };
        self.call(request).await.map(|_| ())
    }

    /// A queue, with exact counts for each of its levels that holds messages.
    pub async fn show_queue(&self, name: &str) -> Result<QueueInfo, Error> {
        match self.call(Request::ShowQueue { name: name.to_owned() }).await? {
            Answer::Queue(info) => Ok(*info),
            answer => Err(answer.unexpected()),
        }
    }

    /// Deletes a queue with everything in it; answers how many messages that was.
    ///
    /// If the answer is lost, with its connection or with its leader, it is asked again until the call timeout: a queue
    /// that is gone by then counts as deleted by this call, of 0 messages. A queue that somebody else makes anew under the
    /// same name in between is deleted as well.
    pub async fn delete_queue(&self, name: &str) -> Result<u64, Error> {
        self.call_done(Request::DeleteQueue { name: name.to_owned() }).await
    }

    /// Removes the ready messages of a queue; answers how many that was.
    ///
    /// If the answer is lost, it is asked again until the call timeout; then it is those that were ready at the last try
    /// which are counted, and gone are those of each.
    pub async fn purge_queue(&self, name: &str) -> Result<u64, Error> {
        self.call_done(Request::PurgeQueue { name: name.to_owned() }).await
    }

    /// All queues of the cluster, in name order, without their levels.
    pub async fn list_queues(&self) -> Result<Vec<QueueInfo>, Error> {
        let cluster = self.cluster().await?;
        let (shards, groups) = (cluster.shards.len() as u32, cluster.groups.max(1));
        let mut queues = Vec::new();
        for (shard, group) in (0..shards).flat_map(|shard| (0..groups).map(move |group| (shard, group))) {
            self.list_group(shard, group, &mut queues).await?;
        }
        queues.sort_by(|a: &QueueInfo, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    async fn list_group(&self, shard: u32, group: u32, queues: &mut Vec<QueueInfo>) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let request = Request::ListQueues { shard, group, after, limit: QUEUES_PER_LIST_MAX };
            let list = match self.call(request).await? {
                Answer::Queues(list) => list,
                answer => return Err(answer.unexpected()),
            };
            let last = list.queues.last().map(|info| info.name.clone());
            queues.extend(list.queues);
            match last {
                Some(last) if list.more => after = last,
                _ => return Ok(()),
            }
        }
    }

    /// The node that answers, and where its shards listen.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        match self.call(Request::Metadata).await? {
            Answer::Cluster(cluster) => Ok(Cluster::from(cluster)),
            answer => Err(answer.unexpected()),
        }
    }

    /// Who listens at this address (`HOST:PORT`), which need not belong to the cluster. Fails at once if nobody does.
    pub async fn identify(&self, address: &str) -> Result<Cluster, Error> {
        match self.call(Request::Identify { address: Address::parse(address)? }).await? {
            Answer::Cluster(cluster) => Ok(Cluster::from(cluster)),
            answer => Err(answer.unexpected()),
        }
    }

    /// How all nodes are, each in its own words: who leads, who belongs, how far everybody is.
    ///
    /// All shards of all nodes are asked side by side. A node that does not answer within a second, or cannot be
    /// reached, is in the answer as such; the call itself fails only if no node answers at all.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        // Asked first for the newest list of nodes.
        self.cluster().await?;
        let survey = self.handle.ask(|reply| Command::Survey { reply }).await?;
        let mut asked = Vec::new();
        for (node, shard) in survey.questions() {
            let (reply, answer) = flume::bounded(1);
            let request = Request::ShowGroups { node, shard };
            self.handle.say(Command::Call { request, timeout: Some(STATUS_TIMEOUT), reply }).await?;
            asked.push(answer);
        }
        let mut answers = Vec::new();
        for answer in asked {
            if let Ok(Ok(Answer::Groups(shown))) = answer.recv_async().await {
                answers.push(shown);
            }
        }
        Ok(survey.finish(answers))
    }

    /// Makes this node the leader of a group. No error if it leads already.
    pub async fn move_leader(&self, group: u32, node: u32) -> Result<(), Error> {
        self.call_done(Request::MoveLeader { group, node }).await.map(|_| ())
    }

    /// Adds a node to a group's members, or removes one. Returns once it is so and the failure of one node cannot undo it;
    /// no error if it was so already. While another change of the group is under way, or it has no leader, it is tried
    /// again until the call timeout.
    pub async fn change_members(&self, group: u32, change: Change) -> Result<(), Error> {
        self.call_done(Request::ChangeMembers { group, change }).await.map(|_| ())
    }

    async fn call_done(&self, request: Request) -> Result<u64, Error> {
        match self.call(request).await? {
            Answer::Done(done) => Ok(done.count),
            answer => Err(answer.unexpected()),
        }
    }

    async fn call(&self, request: Request) -> Result<Answer, Error> {
        self.handle.ask(|reply| Command::Call { request, timeout: None, reply }).await
    }

    /// What happens to connections; the last 256 changes are kept until somebody asks. `None`: the client is closed.
    pub async fn next_event(&self) -> Option<Event> {
        self.handle.events.recv_async().await.ok()
    }

    /// The next change, if there is one now.
    pub fn poll_event(&self) -> Option<Event> {
        self.handle.events.try_recv().ok()
    }

    /// Waits until everything sent has its receipt and everything settled is durable, then closes.
    ///
    /// [`Error::Undrained`] says how many messages had no receipt after `timeout`; whether they are stored is not
    /// known. Producers and consumers that still exist answer [`Error::Closed`] from now on.
    pub async fn close(self, timeout: Duration) -> Result<(), Error> {
        self.handle.ask(|reply| Command::Close { timeout, reply }).await
    }
}

impl Handle {
    fn commands(&self) -> &flume::Sender<Command> {
        self.commands.as_ref().expect("taken only when nobody is left to ask")
    }

    /// Says something and waits for the answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = flume::bounded(1);
        self.say(command(reply)).await?;
        answer.recv_async().await.unwrap_or(Err(Error::Closed))
    }

    /// Says something, waiting for room if need be.
    pub(crate) async fn say(&self, command: Command) -> Result<(), Error> {
        if self.signals.ended.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        self.commands().send_async(command).await.map_err(|_| Error::Closed)?;
        self.wake();
        Ok(())
    }

    /// Says something if there is room; gives it back if not.
    pub(crate) fn try_say(&self, command: Command) -> Result<(), Box<(Command, Error)>> {
        if self.signals.ended.load(Ordering::SeqCst) {
            return Err(Box::new((command, Error::Closed)));
        }
        match self.commands().try_send(command) {
            Ok(()) => {
                self.wake();
                Ok(())
            }
            Err(flume::TrySendError::Full(command)) => Err(Box::new((command, Error::Full))),
            Err(flume::TrySendError::Disconnected(command)) => Err(Box::new((command, Error::Closed))),
        }
    }

    /// Wakes the thread if it sleeps.
    pub(crate) fn wake(&self) {
        // Order: what was said is visible before the thread's last look, or the thread's intent to sleep is visible
        // here.
        fence(Ordering::SeqCst);
        if self.signals.ended.load(Ordering::SeqCst) {
            // The thread may have looked for the last time before this was said. Dropping it is an answer too.
            while self.unheard.drain().next().is_some() {}
            return;
        }
        if self.signals.parked.swap(false, Ordering::SeqCst) {
            // It cannot fail while the thread lives, and then nobody needs to be woken.
            let _ = self.waker.wake();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.waker.wake();
    }
}
