//! Everything a client knows and decides, without a socket, a thread or a clock: bytes and time in, bytes out.
//!
//! A [`Machine`] has links (connections to shards, which come and go), producers, consumers and calls (which stay
//! and move between links). Whoever drives it
//!
//! - dials what [`Machine::poll_dial`] says and reports back,
//! - puts received bytes into [`Machine::inbox`] and calls [`Machine::on_received`],
//! - writes what [`Machine::transmit`] points to and calls [`Machine::on_transmitted`],
//! - drops what [`Machine::poll_drop`] says, and calls [`Machine::on_time`] now and then.
//!
//! How a publish stays exactly once: it is encoded once, with session and sequence, and stays in the producer's
//! window until its answer. When a connection ends, the next one gets the whole window again, in order, byte for
//! byte; the shard knows the session and answers what it has stored already with a receipt marked as duplicate.
//!
//! How a consumer resumes: the shard returns its unsettled messages at the connection's end. Here everything
//! delivered by that connection is void, settles included (`generation` tells), and the consumer subscribes again.

pub(crate) mod backoff;
pub(crate) mod call;
pub(crate) mod consumer;
pub(crate) mod link;
pub(crate) mod mailbox;
pub(crate) mod producer;
pub(crate) mod settler;
pub(crate) mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ringmain_net::frame::Frame;
use ringmain_net::protocol::{Code, OpenQueue, Ping, Refused, Reply, ShardAddress, Welcome};
use ringmain_net::route;

use crate::error::Error;
use crate::event::Event;
use crate::options::{Address, Options};
use backoff::Random;
use call::{Answer, Call};
use consumer::Consumer;
use link::{Inbox, Link, Pending, Phase};
use producer::Producer;
use window::Slices;

const EVENTS_MAX: usize = 256;
/// Shards of a cluster, and whatever redirects name beside them.
const LINKS_MAX: usize = 4096;
/// Redirects followed in a row before taking a breath.
const HOPS_MAX: u32 = 8;
/// Timers are looked at once in so long, unless something changed.
const TICK: Duration = Duration::from_millis(1);
/// A link that nobody needs is not dialled; this is only when it is asked about again.
const UNWANTED: Duration = Duration::from_secs(60);
/// Tries of one address before another one is asked where the shards are.
const TRIES_BEFORE_ELSEWHERE: u32 = 2;

/// How a settle ended, for those that asked.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) token: u64,
    pub(crate) result: Result<(), Error>,
}

/// Where a producer or a consumer stands on its way to a queue.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) link: Option<usize>,
    /// The queue's number.
    pub(crate) queue: Option<u64>,
    /// A request of this seat is under way; the next step waits for its answer.
    pub(crate) asking: bool,
    /// Nothing is asked before.
    pub(crate) retry_at: Option<Instant>,
    /// Refusals in a row.
    pub(crate) attempts: u32,
    /// Redirects in a row.
    pub(crate) hops: u32,
    /// For good.
    pub(crate) failed: Option<Error>,
    /// What stood in the way last, for the error of a call that gives up.
    pub(crate) hindrance: Option<Error>,
}

impl Seat {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            link: None,
            queue: None,
            asking: false,
            retry_at: None,
            attempts: 0,
            hops: 0,
            failed: None,
            hindrance: None,
        }
    }

    fn on_progress(&mut self) {
        self.asking = false;
        self.attempts = 0;
        self.hops = 0;
        self.hindrance = None;
    }
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Machine {
    options: Options,
    random: Random,

    /// Never shortened: an index names a link for ever.
    links: Vec<Link>,
    /// Where the shards are, by number; empty before the first welcome.
    table: Vec<Address>,
    /// The next of the addresses given to ask.
    bootstrap: usize,
    pub(crate) producers: BTreeMap<u64, Producer>,
    pub(crate) consumers: BTreeMap<u64, Consumer>,
    /// Sessions, each with its producer. Shards number their sessions by themselves, so a number alone names several.
    sessions: BTreeSet<(u64, u64)>,
    calls: BTreeMap<u64, Call>,
    next_id: u64,
    answers: VecDeque<(u64, Result<Answer, Error>)>,
    pub(crate) settlements: VecDeque<Settlement>,
    events: VecDeque<Event>,
    /// Links whose sockets are to be dropped.
    drops: VecDeque<usize>,
    /// When timers are looked at next.
    due: Instant,
    /// Why there will never be a connection.
    refused: Option<Error>,
    closed: bool,
    ended: bool,
}

impl Machine {
    pub(crate) fn new(options: Options, seed: u64, now: Instant) -> Self {
        assert!(!options.addresses.is_empty());
        let first = Link::new(options.addresses[0].clone(), now);
        Self {
            options,
            random: Random::new(seed),
            links: vec![first],
            table: Vec::new(),
            bootstrap: 0,
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            sessions: BTreeSet::new(),
            calls: BTreeMap::new(),
            next_id: 1,
            answers: VecDeque::new(),
            settlements: VecDeque::new(),
            events: VecDeque::new(),
            drops: VecDeque::new(),
            due: now,
            refused: None,
            closed: false,
            ended: false,
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Shards of the node that welcomed us; 0 before that.
    pub(crate) fn shards(&self) -> usize {
        self.table.len()
    }

    /// From now on nothing new is taken.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// Whether nothing waits for an answer that would be missed.
    pub(crate) fn is_drained(&self) -> bool {
        self.unacknowledged() == 0 && self.unsettled() == 0
    }

    /// Why no address can be used, if that is certain.
    pub(crate) fn refused(&self) -> Option<&Error> {
        self.refused.as_ref()
    }

    /// What the last try to connect anywhere said.
    pub(crate) fn hindrance(&self) -> Option<Error> {
        let lost = |link: &Link| {
            let reason = link.last_error.clone()?;
            Some(Error::Lost { address: link.address.to_string(), reason })
        };
        self.links.iter().rev().find_map(lost)
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    // Links.

    pub(crate) fn poll_drop(&mut self) -> Option<usize> {
        self.drops.pop_front()
    }

    /// A link to dial now.
    pub(crate) fn poll_dial(&mut self, now: Instant) -> Option<(usize, Address, u32)> {
        if self.ended {
            return None;
        }
        for index in 0..self.links.len() {
            let Phase::Waiting { until } = self.links[index].phase else { continue };
            if until > now {
                continue;
            }
            if !self.is_wanted(index) {
                self.links[index].phase = Phase::Waiting { until: now + UNWANTED };
                continue;
            }
            let link = &mut self.links[index];
            link.phase = Phase::Dialling { since: now };
            return Some((index, link.address.clone(), link.attempts));
        }
        None
    }

    /// Whether anything would use this connection.
    fn is_wanted(&self, index: usize) -> bool {
        let probe = self.options.addresses[self.bootstrap] == self.links[index].address;
        let here = |link: Option<usize>| link == Some(index);
        let stuck = || self.links.iter().any(|link| !link.is_up() && link.attempts >= TRIES_BEFORE_ELSEWHERE);
        self.table.is_empty()
            || (probe && stuck())
            || self.producers.values().any(|producer| here(producer.seat.link))
            || self.consumers.values().any(|consumer| here(consumer.seat.link))
            || self.calls.values().any(|call| here(call.link))
    }

    pub(crate) fn on_connected(&mut self, index: usize, now: Instant) {
        self.links[index].greet(now, self.options.cluster, &self.options.agent);
    }

    /// A connection ended, or could not be made.
    pub(crate) fn on_lost(&mut self, index: usize, reason: String, now: Instant) {
        if matches!(self.links[index].phase, Phase::Waiting { .. }) {
            return;
        }
        let Options { retry_min, retry_max, .. } = self.options;
        let link = &mut self.links[index];
        // A connection that worked is replaced at once. What fails, or ends as soon as it is made, is given time.
        let lasted = link.has_lasted(retry_max, now);
        let pause = match lasted {
            true => Duration::ZERO,
            false => backoff::pause(link.attempts, retry_min, retry_max, &mut self.random),
        };
        if lasted {
            link.attempts = 0;
        }
        let address = link.address.to_string();
        let pending = link.reset(now + pause, reason.clone());
        let attempts = link.attempts;
        self.drops.push_back(index);
        self.due = now;
        self.event(Event::Lost { address: address.clone(), reason: reason.clone() });
        let lost = Error::Lost { address, reason };
        for (_, pending) in pending {
            match pending {
                Pending::Call { call } => self.on_call_lost(call, &lost, now),
                Pending::Settle { token, .. } => self.settled(token, Err(lost.clone())),
                _ => {}
            }
        }
        self.detach_producers(index, &lost);
        self.detach_consumers(index, &lost);
        if attempts >= TRIES_BEFORE_ELSEWHERE || self.table.is_empty() {
            self.ask_elsewhere(index, now);
        }
    }

    fn lose(&mut self, index: usize, reason: impl Into<String>, now: Instant) {
        self.on_lost(index, reason.into(), now);
    }

    /// Dials the next of the addresses given: perhaps that node knows where the shards are now.
    fn ask_elsewhere(&mut self, lost: usize, now: Instant) {
        if self.options.addresses.len() < 2
            || self.options.addresses[self.bootstrap] != self.links[lost].address
        {
            let current = self.options.addresses[self.bootstrap].clone();
            if self.options.addresses.len() > 1 {
                self.link_to(&current, now);
            }
            return;
        }
        self.bootstrap = (self.bootstrap + 1) % self.options.addresses.len();
        let next = self.options.addresses[self.bootstrap].clone();
        self.link_to(&next, now);
    }

    /// The link to this address, which is dialled if it is not.
    fn link_to(&mut self, address: &Address, now: Instant) -> Option<usize> {
        let found = self.links.iter().position(|link| link.address == *address);
        if let Some(index) = found {
            let link = &mut self.links[index];
            // Nobody needed it until now.
            if matches!(link.phase, Phase::Waiting { until } if until > now + 2 * self.options.retry_max) {
                link.phase = Phase::Waiting { until: now };
            }
            return Some(index);
        }
        if self.links.len() == LINKS_MAX {
            return None;
        }
        self.links.push(Link::new(address.clone(), now));
        Some(self.links.len() - 1)
    }

    /// The link to the shard that a queue lives on; `None` before the first welcome.
    fn route(&mut self, name: &str, now: Instant) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let shard = route::shard_of(name, self.table.len() as u32);
        self.link_to_shard(shard, now)
    }

    fn link_to_shard(&mut self, shard: u32, now: Instant) -> Option<usize> {
        let address = self.table.get(shard as usize)?.clone();
        // The address that we were given may be another name of the same shard.
        let same =
            |link: &Link| link.is_up() && link.shard == Some(shard) && link.address.port == address.port;
        if let Some(index) = self.links.iter().position(same) {
            return Some(index);
        }
        self.link_to(&address, now)
    }

    /// The link that a refusal points to, if it does.
    fn redirect(&mut self, from: usize, refused: &Refused<'_>, now: Instant) -> Option<usize> {
        if !matches!(refused.code(), Code::NotLeader | Code::WrongShard) || refused.redirect_port == 0 {
            return None;
        }
        let host = match refused.redirect_host {
            "" => self.links[from].address.host.clone(),
            host => host.to_owned(),
        };
        self.link_to(&Address { host, port: refused.redirect_port }, now)
    }

    // Bytes.

    /// Where to put received bytes; at least 64 KiB.
    pub(crate) fn inbox(&mut self, index: usize) -> &mut [u8] {
        self.links[index].inbox()
    }

    pub(crate) fn on_received(&mut self, index: usize, bytes: usize, now: Instant) {
        let link = &mut self.links[index];
        link.on_received(bytes);
        link.heard = now;
        link.pinged = false;
        let mut inbox = link.take_inbox();
        let read = self.read_frames(index, &mut inbox, now);
        if read.is_ok() && self.links[index].is_open() {
            inbox.make_room();
            self.links[index].return_inbox(inbox);
        }
        if let Err(reason) = read {
            self.lose(index, reason, now);
        }
    }

    fn read_frames(&mut self, index: usize, inbox: &mut Inbox, now: Instant) -> Result<(), String> {
        while self.links[index].is_open() {
            let frame_bytes_max = self.links[index].limits.frame_bytes_max;
            let Some(frame) = inbox.next(frame_bytes_max).map_err(|error| error.to_string())? else {
                return Ok(());
            };
            let bytes = frame.bytes;
            self.on_frame(index, &frame, now)?;
            inbox.consume(bytes);
        }
        Ok(())
    }

    fn on_frame(&mut self, index: usize, frame: &Frame<'_>, now: Instant) -> Result<(), String> {
        let reply = Reply::decode(frame).map_err(|error| error.to_string())?;
        match (&reply, self.links[index].phase) {
            (Reply::Closing(closing), _) => {
                return Err(format!("closed by the shard: {}: {}", closing.code(), closing.detail));
            }
            (Reply::Welcome(welcome), Phase::Greeting { .. }) => {
                self.on_welcome(index, welcome, now);
                return Ok(());
            }
            (Reply::Refused(refused), Phase::Greeting { .. }) => {
                return Err(self.on_hello_refused(refused));
            }
            (_, Phase::Greeting { .. }) => return Err("answered the hello with something else".to_owned()),
            _ => {}
        }
        match reply {
            Reply::Receipt(receipt) => self.on_receipt(index, &receipt, now),
            Reply::Delivery(delivery) => return self.on_delivery(index, &delivery),
            Reply::Refused(refused) if refused.session != 0 => self.on_publish_refused(index, &refused, now),
            reply => {
                // An answer to nothing is what a shard sends that knows more than we do.
                if let Some(pending) = self.links[index].answered(frame.request) {
                    return self.on_answer(index, pending, reply, now);
                }
            }
        }
        Ok(())
    }

    fn on_answer(
        &mut self,
        index: usize,
        pending: Pending,
        reply: Reply<'_>,
        now: Instant,
    ) -> Result<(), String> {
        match (pending, reply) {
            (Pending::Call { call }, reply) => self.on_call_answered(index, call, reply, now)?,
            (Pending::ProducerQueue { producer }, Reply::QueueOpened(opened)) => {
                self.on_producer_queue(producer, opened.queue, now);
            }
            (Pending::ProducerSession { producer }, Reply::SessionOpened(opened)) => {
                self.on_session(index, producer, &opened, now);
            }
            (Pending::ConsumerQueue { consumer }, Reply::QueueOpened(opened)) => {
                self.on_consumer_queue(consumer, opened.queue, now);
            }
            (Pending::Subscribe { consumer }, Reply::Subscribed(subscribed)) => {
                self.on_subscribed(index, consumer, subscribed.consumer);
            }
            (Pending::Settle { consumer, token }, Reply::Settled(settled)) => {
                self.on_settled(consumer, token, &settled);
            }
            (Pending::Unsubscribe, Reply::Done(_)) | (Pending::Ping, Reply::Pong) => {}
            (
                Pending::ProducerQueue { producer } | Pending::ProducerSession { producer },
                Reply::Refused(refused),
            ) => {
                self.on_producer_refused(index, producer, &refused, now);
            }
            (
                Pending::ConsumerQueue { consumer } | Pending::Subscribe { consumer },
                Reply::Refused(refused),
            ) => {
                self.on_consumer_refused(index, consumer, &refused, now);
            }
            (Pending::Settle { token, .. }, Reply::Refused(refused)) => {
                self.settled(token, Err(refusal(&refused)));
            }
            (Pending::Unsubscribe | Pending::Ping, Reply::Refused(_)) => {}
            (pending, _) => return Err(format!("answered {pending:?} with something else")),
        }
        Ok(())
    }

    fn on_welcome(&mut self, index: usize, welcome: &Welcome, now: Instant) {
        let host = self.links[index].address.host.clone();
        let address = |shard: &ShardAddress| Address {
            host: if shard.host.is_empty() { host.clone() } else { shard.host.clone() },
            port: shard.port,
        };
        self.table = welcome.shards.iter().map(address).collect();
        self.links[index].welcome(welcome, now);
        let address = self.links[index].address.to_string();
        self.event(Event::Connected { address, node: welcome.node, shard: welcome.shard });
        self.attach_producers(index, now);
        self.attach_consumers(index, now);
        self.advance_calls(now);
    }

    /// The hello was refused: for ever, if it was not meant for this cluster or this version.
    fn on_hello_refused(&mut self, refused: &Refused<'_>) -> String {
        let error = refusal(refused);
        let text = error.to_string();
        if !error.is_retryable() {
            self.refused = Some(error);
        }
        text
    }

    /// Points `slices` to what is to be sent.
    pub(crate) fn transmit<'a>(&'a self, index: usize, slices: &mut Slices<'a>) {
        let link = &self.links[index];
        let mut producers = link.sendable.iter().filter_map(|id| self.producers.get(id));
        if let Some(first) = self.mid_frame(index) {
            first.window.transmit(slices);
            producers.next();
        }
        slices.push(link.control());
        for producer in producers {
            producer.window.transmit(slices);
        }
    }

    /// The producer whose frame must be finished before anything else is sent.
    fn mid_frame(&self, index: usize) -> Option<&Producer> {
        let first = *self.links[index].sendable.front()?;
        self.producers.get(&first).filter(|producer| producer.window.is_mid_frame())
    }

    /// So many of the bytes that [`Machine::transmit`] pointed to were handed over.
    pub(crate) fn on_transmitted(&mut self, index: usize, bytes: usize) {
        let mut left = bytes;
        if self.mid_frame(index).is_some() {
            left = self.on_producer_transmitted(index, left);
            if left == 0 {
                return;
            }
        }
        left = self.links[index].on_control_transmitted(left);
        while left > 0 {
            left = self.on_producer_transmitted(index, left);
        }
    }

    fn on_producer_transmitted(&mut self, index: usize, bytes: usize) -> usize {
        let link = &mut self.links[index];
        let first = *link.sendable.front().expect("only what was there was handed over");
        let producer = self.producers.get_mut(&first).expect("a producer leaves its link when it goes");
        let left = producer.window.on_transmitted(bytes);
        if !producer.window.has_unsent() {
            producer.queued = false;
            link.sendable.pop_front();
        }
        left
    }

    pub(crate) fn has_unsent(&self, index: usize) -> bool {
        let link = &self.links[index];
        link.is_open() && (!link.control().is_empty() || (link.is_up() && !link.sendable.is_empty()))
    }

    // Time.

    /// Looks at timers, if it is time.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + TICK;
        for index in 0..self.links.len() {
            self.on_link_time(index, now);
        }
        self.expire_calls(now);
        self.retry_producers(now);
        self.retry_consumers(now);
        self.advance_calls(now);
    }

    fn on_link_time(&mut self, index: usize, now: Instant) {
        let Options { connect_timeout, ping_after, silence_max, .. } = self.options;
        let link = &mut self.links[index];
        if now < link.deadline(connect_timeout, ping_after, silence_max) {
            return;
        }
        match link.phase {
            Phase::Waiting { .. } => {}
            Phase::Dialling { .. } => self.lose(index, "cannot be reached", now),
            Phase::Greeting { .. } => self.lose(index, "does not answer the hello", now),
            Phase::Up if link.pinged => {
                let address = link.address.to_string();
                self.event(Event::Silent { address });
                self.lose(index, format!("silent for {silence_max:?}"), now);
            }
            Phase::Up => {
                link.pinged = true;
                link.request(Pending::Ping, &Ping);
            }
        }
    }

    /// When [`Machine::on_time`] has something to do again, at the latest.
    pub(crate) fn next_deadline(&self) -> Instant {
        let Options { connect_timeout, ping_after, silence_max, .. } = self.options;
        let links = self.links.iter().map(|link| link.deadline(connect_timeout, ping_after, silence_max));
        let producers = self.producers.values().filter_map(|producer| producer.seat.retry_at);
        let consumers = self.consumers.values().filter_map(|consumer| consumer.seat.retry_at);
        let calls = self.calls.values().map(Call::next_deadline);
        let next = links.chain(producers).chain(consumers).chain(calls).min();
        next.expect("there is a link at least").max(self.due)
    }

    // Seats.

    /// Asks the seat's link for the queue's number.
    fn open_queue(&mut self, index: usize, pending: Pending, name: &str) {
        self.links[index].request(pending, &OpenQueue { name });
    }

    /// How long to wait before a refused request is made again.
    fn pause(&mut self, attempt: u32, retry_after_ms: u32) -> Duration {
        let Options { retry_min, retry_max, .. } = self.options;
        let advised = Duration::from_millis(u64::from(retry_after_ms)).min(retry_max);
        backoff::pause(attempt, retry_min, retry_max, &mut self.random).max(advised)
    }

    fn settled(&mut self, token: u64, result: Result<(), Error>) {
        if token != 0 {
            self.settlements.push_back(Settlement { token, result });
        }
    }
}

/// A refusal as the user sees it.
fn refusal(refused: &Refused<'_>) -> Error {
    Error::Refused {
        code: refused.code(),
        detail: refused.detail.to_owned(),
        retry_after: Duration::from_millis(u64::from(refused.retry_after_ms)),
    }
}

#[cfg(test)]
mod tests;
