//! Random work beside a model that is as plain as can be: a sorted map of messages per queue. After every step the
//! engine's invariants are checked; deliveries, counts, limits, answers and retries must be the model's; and at random
//! moments the engine steps down, or starts again from its log, or from a checkpoint and the log behind it.

mod state;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use state::{Deed, State, key};

use super::world::{SessionOpened, World, encode, put_messages};
use super::*;
use crate::command::{PublishHead, StoredMessage};
use crate::engine::{Answer, ConnectionId, ConsumerId};
use crate::session::WINDOW;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
    }
}

#[derive(Clone, Debug)]
struct Lease {
    consumer: ConsumerId,
    deadline: Time,
    is_settling: bool,
}

#[derive(Clone, Debug)]
struct ModelConsumer {
    connection: ConnectionId,
    queue: QueueId,
    credit: u32,
}

struct Model {
    random: Random,
    /// Of one publish, at most. Deep models delete and purge seldom, so that many chunks fill and empty.
    burst: u64,
    steps: u64,
    world: World,

    state: State,
    /// What each entry of the log that is not applied does, and its stamp.
    unapplied: Vec<(Time, Vec<Deed>)>,
    /// What the batch under construction does.
    batch: Vec<Deed>,
    ever: BTreeSet<QueueId>,

    leases: BTreeMap<(QueueId, u8, u64), Lease>,
    consumers: BTreeMap<ConsumerId, ModelConsumer>,
    paused: BTreeSet<ConnectionId>,
    parked: BTreeSet<QueueId>,
    checkpoint: Option<Vec<Vec<u8>>>,
    counted: BTreeMap<&'static str, u64>,
}

impl Model {
    fn new(seed: u64, burst: u64) -> Self {
        let mut model = Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            burst,
            steps: 0,
            world: World::new(),
            state: State::default(),
            unapplied: Vec::new(),
            batch: Vec::new(),
            ever: BTreeSet::new(),
            leases: BTreeMap::new(),
            consumers: BTreeMap::new(),
            paused: BTreeSet::new(),
            parked: BTreeSet::new(),
            checkpoint: None,
            counted: BTreeMap::new(),
        };
        model.world.lead();
        model
    }

    fn step(&mut self) {
        self.steps += 1;
        // Deep models fill and drain in turn, so that chunks run empty in the middle of a level.
        let is_draining = self.burst > 4 && self.steps / 300 % 2 == 1;
        match self.random.below(100) {
            0..3 => self.create(),
            3..6 if !self.random.one_in(self.burst / 4) => {}
            3 => self.delete(),
            4..6 => self.purge(),
            6..10 => self.open(),
            10 => self.expire_sessions(),
            11..36 if is_draining => self.drain(),
            11..36 => self.publish(),
            36..41 => self.subscribe(),
            41..43 => self.unsubscribe(),
            43 => self.disconnect(),
            44..47 => self.pause_or_resume(),
            47..50 => self.park_or_unpark(),
            50..65 => self.deliver(),
            65..78 => self.settle(),
            78..82 => self.pass_time(),
            82..90 => self.propose(),
            90..97 => self.apply_some(),
            97 => self.sweep(),
            98 => self.take_checkpoint(),
            _ => self.interrupt(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counted.entry(what).or_default() += 1;
    }

    /// Everything that will be in the log when nothing more happens.
    fn coming(&self) -> impl Iterator<Item = &Deed> {
        self.unapplied.iter().flat_map(|(_, deeds)| deeds).chain(&self.batch)
    }

    fn is_deleting(&self, queue: QueueId) -> bool {
        self.coming().any(|deed| matches!(deed, Deed::Delete(deleted) if *deleted == queue))
    }

    fn create(&mut self) {
        let name = format!("queue-{}", self.random.below(7));
        let settings = Settings {
            priorities: [1, 3, 256][self.random.below(3) as usize],
            max_length: [0, 0, 12][self.random.below(3) as usize],
            max_bytes: [0, 0, 400][self.random.below(3) as usize],
            lease_ms: 500,
            ..Settings::default()
        };
        let same_name = self.state.queues.iter().find(|(_, queue)| queue.name == name);
        let clashes =
            same_name.is_some_and(|(id, queue)| queue.settings != settings && !self.is_deleting(*id));
        let refusal = if clashes { Err(Refusal::QueueExists) } else { Ok(()) };
        assert_eq!(self.world.engine.begin_create(&name, &settings), refusal);
        if refusal.is_ok() {
            self.world.batch.create_queue(&name, &settings);
            self.batch.push(Deed::Create { name, settings });
        }
    }

    fn some_queue(&mut self) -> Option<QueueId> {
        let ids: Vec<QueueId> = self.state.queues.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn delete(&mut self) {
        let Some(queue) = self.some_queue() else { return };
        let expected = if self.is_deleting(queue) { Err(Refusal::NoSuchQueue) } else { Ok(()) };
        assert_eq!(self.world.engine.begin_delete(queue), expected);
        if expected.is_ok() {
            self.count("delete");
            self.world.batch.delete_queue(queue);
            self.batch.push(Deed::Delete(queue));
        }
    }

    fn purge(&mut self) {
        let Some(queue) = self.some_queue() else { return };
        let mut kept = Vec::new();
        let begun = self.world.engine.begin_purge(queue, &mut kept);
        if self.is_deleting(queue) {
            assert_eq!(begun, Err(Refusal::NoSuchQueue));
            return;
        }
        begun.unwrap();
        let named = kept.iter().flat_map(|run| (run.sequence..run.end()).map(|at| (queue, run.priority, at)));
        let leased = self.leases.keys().filter(|(of, ..)| *of == queue).copied();
        assert_eq!(named.collect::<Vec<_>>(), leased.collect::<Vec<_>>());
        self.count("purge");
        self.world.batch.purge_queue(queue, &kept);
        self.batch.push(Deed::Purge { queue, kept });
    }

    fn open(&mut self) {
        let producer = ["", "", "one", "two"][self.random.below(4) as usize].to_owned();
        self.world.begin_open(&producer);
        self.batch.push(Deed::Open { producer });
    }

    fn expire_sessions(&mut self) {
        let since = Time(self.world.now.0.saturating_sub(3 * SECOND));
        let mut expired = Vec::new();
        self.world.engine.begin_expire_sessions(since, 3, &mut expired);
        for id in &expired {
            let session = &self.state.sessions[id];
            assert!(session.used < since);
            let is_busy = self.coming().any(|deed| match deed {
                Deed::Publish { head, .. } => head.session == *id,
                Deed::Open { producer } => !producer.is_empty() && *producer == session.producer,
                Deed::Expire(ids) => ids.contains(id),
                _ => false,
            });
            assert!(!is_busy);
        }
        if !expired.is_empty() {
            self.count("expired session");
            self.world.batch.expire_sessions(&expired);
            self.batch.push(Deed::Expire(expired));
        }
    }

    fn publish(&mut self) {
        let ids: Vec<SessionId> = self.state.sessions.keys().copied().collect();
        let (Some(queue), Some(id)) = (self.some_queue(), self.random.pick(&ids)) else { return };
        let last = self.last_coming(id);
        let sequence = match self.random.below(10) {
            0 => last.saturating_sub(self.random.below(4)),
            1 => last + 1 + self.random.below(3),
            2 if self.random.one_in(20) => last + WINDOW + self.random.below(2),
            _ => last + 1,
        };
        let stale_epoch = self.random.one_in(20);
        let epoch = self.state.sessions[&id].epoch - u32::from(stale_epoch);
        let priorities_count = u64::from(self.state.queues[&queue].settings.priorities);
        let bound = priorities_count + u64::from(self.random.one_in(30) && priorities_count < 256);
        let priorities: Vec<u8> =
            (0..1 + self.random.below(self.burst)).map(|_| self.random.below(bound) as u8).collect();
        let bytes = 9 + self.random.below(60) as u32;
        let session = SessionOpened { session: id, epoch, last_sequence: 0 };
        let head = world::publish_head(queue, session, sequence, &priorities, bytes);
        let expected = self.admission(&head);
        assert_eq!(self.world.engine.admit_publish(&head), expected, "{head:?}");
        match expected {
            Admission::Fresh => {
                self.count("fresh");
                put_messages(&mut self.world.batch, &head, &priorities, bytes);
                self.batch.push(Deed::Publish { head, priorities, bytes });
            }
            Admission::Stored => self.count("stored"),
            Admission::Pending => self.count("pending"),
            Admission::Refused(Refusal::Full) => self.count("full"),
            Admission::Refused(Refusal::Fenced) => self.count("fenced"),
            Admission::Refused(Refusal::OutOfOrder) => self.count("out of order"),
            Admission::Refused(_) => self.count("refused otherwise"),
        }
    }

    fn last_coming(&self, session: SessionId) -> u64 {
        let coming = self.coming().filter_map(|deed| match deed {
            Deed::Publish { head, .. } if head.session == session => Some(head.sequence),
            _ => None,
        });
        coming.max().unwrap_or(0).max(self.state.sessions[&session].last)
    }

    fn admission(&self, head: &PublishHead) -> Admission {
        let session = &self.state.sessions[&head.session];
        if head.epoch < session.epoch {
            return Admission::Refused(Refusal::Fenced);
        }
        let last = self.last_coming(head.session);
        let is_coming = self.coming().any(|deed| {
            matches!(deed, Deed::Publish { head: other, .. }
                if other.session == head.session && other.sequence == head.sequence)
        });
        if head.sequence <= last {
            let is_remembered = head.sequence + WINDOW > last;
            return match (session.stored.contains(&head.sequence), is_coming) {
                (true, _) if is_remembered => Admission::Stored,
                (_, true) if is_remembered => Admission::Pending,
                _ => Admission::Refused(Refusal::OutOfOrder),
            };
        }
        if head.sequence > last + WINDOW {
            return Admission::Refused(Refusal::OutOfOrder);
        }
        let ends = self.coming().any(|deed| matches!(deed, Deed::Expire(ids) if ids.contains(&head.session)));
        if ends {
            return Admission::Refused(Refusal::NoSuchSession);
        }
        let is_opening = self.coming().any(|deed| {
            matches!(deed, Deed::Open { producer } if !producer.is_empty() && *producer == session.producer)
        });
        if is_opening {
            return Admission::Refused(Refusal::Fenced);
        }
        if self.is_deleting(head.queue) {
            return Admission::Refused(Refusal::NoSuchQueue);
        }
        let queue = &self.state.queues[&head.queue];
        if u16::from(head.priority_max) >= queue.settings.priorities {
            return Admission::Refused(Refusal::InvalidPriority);
        }
        let mut length = queue.messages.len() as u64 + u64::from(head.count);
        let mut bytes = queue.messages.values().map(|message| message.bytes).sum::<u64>() + head.bytes;
        for deed in self.coming() {
            if let Deed::Publish { head: other, .. } = deed
                && other.queue == head.queue
            {
                length += u64::from(other.count);
                bytes += other.bytes;
            }
        }
        let exceeds = |value: u64, limit: u64| limit > 0 && value > limit;
        if exceeds(length, queue.settings.max_length) || exceeds(bytes, queue.settings.max_bytes) {
            return Admission::Refused(Refusal::Full);
        }
        Admission::Fresh
    }

    fn subscribe(&mut self) {
        let Some(queue) = self.some_queue() else { return };
        let connection = ConnectionId(self.random.below(5));
        let credit = 1 + self.random.below(self.burst + 2) as u32;
        match self.world.engine.subscribe(connection, queue, credit) {
            Ok(id) => {
                assert!(!self.is_deleting(queue));
                let consumer = ModelConsumer { connection, queue, credit };
                assert!(self.consumers.insert(id, consumer).is_none());
            }
            Err(refusal) => {
                assert_eq!(refusal, Refusal::NoSuchQueue);
                assert!(self.is_deleting(queue));
            }
        }
    }

    fn some_consumer(&mut self) -> Option<(ConsumerId, ModelConsumer)> {
        let ids: Vec<ConsumerId> = self.consumers.keys().copied().collect();
        self.random.pick(&ids).map(|id| (id, self.consumers[&id].clone()))
    }

    fn unsubscribe(&mut self) {
        let Some((id, consumer)) = self.some_consumer() else { return };
        let stranger = ConnectionId(99);
        assert_eq!(self.world.engine.unsubscribe(stranger, id), Err(Refusal::NoSuchConsumer));
        self.world.engine.unsubscribe(consumer.connection, id).unwrap();
        self.consumers.remove(&id);
        self.expire();
    }

    fn disconnect(&mut self) {
        let connection = ConnectionId(self.random.below(5));
        self.world.engine.disconnect(connection);
        self.consumers.retain(|_, consumer| consumer.connection != connection);
        self.paused.remove(&connection);
        self.expire();
    }

    fn pause_or_resume(&mut self) {
        let connection = ConnectionId(self.random.below(5));
        let is_known = self.consumers.values().any(|consumer| consumer.connection == connection);
        if self.paused.remove(&connection) {
            self.world.engine.resume(connection);
        } else if is_known {
            self.world.engine.pause(connection);
            self.paused.insert(connection);
        }
    }

    fn park_or_unpark(&mut self) {
        let Some(queue) = self.some_queue() else { return };
        if self.parked.remove(&queue) {
            self.world.engine.unpark(queue);
        } else {
            self.world.engine.park(queue);
            self.parked.insert(queue);
        }
    }

    fn held(&self, consumer: ConsumerId) -> u32 {
        self.leases.values().filter(|lease| lease.consumer == consumer && !lease.is_settling).count() as u32
    }

    fn can_take(&self, id: ConsumerId) -> bool {
        let consumer = &self.consumers[&id];
        self.held(id) < consumer.credit && !self.paused.contains(&consumer.connection)
    }

    /// What the queue has to give first, if it gives anything at all.
    fn first_ready(&self, id: QueueId) -> Option<(u8, u64)> {
        let is_purging = self.coming().any(|deed| matches!(deed, Deed::Purge { queue, .. } if *queue == id));
        if is_purging || self.parked.contains(&id) {
            return None;
        }
        let places = self.state.queues[&id].messages.keys();
        let mut places = places.map(|&(Reverse(priority), sequence)| (priority, sequence));
        places.find(|&(priority, sequence)| !self.leases.contains_key(&(id, priority, sequence)))
    }

    fn deliver(&mut self) {
        for _ in 0..1 + self.random.below(2 * self.burst) {
            let Some(dispatch) = self.world.engine.poll_delivery() else {
                let is_due = |(id, consumer): (&ConsumerId, &ModelConsumer)| {
                    self.can_take(*id) && self.first_ready(consumer.queue).is_some()
                };
                assert!(!self.consumers.iter().any(is_due), "something could have been delivered");
                return;
            };
            let consumer = &self.consumers[&dispatch.consumer];
            assert_eq!((consumer.connection, consumer.queue), (dispatch.connection, dispatch.queue));
            assert!(self.can_take(dispatch.consumer));
            let place = (dispatch.priority, dispatch.sequence);
            assert_eq!(self.first_ready(dispatch.queue), Some(place));
            let message = &self.state.queues[&dispatch.queue].messages[&key(place.0, place.1)];
            assert_eq!(dispatch.deliveries, message.deliveries + 1);
            assert!(dispatch.is_redelivered || message.deliveries == 0);
            let stored =
                StoredMessage::parse(self.world.read(dispatch.position, dispatch.bytes), dispatch.queue)
                    .unwrap();
            let (session, publish, number) = message.payload;
            assert_eq!(stored.payload.len() as u64, message.bytes);
            assert_eq!(stored.payload[..8], publish.to_le_bytes());
            assert_eq!(stored.payload[8], number);
            assert!(stored.payload[9..].iter().all(|&byte| u64::from(byte) == session));

            self.world.engine.delivered(&dispatch, self.world.now);
            let deadline = self.world.now.after_ms(500);
            let lease = Lease { consumer: dispatch.consumer, deadline, is_settling: false };
            self.leases.insert((dispatch.queue, place.0, place.1), lease);
            self.count(if dispatch.deliveries > 1 { "redelivered" } else { "delivered" });
        }
    }

    fn settle(&mut self) {
        let Some((id, consumer)) = self.some_consumer() else { return };
        let all: Vec<(u8, u64)> =
            self.leases.keys().filter(|at| at.0 == consumer.queue).map(|at| (at.1, at.2)).collect();
        let (mut runs, mut expected) = (Vec::new(), SettleSplit::default());
        for _ in 0..1 + self.random.below(5) {
            let Some((priority, sequence)) = self.random.pick(&all) else { return };
            let outcome = [Outcome::Ack, Outcome::Ack, Outcome::Requeue, Outcome::Reject]
                [self.random.below(4) as usize];
            let count = 1 + self.random.below(self.burst - 1) as u32;
            let first = self.state.queues[&consumer.queue].messages.get(&key(priority, sequence));
            let wrong = u16::from(self.random.one_in(10));
            let deliveries = first.map_or(0, |message| message.deliveries) + 1 + wrong;
            runs.push(settle_run(outcome, (priority, sequence), count, deliveries));
            for at in sequence..sequence + u64::from(count) {
                let message = self.state.queues[&consumer.queue].messages.get(&key(priority, at));
                let is_same = message.is_some_and(|message| message.deliveries + 1 == deliveries);
                match self.leases.get_mut(&(consumer.queue, priority, at)) {
                    Some(lease) if is_same && lease.consumer == id && !lease.is_settling => {
                        lease.is_settling = true;
                        expected.accepted += 1;
                    }
                    _ => expected.stale += 1,
                }
            }
        }
        let mut log = Vec::new();
        let split = self.world.engine.begin_settle(consumer.connection, id, &runs, &mut log).unwrap();
        assert_eq!(split, expected);
        self.count(if split.stale == 0 { "settled" } else { "stale" });
        self.log_settlements(log);
    }

    /// Acknowledges most of what a consumer holds.
    fn drain(&mut self) {
        let Some((id, consumer)) = self.some_consumer() else { return };
        let mut runs = Vec::new();
        for (&(queue, priority, sequence), lease) in &mut self.leases {
            if lease.consumer != id || lease.is_settling || self.random.one_in(50) {
                continue;
            }
            lease.is_settling = true;
            let deliveries = self.state.queues[&queue].messages[&key(priority, sequence)].deliveries + 1;
            runs.push(settle_run(Outcome::Ack, (priority, sequence), 1, deliveries));
        }
        let mut log = Vec::new();
        let split = self.world.engine.begin_settle(consumer.connection, id, &runs, &mut log).unwrap();
        assert_eq!(split, SettleSplit { accepted: runs.len() as u32, stale: 0 });
        self.log_settlements(log);
    }

    fn log_settlements(&mut self, log: Vec<Settlement>) {
        self.world.batch.settle(&log);
        if !log.is_empty() {
            self.batch.push(Deed::Settle(log));
        }
    }

    fn pass_time(&mut self) {
        self.propose();
        self.world.pass(self.random.below(SECOND));
        self.expire();
    }

    /// Expires what is due, in pieces: ended consumers' leases and those past their deadline.
    fn expire(&mut self) {
        let mut due: BTreeSet<(QueueId, u8, u64)> = BTreeSet::new();
        for (place, lease) in &mut self.leases {
            let is_over = lease.deadline <= self.world.now || !self.consumers.contains_key(&lease.consumer);
            if is_over && !lease.is_settling {
                lease.is_settling = true;
                due.insert(*place);
            }
        }
        let mut log = Vec::new();
        while self.world.engine.next_deadline().is_some_and(|deadline| deadline <= self.world.now) {
            self.world.engine.expire_leases(self.world.now, 3, &mut log);
        }
        let mut expired = BTreeSet::new();
        for settlement in &log {
            assert_eq!(settlement.outcome, Outcome::Requeue);
            let run = settlement.run;
            (run.sequence..run.end())
                .for_each(|at| assert!(expired.insert((settlement.queue, run.priority, at))));
        }
        assert_eq!(expired, due);
        if !due.is_empty() {
            self.count("expired lease");
        }
        self.log_settlements(log);
    }

    fn propose(&mut self) {
        self.world.propose();
        if !self.batch.is_empty() {
            self.unapplied.push((self.world.now, std::mem::take(&mut self.batch)));
        }
    }

    fn apply_some(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            if self.unapplied.is_empty() {
                return;
            }
            self.apply_one();
        }
    }

    fn apply_one(&mut self) {
        self.world.apply_next();
        let (stamp, deeds) = self.unapplied.remove(0);
        let mut answers = self.world.effects.answers.iter();
        for deed in &deeds {
            let has_answer = !matches!(deed, Deed::Publish { .. } | Deed::Settle(_));
            let answer = has_answer.then(|| *answers.next().unwrap());
            if let Some(Answer::QueueCreated { queue }) = answer {
                assert!(self.ever.insert(queue), "a queue's number is used again");
            }
            self.state.apply(stamp, deed, answer);
            match deed {
                Deed::Settle(settlements) => {
                    for Settlement { queue, run, .. } in settlements {
                        (run.sequence..run.end()).for_each(|at| {
                            self.leases.remove(&(*queue, run.priority, at));
                        });
                    }
                }
                Deed::Delete(queue) => {
                    self.leases.retain(|place, _| place.0 != *queue);
                    let ended: Vec<ConsumerId> = self.ended_with(*queue);
                    let told: Vec<ConsumerId> = self.world.effects.ended.iter().map(|(_, id)| *id).collect();
                    assert!(ended.iter().all(|id| !self.world.engine.is_leading() || told.contains(id)));
                    self.consumers.retain(|_, consumer| consumer.queue != *queue);
                    self.parked.remove(queue);
                }
                _ => {}
            }
        }
        assert_eq!(answers.next(), None);
    }

    fn ended_with(&self, queue: QueueId) -> Vec<ConsumerId> {
        let of_queue = self.consumers.iter().filter(|(_, consumer)| consumer.queue == queue);
        of_queue.map(|(id, _)| *id).collect()
    }

    fn sweep(&mut self) {
        let bound = self.world.log.last().unwrap().position.0;
        let middle = ringmain_wal::Position(self.random.below(bound));
        let mut strays = Vec::new();
        while self.world.engine.sweep(10, |position| position < middle, &mut strays) == Sweep::More {}
        let live = self.world.engine.extents().filter(|extent| extent.position < middle).count();
        assert!(strays.len() >= live, "a round that was begun before may have named some twice");
    }

    fn take_checkpoint(&mut self) {
        let budget = 1 << (10 + self.random.below(6));
        self.checkpoint = Some(encode(&self.world.engine, budget));
    }

    /// Steps down and up again, or starts again; what is not applied is partly lost.
    fn interrupt(&mut self) {
        let applied = (self.world.engine.digest(), self.world.engine.applied());
        match (self.random.below(4), self.checkpoint.take()) {
            (0, Some(parts)) => {
                self.count("restart from checkpoint");
                self.world.restart_from(&parts);
                self.checkpoint = Some(parts);
            }
            (1, checkpoint) => {
                self.count("restart from the log");
                self.checkpoint = checkpoint;
                self.world.restart();
            }
            (_, checkpoint) => {
                self.count("step down");
                self.checkpoint = checkpoint;
                let mut ended = Vec::new();
                self.world.engine.follow(&mut ended);
                let ended: BTreeSet<ConsumerId> = ended.into_iter().map(|(_, id)| id).collect();
                assert_eq!(ended, self.consumers.keys().copied().collect());
            }
        }
        assert_eq!((self.world.engine.digest(), self.world.engine.applied()), applied);
        self.leases.clear();
        self.consumers.clear();
        self.paused.clear();
        self.parked.clear();
        self.batch.clear();
        self.world.batch.begin(self.world.now);
        let kept = self.random.below(self.unapplied.len() as u64 + 1) as usize;
        self.unapplied.truncate(kept);
        self.world.log.truncate(self.world.applied + kept);
        while !self.unapplied.is_empty() {
            self.apply_one();
        }
        self.world.lead();
    }

    fn check(&self) {
        self.world.engine.check();
        assert_eq!(self.world.engine.queues_count() as usize, self.state.queues.len());
        for (id, queue) in &self.state.queues {
            let info = self.world.engine.info(*id).unwrap();
            assert_eq!((info.name, info.settings), (&*queue.name, &queue.settings));
            assert_eq!(self.world.engine.find(&queue.name), Some(*id));
            let totals = (info.published, info.acknowledged, info.rejected, info.purged);
            assert_eq!(totals, (queue.published, queue.acknowledged, queue.rejected, queue.purged));
            let consumers = self.consumers.values().filter(|consumer| consumer.queue == *id).count();
            assert_eq!(info.consumers as usize, consumers);
            let mut levels: BTreeMap<u8, LevelInfo> = BTreeMap::new();
            for (&(Reverse(priority), sequence), message) in &queue.messages {
                let empty =
                    LevelInfo { priority, ready: 0, ready_bytes: 0, in_flight: 0, in_flight_bytes: 0 };
                let level = levels.entry(priority).or_insert(empty);
                if self.leases.contains_key(&(*id, priority, sequence)) {
                    level.in_flight += 1;
                    level.in_flight_bytes += message.bytes;
                } else {
                    level.ready += 1;
                    level.ready_bytes += message.bytes;
                }
            }
            assert!(levels.values().copied().eq(self.world.engine.levels(*id)));
            let sum = |part: fn(&LevelInfo) -> u64| levels.values().map(part).sum::<u64>();
            assert_eq!((info.ready, info.in_flight), (sum(|l| l.ready), sum(|l| l.in_flight)));
            assert_eq!(
                (info.ready_bytes, info.in_flight_bytes),
                (sum(|l| l.ready_bytes), sum(|l| l.in_flight_bytes))
            );
        }
    }
}

fn settle_run(outcome: Outcome, place: (u8, u64), count: u32, deliveries: u16) -> SettleRun {
    settle(outcome, place.0, place.1, count, deliveries)
}

fn run(seed: u64, burst: u64, steps: u32) -> Model {
    let mut model = Model::new(seed, burst);
    for _ in 0..steps {
        model.step();
        model.check();
    }
    model.world.check_extents();
    model
}

#[test]
fn the_engine_does_what_the_model_does() {
    let mut counted: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 1..=40 {
        for (what, count) in run(seed, 4, 2_000).counted {
            *counted.entry(what).or_default() += count;
        }
    }
    // A run that does not reach everything proves less than it seems to.
    for what in [
        "delete",
        "purge",
        "expired session",
        "fresh",
        "stored",
        "pending",
        "full",
        "fenced",
        "out of order",
        "delivered",
        "redelivered",
        "settled",
        "stale",
        "expired lease",
        "restart from checkpoint",
        "restart from the log",
        "step down",
    ] {
        assert!(counted.get(what).is_some_and(|&count| count >= 20), "{what}: {counted:?}");
    }
}

#[test]
fn deep_queues_do_what_the_model_does() {
    let mut deepest = 0;
    for seed in 1..=4 {
        let model = run(seed, 200, 1_500);
        let depths = model.state.queues.values().map(|queue| queue.messages.len());
        deepest = depths.max().unwrap_or(0).max(deepest);
    }
    assert!(deepest > 1_000, "{deepest}");
}

#[test]
fn the_same_seed_gives_the_same_state() {
    let (first, second) = (run(7, 4, 1_500), run(7, 4, 1_500));
    assert_eq!(first.world.engine.digest(), second.world.engine.digest());
    assert_eq!(first.counted, second.counted);
}
