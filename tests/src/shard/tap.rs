//! Reads along at the edge of the shard: requests when it has consumed them, answers when it has given them. What it
//! understands goes to the checker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ringmain_net::frame::{self, FRAME_BYTES_MAX, Frame};
use ringmain_net::protocol::{
    Code, Delivery as DeliveryFrame, DeliveryView, Kind, Outcome as Wish, PublishView, QueueInfo,
    QueueSettings, Receipt, Refused, Reply, Request, SessionOpened, SettleView,
};

use super::workload::{content_checksum, id_in};
use super::{Report, Run};
use crate::checker::{
    Checker, Counts, Delete, Delivery, LevelCounts, Limits, MessageId, Offer, Outcome, Place, Purge, Refusal,
    Settle, Violation,
};
use crate::world::MILLISECOND;

#[derive(Debug)]
enum Asked {
    Subscribe { queue: u64, credit: u64 },
    Settle(Settle),
    OpenSession { producer: String },
    OpenQueue { name: String },
    Show { name: String },
    Purge(Purge),
    Delete { name: String, delete: Option<Delete> },
    Other,
}

/// A publish that this connection waits for.
#[derive(Debug)]
struct Pending {
    ids: Vec<MessageId>,
    may_be_full: bool,
    epoch: u32,
}

#[derive(Default, Debug)]
struct Connection {
    /// One of our own clients: what it says makes sense.
    is_trusted: bool,
    is_prompt: bool,
    asked: BTreeMap<u64, Asked>,
    /// By session and sequence; one may be sent again, in a later epoch.
    publishes: BTreeMap<(u64, u64), VecDeque<Pending>>,
    /// Queue by consumer.
    consumers: BTreeMap<u32, u64>,
}

#[derive(Default, Debug)]
struct Session {
    producer: String,
    /// The highest, and all.
    epoch: u32,
    epochs: BTreeSet<u32>,
    acknowledged_upto: u64,
    offered_upto: u64,
}

pub(super) struct Tap {
    pub(super) checker: Checker,
    connections: BTreeMap<u64, Connection>,
    /// Checksum, and how often it was offered.
    contents: BTreeMap<MessageId, (u32, u32)>,
    sessions: BTreeMap<u64, Session>,
    producers: BTreeMap<String, u64>,
    queues: BTreeMap<String, u64>,
    /// The highest number that a queue of this name ever had.
    latest: BTreeMap<String, u64>,
    leases: BTreeMap<u64, u64>,
    /// By queue: when it was last found empty, and what else was found.
    shows: BTreeMap<String, (u64, bool)>,
    shown: u64,
    facts: Report,
}

fn consumer_key(connection: u64, consumer: u32) -> u64 {
    connection << 32 | u64::from(consumer)
}

/// Calls back for each whole frame; answers how many bytes are left.
fn each<'a>(
    bytes: &'a [u8],
    mut hear: impl FnMut(&Frame<'a>) -> Result<(), Violation>,
) -> Result<usize, Violation> {
    let mut rest = bytes;
    while let Ok(Some(frame)) = frame::split(rest, FRAME_BYTES_MAX) {
        hear(&frame)?;
        rest = &rest[frame.bytes..];
    }
    Ok(rest.len())
}

impl Tap {
    pub(super) fn new() -> Self {
        Self {
            checker: Checker::default(),
            connections: BTreeMap::new(),
            contents: BTreeMap::new(),
            sessions: BTreeMap::new(),
            producers: BTreeMap::new(),
            queues: BTreeMap::new(),
            latest: BTreeMap::new(),
            leases: BTreeMap::new(),
            shows: BTreeMap::new(),
            shown: 0,
            facts: Report::default(),
        }
    }

    pub(super) fn fill(&self, report: &mut Report) {
        let facts = self.facts;
        *report = Report {
            acknowledged: facts.acknowledged,
            duplicates: facts.duplicates,
            delivered: facts.delivered,
            redelivered: facts.redelivered,
            settled: facts.settled,
            stale: facts.stale,
            shown: self.shown,
            shown_exactly: facts.shown_exactly,
            purged: facts.purged,
            deleted: facts.deleted,
            full: facts.full,
            busy: facts.busy,
            disk_full: facts.disk_full,
            fenced: facts.fenced,
            ..*report
        };
    }

    pub(super) fn shown(&self) -> u64 {
        self.shown
    }

    /// Every queue was shown since then, and had nothing in it the last time.
    pub(super) fn all_shown_empty_since(&self, shown: u64) -> bool {
        let is_empty = |name: &String| self.shows.get(name).is_some_and(|(at, empty)| *at > shown && *empty);
        self.queues.keys().all(is_empty)
    }

    pub(super) fn describe(&self) -> String {
        format!("shown: {:?}", self.shows)
    }

    pub(super) fn opened(&mut self, connection: u64, is_trusted: bool, is_prompt: bool) {
        self.connections.insert(connection, Connection { is_trusted, is_prompt, ..Connection::default() });
    }

    /// Nobody hears any more what the shard says here.
    pub(super) fn closed(&mut self, connection: u64) -> Result<(), Violation> {
        let Some(gone) = self.connections.remove(&connection) else { return Ok(()) };
        self.abandon(gone.asked)?;
        self.checker.connection_gone(connection);
        for consumer in gone.consumers.into_keys() {
            self.checker.consumer_gone(consumer_key(connection, consumer));
        }
        Ok(())
    }

    /// The shard is gone, and all it did not answer.
    pub(super) fn restarted(&mut self) -> Result<(), Violation> {
        for (_, connection) in std::mem::take(&mut self.connections) {
            self.abandon(connection.asked)?;
        }
        self.checker.restarted();
        Ok(())
    }

    fn abandon(&mut self, asked: BTreeMap<u64, Asked>) -> Result<(), Violation> {
        for asked in asked.into_values() {
            match asked {
                Asked::Settle(settle) => self.checker.settle_abandoned(settle),
                Asked::Purge(purge) => self.checker.purge_abandoned(purge)?,
                Asked::Delete { delete: Some(delete), .. } => self.checker.delete_abandoned(&delete)?,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn is_retry(&self, message: MessageId) -> bool {
        self.contents.get(&message).is_some_and(|(_, tries)| *tries > 1)
    }

    /// Another consumer of the same queue.
    pub(super) fn rival(&self, connection: u64, consumer: u32) -> Option<(u64, u32)> {
        let queue = *self.connections.get(&connection)?.consumers.get(&consumer)?;
        let all = self.connections.iter().flat_map(|(id, connection)| {
            connection.consumers.iter().map(|(consumer, queue)| (*id, *consumer, *queue))
        });
        all.filter(|one| one.2 == queue && (one.0, one.1) != (connection, consumer))
            .map(|one| (one.0, one.1))
            .next()
    }

    /// The shard took these bytes.
    pub(super) fn consumed(&mut self, connection: u64, bytes: &[u8]) -> Result<(), Violation> {
        if self.connections.get(&connection).is_none_or(|connection| !connection.is_trusted) {
            return Ok(());
        }
        // A connection that is about to be closed may swallow part of a frame.
        each(bytes, |frame| {
            let request = Request::decode(frame).map_err(|why| format!("a client of ours says {why}"))?;
            self.request(connection, frame.request, request)
        })?;
        Ok(())
    }

    fn request(&mut self, connection: u64, number: u64, request: Request<'_>) -> Result<(), Violation> {
        let queue_of = |name: &str| self.queues.get(name).copied();
        let asked = match request {
            Request::Publish(publish) => return self.publish_asked(connection, &publish),
            Request::Settle(settle) => Asked::Settle(self.settle_asked(connection, &settle)),
            Request::Subscribe(subscribe) => {
                Asked::Subscribe { queue: subscribe.queue, credit: u64::from(subscribe.credit) }
            }
            Request::Unsubscribe(unsubscribe) => {
                self.checker.consumer_gone(consumer_key(connection, unsubscribe.consumer));
                Asked::Other
            }
            Request::PurgeQueue(purge) => match queue_of(purge.name) {
                Some(queue) => Asked::Purge(self.checker.purge_asked(queue)),
                None => Asked::Other,
            },
            Request::DeleteQueue(delete) => {
                let queue = queue_of(delete.name);
                let delete_asked = queue.map(|queue| self.checker.delete_asked(queue));
                Asked::Delete { name: delete.name.to_owned(), delete: delete_asked }
            }
            Request::OpenSession(open) => Asked::OpenSession { producer: open.producer.to_owned() },
            Request::OpenQueue(open) => Asked::OpenQueue { name: open.name.to_owned() },
            Request::ShowQueue(show) => Asked::Show { name: show.name.to_owned() },
            Request::Hello(_)
            | Request::Metadata
            | Request::CreateQueue(_)
            | Request::ListQueues(_)
            | Request::ShowGroups
            | Request::MoveLeader(_)
            | Request::ChangeMembers(_)
            | Request::Ping => Asked::Other,
        };
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.asked.insert(number, asked);
        }
        Ok(())
    }

    fn publish_asked(&mut self, id: u64, publish: &PublishView<'_>) -> Result<(), Violation> {
        let key = (publish.session, publish.sequence);
        let messages: Vec<_> = publish.messages().collect();
        let ids: Vec<MessageId> = messages.iter().map(|message| id_in(message.payload)).collect();
        let bytes = publish.body.len() as u64;
        let may_be_full = self.checker.may_be_full(publish.queue, &ids, bytes);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let pending = Pending { ids: ids.clone(), may_be_full, epoch: publish.epoch };
        connection.publishes.entry(key).or_default().push_back(pending);
        let heard = connection.is_prompt.then_some(id);
        for (at, message) in messages.iter().enumerate() {
            let offer = Offer {
                queue: publish.queue,
                producer: (publish.session, publish.sequence << 16 | at as u64),
                priority: message.head.priority,
                bytes: message.bytes.len() as u64,
            };
            let checksum = content_checksum(message.key, message.headers, message.payload);
            self.contents.entry(ids[at]).or_insert((checksum, 0)).1 += 1;
            self.checker.publish_offered(ids[at], offer, heard);
        }
        let session = self.sessions.entry(publish.session).or_default();
        session.offered_upto = session.offered_upto.max(publish.sequence);
        Ok(())
    }

    fn settle_asked(&mut self, id: u64, settle: &SettleView<'_>) -> Settle {
        let connection = self.connections.get(&id);
        let queue = connection.and_then(|one| one.consumers.get(&settle.consumer)).copied().unwrap_or(0);
        let mut items = Vec::new();
        for run in settle.runs() {
            let outcome = match run.outcome {
                Wish::Ack | Wish::Reject => Outcome::Remove,
                Wish::Nack => Outcome::Return,
            };
            for sequence in run.sequence..run.sequence + u64::from(run.count) {
                let place = Place { queue, priority: run.priority, sequence };
                items.push((place, u64::from(run.deliveries), outcome));
            }
        }
        self.checker.settle_asked(consumer_key(id, settle.consumer), &items)
    }

    /// What the shard said here, but for deliveries.
    pub(super) fn answered(&mut self, id: u64, bytes: &[u8]) -> Result<(), Violation> {
        let left = each(bytes, |frame| {
            let reply = Reply::decode(frame).map_err(|why| format!("honest: no client can read {why}"))?;
            match self.connections.get(&id) {
                None => return Ok(()),
                Some(connection) if !connection.is_trusted => return hostile(&reply),
                Some(_) => {}
            }
            match reply {
                Reply::Receipt(receipt) => self.receipt(id, &receipt),
                Reply::Refused(refused) if refused.session != 0 => self.publish_refused(id, &refused),
                Reply::Delivery(_) => Ok(()),
                Reply::Closing(closing) => match closing.code() {
                    Code::TooMany | Code::ShuttingDown => Ok(()),
                    code => Err(format!("honest: {code:?}, {}, is told to a sound client", closing.detail)),
                },
                reply => {
                    let connection = self.connections.get_mut(&id);
                    let asked = connection.and_then(|connection| connection.asked.remove(&frame.request));
                    self.reply(id, reply, asked)
                }
            }
        })?;
        if left == 0 { Ok(()) } else { Err("honest: the shard cuts a frame".to_owned()) }
    }

    fn receipt(&mut self, id: u64, receipt: &Receipt) -> Result<(), Violation> {
        for sequence in receipt.first_sequence..=receipt.last_sequence {
            let key = (receipt.session, sequence);
            let Some(pending) = self.pending(id, key) else {
                return Err(format!("honest: {receipt:?} is for a publish that nobody waits for"));
            };
            let index = (!receipt.is_duplicate()).then_some(receipt.index);
            for message in pending.ids {
                self.checker.publish_acknowledged(message, index)?;
                self.facts.acknowledged += 1;
                self.facts.duplicates += u64::from(index.is_none());
            }
        }
        let session = self.sessions.entry(receipt.session).or_default();
        session.acknowledged_upto = session.acknowledged_upto.max(receipt.last_sequence);
        Ok(())
    }

    fn publish_refused(&mut self, id: u64, refused: &Refused<'_>) -> Result<(), Violation> {
        let key = (refused.session, refused.sequence);
        let Some(pending) = self.pending(id, key) else {
            return Err(format!("honest: {refused:?} is for a publish that nobody waits for"));
        };
        let refusal = match refused.code() {
            Code::Full if !pending.may_be_full => {
                return Err(format!("bounded: {key:?} is refused as full, and there is room"));
            }
            Code::NoSuchSession if self.is_session(refused.session, pending.epoch) => {
                return Err(format!("durable: session {} is forgotten", refused.session));
            }
            Code::Full | Code::OutOfOrder | Code::NoSuchQueue => Refusal::NotStored,
            Code::Fenced | Code::NoSuchSession | Code::Busy | Code::DiskFull | Code::ShuttingDown => {
                Refusal::NotNow
            }
            code => return Err(format!("honest: {code:?} is told to a sound producer")),
        };
        match refused.code() {
            Code::Full => self.facts.full += 1,
            Code::Busy => self.facts.busy += 1,
            Code::DiskFull => self.facts.disk_full += 1,
            Code::Fenced => self.facts.fenced += 1,
            _ => {}
        }
        pending.ids.into_iter().try_for_each(|message| self.checker.publish_refused(message, refusal))
    }

    /// The oldest publish of this number that waits here.
    fn pending(&mut self, id: u64, key: (u64, u64)) -> Option<Pending> {
        let publishes = &mut self.connections.get_mut(&id)?.publishes;
        let waiting = publishes.get_mut(&key)?;
        let pending = waiting.pop_front();
        if waiting.is_empty() {
            publishes.remove(&key);
        }
        pending
    }

    fn is_session(&self, session: u64, epoch: u32) -> bool {
        self.sessions.get(&session).is_some_and(|known| known.epoch > 0 && epoch <= known.epoch)
    }

    fn reply(&mut self, id: u64, reply: Reply<'_>, asked: Option<Asked>) -> Result<(), Violation> {
        match (reply, asked) {
            (Reply::Settled(settled), Some(Asked::Settle(settle))) => {
                self.facts.settled += u64::from(settled.accepted);
                self.facts.stale += u64::from(settled.stale);
                let (accepted, stale) = (u64::from(settled.accepted), u64::from(settled.stale));
                self.checker.settle_answered(settle, accepted, stale)
            }
            (Reply::Subscribed(subscribed), Some(Asked::Subscribe { queue, credit })) => {
                let consumer = subscribed.consumer;
                self.checker.subscribed(consumer_key(id, consumer), queue, credit);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.consumers.insert(consumer, queue);
                }
                Ok(())
            }
            (Reply::SessionOpened(opened), Some(Asked::OpenSession { producer })) => {
                self.session_opened(&opened, producer)
            }
            (Reply::QueueOpened(opened), Some(Asked::OpenQueue { name })) => {
                self.queue_seen(name, opened.queue, &opened.settings)
            }
            (Reply::QueueShown(shown), Some(Asked::Show { name })) => self.queue_shown(&name, &shown.info),
            (Reply::Done(done), Some(Asked::Purge(purge))) => {
                self.facts.purged += done.count;
                self.checker.purge_done(purge, done.count)
            }
            (Reply::Done(done), Some(Asked::Delete { name, delete })) => {
                self.facts.deleted += 1;
                self.queues.remove(&name);
                delete.map_or(Ok(()), |delete| self.checker.delete_done(&delete, Some(done.count)))
            }
            (Reply::ConsumerEnded(ended), None) if ended.code() == Code::NoSuchQueue => {
                self.checker.consumer_gone(consumer_key(id, ended.consumer));
                Ok(())
            }
            (Reply::Refused(refused), Some(asked)) => self.refused(refused.code(), asked),
            (Reply::Welcome(_) | Reply::Cluster(_) | Reply::Pong | Reply::Done(_), Some(Asked::Other)) => {
                Ok(())
            }
            (Reply::QueueList(_), Some(Asked::Other)) => Ok(()),
            (reply, asked) => Err(format!("honest: {reply:?} answers {asked:?}")),
        }
    }

    fn refused(&mut self, code: Code, asked: Asked) -> Result<(), Violation> {
        match (code, asked) {
            (
                Code::Busy | Code::DiskFull | Code::ShuttingDown | Code::NoSuchConsumer,
                Asked::Settle(settle),
            ) => {
                self.checker.settle_refused(settle);
                Ok(())
            }
            // Another deletion is under way: that one says when it is gone.
            (Code::NoSuchQueue, Asked::Delete { name, .. }) if self.is_deleting(&name) => Ok(()),
            (Code::NoSuchQueue, Asked::Delete { name, delete }) => {
                self.queues.remove(&name);
                delete.map_or(Ok(()), |delete| self.checker.delete_done(&delete, None))
            }
            (Code::NoSuchQueue, _) | (Code::Busy | Code::DiskFull | Code::ShuttingDown, _) => Ok(()),
            (Code::NoSuchConsumer, Asked::Other) => Ok(()),
            (code, asked) => Err(format!("honest: {code:?} answers {asked:?}")),
        }
    }

    fn is_deleting(&self, queue: &str) -> bool {
        let mut asked = self.connections.values().flat_map(|connection| connection.asked.values());
        asked.any(|asked| matches!(asked, Asked::Delete { name, .. } if name == queue))
    }

    fn session_opened(&mut self, opened: &SessionOpened, producer: String) -> Result<(), Violation> {
        let known = (!producer.is_empty()).then(|| self.producers.get(&producer).copied()).flatten();
        let session = self.sessions.entry(opened.session).or_default();
        let is_new = session.epoch == 0 && session.offered_upto == 0;
        let is_right = match known {
            // Two that were opened in one turn may be heard in any order.
            Some(known) => known == opened.session && session.epochs.insert(opened.epoch),
            None => is_new && session.producer.is_empty(),
        };
        let (low, high) = (session.acknowledged_upto, session.offered_upto);
        if !is_right || opened.last_sequence < low || opened.last_sequence > high {
            return Err(format!("durable: {opened:?} of {producer:?} after {session:?}"));
        }
        session.epochs.insert(opened.epoch);
        (session.epoch, session.producer) = (session.epoch.max(opened.epoch), producer.clone());
        if !producer.is_empty() {
            self.producers.insert(producer, opened.session);
        }
        Ok(())
    }

    fn queue_seen(&mut self, name: String, queue: u64, settings: &QueueSettings) -> Result<(), Violation> {
        let lease = u64::from(settings.lease_ms) * MILLISECOND;
        self.leases.insert(queue, lease);
        // Numbers rise: a lower one was said before, and is only heard now.
        let latest = self.latest.entry(name.clone()).or_default();
        if queue < *latest || (queue == *latest && !self.queues.contains_key(&name)) {
            return Ok(());
        }
        *latest = queue;
        let before = self.queues.insert(name, queue);
        self.checker
            .queue_created(queue, Limits { length_max: settings.max_length, bytes_max: settings.max_bytes });
        match before.filter(|before| *before != queue) {
            // Its deletion was asked, and the answer was lost.
            Some(before) => self.checker.delete_done(&self.checker.delete_asked(before), None),
            None => Ok(()),
        }
    }

    fn queue_shown(&mut self, name: &str, info: &QueueInfo) -> Result<(), Violation> {
        self.shown += 1;
        self.queue_seen(name.to_owned(), info.queue, &info.settings)?;
        let level = |level: &ringmain_net::protocol::LevelInfo| {
            let counts = Counts {
                ready: level.ready,
                ready_bytes: level.ready_bytes,
                in_flight: level.in_flight,
                in_flight_bytes: level.in_flight_bytes,
            };
            (level.priority, counts)
        };
        let levels: LevelCounts = info.levels.iter().map(level).collect();
        let sum = |part: fn(&Counts) -> u64| levels.values().map(part).sum::<u64>();
        let sums = [
            (info.ready, sum(|counts| counts.ready)),
            (info.ready_bytes, sum(|counts| counts.ready_bytes)),
            (info.in_flight, sum(|counts| counts.in_flight)),
            (info.in_flight_bytes, sum(|counts| counts.in_flight_bytes)),
        ];
        if sums.iter().any(|(total, levels)| total != levels) {
            return Err(format!("exact: the levels do not add up: {info:?}"));
        }
        let is_exact = self.checker.counted(info.queue, &levels)?;
        self.facts.shown_exactly += u64::from(is_exact);
        let consumers = self.checker.consumers(info.queue);
        if u64::from(info.consumers) != consumers {
            return Err(format!("exact: {} consumers, it should be {consumers}", info.consumers));
        }
        self.shows.insert(name.to_owned(), (self.shown, info.ready + info.in_flight == 0));
        Ok(())
    }

    /// What the shard delivered in this very turn, over all connections. Nothing became ready between one of them and
    /// the next, so they were chosen by priority and then in the order of the log; each connection must show it so.
    pub(super) fn delivered(&mut self, flushed: &[(u64, Vec<u8>)], now: u64) -> Result<(), Violation> {
        let mut all = Vec::new();
        for (id, bytes) in flushed {
            if !self.connections.get(id).is_some_and(|connection| connection.is_trusted) {
                continue;
            }
            let from = all.len();
            each(bytes, |frame| match Reply::decode(frame) {
                Ok(Reply::Delivery(delivery)) => self.delivery(*id, &delivery, now, &mut all),
                _ => Ok(()),
            })?;
            let mut last = BTreeMap::new();
            for delivery in &all[from..] {
                let rank = rank(delivery);
                if last.insert(rank.0, rank).is_some_and(|before| before > rank) {
                    return Err(format!("ordered: {delivery:?} comes behind {last:?}"));
                }
            }
        }
        all.sort_by_key(rank);
        all.iter().try_for_each(|delivery| self.checker.delivered(delivery))
    }

    fn delivery(
        &mut self,
        id: u64,
        delivery: &DeliveryView<'_>,
        now: u64,
        all: &mut Vec<Delivery>,
    ) -> Result<(), Violation> {
        let queue = delivery.queue;
        let lease = self.leases.get(&queue).copied().unwrap_or(0);
        for message in delivery.messages() {
            let head = message.head;
            if message.payload.len() < 8 {
                return Err(format!("honest: {head:?} has a payload that nobody published"));
            }
            let found = id_in(message.payload);
            let checksum = content_checksum(message.key, message.headers, message.payload);
            if self.contents.get(&found).is_none_or(|(expected, _)| *expected != checksum) {
                return Err(format!("honest: {head:?} is not what was published: rot is served"));
            }
            self.facts.delivered += 1;
            self.facts.redelivered += u64::from(head.deliveries > 1);
            if head.is_redelivered() != (head.deliveries > 1) {
                return Err(format!("leased: {head:?} does not say whether it was delivered before"));
            }
            all.push(Delivery {
                message: found,
                place: Place { queue, priority: head.priority, sequence: head.sequence },
                consumer: consumer_key(id, delivery.consumer),
                deliveries: u64::from(head.deliveries),
                until: now + lease,
            });
        }
        Ok(())
    }
}

/// By queue, then what comes first.
fn rank(delivery: &Delivery) -> (u64, u8, u64) {
    (delivery.place.queue, u8::MAX - delivery.place.priority, delivery.place.sequence)
}

/// What may be said to somebody who sent no sense.
fn hostile(reply: &Reply<'_>) -> Result<(), Violation> {
    match reply {
        Reply::Receipt(_) | Reply::Delivery(_) | Reply::SessionOpened(_) => {
            Err(format!("honest: a stranger gets {reply:?}"))
        }
        _ => Ok(()),
    }
}

/// The plants: what lies at the shard's edge do to frames.
impl Run {
    pub(super) fn falsify(bytes: &mut Vec<u8>) {
        let mut lie = Vec::new();
        let outcome = each(bytes, |frame| {
            match Reply::decode(frame) {
                Ok(Reply::QueueShown(mut shown)) if !shown.info.levels.is_empty() => {
                    shown.info.levels[0].ready += 1;
                    shown.info.ready += 1;
                    frame::encode(&mut lie, frame.request, &shown, &[]);
                }
                _ => reencode(&mut lie, frame),
            }
            Ok(())
        });
        if outcome.is_ok() {
            *bytes = lie;
        }
    }

    pub(super) fn lend_twice(&self, flushed: &mut Vec<(u64, Vec<u8>)>) {
        let mut more = Vec::new();
        for (connection, bytes) in flushed.iter() {
            let outcome = each(bytes, |frame| {
                let Ok(Reply::Delivery(delivery)) = Reply::decode(frame) else { return Ok(()) };
                if let Some((rival, consumer)) = self.tap.rival(*connection, delivery.consumer) {
                    let heads: Vec<_> = delivery.heads.iter().map(|head| head.to_native()).collect();
                    let again = DeliveryFrame { consumer, queue: delivery.queue, messages: &heads };
                    let mut copy = Vec::new();
                    frame::encode(&mut copy, 0, &again, &[delivery.body]);
                    more.push((rival, copy));
                }
                Ok(())
            });
            if outcome.is_err() {
                return;
            }
        }
        flushed.append(&mut more);
    }

    /// Takes settles that only return messages out of what arrived, and answers them.
    pub(super) fn swallow(&mut self, connection: u64, bytes: &mut Vec<u8>) -> Result<(), String> {
        while let Ok(Some(frame)) = frame::split(bytes, FRAME_BYTES_MAX) {
            let Ok(Request::Settle(settle)) = Request::decode(&frame) else { return Ok(()) };
            if settle.runs().any(|run| run.outcome != Wish::Nack) {
                return Ok(());
            }
            let accepted = settle.runs().map(|run| run.count).sum();
            let settled = ringmain_net::protocol::Settled { consumer: settle.consumer, accepted, stale: 0 };
            let mut answer = Vec::new();
            frame::encode(&mut answer, frame.request, &settled, &[]);
            let taken = frame.bytes;
            self.tap.consumed(connection, &bytes[..taken])?;
            self.tap.answered(connection, &answer)?;
            bytes.drain(..taken);
            if let Some(link) = self.links.get_mut(&connection) {
                link.downlink.extend_from_slice(&answer);
            }
            self.plan_delivery(connection);
        }
        Ok(())
    }

    /// Publishes that are sent again are stored again, in the session of a ghost.
    pub(super) fn haunt(&mut self, consumed: &[u8]) -> Result<(), String> {
        let mut again = Vec::new();
        each(consumed, |frame| {
            if let Ok(Request::Publish(publish)) = Request::decode(frame)
                && publish.messages().next().is_some_and(|message| self.tap.is_retry(id_in(message.payload)))
            {
                reencode(&mut again, frame);
            }
            Ok(())
        })?;
        let Some(connection) = self.ghost else { return self.raise_ghost() };
        let Some((session, sequence)) = self.ghost_session else { return Ok(()) };
        if again.is_empty() {
            return Ok(());
        }
        self.ghost_session = Some((session, sequence + 1));
        let length = frame::length(&again, FRAME_BYTES_MAX).ok().flatten().unwrap_or(0) as usize;
        again.truncate(length);
        frame::restamp_publish(&mut again, session, 1, sequence + 1);
        self.ghost_says(connection, &again)
    }
}

fn reencode(out: &mut Vec<u8>, frame: &Frame<'_>) {
    // As it was: header, archive, body.
    let start = out.len();
    out.extend_from_slice(&(frame.bytes as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[frame::VERSION, frame.kind, 0, 0]);
    out.extend_from_slice(&(frame.archive.len() as u32).to_le_bytes());
    out.extend_from_slice(&frame.request.to_le_bytes());
    out.extend_from_slice(frame.archive);
    out.extend_from_slice(frame.body);
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    assert!(Kind::try_from(frame.kind).is_ok());
}
