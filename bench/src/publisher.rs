//! A producer under test: the client crate on one thread, parked or spinning as its user would have it.

use std::time::{Duration, Instant};

use ringmain_client::blocking::{Client, Producer};
use ringmain_client::{Completion, Error as ClientError, IdleStrategy, Message, QueueSettings};

use crate::drive::Target;
use crate::error::{Doing, Error, Result};

/// What the publishing thread does while it waits.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Idle {
    Spin,
    Yield,
    Park,
}

impl Idle {
    fn strategy(self) -> IdleStrategy {
        match self {
            Self::Spin => IdleStrategy::Spin,
            Self::Yield => IdleStrategy::Yield,
            Self::Park => IdleStrategy::Park,
        }
    }
}

/// How clients reach a node or a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// `HOST:PORT`, or several with commas between.
    pub(crate) addresses: String,
    /// Where their thread runs.
    pub(crate) core: usize,
    pub(crate) idle: Idle,
}

impl Access {
    pub(crate) fn connect(&self) -> Result<Client> {
        let builder = Client::builder().idle(self.idle.strategy()).window(WINDOW_PUBLISHES, WINDOW_BYTES);
        builder.connect(&self.addresses).doing(|| format!("connecting to {}", self.addresses))
    }
}

/// What is published: so many messages of so many bytes in one publish.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) message_bytes: usize,
    pub(crate) batch: usize,
}

/// Publishes without a receipt: as many as a shard accepts, and bytes for a second of a fast disk's stall.
pub(crate) const WINDOW_PUBLISHES: u32 = 4_096;
const WINDOW_BYTES: usize = 32 << 20;

/// Publishes offered before what was offered is sent: enough for a full write, few enough to keep the node busy.
const OFFERS_PER_POLL: usize = 64;

/// A node that answers nothing for this long has failed.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Publisher {
    client: Client,
    producer: Producer,
    messages: Vec<Message<'static>>,
    queue: String,

    /// The queue's, known from the first receipt on.
    group: Option<u32>,
}

/// What a saturated publisher achieved.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
}

impl Flow {
    pub(crate) fn per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }
}

impl Publisher {
    /// Connects, creates `queue` if it is not there, and opens a session.
    pub(crate) fn connect(access: &Access, queue: &str, shape: Shape) -> Result<Self> {
        let client = access.connect()?;
        let doing = || format!("opening the queue {queue}");
        client.create_queue(queue, &QueueSettings::default()).doing(doing)?;
        let producer = client.producer(queue).doing(doing)?;
        // Each message has memory of its own, as a user's would.
        let message = |number: usize| Message::owned(vec![number as u8; shape.message_bytes]);
        let messages = (0..shape.batch).map(message).collect();
        Ok(Self { client, producer, messages, queue: queue.to_owned(), group: None })
    }

    /// The group that its queue lives in, if there was a receipt yet.
    pub(crate) fn group(&self) -> Option<u32> {
        self.group
    }

    /// Publishes as fast as receipts allow for at least `duration`, and waits for all of them.
    pub(crate) fn saturate(&mut self, duration: Duration) -> Result<Flow> {
        let started = Instant::now();
        self.publish_while(|_| started.elapsed() < duration)
    }

    /// Publishes as fast as receipts allow until so many messages are stored.
    pub(crate) fn fill(&mut self, messages: u64) -> Result<Flow> {
        self.publish_while(|offered| offered < messages)
    }

    fn publish_while(&mut self, goes_on: impl Fn(u64) -> bool) -> Result<Flow> {
        let started = Instant::now();
        let (mut offered, mut stored) = (0, 0);
        let mut heard_at = started;
        loop {
            let mut is_over = !goes_on(offered);
            for _ in 0..OFFERS_PER_POLL {
                if is_over {
                    break;
                }
                match self.producer.offer_batch(&self.messages) {
                    Ok(_) => offered += self.messages.len() as u64,
                    Err(ClientError::Full) => break,
                    Err(error) => return Err(Error::new("publishing", error)),
                }
                is_over = !goes_on(offered);
            }
            let answered = self.poll()?;
            stored += answered * self.messages.len() as u64;
            if is_over && stored == offered {
                return Ok(Flow { messages: stored, elapsed: started.elapsed() });
            }
            if answered > 0 {
                heard_at = Instant::now();
            } else if SILENCE_MAX < heard_at.elapsed() {
                return Err(Error::new("publishing", format!("no receipt came for {SILENCE_MAX:?}")));
            } else if is_over || self.producer.in_flight() == WINDOW_PUBLISHES as usize {
                self.client.idle_until(Instant::now() + SILENCE_MAX);
            }
        }
    }

    /// Sends and receives what can be; answers how many publishes are stored since.
    fn poll(&mut self) -> Result<u64> {
        let (mut stored, mut refused) = (0, None);
        self.producer.poll(|Completion { result, .. }| match result {
            Ok(receipt) => {
                stored += 1;
                self.group = Some(receipt.group);
            }
            Err(error) => refused = Some(error),
        });
        match refused {
            None => Ok(stored),
            Some(error) => Err(Error::new("publishing", error)),
        }
    }

    /// Disconnects and leaves the queue as it is.
    pub(crate) fn leave(self) -> Result<()> {
        drop(self.producer);
        self.client.close(SILENCE_MAX).doing(|| "ending a run".to_owned())
    }

    /// Deletes the queue with everything in it and disconnects.
    pub(crate) fn finish(self) -> Result<()> {
        drop(self.producer);
        let doing = || "ending a run".to_owned();
        self.client.delete_queue(&self.queue).doing(doing)?;
        self.client.close(SILENCE_MAX).doing(doing)
    }
}

impl Target for Publisher {
    fn send(&mut self, _number: u64) -> Result<()> {
        self.producer.offer_batch(&self.messages).doing(|| "publishing".to_owned())?;
        // Sends, and leaves what has come for `wait`.
        self.client.poll();
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> Result<u64> {
        let until = Instant::now() + timeout;
        loop {
            let stored = self.poll()?;
            if stored > 0 || until <= Instant::now() {
                return Ok(stored);
            }
            self.client.idle_until(until);
        }
    }
}
