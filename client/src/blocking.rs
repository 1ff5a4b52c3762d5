//! The client for threads of one's own: nothing happens behind your back, nothing is allocated per message.
//!
//! A [`Client`] and what it opens belong to one thread, which drives them: input and output happen inside `poll`
//! and inside calls that wait, and nowhere else. What a thread does while a call waits is its [`IdleStrategy`].
//!
//! ```no_run
//! use ringmain_client::{IdleStrategy, Message, blocking::Client};
//! use std::time::Duration;
//!
//! let client = Client::builder().idle(IdleStrategy::Spin).connect("127.0.0.1:7411")?;
//! let mut producer = client.producer("orders")?;
//! producer.offer(&Message::new("buy 100").priority(3))?;      // never waits; Err(Full) when there is no room
//! producer.poll(|completion| println!("{completion:?}"));     // sends, receives, hands out receipts
//! let receipt = producer.publish(&Message::new("sell 50"), Duration::from_secs(1))?;
//! println!("durable at index {} after {:?}", receipt.index, receipt.round_trip);
//! client.close(Duration::from_secs(5))?;
//! # Ok::<(), ringmain_client::Error>(())
//! ```
//!
//! A thread that polls rarely must still poll at least once in a `heartbeat` (1.5 s unless set otherwise): pings are
//! answered, and silence of the other side noticed, only then.

mod consumer;
mod producer;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringmain_net::protocol::{QUEUES_PER_LIST_MAX, QueueInfo, QueueSettings};

use crate::cluster::{Change, Cluster, ClusterStatus, STATUS_TIMEOUT};
use crate::driver::Driver;
use crate::error::Error;
use crate::event::Event;
use crate::machine::call::{Answer, Request};
use crate::options::{Address, Builder, IdleStrategy};

pub use consumer::{Consumer, Delivery};
pub use producer::Producer;

/// A client that its own thread drives. See the [module](self).
///
/// Cloning gives another handle to the same client.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Shared,
}

/// What the client and its producers and consumers drive together. Never borrowed while a user's handler runs.
pub(crate) type Shared = Rc<RefCell<Driver>>;

impl Builder<Client> {
    /// What the thread does while a call waits; default [`IdleStrategy::Park`].
    #[must_use]
    pub fn idle(mut self, idle: IdleStrategy) -> Self {
        self.options.idle = idle;
        self
    }

    /// Connects to the first of these addresses (`HOST:PORT,HOST:PORT`) that welcomes us, within the connect timeout.
    ///
    /// From there the client learns where all nodes and shards are, and needs these addresses no more. It goes on
    /// reconnecting by itself until it is closed.
    pub fn connect(self, addresses: &str) -> Result<Client, Error> {
        let options = self.finish(addresses)?;
        let timeout = options.connect_timeout;
        let client = Client { shared: Rc::new(RefCell::new(Driver::new(options)?)) };
        let welcomed = wait(&client.shared, timeout, |driver| match driver.machine.refused() {
            Some(error) => Some(Err(error.clone())),
            None => (!driver.machine.places().is_empty()).then_some(Ok(())),
        });
        let last = || client.shared.borrow().machine.hindrance().map(Box::new);
        welcomed
            .unwrap_or_else(|| Err(Error::Timeout { what: "connecting", after: timeout, last: last() }))?;
        Ok(client)
    }
}

impl Client {
    /// Sets up a client.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    /// A producer for this queue with an anonymous session: exactly once across reconnects and failovers, not across
    /// restarts of this process.
    ///
    /// Waits until the queue and a session are open, at most the call timeout. Fails at once if there is no such
    /// queue.
    pub fn producer(&self, queue: &str) -> Result<Producer, Error> {
        Producer::open(&self.shared, queue, "")
    }

    /// A producer whose session survives this process: the next one of the same name fences this one off and finds
    /// in [`Producer::last_sequence`] what was stored last. Names have 1 to 255 bytes.
    pub fn named_producer(&self, queue: &str, name: &str) -> Result<Producer, Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::Setting { what: "a producer's name has 1 to 255 bytes" });
        }
        Producer::open(&self.shared, queue, name)
    }

    /// A consumer of this queue that may have up to `credit` messages unsettled: 1 for the strictest priority, some
    /// hundreds for throughput.
    ///
    /// Waits until it is subscribed, at most the call timeout. Fails at once if there is no such queue.
    pub fn consumer(&self, queue: &str, credit: u32) -> Result<Consumer, Error> {
        if credit == 0 {
            return Err(Error::Setting { what: "a consumer without credit gets nothing" });
        }
        Consumer::open(&self.shared, queue, credit)
    }

    /// Creates a queue. No error if it exists with equal settings.
    pub fn create_queue(&self, name: &str, settings: &QueueSettings) -> Result<(), Error> {
        self.call(Request::CreateQueue { name: name.to_owned(), settings: settings.clone() }).map(|_| ())
    }

    /// A queue, with exact counts for each of its levels that holds messages.
    pub fn show_queue(&self, name: &str) -> Result<QueueInfo, Error> {
        match self.call(Request::ShowQueue { name: name.to_owned() })? {
            Answer::Queue(info) => Ok(*info),
            answer => Err(answer.unexpected()),
        }
    }

    /// Deletes a queue with everything in it; answers how many messages that was.
    ///
    /// If the answer is lost, with its connection or with its leader, it is asked again until the call timeout: a queue
    /// that is gone by then counts as deleted by this call, of 0 messages. A queue that somebody else makes anew under the
    /// same name in between is deleted as well.
    pub fn delete_queue(&self, name: &str) -> Result<u64, Error> {
        self.call_done(Request::DeleteQueue { name: name.to_owned() })
    }

    /// Removes the ready messages of a queue; answers how many that was.
    ///
    /// If the answer is lost, it is asked again until the call timeout; then it is those that were ready at the last try
    /// which are counted, and gone are those of each.
    pub fn purge_queue(&self, name: &str) -> Result<u64, Error> {
        self.call_done(Request::PurgeQueue { name: name.to_owned() })
    }

    /// All queues of the cluster, in name order, without their levels.
    pub fn list_queues(&self) -> Result<Vec<QueueInfo>, Error> {
        let (shards, groups) = {
            let driver = self.shared.borrow();
            (driver.machine.places().shards(), driver.machine.places().groups())
        };
        let mut queues = Vec::new();
        for (shard, group) in (0..shards).flat_map(|shard| (0..groups).map(move |group| (shard, group))) {
            self.list_group(shard, group, &mut queues)?;
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    fn list_group(&self, shard: u32, group: u32, queues: &mut Vec<QueueInfo>) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let request = Request::ListQueues { shard, group, after, limit: QUEUES_PER_LIST_MAX };
            let list = match self.call(request)? {
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
    pub fn cluster(&self) -> Result<Cluster, Error> {
        match self.call(Request::Metadata)? {
            Answer::Cluster(cluster) => Ok(Cluster::from(cluster)),
            answer => Err(answer.unexpected()),
        }
    }

    /// Who listens at this address (`HOST:PORT`), which need not belong to the cluster. Fails at once if nobody does.
    pub fn identify(&self, address: &str) -> Result<Cluster, Error> {
        match self.call(Request::Identify { address: Address::parse(address)? })? {
            Answer::Cluster(cluster) => Ok(Cluster::from(cluster)),
            answer => Err(answer.unexpected()),
        }
    }

    /// How all nodes are, each in its own words: who leads, who belongs, how far everybody is.
    ///
    /// All shards of all nodes are asked side by side. A node that does not answer within a second, or cannot be
    /// reached, is in the answer as such; the call itself fails only if no node answers at all.
    pub fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        // Asked first for the newest list of nodes.
        self.cluster()?;
        let survey = self.shared.borrow().machine.survey();
        let ids: Vec<u64> = {
            let machine = &mut self.shared.borrow_mut().machine;
            let timeout = machine.options().call_timeout.min(STATUS_TIMEOUT);
            let ask =
                |(node, shard)| machine.call(Request::ShowGroups { node, shard }, timeout, Instant::now());
            survey.questions().into_iter().map(ask).collect()
        };
        let answers = ids.into_iter().filter_map(|id| match self.answer(id, STATUS_TIMEOUT * 2) {
            Ok(Answer::Groups(shown)) => Some(shown),
            Ok(_) | Err(_) => None,
        });
        let answers = answers.collect();
        Ok(survey.finish(answers))
    }

    /// Makes this node the leader of a group. No error if it leads already.
    pub fn move_leader(&self, group: u32, node: u32) -> Result<(), Error> {
        self.call_done(Request::MoveLeader { group, node }).map(|_| ())
    }

    /// Adds a node to a group's members, or removes one. Returns once it is so and the failure of one node cannot undo it;
    /// no error if it was so already. While another change of the group is under way, or it has no leader, it is tried
    /// again until the call timeout.
    pub fn change_members(&self, group: u32, change: Change) -> Result<(), Error> {
        self.call_done(Request::ChangeMembers { group, change }).map(|_| ())
    }

    fn call_done(&self, request: Request) -> Result<u64, Error> {
        match self.call(request)? {
            Answer::Done(done) => Ok(done.count),
            answer => Err(answer.unexpected()),
        }
    }

    fn call(&self, request: Request) -> Result<Answer, Error> {
        let (id, timeout) = {
            let machine = &mut self.shared.borrow_mut().machine;
            machine.check_open()?;
            let timeout = machine.options().call_timeout;
            (machine.call(request, timeout, Instant::now()), timeout)
        };
        self.answer(id, timeout * 2)
    }

    /// Waits for the answer to a call. The machine ends it in time by itself; `at_most` is only so that nothing can
    /// wait for ever.
    fn answer(&self, id: u64, at_most: Duration) -> Result<Answer, Error> {
        let answer = wait(&self.shared, at_most, |driver| driver.machine.take_answer(id));
        answer.unwrap_or(Err(Error::Timeout { what: "a call", after: at_most, last: None }))
    }

    /// Sends and receives what can be without waiting. Answers whether anything moved; if not, [`Client::idle`].
    ///
    /// Polling a producer or a consumer does this for the whole client.
    pub fn poll(&self) -> bool {
        self.shared.borrow_mut().pass()
    }

    /// Waits a little in the way of the idle strategy: not at all, a yield, or until a socket has something to say.
    pub fn idle(&self) {
        self.shared.borrow_mut().idle(None);
    }

    /// As [`Client::idle`], but not beyond this moment.
    pub fn idle_until(&self, until: Instant) {
        self.shared.borrow_mut().idle(Some(until));
    }

    /// The next change that the client has coped with by itself; the last 256 are kept.
    pub fn poll_event(&self) -> Option<Event> {
        self.shared.borrow_mut().machine.poll_event()
    }

    /// Waits until everything offered has its receipt and everything settled is durable, then closes.
    ///
    /// [`Error::Undrained`] says how many messages had no receipt after `timeout`; whether they are stored is not
    /// known. Producers and consumers that still exist answer [`Error::Closed`] from now on.
    pub fn close(self, timeout: Duration) -> Result<(), Error> {
        self.shared.borrow_mut().machine.close();
        let drained = wait(&self.shared, timeout, |driver| driver.machine.is_drained().then_some(()));
        let mut driver = self.shared.borrow_mut();
        let messages = driver.machine.unacknowledged();
        driver.end();
        match drained {
            Some(()) => Ok(()),
            None => Err(Error::Undrained { messages }),
        }
    }
}

/// Drives until `ready` answers, at most for `timeout`.
fn wait<T>(shared: &Shared, timeout: Duration, mut ready: impl FnMut(&mut Driver) -> Option<T>) -> Option<T> {
    let until = Instant::now() + timeout;
    loop {
        let mut driver = shared.borrow_mut();
        let moved = driver.pass();
        if let Some(answer) = ready(&mut driver) {
            return Some(answer);
        }
        if !moved {
            if Instant::now() >= until {
                return None;
            }
            driver.idle(Some(until));
        }
    }
}

/// Binds the calling thread to one core, so that nothing else needs to be woken or moved. Cores count from 0.
pub fn pin_to_core(core: usize) -> Result<(), Error> {
    affinity::set_thread_affinity([core])
        .map_err(|error| Error::System { reason: format!("cannot pin this thread to core {core}: {error}") })
}
