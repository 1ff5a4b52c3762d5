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
//! window until its answer. When a connection ends, or its shard leads no more, the next one that says it leads gets
//! the whole window again, in order, byte for byte; the shard knows the session and answers what it has stored already
//! with a receipt marked as duplicate.
//!
//! How a consumer resumes: the shard returns its unsettled messages at the end of the connection or of its leadership.
//! Here everything delivered until then is void, settles included (`generation` tells), and the consumer subscribes again.

pub(crate) mod backoff;
pub(crate) mod call;
pub(crate) mod consumer;
pub(crate) mod link;
pub(crate) mod mailbox;
pub(crate) mod places;
pub(crate) mod producer;
pub(crate) mod seat;
pub(crate) mod settler;
pub(crate) mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ringmain_net::frame::Frame;
use ringmain_net::protocol::{Code, Ping, Refused, Reply, Welcome};

use crate::cluster::Survey;
use crate::error::Error;
use crate::event::Event;
use crate::options::{Address, Options};
use backoff::Random;
use call::{Answer, Call};
use consumer::Consumer;
use link::{Inbox, Link, Pending, Phase};
use places::{Hearsay, Places};
use producer::Producer;
use window::Slices;

const EVENTS_MAX: usize = 256;
/// Shards of a cluster, and whatever redirects name beside them.
const LINKS_MAX: usize = 4096;
/// Timers are looked at once in so long, unless something changed.
const TICK: Duration = Duration::from_millis(1);
/// A link that nobody needs is not dialled; this is only when it is asked about again.
const UNWANTED: Duration = Duration::from_secs(60);
/// A connection that nobody needs, as one to a follower after a search for the leader, ends after so long.
const NEEDLESS_MAX: Duration = Duration::from_secs(30);
/// How long one of the addresses given has the first word to itself.
const HEAD_START: Duration = Duration::from_millis(100);

/// How a settle ended, for those that asked.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) token: u64,
    pub(crate) result: Result<(), Error>,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Machine {
    options: Options,
    random: Random,

    /// Never shortened: an index names a link for ever.
    links: Vec<Link>,
    places: Places,
    /// Addresses given that are dialled already, and when the next one is unless somebody has welcomed us.
    bootstrap: (usize, Instant),
    /// Rises with each choice among equals.
    turn: usize,
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
            places: Places::default(),
            bootstrap: (1, now + HEAD_START),
            turn: 0,
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

    /// Where the cluster is; empty before the first welcome.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Whom to ask how the cluster is.
    pub(crate) fn survey(&self) -> Survey {
        let nodes = self.places.nodes().map(|(node, address)| (node, address.clone())).collect();
        Survey { cluster: self.places.cluster(), shards: self.places.shards(), nodes }
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
                self.links[index].parked = true;
                continue;
            }
            let link = &mut self.links[index];
            link.parked = false;
            link.phase = Phase::Dialling { since: now };
            return Some((index, link.address.clone(), link.attempts));
        }
        None
    }

    /// Whether anything would use this connection.
    fn is_wanted(&self, index: usize) -> bool {
        self.places.is_empty()
            || self.seats().any(|(_, seat)| seat.link == Some(index) || self.would_use(index, seat))
    }

    pub(crate) fn on_connected(&mut self, index: usize, now: Instant) {
        // A stranger is asked which cluster it belongs to, not told.
        let cluster = if self.links[index].stranger { 0 } else { self.options.cluster };
        self.links[index].greet(now, cluster, &self.options.agent);
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
        self.drops.push_back(index);
        self.due = now;
        self.event(Event::Lost { address: address.clone(), reason: reason.clone() });
        let lost = Error::Lost { address, reason };
        for (_, pending) in pending {
            if let Pending::Settle { token, .. } = pending {
                self.settled(token, Err(lost.clone()));
            }
        }
        self.unseat(index, &lost, now);
        if self.places.is_empty() {
            self.bootstrap.1 = now;
        }
    }

    /// Those that this connection served look for another one at once; so do those that waited for it.
    fn unseat(&mut self, index: usize, lost: &Error, now: Instant) {
        self.detach_producers(index, lost, now);
        self.detach_consumers(index, lost, now);
        self.detach_calls(index, lost, now);
        self.miss(index, now);
        self.places.on_lost(index);
    }

    /// Before the first welcome: dials one more of the addresses given.
    fn dial_given(&mut self, now: Instant) {
        let (given, at) = self.bootstrap;
        if self.places.is_empty() && at <= now && given < self.options.addresses.len() {
            let address = self.options.addresses[given].clone();
            self.link_to(&address, now);
            self.bootstrap = (given + 1, now + HEAD_START);
        }
    }

    fn lose(&mut self, index: usize, reason: impl Into<String>, now: Instant) {
        self.on_lost(index, reason.into(), now);
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
        link.pinged = None;
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
                return self.on_welcome(index, welcome, now);
            }
            (Reply::Refused(refused), Phase::Greeting { .. }) => {
                return Err(self.on_hello_refused(index, refused));
            }
            (_, Phase::Greeting { .. }) => return Err("answered the hello with something else".to_owned()),
            _ => {}
        }
        match reply {
            Reply::Receipt(receipt) => self.on_receipt(index, &receipt, now),
            Reply::Delivery(delivery) => return self.on_delivery(index, &delivery),
            Reply::ConsumerEnded(ended) => self.on_consumer_ended(index, &ended, now),
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
                self.on_producer_queue(index, producer, opened.queue, now);
            }
            (Pending::ProducerSession { producer }, Reply::SessionOpened(opened)) => {
                self.on_session(index, producer, &opened, now);
            }
            (Pending::ConsumerQueue { consumer }, Reply::QueueOpened(opened)) => {
                self.on_consumer_queue(index, consumer, opened.queue, now);
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
            (Pending::Settle { consumer, token }, Reply::Refused(refused)) => {
                let error = self.on_settle_refused(index, consumer, &refused, now);
                self.settled(token, Err(error));
            }
            (Pending::Unsubscribe | Pending::Ping, Reply::Refused(_)) => {}
            (pending, _) => return Err(format!("answered {pending:?} with something else")),
        }
        Ok(())
    }

    fn on_welcome(&mut self, index: usize, welcome: &Welcome, now: Instant) -> Result<(), String> {
        let link = &mut self.links[index];
        // Whoever was dialled as a stranger stays one, or else the client would follow it out of its cluster.
        if !link.stranger {
            if !self.places.is_empty() && self.places.cluster() != welcome.cluster {
                return Err(format!("belongs to cluster {}", welcome.cluster));
            }
            self.places.learn(Hearsay::from(welcome), &link.address.host);
        }
        link.welcome(welcome, now);
        let address = self.links[index].address.to_string();
        self.event(Event::Connected { address, node: welcome.node, shard: welcome.shard });
        self.attach_producers(index, now);
        self.attach_consumers(index, now);
        self.attach_calls(index, now);
        Ok(())
    }

    /// The hello was refused: for ever, if it was not meant for this cluster or this version.
    fn on_hello_refused(&mut self, index: usize, refused: &Refused<'_>) -> String {
        let error = refusal(refused);
        let text = error.to_string();
        // Other addresses may lead to nodes that are members still.
        let elsewhere = refused.code() == Code::Removed || self.links[index].stranger;
        if !error.is_retryable() && !elsewhere {
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
        self.dial_given(now);
        for index in 0..self.links.len() {
            self.on_link_time(index, now);
        }
        self.expire_calls(now);
        self.retry_producers(now);
        self.retry_consumers(now);
        self.retry_calls(now);
    }

    fn on_link_time(&mut self, index: usize, now: Instant) {
        let Options { connect_timeout, ping_after, silence_max, .. } = self.options;
        if now < self.links[index].deadline(connect_timeout, ping_after, silence_max) {
            return;
        }
        match self.links[index].phase {
            Phase::Waiting { .. } => {}
            Phase::Dialling { .. } => self.lose(index, "cannot be reached", now),
            Phase::Greeting { .. } => self.lose(index, "does not answer the hello", now),
            Phase::Up if self.links[index].pinged.is_some() => {
                let address = self.links[index].address.to_string();
                self.event(Event::Silent { address });
                self.lose(index, format!("silent for {silence_max:?}"), now);
            }
            Phase::Up => self.on_quiet(index, now),
        }
    }

    /// Nothing was heard for a while.
    fn on_quiet(&mut self, index: usize, now: Instant) {
        if self.is_needless(index, now) {
            return self.lose(index, "needed no more", now);
        }
        let link = &mut self.links[index];
        link.pinged = Some(now);
        link.request(Pending::Ping, &Ping);
    }

    /// Whether nobody has needed this connection for long. Those to known leaders stay, and one at least, so that the client
    /// knows the cluster; a stranger's ends as soon as it has answered.
    fn is_needless(&mut self, index: usize, now: Instant) -> bool {
        let link = &self.links[index];
        if link.stranger {
            return !self.is_wanted(index);
        }
        let is_used = link.owes() || !link.consumers.is_empty() || !link.sendable.is_empty();
        let is_needed = is_used || self.places.is_leader(index) || self.is_wanted(index);
        let is_other = |(other, link): (usize, &Link)| other != index && link.is_up() && !link.stranger;
        if is_needed || !self.links.iter().enumerate().any(is_other) {
            self.links[index].needed = now;
        }
        now.saturating_duration_since(self.links[index].needed) >= NEEDLESS_MAX
    }

    /// When [`Machine::on_time`] has something to do again, at the latest.
    pub(crate) fn next_deadline(&self) -> Instant {
        let Options { connect_timeout, ping_after, silence_max, .. } = self.options;
        let links = self.links.iter().map(|link| link.deadline(connect_timeout, ping_after, silence_max));
        let seats = self.seats().filter_map(|(_, seat)| seat.retry_at);
        let calls = self.calls.values().map(Call::deadline);
        let given = self.places.is_empty() && self.bootstrap.0 < self.options.addresses.len();
        let given = given.then_some(self.bootstrap.1);
        let next = links.chain(seats).chain(calls).chain(given).min();
        next.expect("there is a link at least").max(self.due)
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
